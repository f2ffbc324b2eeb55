"""The bus of a facade: it asks everything a reader may ask, and it queues, keeps and ends calls, its own alone.

A call is an entry that names its reader. It stands in no index and never comes back to the operator: whoever waits for
it is told by the scripts, and decides. docs/calls.md has the contract.
"""

from collections.abc import Sequence
from typing import Final

from headrace_bus.arguments import positive, request_id
from headrace_bus.envelope import ENVELOPE_VERSION, Envelope, WorkClass, encode
from headrace_bus.errors import BusCorrupt
from headrace_bus.keys import ModelKey, key_part, key_prefix
from headrace_bus.order import score
from headrace_bus.reader import BusReader
from headrace_bus.records import EntryState

CALLS_ASKED: Final = 500
_INBOX_WORDS: Final = 256
_STATES: Final = {b"Queued": EntryState.QUEUED, b"Leased": EntryState.LEASED}


class CallBus(BusReader):
    """Every method raises `BusError` or one of its kinds, and ValueError on names and numbers that cannot be."""

    async def call(self, model: ModelKey, envelope: Envelope, *, reader: str, lease_ms: int) -> None:
        """Queues the call, in place of an earlier attempt, and says that `reader` waits for the next `lease_ms`.

        Raises PayloadTooLarge, and BusOutOfMemory without having done anything. ValueError where it is a task.
        """
        if envelope.kind is not WorkClass.CALL:
            raise ValueError("a task is the operator's to enqueue")
        await self._connection.run(
            "call/enqueue",
            key_prefix(model),
            request_id(),
            envelope.uid,
            envelope.attempt,
            envelope.namespace,
            envelope.name,
            score(envelope.created_ms, envelope.priority),
            envelope.cost_tokens,
            ENVELOPE_VERSION,
            encode(envelope),
            key_part(reader),
            positive(lease_ms),
        )

    async def waiting(
        self, model: ModelKey, reader: str, uids: Sequence[str], *, lease_ms: int
    ) -> list[EntryState | None]:
        """Says that `reader` waits for the next `lease_ms`, and where each of its calls stands: QUEUED, LEASED, or None
        where the bus knows nothing of it.
        """
        found: list[EntryState | None] = []
        for first in range(0, len(uids), CALLS_ASKED):
            asked = [key_part(uid) for uid in uids[first : first + CALLS_ASKED]]
            reply = await self._connection.run(
                "call/waiting", key_prefix(model), key_part(reader), positive(lease_ms), *asked
            )
            if len(reply) != len(asked):
                raise BusCorrupt("not an answer for each call")
            found += [_STATES.get(each) for each in reply]
        return found

    async def hang_up(self, model: ModelKey, uid: str, *, reader: str) -> bool:
        """Forgets the call, wherever it stands, and tells its holder to drop it; False: there is no such call."""
        reply = await self._connection.run(
            "call/hang_up", key_prefix(model), key_part(uid), key_part(reader), _INBOX_WORDS
        )
        return bool(reply == 1)
