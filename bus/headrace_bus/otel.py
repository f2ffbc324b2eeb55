"""Spans by OpenTelemetry's SDK, sent as OTLP over HTTP from a thread of its own. The only module that imports it.

The queue of spans is bounded and nobody waits for it: while the collector is away or slow, spans are lost, and one log
line a minute says so. Settings are OpenTelemetry's own variables; its exporter reads them from the process.
"""

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision

from headrace_bus.tracing import SILENT, Attributes, Kind, Span, TraceContext, Tracing

CLOSE_SECONDS: Final = 2.0
COMPLAIN_EVERY_SECONDS: Final = 60.0
ATTRIBUTE_CHARS: Final = 256
_LOGGER: Final = "opentelemetry"
_KINDS: Final = {kind: trace.SpanKind[kind.value] for kind in Kind}
_own_ids: contextvars.ContextVar[TraceContext | None] = contextvars.ContextVar("headrace_own_ids", default=None)

_log = structlog.get_logger("headrace_tracing")


class _Ids(RandomIdGenerator):
    """By chance, unless the span that is begun brings its own."""

    def generate_trace_id(self) -> int:
        own = _own_ids.get()
        return super().generate_trace_id() if own is None else int(own.trace_id, 16)

    def generate_span_id(self) -> int:
        own = _own_ids.get()
        return super().generate_span_id() if own is None else int(own.span_id, 16)


class _Recorded:
    """A Span."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def context(self) -> TraceContext:
        found = self._span.get_span_context()
        return TraceContext(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)

    def child(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes | None = None,
        *,
        start_ns: int | None = None,
    ) -> Span:
        above = trace.set_span_in_context(self._span, Context())
        return _Recorded(
            self._tracer, self._tracer.start_span(name, above, _KINDS[kind], attributes, start_time=start_ns)
        )

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(trace.StatusCode.ERROR)

    def end(self, end_ns: int | None = None) -> None:
        self._span.end(end_ns)


class OtelTracing:
    """A Tracing."""

    def __init__(self, environment: Mapping[str, str], service: str, instance: str) -> None:
        """Raises whatever the SDK raises for settings that it cannot use."""
        # What is given here would win over the variables.
        named = {} if _names_service(environment) else {"service.name": service}
        self._provider = TracerProvider(
            resource=Resource.create({**named, "service.instance.id": instance}),
            shutdown_on_exit=False,
            id_generator=_Ids(),
            span_limits=SpanLimits(max_span_attribute_length=ATTRIBUTE_CHARS),
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("headrace")

    def begin(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes | None = None,
        *,
        parent: TraceContext | None = None,
        own: TraceContext | None = None,
        start_ns: int | None = None,
    ) -> Span:
        above = Context() if parent is None else trace.set_span_in_context(_remote(parent), Context())
        token = _own_ids.set(own if parent is None else None)
        try:
            span = self._tracer.start_span(name, above, _KINDS[kind], attributes, start_time=start_ns)
        finally:
            _own_ids.reset(token)
        return _Recorded(self._tracer, span)

    def resumed(self, context: TraceContext) -> Span:
        return _Recorded(self._tracer, _remote(context))

    def rooted(self, own: TraceContext) -> TraceContext:
        decision = self._provider.sampler.should_sample(Context(), int(own.trace_id, 16), "").decision
        return TraceContext(own.trace_id, own.span_id, decision is Decision.RECORD_AND_SAMPLE)

    def close(self) -> None:
        """Waits for what is still to be sent, for two seconds at most: the SDK would wait for half a minute."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        ending.start()
        ending.join(CLOSE_SECONDS)


def _remote(context: TraceContext) -> trace.Span:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if context.sampled else trace.TraceFlags.DEFAULT)
    found = trace.SpanContext(int(context.trace_id, 16), int(context.span_id, 16), is_remote=True, trace_flags=flags)
    return trace.NonRecordingSpan(found)


def _names_service(environment: Mapping[str, str]) -> bool:
    return bool(environment.get("OTEL_SERVICE_NAME")) or "service.name=" in environment.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )


class Complaints(logging.Handler):
    """What the SDK logs, as one line a minute: it would write several for every batch, and they name addresses."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING)
        self._monotonic = monotonic
        self._again_at = float("-inf")
        self._untold = 0
        self.muted = False

    def emit(self, record: logging.LogRecord) -> None:
        self._untold += 1
        now = self._monotonic()
        if now >= self._again_at and not self.muted:
            self._again_at = now + COMPLAIN_EVERY_SECONDS
            _log.warning("traces are not sent", complaints=self._untold)
            self._untold = 0


@contextlib.asynccontextmanager
async def open_otel(environment: Mapping[str, str], service: str, instance: str) -> AsyncIterator[Tracing]:
    """Silent where the settings cannot be used: whoever works must not stop for want of traces."""
    complaints = _listening()
    tracing = _made(environment, service, instance)
    try:
        yield SILENT if tracing is None else tracing
    finally:
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
        # It stays: a thread that is left to itself goes on complaining until the process ends.
        complaints.muted = True


def _listening() -> Complaints:
    """In place of an earlier one of this process."""
    logger, complaints = logging.getLogger(_LOGGER), Complaints()
    for earlier in [each for each in logger.handlers if isinstance(each, Complaints)]:
        logger.removeHandler(earlier)
    logger.addHandler(complaints)
    logger.propagate = False
    return complaints


def _made(environment: Mapping[str, str], service: str, instance: str) -> OtelTracing | None:
    try:
        return OtelTracing(environment, service, instance)
    except Exception as error:  # whatever a wrong variable makes it raise; its text may quote a header
        _log.error("traces cannot be sent", error=type(error).__name__)
        return None
