"""Provider OpenAI through the real SDK: what it sends is what the API takes, what comes back is the result."""

import base64
import json
import struct
import subprocess
import sys

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Generate, Message, Parameters, Usage
from headrace_runner.engine.tools import Tool, ToolCall
from headrace_runner.providers.protocol import Budget, Fault, ProviderError
from tests.stub_openai.calling import EMBEDDING_MODEL, asking, openai_world
from tests.stub_openai.replies import answering, chunk, refusing, streaming, text_chunks
from tests.stub_openai.server import KEY, REASONING_MODELS, vector

WEATHER = Tool("weather", "The weather of a place.", '{"type": "object", "properties": {"place": {"type": "string"}}}')
STRICT = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


async def test_an_answer_is_streamed_and_accounted_for() -> None:
    async with openai_world() as world:
        result = await world.generate()
        assert (result.id, result.text, result.finish_reason, result.enforcement) == (
            "uid/1",
            "Hello world",
            "Stop",
            None,
        )
        assert result.usage == Usage(prompt_tokens=11, cached_tokens=4, completion_tokens=7, reasoning_tokens=2)
        assert [(delta.text, delta.completion_tokens) for delta in world.deltas] == [("Hello", 1), (" world", 2)]
        assert 0 <= result.timings.first_token_ms <= result.timings.generation_ms
        assert world.body["stream_options"] == {"include_usage": True}
        assert world.budgets == [Budget(requests=59, tokens=149_984, reset_seconds=1.0)]


async def test_a_prompt_is_one_user_message() -> None:
    async with openai_world() as world:
        await world.generate(Generate("uid/1", prompt="Once upon a time \ud800"))
        assert world.body["messages"] == [{"role": "user", "content": "Once upon a time ?"}]


async def test_all_parameters_are_taken_by_the_api() -> None:
    parameters = Parameters(
        temperature=0.5,
        max_tokens=64,
        top_p=0.9,
        seed=7,
        stop=("a", "b", "c", "d"),
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        logit_bias=((5, -100.0),),
        logprobs=2,
        n=2,
    )
    top = [{"token": "Hi", "logprob": -0.1, "bytes": None}, {"token": "x" * 99, "logprob": -3, "bytes": None}]
    logprobs = {"content": [{"token": "Hi", "logprob": -0.1, "bytes": None, "top_logprobs": top}], "refusal": None}
    async with openai_world() as world:
        world.stub.replies.append(
            streaming(
                chunk({"content": "Hi"}, logprobs=logprobs),
                chunk({"content": "Ho"}, index=1),
                chunk(finish="length", index=1),
                chunk(finish="stop"),
            )
        )
        result = await world.generate(asking(parameters=parameters))
        sent = {name: world.body[name] for name in ("temperature", "max_completion_tokens", "stop", "logit_bias", "n")}
        assert sent == {
            "temperature": 0.5,
            "max_completion_tokens": 64,
            "stop": ["a", "b", "c", "d"],
            "logit_bias": {"5": -100},
            "n": 2,
        }
        assert result.logprobs is not None
        assert result.logprobs[0].top == (("Hi", -0.1), ("x" * 64, -3.0))
        assert [(other.text, other.finish_reason) for other in result.alternatives] == [("Ho", "Length")]
        assert [(delta.index, delta.text) for delta in world.deltas] == [(0, "Hi"), (1, "Ho")]


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        (Parameters(top_k=5), "parameters.topK"),
        (Parameters(min_p=0.1), "parameters.minP"),
        (Parameters(repeat_penalty=1.1), "parameters.repeatPenalty"),
        (Parameters(stop=("a", "b", "c", "d", "e")), "parameters.stop"),
        (Parameters(logit_bias=((5, 0.5),)), "parameters.logitBias"),
    ],
)
async def test_what_openai_does_not_know_is_refused_before_it_is_sent(parameters: Parameters, field: str) -> None:
    async with openai_world() as world:
        with pytest.raises(ProviderError) as caught:
            await world.generate(asking(parameters=parameters))
        assert (caught.value.fault, caught.value.reason) == (Fault.TERMINAL, Reason.INVALID_PARAMETERS)
        assert caught.value.message.startswith(field)
        assert world.stub.bodies == []


async def test_a_reasoning_model_takes_a_bound_on_tokens() -> None:
    async with openai_world(REASONING_MODELS[0]) as world:
        assert (await world.generate(asking(parameters=Parameters(max_tokens=5)))).text == "Hello world"
        with pytest.raises(ProviderError) as caught:
            await world.generate(asking(parameters=Parameters(temperature=0.2)))
        assert caught.value.reason == Reason.INVALID_PARAMETERS
        assert "(parameters.temperature)" in caught.value.message


async def test_tools_are_called_and_their_results_understood() -> None:
    history = (
        Message("system", "Be brief."),
        Message("user", "The weather of Bonn?"),
        Message("assistant", "", (ToolCall("call_1", "weather", '{"place": "Bonn"}'),)),
        Message("tool", "rain", tool_call_id="call_1"),
        Message("user", "And of Köln?"),
    )
    pieces = [
        chunk({"tool_calls": [{"index": 0, "id": "call_2", "function": {"name": "weather", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"place": '}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "call_3", "function": {"name": "weather", "arguments": "{}"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '"Köln"}'}}]}),
        chunk(finish="tool_calls"),
    ]
    async with openai_world(extra_body={"parallel_tool_calls": True}) as world:
        world.stub.replies.append(streaming(*pieces))
        request = Generate("uid/1", messages=history, tools=(WEATHER,), tool_choice="weather")
        result = await world.generate(request)
        calls = (ToolCall("call_2", "weather", '{"place": "Köln"}'), ToolCall("call_3", "weather", "{}"))
        assert (result.finish_reason, result.tool_calls) == ("ToolCalls", calls)
        assert [delta.tool_calls for delta in world.deltas] == [calls]
        assert world.body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
        await world.generate()
        assert "parallel_tool_calls" not in world.body


async def test_a_forced_call_ends_with_stop_and_is_a_call_all_the_same() -> None:
    call = {"index": 0, "id": "call_2", "function": {"name": "weather", "arguments": "{}"}}
    async with openai_world() as world:
        world.stub.replies.append(streaming(chunk({"tool_calls": [call]}), chunk(finish="stop")))
        assert (await world.generate(asking(tools=(WEATHER,), tool_choice="required"))).finish_reason == "ToolCalls"


async def test_a_schema_in_the_strict_subset_is_enforced_by_the_api() -> None:
    async with openai_world() as world:
        result = await world.generate(asking(json_schema=STRICT, parameters=Parameters(stop=("}",))))
        assert result.enforcement == "Provider"
        assert world.body["response_format"]["json_schema"]["strict"] is True
        assert len(world.body["messages"]) == 1
        assert "stop" not in world.body


async def test_a_schema_of_which_something_was_dropped_is_told_as_well() -> None:
    longer = json.loads(STRICT)
    longer["properties"]["name"]["minLength"] = 77
    async with openai_world() as world:
        result = await world.generate(asking(json_schema=json.dumps(longer)))
        assert result.enforcement == "ValidatedOnly"
        assert world.body["response_format"]["type"] == "json_schema"
        assert '"minLength"' not in json.dumps(world.body["response_format"])
        assert '"minLength": 77' in world.body["messages"][0]["content"]


@pytest.mark.parametrize(
    ("schema", "response_format"),
    [('{"type": "object"}', {"type": "json_object"}), ('{"type": "array", "items": {"type": "integer"}}', None)],
)
async def test_a_schema_beyond_strict_mode_is_asked_for_in_words(schema: str, response_format: object) -> None:
    async with openai_world() as world:
        result = await world.generate(asking(json_schema=schema))
        assert result.enforcement == "ValidatedOnly"
        assert world.body.get("response_format") == response_format
        assert world.body["messages"][0]["role"] == "system"
        assert schema in world.body["messages"][0]["content"]


async def test_regex_and_choice_are_asked_for_in_words() -> None:
    async with openai_world() as world:
        request = Generate("uid/1", messages=(Message("system", "Be brief."), Message("user", "?")), regex="[0-9]{3}")
        assert (await world.generate(request)).enforcement == "ValidatedOnly"
        first, second = world.body["messages"]
        assert first["content"].startswith("Be brief.\n\n")
        assert first["content"].endswith("[0-9]{3}")
        assert second["role"] == "user"
        assert (await world.generate(asking(choice=("yes", "no")))).enforcement == "ValidatedOnly"
        assert world.body["messages"][0]["content"].endswith("yes\nno")


async def test_a_grammar_that_nobody_could_judge_is_refused() -> None:
    async with openai_world() as world:
        with pytest.raises(ProviderError) as caught:
            await world.generate(asking(grammar='root ::= "a"'))
        assert (caught.value.fault, caught.value.reason) == (Fault.TERMINAL, Reason.UNSUPPORTED_SCHEMA)
        assert world.stub.bodies == []


async def test_the_key_is_read_for_every_request() -> None:
    async with openai_world() as world:
        await world.generate()
        world.key[0] = "sk-proj-other\n"
        world.stub.keys = {"sk-proj-other"}
        await world.generate()
        assert world.stub.authorizations == [f"Bearer {KEY}", "Bearer sk-proj-other"]
        assert len(world.stub.peers) == 1, "and the connection is used again"


async def test_a_model_is_what_its_spec_says_and_not_what_the_environment_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", f"other-{name.lower()}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    async with openai_world() as world:
        await world.generate()
        assert world.stub.authorizations == [f"Bearer {KEY}"]
        assert not any("other-" in value for value in world.stub.headers.values())


@pytest.mark.parametrize(("key", "reason"), [("", Reason.CREDENTIALS_NOT_FOUND), ("sk- ü", Reason.CREDENTIALS_REFUSED)])
async def test_a_key_that_no_header_can_carry_is_not_sent(key: str, reason: Reason) -> None:
    async with openai_world() as world:
        world.key[0] = key
        with pytest.raises(ProviderError) as caught:
            await world.generate()
        assert (caught.value.fault, caught.value.reason) == (Fault.UNAVAILABLE, reason)
        assert world.stub.authorizations == []


@pytest.mark.parametrize("encoded", [True, False])
async def test_vectors_come_in_the_order_of_the_texts(encoded: bool) -> None:
    texts = ("one", "three", "é")
    async with openai_world(EMBEDDING_MODEL, {"user": "u", "dimensions": 3}) as world:
        if not encoded:
            data = [{"index": at, "embedding": list(vector(text))} for at, text in reversed([*enumerate(texts)])]
            world.stub.replies.append(answering({"data": data, "usage": {"prompt_tokens": 11}}))
        result = await world.provider.embed(Embed("uid/1", texts))
        found = json.loads(result.text)
        assert (found["dtype"], found["shape"]) == ("float32", [3, 3])
        numbers = struct.unpack("<9f", base64.b64decode(found["data"]))
        assert numbers == tuple(number for text in texts for number in vector(text))
        assert result.usage == Usage(11, 0, 0)


async def test_health_asks_for_the_model() -> None:
    async with openai_world() as world:
        await world.provider.check_health()
        assert world.stub.bodies == []
    async with openai_world("gpt-none") as world:
        with pytest.raises(ProviderError) as caught:
            await world.provider.check_health()
        assert (caught.value.fault, caught.value.reason) == (Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND)


async def test_a_key_that_may_not_look_at_models_is_healthy() -> None:
    async with openai_world() as world:
        world.stub.replies += [
            refusing(403, "You have insufficient permissions for this operation. Missing scopes: api.model.read."),
            refusing(403, "Country, region, or territory not supported"),
        ]
        await world.provider.check_health()
        with pytest.raises(ProviderError) as caught:
            await world.provider.check_health()
        assert caught.value.reason == Reason.CREDENTIALS_REFUSED


async def test_the_specs_members_go_along_and_others_are_refused() -> None:
    async with openai_world(extra_body={"reasoning_effort": "low", "service_tier": "flex"}) as world:
        await world.generate()
        assert (world.body["reasoning_effort"], world.body["service_tier"]) == ("low", "flex")
    with pytest.raises(ValueError, match=r"extraBody: remove 'stream'.*allowed: .*reasoning_effort"):
        async with openai_world(extra_body={"stream": False}):
            pass


async def test_reasoning_comes_apart() -> None:
    async with openai_world() as world:
        world.stub.replies.append(streaming(chunk({"reasoning_content": "Hm."}), *text_chunks("Hi")))
        result = await world.generate()
        assert (result.reasoning, result.text) == ("Hm.", "Hi")
        assert world.deltas[0].reasoning == "Hm."


def test_the_sdk_is_imported_by_those_alone_that_use_it() -> None:
    code = (
        "import sys; import headrace_runner.providers.openai_api, headrace_runner.providers.compatible; "
        "sys.exit('openai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0
