"""Text on its way from a runner to whoever shows it as it grows: events of calls, in readers' inboxes and for replay.

A reader is a replica of the facade. It has one inbox per model, because a runner may write its own model's keys alone:
an inbox of all models would let one model's runner speak for another's. Reading many of them is still one command.
An event is opaque here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace_bus.arguments import lease_parts, request_id
from headrace_bus.connection import Connection
from headrace_bus.envelope import bounded_json
from headrace_bus.errors import BusCorrupt
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
    """One append for all events of a step, at most 256; False per event whose lease was lost.

    Raises PayloadTooLarge.
    """
    if not events:
        return []
    flat: list[bytes | str | int] = []
    for each in events:
        data = bounded_json("event", each.event, EVENT_MAX_BYTES)
        flat += [*lease_parts(each.token), key_part(each.reader), data]
    reply = await connection.run("stream", key_prefix(model), request_id(), REPLAY_BYTES, INBOX_RECORDS, *flat)
    return [each == ord("1") for each in reply]


async def read(
    connection: Connection, reader: str, after: Mapping[ModelKey, str], timeout_s: float
) -> dict[ModelKey, tuple[str, list[Token]]]:
    """What came into a reader's inboxes after the given record ids, by model: the id to go on with, and the events.

    Blocks for at most `timeout_s` while there is nothing; on one connection, however many models there are.
    """
    models = {f"{key_prefix(model)}tokens:{key_part(reader)}".encode(): model for model in after}
    reply = await connection.read_streams(list(models), list(after.values()), _READ_RECORDS, timeout_s)
    found = {}
    for key, records in reply or []:
        tokens = [token for _, fields in records for token in _tokens(fields)]
        found[models[key]] = (records[-1][0].decode(), tokens)
    return found


async def replay(connection: Connection, model: ModelKey, uid: str, after: str) -> list[Token]:
    """The call's events after that id, at most 100: ask again with the last one's id until there are none. They are
    kept for 10 minutes after the last, up to 256 KiB; the first one's `before` shows whether some are gone.
    """
    key = f"{key_prefix(model)}replay:{key_part(uid)}"
    before = after
    if after != FIRST and await connection.command("XRANGE", key, after, after) == []:
        # Gone, so that nobody can know what stood between.
        before = ""
    reply = await connection.command("XRANGE", key, f"({after}", "+", "COUNT", _REPLAYED_EVENTS)
    found = []
    for identifier, fields in reply:
        found.append(Token(uid, identifier.decode(), before, document(fields[1])))
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
