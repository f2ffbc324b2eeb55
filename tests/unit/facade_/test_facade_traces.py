"""A request's span, the ids that its client and its log lines get, and the trace that goes on into tasks."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import httpx
import pytest
import structlog
from aiohttp import web

from headrace_bus import otel, tracing
from headrace_bus.tracing import TraceContext, Tracing
from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.fake_calls.service import KEY, FakeCalls, FakeContext
from tests.fake_calls.serving import application
from tests.stub_collector.collector import Collector, collecting

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
CANARY = "canary-in-the-prompt"
CALL = {"model": "small", "messages": [{"role": "user", "content": CANARY}]}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        # A busy machine may take longer to send what is left.
        monkeypatch.setattr(otel, "CLOSE_SECONDS", 60.0)
        yield made


async def asked(*requests: httpx.Request, calls: FakeCalls | None = None) -> list[httpx.Response]:
    """The facade's answers, after which all its spans are told."""
    async with tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "headrace-facade", "pod-0") as made:
        context = replace(FakeContext(calls=calls or FakeCalls()), tracing=made)
        transport = httpx.ASGITransport(application(context))
        async with httpx.AsyncClient(transport=transport) as http:
            return [await http.send(request) for request in requests]


def chat(**headers: str) -> httpx.Request:
    url = f"http://facade/v1/chat/completions?hidden={CANARY}"
    return httpx.Request("POST", url, json=CALL, headers={"Authorization": f"Bearer {KEY}", **headers})


async def test_a_request_is_a_span_below_its_clients(collector: Collector) -> None:
    (answer,) = await asked(chat(traceparent=GOOD))
    (span,) = collector.spans()
    assert answer.status_code == 200, answer.text
    assert (span.trace_id, span.parent, span.kind) == (TRACE, SPAN, "SERVER")
    assert answer.headers["X-Trace-Id"] == TRACE
    assert span.name == "POST /v1/chat/completions"
    assert span.attributes == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "http.response.status_code": 200,
    }
    assert not span.failed
    for secret in (CANARY, KEY):
        assert not collector.says(secret)


async def test_without_a_client_that_traces_the_answers_id_is_the_traces(collector: Collector) -> None:
    wrong = [
        chat(),
        chat(traceparent="x"),
        chat(traceparent=f"00-{'0' * 32}-{SPAN}-01"),
        chat(traceparent=GOOD.upper()),
        httpx.Request("GET", "http://facade/v1/models", headers=[("traceparent", GOOD), ("traceparent", GOOD)]),
    ]
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        answers = await asked(*wrong)
    ids = [answer.headers["X-Trace-Id"] for answer in answers]
    assert len(set(ids)) == len(wrong)
    assert TRACE not in ids
    assert [span.trace_id for span in collector.spans()] == ids == [line["trace_id"] for line in logs]
    assert {span.parent for span in collector.spans()} == {""}
    assert answers[-1].json()["error"], "an error"
    assert answers[-1].headers["X-Trace-Id"] == ids[-1]


async def test_what_failed_says_so_and_strangers_words_are_not_told(collector: Collector) -> None:
    broken = FakeCalls([ValueError(CANARY)])
    strange = httpx.Request("BREW", f"http://facade/{CANARY}")
    probe = httpx.Request("GET", "http://facade/healthz")
    answers = await asked(chat(), strange, probe, calls=broken)
    assert [answer.status_code for answer in answers] == [500, 404, 200]
    failed, unknown = collector.spans()
    assert (failed.failed, failed.attributes["error.type"], failed.status_message) == (True, "500", "")
    assert (unknown.name, unknown.failed) == ("_OTHER", False)
    assert "url.path" not in unknown.attributes
    assert not collector.says(CANARY)


async def test_who_asked_not_to_be_recorded_is_not(collector: Collector) -> None:
    (answer,) = await asked(chat(traceparent=f"{GOOD[:-2]}00"))
    assert answer.headers["X-Trace-Id"] == TRACE
    assert collector.spans() == []


@pytest.fixture
async def tasks() -> AsyncIterator[tuple[str, list[dict[str, object]]]]:
    """Where an API server would be, and what it was told to make."""
    made: list[dict[str, object]] = []

    async def create(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        made.append(body)
        metadata = {**body["metadata"], "name": "task-1", "namespace": "default", "uid": "u"}
        return web.json_response({**body, "metadata": metadata}, status=201)

    app = web.Application()
    app.router.add_post("/{path:.*}", create)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", made
    await runner.cleanup()


@pytest.mark.parametrize("sampled", ["00", "01"])
async def test_a_task_goes_on_in_the_trace_of_its_request(
    tasks: tuple[str, list[dict[str, object]]], sampled: str
) -> None:
    """Also where this facade records nothing."""
    url, made = tasks
    client = f"00-{TRACE}-{SPAN}-{sampled}"
    await submitted(url, tracing.SILENT, {"traceparent": client})
    (answer,) = [await submitted(url, tracing.SILENT, {})]
    first, second = (annotation(each) for each in made)
    assert first == client
    context = TraceContext.parse(second)
    assert context is not None
    assert (context.trace_id, context.sampled) == (answer.headers["X-Trace-Id"], False)


async def test_a_task_goes_on_below_the_requests_span(
    tasks: tuple[str, list[dict[str, object]]], collector: Collector
) -> None:
    url, made = tasks
    async with tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "headrace-facade", "pod-0") as recorded:
        await submitted(url, recorded, {"traceparent": GOOD})
    (span,) = collector.spans()
    assert annotation(made[0]) == f"00-{TRACE}-{span.span_id}-01"
    assert not collector.says(CANARY)
    assert not collector.says("a-callers-token")


async def submitted(url: str, recorded: Tracing, headers: dict[str, str]) -> httpx.Response:
    async with open_context(Settings(kube_url=url, kube_ca_file=None), recorded) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            headers = {"Authorization": "Bearer a-callers-token", **headers}
            answer = await http.post("/api/v1/tasks", json={"model": "m", "prompt": CANARY}, headers=headers)
            assert answer.status_code == 202, answer.text
            return answer


def annotation(task: dict[str, object]) -> str:
    metadata = task["metadata"]
    assert isinstance(metadata, dict)
    return str(metadata["annotations"]["headrace.dev/traceparent"])
