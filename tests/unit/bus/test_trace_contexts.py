"""Trace contexts as they come from strangers, in envelopes of either version, and without anybody who records."""

import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from headrace_bus import ENVELOPE_VERSION, Envelope, WorkClass, tracing
from headrace_bus.envelope import decode, encode
from headrace_bus.tracing import SILENT, Silent, TraceContext, error_type, of_uid

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"
HOSTILE = {
    "empty": "",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no span": f"00-{TRACE}-{'0' * 16}-01",
    "upper case": GOOD.upper(),
    "no version": f"ff-{TRACE}-{SPAN}-01",
    "more behind": f"{GOOD}-more",
    "a line more": f"{GOOD}\n",
    "a header more": f"{GOOD}\r\nx: y",
    "digits of elsewhere": GOOD.replace("1", "\u0661"),
    "too long": f"00-{TRACE * 1000}-{SPAN}-01",
}


def test_what_is_one_is_read_and_written_again() -> None:
    assert TraceContext.parse(GOOD) == TraceContext(TRACE, SPAN, sampled=True)
    assert TraceContext(TRACE, SPAN, sampled=True).traceparent == GOOD
    unsampled = TraceContext.parse(f"00-{TRACE}-{SPAN}-02")
    assert unsampled is not None
    assert unsampled.traceparent.endswith("-00"), "flags that nobody knows go no further"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_none_is_ignored(text: str) -> None:
    assert TraceContext.parse(text) is None


@given(st.text(max_size=60))
def test_whatever_comes_is_read_or_ignored(text: str) -> None:
    found = TraceContext.parse(text)
    assert found is None or (found.traceparent[3:52] == text[3:52] and len(text) == 55)


def test_a_uid_gives_the_same_ids_wherever_it_is_asked() -> None:
    uid = "0af76519-16cd-43dd-8448-eb211c80319c"
    assert of_uid(uid) == of_uid(uid.upper()) == TraceContext(TRACE, TRACE[:16])
    for none in ("", "call-1", "0" * 32, f"{uid}0"):
        made = of_uid(none)
        assert TraceContext.parse(made.traceparent) == made
        assert made != of_uid(none)


def envelope(traceparent: str | None = None) -> Envelope:
    return Envelope("u", WorkClass.TASK, "team-a", "t", 1, 1, 0, 1, {"prompt": "p"}, traceparent)


def test_an_envelope_carries_it_and_older_ones_have_none() -> None:
    assert decode(encode(envelope(GOOD))).traceparent == GOOD
    plain = json.loads(encode(envelope()))
    assert "traceparent" not in plain, "the bytes of an older version"
    assert plain["version"] == ENVELOPE_VERSION == 1
    assert decode(encode(envelope())).traceparent is None


@pytest.mark.parametrize(
    "found",
    [*HOSTILE.values(), 7, None, [GOOD], {"a": GOOD}],
    ids=[*HOSTILE, "a number", "null", "a list", "an object"],
)
def test_work_is_not_refused_for_a_trace_that_is_none(found: object) -> None:
    document = {**json.loads(encode(envelope())), "traceparent": found}
    assert decode(json.dumps(document)) == envelope()


def test_nobody_puts_a_wrong_one_into_an_envelope() -> None:
    with pytest.raises(ValueError, match="trace context"):
        envelope("00-x")


def test_without_an_endpoint_the_context_goes_on() -> None:
    parent = TraceContext(TRACE, SPAN, sampled=True)
    with tracing.entered(SILENT.begin("a", parent=parent)), tracing.child("b") as span:
        span.set({"a": 1})
        assert tracing.traceparent() == GOOD
    with tracing.entered(SILENT.begin("a")):
        begun = TraceContext.parse(tracing.traceparent())
        assert begun is not None
        assert not begun.sampled, "nobody records it"
    assert tracing.traceparent() is None


def test_a_span_ends_whatever_is_raised_and_tells_no_message() -> None:
    told: list[str] = []

    class Noting(Silent):
        def fail(self, error_type: str) -> None:
            told.append(error_type)

        def end(self, end_ns: int | None = None) -> None:
            told.append("end")

    class Refused(Exception):
        reason = "ContextLengthExceeded"

    with pytest.raises(KeyError), tracing.entered(Noting()):
        raise KeyError("a prompt")
    with pytest.raises(Refused), tracing.entered(Noting()):
        raise Refused
    assert told == ["KeyError", "end", "ContextLengthExceeded", "end"]
    assert error_type(UnicodeDecodeError("utf-8", b"x", 0, 1, "A prompt")) == "UnicodeDecodeError"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_an_endpoint_switches_it_on(environment: dict[str, str], wanted: bool) -> None:
    assert tracing.wanted(environment) is wanted


async def test_without_one_nothing_is_opened() -> None:
    with structlog.testing.capture_logs() as logs:
        async with tracing.opened({}, "headrace-test", "pod-0") as found:
            assert found is SILENT
    assert logs == []
