"""What an attempt's spans tell: of repairs, refusals and setbacks, and of models here and elsewhere."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from test_runner_repair import Endings, Engine

from headrace_bus import Delivery, Envelope, LeaseToken, ModelKey, WorkClass, otel, tracing
from headrace_bus.tracing import TraceContext
from headrace_crds.inputs import Output
from headrace_crds.remote import Remote
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.engine.client import EngineRefused
from headrace_runner.execute import execute
from headrace_runner.traced import Served, TracedEngine, TracedSink, begun
from headrace_runner.validate import Validator
from tests.stub_collector.collector import Collector, Told, collecting

MODEL = ModelKey("ns", "smol")
PARENT = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", sampled=True)
CLAIMED_NS = 1_800_000_000_000_000_000
SCHEMA = Output.model_validate({"jsonSchema": '{"type": "integer"}', "maxRepairs": 1})
CANARY = "canary-in-the-result"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        # A busy machine may take longer to send what is left.
        monkeypatch.setattr(otel, "CLOSE_SECONDS", 60.0)
        yield made


def delivery(attempt: Attempt, traceparent: str | None) -> Delivery:
    payload = attempt.work.dump()
    envelope = Envelope(attempt.uid, WorkClass.TASK, attempt.namespace, attempt.name, 1, 1, 0, 1, payload, traceparent)
    token = LeaseToken(attempt.uid, 1, "n")
    return Delivery(envelope, token, attempt.claimed_ms, attempt.enqueued_ms, attempt.claimed_ms + 1)


async def spans(
    collector: Collector,
    attempt: Attempt,
    engine: Engine,
    *,
    output: Output | None = None,
    parent: TraceContext | None = PARENT,
    remote: Remote | None = None,
) -> list[Told]:
    """In the order in which they ended, that of the attempt last."""
    attempt = replace(attempt, work=attempt.work.model_copy(update={"output": output}))
    served = Served.of(MODEL, remote)
    traceparent = None if parent is None else parent.traceparent
    async with (
        tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "x"}, "headrace-runner", "pod-0") as made,
        Validator() as validator,
    ):
        with tracing.entered(begun(made, delivery(attempt, traceparent), attempt.work, served, CLAIMED_NS)):
            traced: Any = TracedEngine(engine, served)  # type: ignore[arg-type]  # it takes no Embed
            await execute(attempt, traced, validator, TracedSink(Endings(), attempt), Curb())
    return sorted(collector.spans(), key=lambda span: span.end_ns if span.parent else 1 << 63)


def one(found: list[Told], name: str) -> Told:
    (span,) = [each for each in found if each.name == name]
    return span


async def test_the_wait_is_as_long_as_redis_says(collector: Collector, attempt: Attempt) -> None:
    found = await spans(collector, attempt, Engine("hello"))
    queue, whole = one(found, "queue"), one(found, "chat ns/smol")
    assert (queue.start_ns, queue.end_ns) == (CLAIMED_NS - 250 * 1_000_000, CLAIMED_NS)
    assert whole.start_ns == CLAIMED_NS
    assert (queue.parent, whole.parent) == (PARENT.span_id, PARENT.span_id)


async def test_what_an_older_version_queued_has_a_trace_of_its_own(collector: Collector, attempt: Attempt) -> None:
    found = await spans(collector, attempt, Engine("hello"), parent=None)
    whole = one(found, "chat ns/smol")
    assert whole.parent == ""
    assert [span.name for span in found if span.name == "queue"] == []
    assert {span.trace_id for span in found} == {whole.trace_id}


async def test_each_try_is_a_request_and_each_judgement_is_told(collector: Collector, attempt: Attempt) -> None:
    found = await spans(collector, attempt, Engine(CANARY, "7"), output=SCHEMA)
    whole = one(found, "chat ns/smol")
    requests = [span for span in found if span.name == "engine request"]
    assert [span.attributes["headrace.repair"] for span in requests] == [0, 1]
    judged = [span.attributes["headrace.finding"] for span in found if span.name == "validate"]
    assert judged == ["InvalidOutput", "Valid"]
    wanted = {"headrace.outcome": "Complete", "headrace.repairs": 1, "gen_ai.usage.output_tokens": 6}
    assert whole.attributes | wanted == whole.attributes
    assert not any("gen_ai.usage.output_tokens" in span.attributes for span in requests), "tokens count once"
    assert {span.parent for span in found if span.name not in ("queue", whole.name)} == {whole.span_id}
    assert not collector.says(CANARY)


@pytest.mark.parametrize(
    ("retryable", "told", "outcome"),
    [(False, "commit", "Failed"), (True, "give back", None)],
    ids=["failed", "setback"],
)
async def test_what_went_wrong_is_a_reason_and_no_message(
    collector: Collector, attempt: Attempt, retryable: bool, told: str, outcome: str | None
) -> None:
    engine = Engine()
    engine.refusal = EngineRefused("DecodeFailed", CANARY, retryable=retryable)
    found = await spans(collector, attempt, engine)
    request, whole = one(found, "engine request"), one(found, "chat ns/smol")
    for span in (request, whole):
        assert (span.failed, span.attributes["error.type"], span.status_message) == (True, "DecodeFailed", "")
    assert whole.attributes.get("headrace.outcome") == outcome
    assert one(found, told).parent == whole.span_id
    assert not collector.says(CANARY)


@pytest.mark.parametrize(
    ("provider", "base_url", "name", "about"),
    [
        ("OpenAI", None, "openai", {}),
        ("Anthropic", None, "anthropic", {}),
        ("OpenAICompatible", "https://llm.example.com:8000/v1/secret", "openai_compatible", "llm.example.com"),
        ("OurOwn", "http://[fd00::7]:8000/v1", "our_own", "fd00::7"),
    ],
)
def test_a_provider_is_told_by_name_and_host(provider: str, base_url: str | None, name: str, about: Any) -> None:
    remote = Remote.model_validate({"provider": provider, "model": "m-1", "baseURL": base_url})
    served = Served.of(MODEL, remote)
    assert (served.model, served.provider, served.name) == ("ns/smol", name, "m-1")
    assert served.about == ({"server.address": about} if about else {})
    assert served.request == "provider request"
