"""Provider HTTP and an API that fails: cut, garbled, refusing, endless, or naming another host."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from plain_api import KEY, POLL, RESPONSE, Behaviour, PlainApi, generated, provider_of, serving

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Generate, Usage
from headrace_runner.providers.protocol import Fault, ProviderError

pytestmark = pytest.mark.contract

REQUEST = Generate("g-1", prompt="the user's own words")
LINES = "application/x-ndjson"


@pytest.fixture
async def api() -> AsyncIterator[PlainApi]:
    async with serving(PlainApi()) as served:
        yield served


async def failure(api: PlainApi, style: str, **http: Any) -> ProviderError:
    async with provider_of(api, style, **http) as provider:
        with pytest.raises(ProviderError) as failed:
            await generated(provider, REQUEST)
    error = failed.value
    assert KEY not in str(error)
    assert REQUEST.prompt is not None
    assert REQUEST.prompt not in str(error)
    return error


def answering(status: int = 200, body: Any = None, raw: bytes | None = None, kind: str | None = None) -> Behaviour:
    async def answer(request: web.Request, _: Any) -> web.StreamResponse:
        content = json.dumps(body).encode() if raw is None else raw
        headers = {"Content-Type": kind or "application/json", "Retry-After": "7"}
        return web.Response(status=status, body=content, headers=headers)

    return answer


@pytest.mark.parametrize("style", ["Sync", "Stream", "Poll"])
@pytest.mark.parametrize(
    ("status", "fault", "reason"),
    [
        (400, Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (401, Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (404, Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (429, Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (500, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (503, Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
    ],
)
async def test_a_refusal_is_what_its_status_says(
    api: PlainApi, style: str, status: int, fault: Fault, reason: Reason
) -> None:
    api.answer = answering(status, {"error": {"message": f"no: Bearer {KEY}\n" + "x" * 1000}})
    error = await failure(api, style)
    assert (error.fault, error.reason, error.status, error.retry_after_seconds) == (fault, reason, status, 7.0)
    assert "no: Bearer … xxx" in error.message
    assert len(error.message) < 400


async def test_an_unreadable_refusal_is_what_its_status_says(api: PlainApi) -> None:
    api.answer = answering(503, raw=b"<html>\xff", kind="text/html")
    assert (await failure(api, "Sync")).message == "the provider has no room (HTTP 503)"


async def test_what_the_stub_does_not_know_is_refused_with_its_words(api: PlainApi) -> None:
    error = await failure(api, "Sync", body='{"prompt": "{{prompt}}", "unheard": 1}')
    assert (error.fault, error.reason) == (Fault.TERMINAL, Reason.INVALID_PARAMETERS)
    assert error.message.endswith("unknown member unheard")


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize("style", ["Sync", "Stream", "Poll"])
async def test_words_that_repeat_the_input_are_not_repeated(api: PlainApi, style: str, status: int) -> None:
    api.answer = answering(status, {"error": {"message": f"cannot do: {REQUEST.prompt}"}})
    assert "cannot do" not in (await failure(api, style)).message


async def test_a_redirect_is_not_followed(api: PlainApi) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        raise web.HTTPTemporaryRedirect("/v1/jobs/1")

    api.answer = answer
    error = await failure(api, "Sync")
    assert (error.fault, error.reason) == (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED)
    assert (api.looks, len(api.keys)) == (0, 1)


async def test_a_success_that_tells_of_a_failure_is_one(api: PlainApi) -> None:
    api.answer = answering(body={"error": "model crashed", "out": {"text": "x"}})
    error = await failure(api, "Sync")
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_FAILED)
    assert error.message == "the provider reports a failure: model crashed"


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (answering(raw=b"<html>", kind="text/html"), "text/html and not JSON"),
        (answering(raw=b"{"), "no JSON in UTF-8"),
        (answering(raw=b""), "no JSON in UTF-8"),
        (answering(raw=b'{"out": {"text": "\xff"}}'), "no JSON in UTF-8"),
        (answering(raw=b"[" * 100_000), "no JSON in UTF-8"),
        (answering(raw=b'"' + b"x" * (17 << 20) + b'"'), "longer than"),
        (answering(body={"out": {}}), "(/out/text) finds nothing"),
        (answering(body={"out": {"text": 5}}), "(/out/text) points to a number"),
        (answering(body={"out": {"text": {"a": 1}}}), "(/out/text) points to an object"),
        (answering(body={"out": {"text": "x"}, "usage": {"in": -1}}), "promptTokens (/usage/in)"),
        (answering(body={"out": {"text": "x"}, "usage": {"out": "2"}}), "completionTokens (/usage/out)"),
        (answering(body={"out": {"text": "x"}, "usage": {"out": True}}), "points to a boolean"),
    ],
)
async def test_an_answer_that_is_none_is_tried_again(api: PlainApi, behaviour: Behaviour, says: str) -> None:
    api.answer = behaviour
    error = await failure(api, "Sync")
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
    assert says in error.message


async def test_what_was_used_is_told_even_where_the_text_cannot_be_read(api: PlainApi) -> None:
    api.answer = answering(body={"out": {"text": None}, "usage": {"in": 5, "out": 6}})
    assert (await failure(api, "Sync")).usage == Usage(5, 0, 6)


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (answering(body={"out": {"text": "x"}}), "set http.style to Sync"),
        (answering(raw=b'{"out": {"text": "x"}}\n', kind=LINES), "no event had http.response.finishReason"),
        (answering(raw=b'{"out": {"te', kind=LINES), "no JSON in UTF-8"),
        (answering(raw=b'{"out": {"text": "\xff"}}\n', kind=LINES), "not UTF-8"),
        (answering(raw=b"data: " + b"x" * (2 << 20), kind="text/event-stream"), "has no end"),
        (answering(raw=b'{"out": {"why": "stop"}}\n', kind=LINES), "in any event"),
        (answering(raw=b"data: [DONE]\n\n", kind="text/event-stream"), "in any event"),
        (answering(raw=b"", kind="text/event-stream"), "no event had"),
    ],
)
async def test_a_stream_that_is_none_is_tried_again(api: PlainApi, behaviour: Behaviour, says: str) -> None:
    api.answer = behaviour
    error = await failure(api, "Stream")
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
    assert says in error.message


async def test_an_error_in_the_middle_of_a_stream_ends_it(api: PlainApi) -> None:
    api.answer = answering(raw=b'{"out": {"text": "x"}}\n{"error": "out of memory"}\n', kind=LINES)
    error = await failure(api, "Stream")
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_FAILED)
    assert error.message.endswith("out of memory")


@pytest.mark.parametrize("style", ["Sync", "Stream"])
async def test_a_connection_cut_in_the_middle_is_tried_again(api: PlainApi, style: str) -> None:
    async def answer(request: web.Request, body: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": LINES if style == "Stream" else "application/json"})
        await response.prepare(request)
        await response.write(b'{"out": {"text": "x", "why": "stop"}, "usage": {"in": 4}}\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    api.answer = answer
    error = await failure(api, style)
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)


@pytest.mark.parametrize("style", ["Sync", "Stream", "Poll"])
async def test_cancelling_ends_the_call_at_the_api(api: PlainApi, style: str) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request, body: Any) -> web.StreamResponse:
        asked.set()
        try:
            # aiohttp cancels it when the client goes.
            await asyncio.Event().wait()
        finally:
            ended.set()
        return web.Response()

    api.answer = answering(body={"job": {"url": "/v1/jobs/1"}}) if style == "Poll" else hang
    api.look = hang
    async with provider_of(api, style) as provider:
        call = asyncio.create_task(generated(provider, REQUEST))
        await asyncio.wait_for(asked.wait(), 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(ended.wait(), 10)


async def test_cancelling_ends_the_looks_at_a_job_that_takes_for_ever(api: PlainApi) -> None:
    looked = asyncio.Event()

    async def look(request: web.Request, body: Any) -> web.StreamResponse:
        looked.set()
        # The next look is an hour away, or as far as a pause may be.
        return web.json_response({}, status=429, headers={"Retry-After": "3600"})

    api.answer, api.look = answering(body={"job": {"url": "/v1/jobs/1"}}), look
    async with provider_of(api, "Poll") as provider:
        call = asyncio.create_task(generated(provider, REQUEST))
        await asyncio.wait_for(looked.wait(), 10)
        done, _ = await asyncio.wait({call}, timeout=0.5)
        assert not done
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(call, 5)
    assert api.looks == 1


def naming(url: Any) -> Behaviour:
    return answering(202, {"job": {"url": url}})


async def test_a_job_on_another_host_is_refused_and_the_key_stays(api: PlainApi) -> None:
    async with serving(PlainApi()) as thief:
        for url in (
            f"http://127.0.0.1:{thief.port}/v1/jobs/1",
            f"//127.0.0.1:{thief.port}/v1/jobs/1",
            f"http://localhost:{api.port}/v1/jobs/1",
            f"https://127.0.0.1:{api.port}/v1/jobs/1",
            "http://[",
            f"http://user:pw@127.0.0.1:{api.port}/v1/jobs/1",
            f"http://127.0.0.1:{api.port}@127.0.0.1:{thief.port}/v1/jobs/1",
        ):
            api.answer = naming(url)
            error = await failure(api, "Poll")
            assert (error.fault, error.reason) == (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED), url
        assert thief.keys == []
    assert api.looks == 0


@pytest.mark.parametrize("url", [None, "", 5, {"href": "/x"}, "/" + "x" * 4000, "/a\x00b"])
async def test_a_job_without_a_url_is_an_invalid_answer(api: PlainApi, url: Any) -> None:
    api.answer = naming(url)
    error = await failure(api, "Poll")
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
    assert "http.poll.url (/job/url)" in error.message
    assert api.looks == 0


@pytest.mark.parametrize(
    ("look", "reason", "looks", "says"),
    [
        (answering(body={"state": "failed", "error": "no GPU"}), Reason.PROVIDER_FAILED, 1, "job failed: no GPU"),
        (answering(body={"state": "done", "error": "late"}), Reason.PROVIDER_FAILED, 1, "failure: late"),
        (answering(body={"state": "done"}), Reason.PROVIDER_ANSWER_INVALID, 1, "(/out/text) finds nothing"),
        (answering(body={"state": None}), Reason.PROVIDER_ANSWER_INVALID, 1, "http.poll.status (/state)"),
        (answering(403, {"error": "key revoked"}), Reason.CREDENTIALS_REFUSED, 1, "key revoked"),
        (answering(400, {"error": "what"}), Reason.INVALID_PARAMETERS, 1, "what"),
    ],
)
async def test_a_job_that_gives_no_result(
    api: PlainApi, look: Behaviour, reason: Reason, looks: int, says: str
) -> None:
    api.answer, api.look = naming("/v1/jobs/1"), look
    error = await failure(api, "Poll")
    assert (error.reason, api.looks) == (reason, looks)
    assert says in error.message


async def test_a_job_that_is_gone_is_given_up_after_some_looks(api: PlainApi) -> None:
    api.answer, api.look = naming("/v1/jobs/1"), answering(404, {})
    error = await failure(api, "Poll", response={**RESPONSE, "error": "/error"}, poll={**POLL, "intervalMillis": 100})
    assert (error.fault, error.reason, api.looks) == (Fault.TRANSIENT, Reason.PROVIDER_FAILED, 5)
    assert "job is gone (HTTP 404)" in error.message
