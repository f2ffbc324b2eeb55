"""Traces, as all components make them: W3C trace contexts, spans, and which one is the current.

Attributes are names, counts and reasons; never a prompt, a result, a key or a URL. OpenTelemetry is imported where an
endpoint is set (`opened`), by `headrace_bus.otel` alone. Without one spans are silent: only their context travels on,
so that the log lines of all components have the same trace id.
"""

import contextlib
import contextvars
import re
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol, Self

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_WORD: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_SAMPLED: Final = 1

Attributes = Mapping[str, str | int | float | bool | Sequence[str]]


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in which trace one is (www.w3.org/TR/trace-context): ids in lower-case hex, of 32 and 16 digits."""

    trace_id: str
    span_id: str
    sampled: bool = False
    """Whether it is recorded; who follows does alike."""

    @classmethod
    def parse(cls, traceparent: str | None) -> Self | None:
        """None for what is no `traceparent`: it may come from anybody, and a wrong one begins a trace of its own."""
        match = _TRACEPARENT.fullmatch(traceparent) if traceparent else None
        return None if match is None else cls(match[1], match[2], bool(int(match[3], 16) & _SAMPLED))

    @classmethod
    def fresh(cls) -> Self:
        """Ids by chance, neither of them zero."""
        return cls(f"{secrets.randbits(128) or 1:032x}", f"{secrets.randbits(64) or 1:016x}")

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"


class Kind(StrEnum):
    """On which side of a request or a queue a span is."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"
    PRODUCER = "PRODUCER"
    CONSUMER = "CONSUMER"


class Span(Protocol):
    """Something that takes time. One that is never ended is never told."""

    @property
    def context(self) -> TraceContext | None:
        """What goes on to others; None where nobody traces."""

    def child(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes | None = None,
        *,
        start_ns: int | None = None,
    ) -> "Span":
        """Begun now, or at ``start_ns`` since 1970."""

    def set(self, attributes: Attributes) -> None: ...

    def rename(self, name: str) -> None: ...

    def fail(self, error_type: str) -> None:
        """It went wrong: a status, a reason or a type's name, never a message."""

    def end(self, end_ns: int | None = None) -> None: ...


class Silent:
    """A span that nobody is told of, and its children: they pass its context on."""

    def __init__(self, context: TraceContext | None = None) -> None:
        self._context = context

    @property
    def context(self) -> TraceContext | None:
        return self._context

    def child(
        self,
        name: str,
        kind: Kind = Kind.INTERNAL,
        attributes: Attributes | None = None,
        *,
        start_ns: int | None = None,
    ) -> Span:
        return self

    def set(self, attributes: Attributes) -> None:
        """Nobody is told."""

    def rename(self, name: str) -> None:
        """Nobody is told."""

    def fail(self, error_type: str) -> None:
        """Nobody is told."""

    def end(self, end_ns: int | None = None) -> None:
        """Nobody is told."""


class Tracing(Protocol):
    """Begins spans whose parents are elsewhere. One per process."""

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
        """A span below ``parent``; without one the first of a trace, with the ids of ``own`` or others."""

    def resumed(self, context: TraceContext) -> Span:
        """A span of somebody else's, for children of it here."""

    def rooted(self, own: TraceContext) -> TraceContext:
        """What ``begin`` gives a span of these ids that has no parent: whether it is recorded is said."""


class SilentTracing:
    """Where no endpoint is set."""

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
        return Silent(parent or own or TraceContext.fresh())

    def resumed(self, context: TraceContext) -> Span:
        return Silent(context)

    def rooted(self, own: TraceContext) -> TraceContext:
        return own


SILENT: Final = SilentTracing()
_NOBODY: Final = Silent()
_current: contextvars.ContextVar[Span] = contextvars.ContextVar("headrace_span", default=_NOBODY)


def current() -> Span:
    """Of this asyncio task, or of the one that began it; a silent one where there is none."""
    return _current.get()


def traceparent() -> str | None:
    """Of the current span, for whoever goes on with it."""
    context = _current.get().context
    return None if context is None else context.traceparent


@contextlib.contextmanager
def entered(span: Span) -> Iterator[Span]:
    """The span is the current one within, and ends with it; what is raised marks it as failed."""
    token = _current.set(span)
    try:
        yield span
    except BaseException as error:
        span.fail(error_type(error))
        raise
    finally:
        _current.reset(token)
        span.end()


@contextlib.contextmanager
def child(name: str, kind: Kind = Kind.INTERNAL, attributes: Attributes | None = None) -> Iterator[Span]:
    """A child of the current span, as `entered`."""
    with entered(_current.get().child(name, kind, attributes)) as span:
        yield span


def queued(destination: str, uid: str, namespace: str, attempt: int) -> Attributes:
    """What spans on both sides of the queue say of an entry, by the conventions for messaging. ``destination`` is the
    model, as namespace/name.
    """
    return {
        "messaging.system": "headrace",
        "messaging.destination.name": destination,
        "messaging.message.id": uid,
        "headrace.namespace": namespace,
        "headrace.attempt": attempt,
    }


def error_type(error: BaseException) -> str:
    """Our errors' reason, others' type. Never a message: it may quote what nobody may read."""
    reason = str(getattr(error, "reason", ""))
    return reason if _WORD.fullmatch(reason) else type(error).__name__


def of_uid(uid: str) -> TraceContext:
    """Ids of the trace of an object that came without one, the same wherever they are asked for: the trace has the
    uid's 32 digits. Ids by chance for what is no uid.
    """
    digits = uid.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{32}", digits) or not int(digits[:16], 16):
        return TraceContext.fresh()
    # The upper half: of a uid by chance (version 4) it has a digit that is never zero.
    return TraceContext(digits, digits[:16])


@contextlib.asynccontextmanager
async def opened(environment: Mapping[str, str], service: str, instance: str) -> AsyncIterator[Tracing]:
    """Traces to the endpoint that OpenTelemetry's variables name; silent ones where they name none.

    ``service`` is the name where `OTEL_SERVICE_NAME` has none, ``instance`` the pod's. What has not been sent by the
    end has two seconds for it.
    """
    if not wanted(environment):
        yield SILENT
        return
    # Here, as it takes time and memory.
    from headrace_bus.otel import open_otel

    async with open_otel(environment, service, instance) as tracing:
        yield tracing


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether an endpoint is set, and tracing not switched off."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off |= environment.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return not off and any(environment.get(name, "").strip() for name in names)
