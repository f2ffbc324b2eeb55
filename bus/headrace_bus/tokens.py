"""Text on its way from a runner to whoever shows it as it grows: events of calls, in readers' inboxes and for replay.

A reader is a replica of the facade. It has one inbox per model, because a runner may write its own model's keys alone:
an inbox of all models would let one model's runner speak for another's. Reading many of them is still one command.
An event is opaque here.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_bus.arguments import lease_parts, request_id
from headrace_bus.connection import Connection
from headrace_bus.envelope import bounded_json
from headrace_bus.errors import BusCorrupt, BusDenied, BusError
from headrace_bus.keys import ModelKey, key_part, key_prefix
from headrace_bus.records import LeaseToken
from headrace_bus.replies import document

EVENT_MAX_BYTES: Final = 64 * 1024
REPLAY_BYTES: Final = 256 * 1024
"""Of one call: older events go first."""
INBOX_RECORDS: Final = 512
"""Of one reader and model: older records go first, and `Token.before` shows the gap."""
EVENTS_AT_ONCE: Final = 256
FIRST: Final = "0-0"
"""Before all ids."""
LEFT_OUT_SECONDS: Final = 10.0
"""For which an inbox that could not be read is not asked for."""
_STEP_MAX_BYTES: Final = 1024 * 1024
_PROBE_SECONDS: Final = 0.001
_READ_RECORDS: Final = 64
_REPLAYED_EVENTS: Final = 100


@dataclass(frozen=True)
class StreamEvent:
    """What a runner appends for one call: `event` is JSON of at most 64 KiB, `reader` who follows the call."""

    token: LeaseToken
    reader: str
    event: dict[str, Any]


@dataclass(frozen=True)
class Token:
    """One event of a call. `id` is what Last-Event-ID names.

    `before` is the id of the call's event before it: who has not seen that one missed something, and asks `replay`.
    """

    uid: str
    id: str
    before: str
    event: dict[str, Any]


async def append(connection: Connection, model: ModelKey, events: Sequence[StreamEvent]) -> list[bool]:
    """One append for all events of a step, at most 256, or several above 1 MiB; False per event whose lease was lost.

    Raises PayloadTooLarge.
    """
    told: list[bool] = []
    flat: list[bytes | str | int] = []
    size = 0
    for each in events:
        data = bounded_json("event", each.event, EVENT_MAX_BYTES)
        if size + len(data) > _STEP_MAX_BYTES:
            told += await _append(connection, model, flat)
            flat, size = [], 0
        flat += [*lease_parts(each.token), key_part(each.reader), data]
        size += len(data)
    return told + (await _append(connection, model, flat) if flat else [])


async def _append(connection: Connection, model: ModelKey, flat: list[bytes | str | int]) -> list[bool]:
    reply = await connection.run("stream", key_prefix(model), request_id(), REPLAY_BYTES, INBOX_RECORDS, *flat)
    return [each == ord("1") for each in reply]


class Inboxes:
    """A reader's inboxes, one per model. Whose cannot be read is left out for a while, and costs the others nothing."""

    def __init__(self, connection: Connection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._left_out: dict[ModelKey, float] = {}

    async def read(
        self, reader: str, after: Mapping[ModelKey, str], timeout_s: float
    ) -> dict[ModelKey, tuple[str, list[Token]]]:
        """What came in after the given record ids, by model: the id to go on with, and the events.

        Blocks for at most `timeout_s` while there is nothing; on one connection, however many models there are.
        """
        now = self._monotonic()
        self._left_out = {model: until for model, until in self._left_out.items() if until > now}
        asked = {model: last for model, last in after.items() if model not in self._left_out}
        # None waits longer than it is left out.
        timeout_s = min([timeout_s, *(until - now for until in self._left_out.values())])
        if not asked:
            await asyncio.sleep(timeout_s)
            return {}
        try:
            return await self._read(reader, asked, _READ_RECORDS, timeout_s)
        except BusDenied:
            raise
        except BusError:
            # Says whether the server is there: if not, it is nobody's inbox.
            await self._connection.command("PING")
        found: dict[ModelKey, tuple[str, list[Token]]] = {}
        for model, last in asked.items():
            try:
                found |= await self._read(reader, {model: last}, 1, _PROBE_SECONDS)
            except BusError:
                self._left_out[model] = self._monotonic() + LEFT_OUT_SECONDS
        return found

    async def _read(
        self, reader: str, after: Mapping[ModelKey, str], records: int, timeout_s: float
    ) -> dict[ModelKey, tuple[str, list[Token]]]:
        models = {f"{key_prefix(model)}tokens:{key_part(reader)}".encode(): model for model in after}
        reply = await self._connection.read_streams(list(models), list(after.values()), records, timeout_s)
        found = {}
        for key, entries in reply or []:
            tokens = [token for _, fields in entries for token in _tokens(fields)]
            found[models[key]] = (entries[-1][0].decode(), tokens)
        return found


async def replay(connection: Connection, model: ModelKey, uid: str, after: str) -> list[Token]:
    """The call's events after that id, at most 100: ask again with the last one's id until there are none. They are
    kept for 10 minutes after the last, up to 256 KiB; the first one's `before` shows whether some are gone.
    """
    seen, *flat = await connection.run(
        "replay", key_prefix(model), key_part(uid), after, _REPLAYED_EVENTS, EVENT_MAX_BYTES
    )
    # Gone, so that nobody can know what stood between.
    before = after if seen or after == FIRST else ""
    found = []
    for identifier, data in zip(flat[::2], flat[1::2], strict=True):
        found.append(Token(uid, identifier.decode(), before, document(data)))
        before = identifier.decode()
    return found


def _tokens(fields: list[bytes]) -> list[Token]:
    """What a record holds, without what is no event: whoever has a model's password may write nonsense."""
    found = []
    for uid, value in zip(fields[::2], fields[1::2], strict=True):
        identifier, _, rest = value.partition(b" ")
        before, _, data = rest.partition(b" ")
        try:
            found.append(Token(key_part(uid.decode()), identifier.decode(), before.decode(), document(data)))
        except (ValueError, BusCorrupt):
            continue
    return found
