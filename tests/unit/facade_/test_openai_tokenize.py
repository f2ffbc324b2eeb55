"""`/tokenize` and `/v1/tokenize`, Anthropic's count_tokens, and what a runner may answer to them."""

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest

from headrace_crds.work import Count
from headrace_facade.calls.assembling import Assembly
from headrace_facade.calls.contract import Counted, Ended
from headrace_facade.calls.failures import CallBroken, InvalidCall
from tests.fake_calls.service import KEY, FakeContext, result
from tests.fake_calls.serving import application

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "look"}}
PATHS = ["/tokenize", "/v1/tokenize"]
HEADERS = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture
def context() -> FakeContext:
    context = FakeContext()
    context.calls.script = [Ended(replace(result(), counted=Counted(3, [5, 7, 9], 512)))]
    return context


async def ask(context: FakeContext, path: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(application(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
        return await http.post(path, json={"model": "small", **body}, headers=HEADERS if headers is None else headers)


@pytest.mark.parametrize("path", PATHS)
async def test_a_text_and_a_conversation(context: FakeContext, path: str) -> None:
    told = (await ask(context, path, prompt="one two three")).json()
    assert told == {"count": 3, "max_model_len": 512, "tokens": [5, 7, 9]}
    assert (await ask(context, path, messages=HI, tools=[TOOL], add_generation_prompt=True)).status_code == 200
    text, conversation = context.calls.asked
    assert (text.options.count, text.messages[0].content) == (Count.TEXT, "one two three")
    assert (conversation.options.count, conversation.tools[0].name) == (Count.CONVERSATION, "look")


async def test_a_provider_tells_the_number_alone(context: FakeContext) -> None:
    context.calls.script = [Ended(replace(result(), counted=Counted(3)))]
    told = (await ask(context, "/tokenize", messages=HI)).json()
    assert told == {"count": 3, "max_model_len": None, "tokens": []}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": HI}, "prompt"),
        ({"prompt": "a", "tools": [TOOL]}, "tools"),
        ({"prompt": 7}, "prompt"),
        ({"messages": []}, "messages"),
        ({"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ({"prompt": "a", "return_token_strs": True}, "return_token_strs"),
        ({"prompt": "a", "surprise": 1}, "surprise"),
    ],
)
async def test_what_is_refused(context: FakeContext, path: str, body: dict[str, Any], param: str) -> None:
    answer = await ask(context, path, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", PATHS)
async def test_errors_have_openais_shape(context: FakeContext, path: str) -> None:
    assert (await ask(context, path, headers={}, prompt="a")).json()["error"]["code"] == "invalid_api_key"
    context.calls.refusal = InvalidCall("ModelNotCapable: the model's provider counts no tokens beforehand")
    answer = await ask(context, path, prompt="a")
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("path", [*PATHS, "/v1/messages/count_tokens"])
async def test_a_runner_of_before_is_no_count(context: FakeContext, path: str) -> None:
    context.calls.script = [Ended(result())]
    answer = await ask(context, path, messages=HI)
    assert answer.status_code == 500
    assert "older version" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("members", "status"), [({}, 200), ({"max_tokens": 5}, 400), ({"stream": True}, 400), ({"messages": []}, 400)]
)
async def test_anthropics_count(context: FakeContext, members: dict[str, Any], status: int) -> None:
    answer = await ask(context, "/v1/messages/count_tokens", **{"messages": HI, "system": "Be brief.", **members})
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == {"input_tokens": 3}
    else:
        assert answer.json()["error"]["type"] == "invalid_request_error"


def document(counted: object) -> dict[str, Any]:
    usage = {"promptTokens": 0, "completionTokens": 0}
    timings = {"queuedMillis": 0, "firstTokenMillis": 0, "generationMillis": 0}
    return {"outcome": "Complete", "choices": [], "usage": usage, "timings": timings, "counted": counted}


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ({"tokens": [1, 2], "contextTokens": 9}, Counted(2, [1, 2], 9)),
        ({"tokens": []}, Counted(0, [])),
        ({"count": 7}, Counted(7)),
    ],
)
def test_what_a_runner_counts(told: dict[str, Any], counted: Counted) -> None:
    assert Assembly().result(document(json.dumps(told)), "team-a/small", 1).counted == counted


@pytest.mark.parametrize(
    "told",
    [
        7,
        "{",
        "[]",
        "{}",
        pytest.param("[" * 100_000, id="too deep"),
        '{"count": -1}',
        '{"count": 1.5}',
        '{"count": true}',
        '{"count": 99999999999}',
        '{"tokens": "x"}',
        '{"tokens": [1, "2"]}',
        '{"tokens": [-1]}',
        '{"count": 1, "contextTokens": "many"}',
    ],
)
def test_nonsense_of_a_runner_is_no_count(told: object) -> None:
    with pytest.raises(CallBroken):
        Assembly().result(document(told), "team-a/small", 1)
