"""The native routes of calls and models over a real server, with calls that are played."""

import asyncio
import json
import math
from collections.abc import AsyncIterator

import httpx
import pytest

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import CallRequest, Delta, Waiting
from headrace_facade.calls.failures import ModelNotReady, ModelUnavailable
from tests.fake_calls.service import CALLER, KEY, FakeContext, Never, ended, result, spoken
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract

PROMPT = {"model": "small", "prompt": "Hello?"}


class Callers:
    """Takes the test's key, for any namespace."""

    async def authenticate(self, headers, *, namespace: str | None = None) -> Caller:
        assert headers.get("Authorization") == f"Bearer {KEY}"
        return CALLER if namespace is None else Caller(namespace, CALLER.name)


@pytest.fixture
def context() -> FakeContext:
    return FakeContext(callers=Callers())


@pytest.fixture
async def http(context: FakeContext) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served(context) as address, httpx.AsyncClient(base_url=address, headers=headers) as http:
        yield http


def events(text: str) -> list[tuple[str, dict[str, object]]]:
    told = [each.split("\n") for each in text.split("\n\n") if each]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in told]


async def test_a_call_is_answered_in_the_facades_words(http: httpx.AsyncClient, context: FakeContext) -> None:
    answer = await http.post(
        "/api/v1/generate",
        json=PROMPT
        | {
            "parameters": {"temperature": 0.5, "max_tokens": 7, "stop": "x"},
            "json_schema": {"b": 1, "a": 2},
            "priority": 3,
            "timeout_seconds": 9,
        },
    )
    assert answer.status_code == 200, answer.text
    traced = answer.headers["x-trace-id"]
    assert answer.headers["x-request-id"] == answer.headers["request-id"] == traced
    told = answer.json()
    assert (told["text"], told["finish_reason"], told["model"], told["attempts"]) == (
        "Hello",
        "Stop",
        "team-a/small",
        1,
    )
    assert told["usage"]["prompt_tokens"] == 11
    assert told["timings"] == {"queued_millis": 1, "first_token_millis": 2, "generation_millis": 3}
    (asked,) = context.calls.asked
    assert [(each.role.value, each.content) for each in asked.messages] == [("user", "Hello?")]
    assert (asked.parameters.temperature, asked.parameters.max_tokens, asked.parameters.stop) == ("0.5", 7, ["x"])
    assert asked.output is not None
    assert asked.output.json_schema == '{"b":1,"a":2}'
    assert (asked.priority, asked.timeout_seconds, asked.options.stream) == (3, 9, False)


async def test_it_grows_in_events(http: httpx.AsyncClient, context: FakeContext) -> None:
    context.calls.script = [Waiting("Queued", "queued", 4), *spoken("Hel", "lo")]
    answer = await http.post("/api/v1/generate/stream", json=PROMPT)
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert [name for name, _ in told] == ["waiting", "delta", "delta", "end"]
    assert told[0][1] == {"reason": "Queued", "message": "queued", "ahead": 4}
    assert "".join(str(each["text"]) for name, each in told if name == "delta") == "Hello"
    assert told[-1][1]["text"] == "Hello"
    assert context.calls.asked[0].options.stream


async def test_an_error_has_its_status_before_the_first_event_and_is_one_after(
    http: httpx.AsyncClient, context: FakeContext
) -> None:
    context.calls.script = [ModelNotReady("no runner", 10)]
    for path in ("/api/v1/generate", "/api/v1/generate/stream"):
        answer = await http.post(path, json=PROMPT)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert answer.json()["error_code"] == "MODEL_NOT_READY"
    context.calls.script = [Delta(text="Hel"), ModelUnavailable("lost", 1)]
    answer = await http.post("/api/v1/generate/stream", json=PROMPT)
    assert answer.status_code == 200
    assert events(answer.text)[-1] == (
        "error",
        {
            "error_code": "MODEL_UNAVAILABLE",
            "message": "lost",
            "trace_id": answer.headers["X-Trace-Id"],
            "details": {"retry_after_seconds": 1},
        },
    )


async def test_who_goes_away_hangs_up(http: httpx.AsyncClient, context: FakeContext) -> None:
    context.calls.script = [Delta(text="Hel"), Never()]
    async with http.stream("POST", "/api/v1/generate/stream", json=PROMPT) as answer:
        async for _ in answer.aiter_text():
            break
    await asyncio.wait_for(context.calls.left.wait(), 10)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"model": "small"}, ""),
        (PROMPT | {"messages": [{"role": "user", "content": "x"}]}, ""),
        (PROMPT | {"parameters": {"temperature": 3}}, "parameters.temperature"),
        (PROMPT | {"parameters": {"max_tokens": 10**9}}, "parameters.max_tokens"),
        (PROMPT | {"parameters": {"stop": ["x" * 65]}}, "parameters.stop"),
        (PROMPT | {"regex": "a", "grammar": "b"}, "grammar"),
        (PROMPT | {"timeout_seconds": 0}, "timeout_seconds"),
        (PROMPT | {"colour": "red"}, "colour"),
    ],
    ids=["nothing", "both", "temperature", "max_tokens", "stop", "shapes", "timeout", "unknown"],
)
async def test_what_is_wrong_is_named(http: httpx.AsyncClient, context: FakeContext, body: dict, field: str) -> None:
    answer = await http.post("/api/v1/generate", json=body)
    assert answer.status_code == 422
    assert field in [each["field"] for each in answer.json()["details"]["fields"]]
    assert not context.calls.asked


async def test_texts_become_vectors_and_are_compared(http: httpx.AsyncClient, context: FakeContext) -> None:
    context.calls.script = [type(ended())(result(embeddings=[[3.0, 4.0], [4.0, 3.0], [-3.0, -4.0]]))]
    told = (await http.post("/api/v1/embeddings", json={"model": "small", "input": ["a", "b", "c"]})).json()
    assert told["embeddings"] == [[3.0, 4.0], [4.0, 3.0], [-3.0, -4.0]]
    assert told["dimensions"] == 2
    told = (await http.post("/api/v1/similarity", json={"model": "small", "input": ["a", "b", "c"]})).json()
    assert told["scores"] is None
    assert [[round(each, 6) for each in row] for row in told["matrix"]] == [
        [1, 0.96, -1],
        [0.96, 1, -0.96],
        [-1, -0.96, 1],
    ]
    asked = {"model": "small", "input": ["a", "b"], "query": "c"}
    told = (await http.post("/api/v1/similarity", json=asked)).json()
    assert told["matrix"] is None
    assert [math.isclose(*pair) for pair in zip(told["scores"], [-1.0, -0.96], strict=True)] == [True, True]
    assert context.calls.asked[-1] == CallRequest("small", embed=["a", "b", "c"])
    many = {"model": "small", "input": ["a"] * 65}
    assert (await http.post("/api/v1/similarity", json=many)).status_code == 422


async def test_models_are_told_of(http: httpx.AsyncClient) -> None:
    told = (await http.get("/api/v1/models")).json()["items"]
    assert [each["model"] for each in told] == ["small", "platform/large"]
    assert told[0]["capabilities"] == ["CHAT", "STREAMING", "FUNCTION_CALLING", "TEXT_GENERATION"]
    assert (told[0]["kind"], told[0]["ready"], told[0]["available"]) == ("OpenAI", False, False)
    assert (await http.get("/api/v1/models/status")).json()["items"] == told
    assert (await http.get("/api/v1/models/platform/large/status")).json() == told[1]
    missing = await http.get("/api/v1/models/none/status")
    assert (missing.status_code, missing.json()["error_code"]) == (404, "MODEL_NOT_FOUND")


async def test_an_api_key_scales_nothing(http: httpx.AsyncClient) -> None:
    for path, body in (("/api/v1/models/small/unload", None), ("/api/v1/models/load", {"model": "small"})):
        answer = await http.post(path, json=body) if body else await http.post(path)
        assert answer.status_code == 403, answer.text
        assert "token" in answer.json()["message"]


async def test_replicas_are_not_an_api_keys_to_change(http: httpx.AsyncClient) -> None:
    for path in ("/api/v1/models/small/load", "/api/v1/models/small/unload"):
        answer = await http.post(path)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "FORBIDDEN")
    for path in ("/api/v1/models/load", "/api/v1/models/unload"):
        assert (await http.post(path, json={"model": "small"})).status_code == 403
        assert (await http.post(path, json={"model": "none"})).status_code == 404
