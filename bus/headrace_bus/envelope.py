"""The envelope: what travels through the queue, as versioned JSON.

A reader takes its own version and the one before; fields it does not know are ignored, so that a
rollout may mix versions. The payload is opaque here.
"""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headrace_bus.errors import EnvelopeInvalid, EnvelopeTooNew, PayloadTooLarge
from headrace_bus.keys import key_part
from headrace_bus.order import COST_TOKENS_MAX, PRIORITY_MAX, PRIORITY_MIN
from headrace_bus.tracing import TraceContext

ENVELOPE_VERSION: Final = 1
ENVELOPE_MAX_BYTES: Final = 1024 * 1024
ATTEMPT_MAX: Final = 1_000_000_000
"""More is nonsense, also to the scripts (`lua/shared/keys.lua`)."""


class WorkClass(StrEnum):
    """A Call is answered to a waiting client and has no object; a Task is an LLMTask."""

    CALL = "Call"
    TASK = "Task"


# json.dumps makes one of these for every call.
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True)
class Envelope:
    """One piece of work, complete: who claims it reads no object. Raises ValueError on a field out of range."""

    uid: str
    kind: WorkClass
    namespace: str
    """Of the LLMTask, or the tenant of the Call: what fairness is about."""
    name: str
    attempt: int
    created_ms: int
    """The object's creation time, so that a rebuilt queue keeps its order."""
    priority: int
    cost_tokens: int
    """Estimate of prompt and completion together; what fairness between namespaces counts."""
    payload: dict[str, Any]
    traceparent: str | None = None
    """W3C trace context of whoever queued it; absent where nobody traces, and in what an older version wrote."""

    def __post_init__(self) -> None:
        key_part(self.uid)
        key_part(self.namespace)
        key_part(self.name)
        if not 1 <= self.attempt <= ATTEMPT_MAX:
            raise ValueError(f"attempt lies in 1…{ATTEMPT_MAX}")
        if not 0 <= self.created_ms < 2**52:
            raise ValueError("created_ms is milliseconds since 1970")
        if not PRIORITY_MIN <= self.priority <= PRIORITY_MAX:
            raise ValueError(f"priority lies in {PRIORITY_MIN}…{PRIORITY_MAX}")
        if not 0 <= self.cost_tokens <= COST_TOKENS_MAX:
            raise ValueError(f"cost_tokens lies in 0…{COST_TOKENS_MAX}")
        if self.traceparent is not None and TraceContext.parse(self.traceparent) is None:
            raise ValueError("traceparent is no W3C trace context")


def encode(envelope: Envelope) -> bytes:
    """UTF-8 JSON of the current version. Raises PayloadTooLarge above 1 MiB."""
    document: dict[str, Any] = {
        "version": ENVELOPE_VERSION,
        "uid": envelope.uid,
        "kind": envelope.kind.value,
        "namespace": envelope.namespace,
        "name": envelope.name,
        "attempt": envelope.attempt,
        "createdMs": envelope.created_ms,
        "priority": envelope.priority,
        "costTokens": envelope.cost_tokens,
        "payload": envelope.payload,
    }
    if envelope.traceparent is not None:
        document["traceparent"] = envelope.traceparent
    return bounded_json("envelope", document, ENVELOPE_MAX_BYTES)


def decode(data: bytes | str) -> Envelope:
    """Reads version N and N-1. Raises EnvelopeTooNew or EnvelopeInvalid."""
    try:
        document = json.loads(data)
        version = int(document["version"])
        if version > ENVELOPE_VERSION:
            raise EnvelopeTooNew(version, ENVELOPE_VERSION)
        payload = document["payload"]
        if not isinstance(payload, dict):
            raise EnvelopeInvalid("the payload is not an object")
        return Envelope(
            uid=str(document["uid"]),
            kind=WorkClass(document["kind"]),
            namespace=str(document["namespace"]),
            name=str(document["name"]),
            attempt=int(document["attempt"]),
            created_ms=int(document["createdMs"]),
            priority=int(document["priority"]),
            cost_tokens=int(document["costTokens"]),
            payload=payload,
            traceparent=_traceparent(document.get("traceparent")),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise EnvelopeInvalid(f"not an envelope: {error!r}") from error


def _traceparent(found: object) -> str | None:
    """What is none is as good as absent: no work is refused for it."""
    context = TraceContext.parse(found) if isinstance(found, str) else None
    return None if context is None else context.traceparent


def bounded_json(what: str, document: dict[str, Any], limit_bytes: int) -> bytes:
    """Compact UTF-8 JSON. Raises PayloadTooLarge, naming `what`."""
    data = _encode(document).encode()
    if len(data) > limit_bytes:
        raise PayloadTooLarge(what, len(data), limit_bytes)
    return data
