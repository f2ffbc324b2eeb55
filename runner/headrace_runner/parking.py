"""Parks a result that is too large for the runner to commit, and stays with it while the bus has no room for it.

The operator commits it (`headrace_crds.parked`). The lease is renewed meanwhile, so that nobody generates it again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final

import structlog

from headrace_bus import BusError, PayloadTooLarge
from headrace_crds.parked import Parked
from headrace_runner.attempt import Attempt
from headrace_runner.bus_entry import BusEntry
from headrace_runner.patience import pause_seconds
from headrace_runner.verdict import Verdict

PATIENCE_SECONDS: Final = 600.0
_LONGEST_PAUSE_SECONDS: Final = 5.0

_log = structlog.get_logger()


class Parking(StrEnum):
    """What became of it."""

    PARKED = "Parked"
    LOST = "Lost"
    """The entry is nobody's or somebody else's; perhaps this parked it and the answer was lost."""
    TOO_LARGE = "TooLarge"
    """The payload is beyond the bus's bound although its text is not: a text that cannot be deflated."""
    NO_ROOM = "NoRoom"
    """The bus did not take it for as long as a runner waits."""


class Parker:
    """Parks whatever it is given until patience ends."""

    def __init__(
        self,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._monotonic = monotonic

    async def park(self, entry: BusEntry, attempt: Attempt, verdict: Verdict) -> Parking:
        """Hand over the verdict's large text."""
        # Built once: its times are those of the generation's end.
        payload = _parked(attempt, verdict).dump()
        deadline = self._monotonic() + self._patience_seconds
        tries = 0
        while True:
            try:
                return Parking.PARKED if await entry.park(payload) else Parking.LOST
            except PayloadTooLarge:
                return Parking.TOO_LARGE
            except BusError as error:
                if tries == 0:
                    _log.warning("result waits for room on the bus", **entry.keys, reason=error.reason)
            if self._monotonic() >= deadline:
                return Parking.NO_ROOM
            await self._sleep(pause_seconds(tries, _LONGEST_PAUSE_SECONDS))
            tries += 1


def _parked(attempt: Attempt, verdict: Verdict) -> Parked:
    large, usage, timings = verdict.large, verdict.usage, verdict.timings
    if large is None or usage is None or timings is None:
        raise ValueError("only a generated text can be parked")
    return Parked.of(
        large.text,
        large.finish_reason,
        large.enforcement,
        usage,
        timings,
        repairs=large.repairs,
        tool_calls=large.tool_calls,
        reasoning=large.reasoning,
        claimed_ms=attempt.claimed_ms,
        completed_ms=attempt.now_ms,
        pod=attempt.pod,
    )
