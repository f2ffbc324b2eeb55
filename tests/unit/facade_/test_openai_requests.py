"""OpenAI's requests as calls, and what is refused with which words."""

import json
import math
import time
from typing import Any

import httpx
import pytest

from headrace_crds.dialogue import ToolCall
from headrace_facade.calls.contract import CallRequest
from headrace_facade.openai_dialect import chat_request, completions, embeddings, responses_request
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.wire import parse
from tests.fake_calls.service import KEY, FakeContext
from tests.fake_calls.serving import application

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
FLAT_TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


def chat(**given: Any) -> CallRequest:
    body = parse({"model": "small", "messages": HI, **given}, chat_request.ChatBody, chat_request.REFUSED)
    return chat_request.call_request(body)


def completion(**given: Any) -> CallRequest:
    body = parse({"model": "small", "prompt": "Hi", **given}, completions.CompletionBody, completions.REFUSED)
    return completions.call_request(body)


def response(**given: Any) -> CallRequest:
    body = parse({"model": "small", "input": "Hi", **given}, responses_request.ResponseBody, responses_request.REFUSED)
    return responses_request.call_request(body)


def embed(**given: Any) -> embeddings.EmbeddingBody:
    return parse({"model": "small", "input": "Hi", **given}, embeddings.EmbeddingBody, embeddings.REFUSED)


def test_sampling_parameters_become_the_objects() -> None:
    asked = chat(
        temperature=0.7,
        top_p=1,
        presence_penalty=-1.5,
        frequency_penalty=1e-05,
        seed=7,
        stop=["a", "b"],
        max_completion_tokens=9,
        top_k=5,
        min_p=0.05,
        repeat_penalty=1.1,
        logit_bias={"50256": -100, "7": 0.5},
        n=3,
        logprobs=True,
    )
    assert asked.parameters.model_dump(exclude_none=True) == {
        "temperature": "0.7",
        "top_p": "1",
        "presence_penalty": "-1.5",
        "frequency_penalty": "0.00001",
        "seed": 7,
        "stop": ["a", "b"],
        "max_tokens": 9,
        "top_k": 5,
        "min_p": "0.05",
        "repeat_penalty": "1.1",
    }
    assert asked.options.logit_bias == [(50256, -100.0), (7, 0.5)]
    assert (asked.options.n, asked.options.logprobs, asked.options.stream) == (3, 0, False)


def test_what_is_absent_or_null_is_left_to_the_model() -> None:
    asked = chat(temperature=None, stop=None, tools=None, response_format=None, logit_bias=None, n=None)
    assert asked.parameters.model_dump(exclude_none=True) == {}
    assert asked == chat()
    assert chat(stop=[]) == chat()


def test_what_asks_for_nothing_passes() -> None:
    asked = chat(
        user="u",
        metadata={"a": "b"},
        store=False,
        safety_identifier="s",
        prompt_cache_key="k",
        service_tier="auto",
        modalities=["text"],
        parallel_tool_calls=True,
        response_format={"type": "text"},
        tool_choice="none",
        frequency_penalty=None,
    )
    assert asked.messages == chat().messages
    assert asked.output is None


def test_the_two_names_of_the_token_limit() -> None:
    assert chat(max_tokens=5).parameters.max_tokens == chat(max_tokens=5, max_completion_tokens=5).parameters.max_tokens
    with pytest.raises(Refused, match="another than"):
        chat(max_tokens=5, max_completion_tokens=6)


def test_messages_of_all_roles() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    asked = chat(
        messages=[
            {"role": "system", "content": "a"},
            {"role": "developer", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {"role": "user", "content": ""},
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "tool_call_id": "call_1", "content": "d", "name": "weather"},
            {"role": "assistant", "content": "e", "reasoning_content": "thought", "annotations": []},
            {"role": "assistant", "refusal": "no"},
        ]
    )
    assert [(turn.role, turn.content) for turn in asked.messages] == [
        ("system", "a"),
        ("system", "b\nc"),
        ("user", ""),
        ("assistant", None),
        ("tool", "d"),
        ("assistant", "e"),
        ("assistant", "no"),
    ]
    assert asked.messages[3].tool_calls == [ToolCall(id="call_1", name="weather", arguments="{}")]
    assert asked.messages[4].tool_call_id == "call_1"


def test_a_schema_is_passed_on_in_its_own_order() -> None:
    schema = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"const": "é"}}}
    text = '{"type":"object","properties":{"z":{"type":"string"},"a":{"const":"é"}}}'
    for strict in (True, False, None):
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}}
        output = chat(response_format=form).output
        assert output is not None
        assert output.json_schema == text
        flat = response(text={"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": strict}})
        assert flat.output == output
    anything = chat(response_format={"type": "json_object"}).output
    assert anything is not None
    assert anything.json_schema == '{"type":"object"}'


def test_tools_and_their_choice() -> None:
    asked = chat(tools=[TOOL], tool_choice="required")
    assert [(t.name, t.parameters) for t in asked.tools] == [("weather", '{"type":"object"}')]
    assert asked.tool_choice == "required"
    assert (
        chat(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}).tool_choice == "weather"
    )
    assert response(tools=[FLAT_TOOL], tool_choice={"type": "function", "name": "weather"}).tool_choice == "weather"
    assert response(tools=[FLAT_TOOL]).tools == asked.tools


def test_a_completions_prompt_is_a_user_message() -> None:
    for prompt in ("Hi", ["Hi"]):
        assert [(turn.role, turn.content) for turn in completion(prompt=prompt).messages] == [("user", "Hi")]
    assert completion(logprobs=2).options.logprobs == 2


def test_a_responses_items_become_turns() -> None:
    asked = response(
        instructions="i",
        input=[
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "u"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x", "more": {"of": "it"}},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}", "id": "fc_1"},
            {"type": "function_call", "call_id": "c2", "name": "weather", "arguments": "{}", "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        ],
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
        truncation="disabled",
        background=False,
    )
    assert [(turn.role, turn.content) for turn in asked.messages] == [
        ("system", "i"),
        ("system", "d"),
        ("user", "u"),
        ("assistant", None),
        ("tool", "one"),
        ("tool", "two"),
    ]
    assert [call.id for call in asked.messages[3].tool_calls or ()] == ["c1", "c2"]
    assert asked.options.logprobs == 3


@pytest.mark.parametrize(
    ("given", "param", "kind"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "name": "bob"}]}, "messages[0]", "unsupported_parameter"),
        ({"messages": [*HI, {"role": "user", "content": "x", "odd": 1}]}, "messages[1].odd", "unknown_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"n": 17}, "n", "invalid_value"),
        ({"seed": -1}, "seed", "invalid_value"),
        ({"stop": ["x"] * 9}, "stop", "invalid_value"),
        ({"stop": ""}, "stop[0]", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"web_search_options": {}}, "web_search_options", "unsupported_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "c"}}]}, "tools[0]", "unsupported_parameter"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "auto"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "unsupported_parameter"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"d": "x" * 65536}}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_chat_that_is_refused(given: dict[str, Any], param: str, kind: str) -> None:
    with pytest.raises(Refused) as told:
        chat(**given)
    assert (told.value.problems[0].field, told.value.kind) == (param, kind)


def test_an_object_of_many_members_is_not_read_on() -> None:
    with pytest.raises(Refused, match="too many members"):
        chat(messages=[{f"k{at}": 1 for at in range(300)}])


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"type": "reasoning"}]}, "input"),
        ({"input": [{"type": "function_call", "name": "weather"}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"n": 2}, "n"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_response_that_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as told:
        response(**given)
    assert told.value.problems[0].field == param


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"best_of": True}, "best_of"),
        ({"suffix": "x"}, "suffix"),
    ],
)
def test_a_completion_that_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as told:
        completion(**given)
    assert told.value.problems[0].field == param
    assert completion(echo=False, best_of=1) == completion()


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"dimensions": 8}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": [1, 2]}, "input"),
        ({"input": ["x" * 65536] * 5}, "input"),
        ({"input": ["x"] * 513}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_embedding_that_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as told:
        embed(**given)
    assert told.value.problems[0].field == param


MIB = 1024 * 1024
HOSTILE = {
    "no JSON": b"{",
    "no object": b"[]",
    "no UTF-8": b'{"model": "\xff"}',
    "half a pair": b'{"model": "\\ud800"}',
    "no number": b'{"model": "small", "temperature": NaN}',
    "no number in a schema": json.dumps(
        {
            "model": "s",
            "messages": HI,
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"const": math.nan}}},
        }
    ).encode(),
    "deep": b'{"model": "small", "tools": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "deep objects": b'{"a":' * 150_000 + b"1" + b"}" * 150_000,
    "many unknown": json.dumps({f"k{at}": 1 for at in range(70_000)}).encode(),
    "many wrong messages": b'{"model": "small", "messages": [' + b"1," * 500_000 + b"1]}",
    "many odd members": json.dumps({"model": "s", "messages": [{f"k{at}": 1 for at in range(70_000)}]}).encode(),
    "many messages": b'{"model": "s", "messages": [' + b'{"role":"user"},' * 60_000 + b'{"role":"user"}]}',
    "many biases": json.dumps(
        {"model": "s", "messages": HI, "logit_bias": {str(at): 1 for at in range(70_000)}}
    ).encode(),
    "a long name": json.dumps({"x" * 500_000: 1}).encode(),
    "a huge number": b'{"model": "small", "seed": ' + b"9" * 4000 + b"}",
}


async def timed(http: httpx.AsyncClient, body: bytes) -> tuple[httpx.Response, float]:
    """With the seconds of this process that it took."""
    began = time.process_time()
    answer = await http.post("/v1/chat/completions", content=body)
    return answer, time.process_time() - began


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bodies_are_refused_cheaply(name: str) -> None:
    body = HOSTILE[name]
    assert len(body) <= MIB
    context = FakeContext()
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    transport = httpx.ASGITransport(application(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade", headers=headers) as http:
        plain = json.dumps({"model": "small", "messages": [{"role": "user", "content": "x" * 900_000}]}).encode()
        answer, plain_s = await timed(http, plain)
        assert answer.status_code == 200
        context.calls.asked.clear()
        answer, took_s = await timed(http, body)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert len(answer.content) < 1024
    assert took_s < 100 * plain_s
    assert context.calls.asked == []


async def test_what_is_not_declared_as_json_or_too_large() -> None:
    transport = httpx.ASGITransport(application(FakeContext()))
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://facade", headers=headers) as http:
        plain = await http.post("/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
        large = await http.post("/v1/chat/completions", content=b" " * (MIB + 1))
        method = await http.get("/v1/chat/completions")
    assert [answer.status_code for answer in (plain, large, method)] == [415, 413, 405]
    for answer in (plain, large, method):
        assert answer.json()["error"]["type"] == "invalid_request_error"
