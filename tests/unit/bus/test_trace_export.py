"""Spans on their way to a collector on loopback: what it is told, and what it costs where it does not answer."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from headrace_bus import otel, tracing
from headrace_bus.tracing import Kind, TraceContext, Tracing, of_uid
from tests.stub_collector.collector import Collector, collecting

PARENT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
UID = "1bf76519-16cd-43dd-8448-eb211c80319c"
QUEUE, BATCH = 64, 16


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """The SDK reads the process's own environment."""
    with collecting() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        # A busy machine may take longer to send what is left.
        monkeypatch.setattr(otel, "CLOSE_SECONDS", 60.0)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield made


async def telling(spans: Any, environment: dict[str, str] | None = None) -> None:
    """Open, have spans made, close: then all that will ever be told is told."""
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "as in the process", **(environment or {})}
    async with tracing.opened(settings, "headrace-test", "pod-0") as made:
        assert made is not tracing.SILENT
        spans(made)


async def test_a_trace_is_told_with_its_parents(collector: Collector) -> None:
    def spans(made: Tracing) -> None:
        with tracing.entered(made.begin("request", Kind.SERVER, {"a": "b"}, parent=PARENT)):
            with tracing.child("inner", Kind.CLIENT, {"n": 1, "many": ["x", "y"]}) as span:
                span.fail("Refused")
            tracing.current().rename("POST /x")
        made.begin("queue", parent=PARENT, start_ns=1_000).end(2_000)

    await telling(spans)
    outer, inner, queue = (collector.named(name)[0] for name in ("POST /x", "inner", "queue"))
    assert {span.trace_id for span in collector.spans()} == {PARENT.trace_id}
    assert (outer.parent, queue.parent, inner.parent) == (PARENT.span_id, PARENT.span_id, outer.span_id)
    assert (outer.kind, inner.kind, queue.kind) == ("SERVER", "CLIENT", "INTERNAL")
    assert (queue.start_ns, queue.end_ns) == (1_000, 2_000)
    assert inner.attributes == {"n": 1, "many": ["x", "y"], "error.type": "Refused"}
    assert (inner.failed, outer.failed, inner.events) == (True, False, 0)
    assert {span.service for span in collector.spans()} == {"headrace-test"}


async def test_an_object_without_a_trace_has_one_of_its_uid(collector: Collector) -> None:
    """The span that begins it and those that follow elsewhere know nothing of each other."""

    def spans(made: Tracing) -> None:
        made.begin("accept", own=of_uid(UID)).end()
        context = made.rooted(of_uid(UID))
        assert context.sampled
        made.resumed(context).child("enqueue").end()

    await telling(spans)
    (accept,), (enqueue,) = collector.named("accept"), collector.named("enqueue")
    assert accept.trace_id == enqueue.trace_id == UID.replace("-", "")
    assert (accept.parent, enqueue.parent) == ("", accept.span_id)


@pytest.mark.parametrize(("ratio", "told"), [("0", 0), ("1", 2)])
async def test_the_sampler_decides_once_for_a_trace(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, ratio: str, told: int
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)

    def spans(made: Tracing) -> None:
        made.begin("accept", own=of_uid(UID)).end()
        made.resumed(made.rooted(of_uid(UID))).child("enqueue").end()
        made.begin("not recorded", parent=TraceContext(PARENT.trace_id, PARENT.span_id)).end()

    await telling(spans)
    assert len(collector.spans()) == told


async def test_the_service_may_have_another_name(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc")
    await telling(lambda made: made.begin("a").end(), {"OTEL_SERVICE_NAME": "ours"})
    assert [span.service for span in collector.spans()] == ["ours"]
    assert collector.headers[0]["authorization"] == "Basic abc"
    assert not collector.says("Basic abc")


async def test_a_long_word_is_cut(collector: Collector) -> None:
    await telling(lambda made: made.begin("a", attributes={"word": "x" * 10_000}).end())
    assert collector.spans()[0].attributes["word"] == "x" * otel.ATTRIBUTE_CHARS


async def test_a_collector_that_hangs_keeps_nobody(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made while it hangs is bounded, and the end does not wait for it."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", str(QUEUE))
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", str(BATCH))
    monkeypatch.setattr(otel, "CLOSE_SECONDS", 0.05)
    collector.hold = True
    with structlog.testing.capture_logs() as logs:
        async with tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "headrace-test", "pod-0") as made:
            made.begin("first").end()
            await held(collector)
            for number in range(2_000):
                made.begin(f"span-{number}").end()
            assert collector.held == 1, "it still hangs: nobody has waited for it"
        assert collector.held == 1, "nor did the end"
    assert [(line["event"], line["log_level"]) for line in logs] == [("traces are not sent", "warning")]
    collector.let_go.set()
    deadline = time.monotonic() + 30
    while not collector.named("first"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert len(collector.spans()) <= QUEUE + BATCH


async def held(collector: Collector) -> None:
    deadline = time.monotonic() + 30
    while not collector.held:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["refuses", "is away"])
async def test_a_collector_that_does_not_take_them_is_told_of_once(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    collector.status = 403
    if how == "is away":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        monkeypatch.setattr(otel, "CLOSE_SECONDS", 0.2)

    async def batches(made: Tracing) -> None:
        for _ in range(5):
            made.begin("a").end()
            await asyncio.sleep(0.05)

    with structlog.testing.capture_logs() as logs:
        async with tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "headrace-test", "pod-0") as made:
            await batches(made)
            if how == "refuses":
                deadline = time.monotonic() + 30
                while not logs:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.01)
    # A thread that is left to itself goes on complaining, and nobody hears it.
    assert not logging.getLogger("opentelemetry").propagate
    assert [line["event"] for line in logs] == ["traces are not sent"]
    assert "127.0.0.1" not in str(logs)
    assert capfd.readouterr().err == "", "the SDK's own lines"


def test_complaints_are_told_once_a_minute() -> None:
    now = 0.0
    complaints = otel.Complaints(lambda: now)
    record = logging.LogRecord("opentelemetry", logging.ERROR, "", 0, "http://user:secret@collector", (), None)
    with structlog.testing.capture_logs() as logs:
        for _ in range(100):
            complaints.handle(record)
        now = otel.COMPLAIN_EVERY_SECONDS
        complaints.handle(record)
        now, complaints.muted = 2 * otel.COMPLAIN_EVERY_SECONDS, True
        complaints.handle(record)
    assert [line["complaints"] for line in logs] == [1, 100]
    assert "secret" not in str(logs)


async def test_settings_that_cannot_be_used_stop_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ValueError("a secret header")

    monkeypatch.setattr(otel, "TracerProvider", broken)
    with structlog.testing.capture_logs() as logs:
        async with tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "headrace-test", "pod-0") as made:
            assert made is tracing.SILENT
    # An earlier test's exporter may still complain.
    told = [line for line in logs if line["event"] != "traces are not sent"]
    assert [(line["event"], line["error"]) for line in told] == [("traces cannot be sent", "ValueError")]
