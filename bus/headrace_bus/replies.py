"""Reads what the scripts answer into records; the shapes are stated at the top of each Lua file."""

import json
from typing import Any

from headrace_bus.connection import Reply
from headrace_bus.envelope import decode
from headrace_bus.errors import BusError, EnvelopeInvalid, EnvelopeTooNew
from headrace_bus.records import (
    Delivery,
    Entry,
    EntryState,
    Failure,
    LeaseToken,
    Returned,
    ReturnReason,
    ServerState,
    Stats,
    UidPage,
)


def delivery(row: Reply, nonce: str) -> Delivery:
    """One row of `claim`. Raises EnvelopeInvalid."""
    uid, attempt, claimed_ms, enqueued_ms, lease_until_ms, data = row
    try:
        envelope = decode(data or b"")
    except EnvelopeTooNew as error:
        raise EnvelopeInvalid("the envelope's version is not the one it was queued under") from error
    if envelope.uid != uid.decode() or envelope.attempt != int(attempt):
        raise EnvelopeInvalid("the envelope is another entry's")
    token = LeaseToken(envelope.uid, envelope.attempt, nonce)
    return Delivery(envelope, token, int(claimed_ms), int(enqueued_ms), int(lease_until_ms))


def entry(row: Reply) -> Entry:
    """One row of `inspect` or `returned`."""
    uid, attempt, state, namespace, name, since, worker, claimed, reason, failure = (
        each.decode("utf-8", "replace") for each in row
    )
    came_back = None
    if state == EntryState.RETURNED:
        came_back = Returned(
            uid=uid,
            attempt=int(attempt),
            namespace=namespace,
            name=name,
            reason=ReturnReason(reason),
            worker=worker,
            claimed_ms=int(claimed),
            returned_ms=int(since),
            failure=_failure(failure) if failure else None,
        )
    return Entry(
        uid=uid,
        attempt=int(attempt),
        state=EntryState(state),
        namespace=namespace,
        name=name,
        since_ms=int(since),
        worker=worker if state == EntryState.LEASED else None,
        returned=came_back,
    )


def _failure(text: str) -> Failure:
    fields = document(text)
    return Failure(str(fields.get("reason")), str(fields.get("message")), bool(fields.get("retryable", True)))


def document(data: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises BusError when a runner wrote something else."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BusError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BusError("not a JSON object")
    return value


def stats(reply: Reply) -> Stats:
    """The reply of `stats`."""
    queued, delayed, leased, returned, oldest, *pairs = reply
    by_namespace: dict[str, int] = {}
    for namespace, count in zip(pairs[::2], pairs[1::2], strict=True):
        name = namespace.decode()
        by_namespace[name] = by_namespace.get(name, 0) + int(count)
    return Stats(queued, delayed, leased, returned, int(float(oldest)) if oldest else None, by_namespace)


def uid_page(reply: Reply) -> UidPage:
    """The reply of HSCAN on the index."""
    cursor, flat = reply
    if isinstance(flat, dict):
        flat = [part for item in flat.items() for part in item]
    return UidPage(
        int(cursor), {uid.decode(): int(attempt) for uid, attempt in zip(flat[::2], flat[1::2], strict=True)}
    )


def server_state(server: Reply, memory: Reply) -> ServerState:
    """The replies of INFO server and INFO memory, as redis-py parses them."""
    return ServerState(
        run_id=str(server["run_id"]),
        version=str(server["redis_version"]),
        maxmemory_policy=str(memory["maxmemory_policy"]),
        maxmemory_bytes=int(memory["maxmemory"]),
        used_memory_bytes=int(memory["used_memory"]),
    )
