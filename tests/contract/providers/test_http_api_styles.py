"""Provider HTTP against a loopback API that refuses what it does not know: the three styles, and what they give."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from aiohttp import web
from plain_api import KEY, PlainApi, generated, provider_of, serving

from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, Parameters, Usage
from headrace_runner.providers.http_api import create
from headrace_runner.providers.protocol import Fault, ProviderError, Setting

pytestmark = pytest.mark.contract

REQUEST = Generate("g-1", prompt='say "hi" {{system}}', parameters=Parameters(max_tokens=9, seed=0))
SENT = {"prompt": 'say "hi" {{system}}', "options": {"max": 9, "seed": 0}}


@pytest.fixture
async def api() -> AsyncIterator[PlainApi]:
    async with serving(PlainApi()) as served:
        yield served


def said(text: str, why: str | None = "stop") -> dict[str, Any]:
    return {"out": {"text": text, "why": why}, "usage": {"in": 3, "out": 2}, "error": None}


@pytest.mark.parametrize(("why", "finish"), [("stop", "Stop"), ("max_tokens", "Length"), (None, "Stop")])
async def test_sync_takes_text_end_and_usage_where_the_pointers_say(
    api: PlainApi, why: str | None, finish: str
) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response(said("hé", why))

    api.answer = answer
    async with provider_of(api, "Sync") as provider:
        result, texts = await generated(provider, REQUEST)
    assert (result.id, result.text, result.finish_reason, result.enforcement) == ("g-1", "hé", finish, None)
    assert result.usage == Usage(3, 0, 2)
    assert result.timings.first_token_ms >= 0
    assert texts == ["hé"]
    assert api.bodies == [{**SENT, "stream": False}]


async def test_without_pointers_nothing_is_made_up(api: PlainApi) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response("plain")

    api.answer = answer
    async with provider_of(api, "Sync", response={"text": ""}) as provider:
        result, _ = await generated(provider, REQUEST)
    assert (result.text, result.finish_reason, result.usage) == ("plain", "Stop", Usage(0, 0, 0))


async def test_a_schema_with_a_place_reaches_the_api_which_enforces_it(api: PlainApi) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response(said("{}"))

    api.answer = answer
    shaped = Generate("g", prompt="p", json_schema='{"type": "object"}')
    async with provider_of(api, "Sync") as provider:
        assert (await generated(provider, shaped))[0].enforcement == "Provider"
    async with provider_of(api, "Sync", body='{"prompt": "{{prompt}}"}') as provider:
        assert (await generated(provider, shaped))[0].enforcement == "ValidatedOnly"
    assert api.bodies[0]["format"] == {"type": "object"}
    assert api.bodies[1]["prompt"].endswith('{"type": "object"}')


@pytest.mark.parametrize("kind", ["text/event-stream", "application/x-ndjson; charset=utf-8"])
async def test_streams_of_events_and_of_lines_give_the_text_as_it_grows(api: PlainApi, kind: str) -> None:
    seen = asyncio.Event()
    events = [
        {"out": {"text": "h"}},
        {"out": {"text": "é"}, "usage": {"out": 1}},
        {"ping": True},
        {"out": {"text": "", "why": "length"}, "usage": {"in": 3}},
        {"usage": {"out": 2}},
        {"ping": True},
    ]

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        for number, event in enumerate(events):
            line = json.dumps(event, ensure_ascii=False)
            await response.write(f"data: {line}\n\n".encode() if "event" in kind else f"{line}\n".encode())
            if number == 0:
                # No more is sent until this much has arrived.
                await asyncio.wait_for(seen.wait(), 10)
        if "event" in kind:
            await response.write(b": bye\n\ndata: [DONE]\n\n")
        return response

    api.answer = answer
    texts: list[tuple[str, int]] = []

    def grown(delta: Delta) -> None:
        texts.append((delta.text, delta.completion_tokens))
        seen.set()

    async with provider_of(api, "Stream") as provider:
        result = await provider.generate(REQUEST, grown)
    assert (result.text, result.finish_reason, result.usage) == ("hé", "Length", Usage(3, 0, 2))
    assert texts == [("h", 0), ("é", 1)]
    assert api.bodies == [{**SENT, "stream": True}]


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_job_is_looked_at_until_it_is_over(api: PlainApi, absolute: bool) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        url = f"http://127.0.0.1:{api.port}/v1/jobs/1?x=1" if absolute else "/v1/jobs/1?x=1"
        return web.json_response({"job": {"url": url}}, status=202)

    async def look(request: web.Request, body: Any) -> web.StreamResponse:
        assert request.query == {"x": "1"}
        if api.looks == 1:
            return web.json_response({"state": "running"})
        if api.looks == 2:
            return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "0"})
        if api.looks == 3:
            return web.json_response({}, status=502)
        return web.json_response({"state": "done", **said("hi")})

    api.answer, api.look = answer, look
    async with provider_of(api, "Poll") as provider:
        result, texts = await generated(provider, REQUEST)
    assert (result.text, result.usage, texts) == ("hi", Usage(3, 0, 2), ["hi"])
    assert (api.looks, set(api.keys)) == (4, {f"Bearer {KEY}"})


@pytest.mark.parametrize(("header", "least_seconds"), [("1", 1.0), ("0", 0.2)])
async def test_a_look_that_came_too_early_slows_the_next(api: PlainApi, header: str, least_seconds: float) -> None:
    at: list[float] = []

    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response({"job": {"url": "/v1/jobs/1"}})

    async def look(request: web.Request, body: Any) -> web.StreamResponse:
        at.append(asyncio.get_running_loop().time())
        if api.looks == 1:
            return web.json_response({}, status=429, headers={"Retry-After": header})
        return web.json_response({"state": "done", **said("hi")})

    api.answer, api.look = answer, look
    async with provider_of(api, "Poll") as provider:
        await generated(provider, REQUEST)
    assert at[1] - at[0] >= least_seconds - 0.01


async def test_many_calls_at_once_do_not_meet(api: PlainApi) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        return web.json_response(said(body["prompt"]))

    api.answer = answer
    async with provider_of(api, "Sync") as provider:
        asked = [generated(provider, Generate(f"g{n}", prompt=f"p{n}")) for n in range(20)]
        results = await asyncio.gather(*asked)
    assert [(result.id, result.text, texts) for result, texts in results] == [
        (f"g{n}", f"p{n}", [f"p{n}"]) for n in range(20)
    ]


async def test_embeddings_are_refused(api: PlainApi) -> None:
    async with provider_of(api, "Sync") as provider:
        with pytest.raises(ProviderError) as refused:
            await provider.embed(Embed("e", ("x",)))
    assert (refused.value.fault, refused.value.reason) == (Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE)
    assert api.bodies == []


@pytest.mark.parametrize("status", [200, 302, 401, 404, 405, 501])
async def test_whatever_answers_is_healthy_and_is_not_told_the_key(api: PlainApi, status: int) -> None:
    api.health_status = status
    async with provider_of(api, "Sync") as provider:
        await provider.check_health()
    (headers,) = api.health_headers
    assert KEY not in str(headers)
    assert api.bodies == []


async def test_a_failing_and_an_absent_server_are_not_healthy(api: PlainApi) -> None:
    api.health_status = 500
    async with provider_of(api, "Sync") as provider:
        with pytest.raises(ProviderError) as refused:
            await provider.check_health()
        assert (refused.value.fault, refused.value.reason) == (Fault.TRANSIENT, Reason.PROVIDER_FAILED)
    nobody = PlainApi(port=1)
    async with provider_of(nobody, "Sync") as provider:
        with pytest.raises(ProviderError) as refused:
            await provider.check_health()
        assert (refused.value.fault, refused.value.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)


@pytest.mark.parametrize(
    ("http", "says"),
    [
        ({"body": '{"prompt": "{{promt}}"}'}, "spec.remote.http.body: unknown placeholder {{promt}}"),
        ({"response": {"text": "/a/-"}}, "spec.remote.http.response.text: - points behind the end"),
        ({"poll": {"url": "/u", "status": "/s", "doneValues": ["d"]}}, "spec.remote.http.poll goes with style Poll"),
    ],
)
async def test_start_refuses_a_spec_by_name(http: dict[str, Any], says: str) -> None:
    spec = {"body": '{"p": "{{prompt}}"}', "response": {"text": "/text"}, **http}
    remote = Remote.model_validate({"provider": "HTTP", "model": "m", "baseURL": "http://127.0.0.1:1", "http": spec})
    async with httpx2.AsyncClient(trust_env=False) as client:
        with pytest.raises(ValueError) as refused:
            await create(Setting(remote, client, lambda: "")).start()
    assert says in str(refused.value)
