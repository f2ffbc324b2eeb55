"""Who may call a provider now: rates, concurrency and breaker of one model, as the runner uses them.

``gate.Gate`` keeps them in Redis, for all pods of a model together; ``FreeGate`` is for one process by itself.
"""

import asyncio
import sys
from typing import Final, Protocol

from headrace_runner.providers.protocol import Fault
from headrace_runner.remote.gate_state import GateState

PAUSING: Final = frozenset({Fault.RATE_LIMITED, Fault.OVERLOADED, Fault.UNAVAILABLE})
"""Faults after which a task is released and the whole model waits."""
PAUSE_SECONDS: Final = 1.0
HEALTH_PREFIX: Final = "health/"
"""Of a health check's ids: admitted where it is the probe, else only its failure is settled."""


class NotAdmitted(Exception):
    """The call may not be made now: the attempt is released and charged nothing. ``reason`` is a word of Reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class CallGate(Protocol):
    """One per runner. That a release does not spin rests on this: when ``admit`` has refused, or ``settle`` has taken a
    fault of ``PAUSING``, ``open`` is clear until another call may succeed.
    """

    open: asyncio.Event
    """Claim only while it is set."""

    def room(self) -> int:
        """So many calls more could be admitted within a second, those ``claimed`` counted: claim no more."""

    def claimed(self, count: int) -> None:
        """So many tasks were claimed and are about to be admitted."""

    async def admit(self, call_id: str, tokens: int) -> None:
        """Wait for at most a second until the call may be made; it counts as under way from then on.

        ``tokens``: what it may cost at most, an estimate. Raises NotAdmitted. One that is cancelled may have been
        admitted: it is settled.
        """

    async def settle(
        self,
        call_id: str,
        *,
        fault: Fault | None,
        reason: str,
        message: str,
        tokens: int,
        retry_after_seconds: float | None,
    ) -> None:
        """The call is over; never raises, and an id that was never admitted only tells of the fault.

        ``tokens``: what it cost. Without a fault it succeeded; with the reason Cancelled it was ended from here, which
        says nothing of the provider. ``message`` is a bounded sentence, fit for a status.
        """

    def changed(self) -> None:
        """Somebody may have acted on what stopped the calls: one is let through, to see."""

    def state(self) -> GateState:
        """As last known, without asking anybody."""

    async def run(self) -> None:
        """Endless, in the background: renews the leases of calls under way, refreshes ``open``."""


class FreeGate:
    """Bounds nothing; closes only for as long as a provider asks for, and for a second where it asks for nothing."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self._state = GateState()
        self._until = 0.0

    def room(self) -> int:
        return sys.maxsize

    def claimed(self, count: int) -> None:
        pass

    async def admit(self, call_id: str, tokens: int) -> None:
        pass

    async def settle(
        self,
        call_id: str,
        *,
        fault: Fault | None,
        reason: str,
        message: str,
        tokens: int,
        retry_after_seconds: float | None,
    ) -> None:
        if fault not in PAUSING:
            return
        loop = asyncio.get_running_loop()
        seconds = max(PAUSE_SECONDS, retry_after_seconds or 0.0)
        self._until = max(self._until, loop.time() + seconds)
        self._state = GateState(reason=reason, message=message, retry_in_seconds=seconds)
        self.open.clear()
        loop.call_later(seconds, self._look)

    def changed(self) -> None:
        self._until = 0.0
        self._look()

    def state(self) -> GateState:
        return self._state

    async def run(self) -> None:
        await asyncio.Event().wait()

    def _look(self) -> None:
        if asyncio.get_running_loop().time() >= self._until:
            self._state = GateState()
            self.open.set()
