"""Reads what the scripts answer into records; the shapes are stated at the top of each Lua file.

Whoever has the password of a model's runners can write anything into its keys, so nothing is believed: a row that
no transition could have written is None or left out, a reply that cannot be read raises BusCorrupt, and no number or
name passes that a reader would stumble over.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from headrace_bus.envelope import ATTEMPT_MAX, decode
from headrace_bus.errors import BusCorrupt, BusError, EnvelopeInvalid, EnvelopeTooNew
from headrace_bus.keys import ModelKey, key_part
from headrace_bus.records import (
    Delivery,
    Entry,
    EntryState,
    Failure,
    Interrupt,
    Interruption,
    LeaseToken,
    Returned,
    ReturnReason,
    ServerState,
    Stats,
    UidPage,
    UidState,
)
from headrace_bus.wire import Reply
from headrace_crds.base import CURRENCY
from headrace_crds.cost import COUNT_LIMIT, Spend

_YEAR_9999_MS: Final = 253_402_300_799_999
_REASON: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,127}", re.ASCII)
_MESSAGE_MAX_CHARS: Final = 2_000
_DIGITS_MAX: Final = 20
_CURRENCY: Final = re.compile(CURRENCY, re.ASCII)
_NONCE: Final = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def token(row: Reply, nonce: str) -> LeaseToken | None:
    """The lease that a row of `claim` is about."""
    try:
        return LeaseToken(_name(row[0]), _attempt(row[1]), nonce)
    except (ValueError, TypeError):
        return None


def delivery(row: Reply, nonce: str) -> Delivery:
    """One row of `claim`. Raises EnvelopeInvalid."""
    try:
        uid, attempt = _name(row[0]), _attempt(row[1])
        claimed_ms, enqueued_ms, lease_until_ms = (_milliseconds(each) for each in row[2:5])
    except (ValueError, TypeError) as error:
        raise EnvelopeInvalid("the envelope's entry is no entry") from error
    try:
        envelope = decode(row[5] or b"")
    except EnvelopeTooNew as error:
        raise EnvelopeInvalid("the envelope's version is not the one it was queued under") from error
    if envelope.uid != uid or envelope.attempt != attempt:
        raise EnvelopeInvalid("the envelope is another entry's")
    return Delivery(envelope, LeaseToken(uid, attempt, nonce), claimed_ms, enqueued_ms, lease_until_ms)


def entry(row: Reply) -> Entry | None:
    """One row of `inspect` or `returned`; None when it is no entry."""
    try:
        return _entry(row)
    except (ValueError, TypeError):
        return None


def _entry(row: Reply) -> Entry:
    uid, namespace, name = _name(row[0]), _name(row[3]), _name(row[4])
    attempt, state, since_ms = _attempt(row[1]), EntryState(row[2].decode()), _milliseconds(row[5])
    came_back = None
    if state is EntryState.RETURNED:
        came_back = Returned(
            uid=uid,
            attempt=attempt,
            namespace=namespace,
            name=name,
            reason=ReturnReason(row[8].decode()),
            worker=_name(row[6]),
            claimed_ms=_milliseconds(row[7]),
            returned_ms=since_ms,
            failure=_failure(row[9]) if row[9] else None,
        )
    worker = _name(row[6]) if state is EntryState.LEASED else None
    return Entry(uid, attempt, state, namespace, name, since_ms, worker, came_back)


def returned(rows: Reply) -> list[Returned]:
    """The rows of `returned` that are deliveries which came back."""
    entries = (entry(row) for row in rows)
    return [each.returned for each in entries if each is not None and each.returned is not None]


def _failure(data: bytes) -> Failure | None:
    try:
        fields = document(data)
    except BusCorrupt:
        return None
    reason, message, retryable = fields.get("reason"), fields.get("message"), fields.get("retryable", True)
    if not isinstance(reason, str) or not _REASON.fullmatch(reason) or not isinstance(message, str):
        return None
    return Failure(reason, message[:_MESSAGE_MAX_CHARS], retryable is not False, _spent(fields.get("spent")))


def _spent(told: object) -> Spend | None:
    """None where a runner told nothing, or what no attempt can take."""
    match told:
        case [bool(), *_] | [_, bool(), *_]:
            return None
        case [int() as tokens, int() as micros, str() as currency]:
            known = not currency or _CURRENCY.fullmatch(currency)
            if known and 0 <= tokens <= COUNT_LIMIT and 0 <= micros <= COUNT_LIMIT:
                return Spend(tokens, micros, currency)
    return None


def document(data: bytes) -> dict[str, Any]:
    """A JSON object that can be written as such again. Raises BusCorrupt when a runner wrote something else."""
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise BusCorrupt("not JSON") from error
    if not isinstance(value, dict):
        raise BusCorrupt("not a JSON object")
    return value


def reports(flat: Reply) -> dict[str, dict[str, Any]]:
    """The reply of `reports`, without what is none."""
    found: dict[str, dict[str, Any]] = {}
    for worker, data in zip(flat[::2], flat[1::2], strict=True):
        try:
            found[_name(worker)] = document(data)
        except (ValueError, BusError):
            continue
    return found


def worker(data: bytes) -> str | None:
    """A worker's name; None when it is none."""
    try:
        return _name(data)
    except ValueError:
        return None


def interrupts(words: list[bytes]) -> list[Interrupt]:
    """What stood in an inbox, without what is no word."""
    found: list[Interrupt] = []
    for each in words:
        try:
            uid, attempt, nonce, word = each.split(b" ")
            if not _NONCE.fullmatch(nonce.decode()):
                continue
            found.append(Interrupt(_name(uid), _attempt(attempt), Interruption(word.decode()), nonce.decode()))
        except ValueError:
            continue
    return found


def _mean(data: bytes) -> float | None:
    try:
        mean_ms = float(data)
    except ValueError:
        return None
    return mean_ms if 0 <= mean_ms <= _YEAR_9999_MS else None


def stats(model: ModelKey, reply: Reply) -> Stats:
    """The reply of `stats`. Raises BusCorrupt."""
    try:
        queued, delayed, leased, came_back, oldest, mean, calls, *pairs = reply
        by_namespace: dict[str, int] = {}
        for namespace, count in zip(pairs[::2], pairs[1::2], strict=True):
            name = namespace.decode("utf-8", "replace")
            by_namespace[name] = by_namespace.get(name, 0) + int(count)
        oldest_ms = _milliseconds(oldest) if oldest else None
    except (ValueError, TypeError) as error:
        raise BusCorrupt(f"stats of {model} cannot be read") from error
    return Stats(queued, delayed, leased, came_back, oldest_ms, by_namespace, _mean(mean), calls)


def uid_page(model: ModelKey, reply: Reply) -> UidPage:
    """The reply of `uids`, without what is no entry. Raises BusCorrupt."""
    cursor, *flat = reply
    entries: dict[str, UidState] = {}
    for uid, attempt, state in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        try:
            entries[_name(uid)] = UidState(_attempt(attempt), EntryState(state.decode()))
        except ValueError:
            continue
    try:
        return UidPage(int(cursor), entries)
    except ValueError as error:
        raise BusCorrupt(f"uids of {model} cannot be read") from error


def server_state(server: Mapping[str, str], memory: Mapping[str, str]) -> ServerState:
    """INFO server and INFO memory."""
    return ServerState(
        run_id=server["run_id"],
        version=server["redis_version"],
        maxmemory_policy=memory["maxmemory_policy"],
        maxmemory_bytes=int(memory["maxmemory"]),
        used_memory_bytes=int(memory["used_memory"]),
    )


def _name(data: bytes) -> str:
    return key_part(data.decode())


def _number(data: bytes | int) -> int:
    if isinstance(data, bytes) and (len(data) > _DIGITS_MAX or not data.isdigit()):
        raise ValueError("not a number")
    return int(data)


def _attempt(data: bytes | int) -> int:
    attempt = _number(data)
    if not 1 <= attempt <= ATTEMPT_MAX:
        raise ValueError("not an attempt")
    return attempt


def _milliseconds(data: bytes | int) -> int:
    at_ms = _number(data)
    if not 0 <= at_ms <= _YEAR_9999_MS:
        raise ValueError("not a time")
    return at_ms
