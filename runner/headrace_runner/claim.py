"""Claims work: as many tasks as there are free sequences, only while their backend is ready.

It must not execute anything; every delivery becomes a flight, and the flights are kept here until they have landed.
"""

import asyncio
import collections
import contextlib
import time
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from headrace_bus import BusError, EnvelopeTooNew, Interrupt, LeaseToken
from headrace_runner.flight import Abort, Deck, Flight
from headrace_runner.logs import error_keys

_LOOK_AT_LEAST_EVERY_SECONDS: Final = 5.0
_FIRST_BACKOFF_SECONDS: Final = 0.25
_LAST_BACKOFF_SECONDS: Final = 5.0
_EARLY_WORDS: Final = 256

_log = structlog.get_logger()


class Claims:
    """Run ``run`` as a task; it ends after ``stop``."""

    def __init__(self, deck: Deck, *, lease_ms: int) -> None:
        self._deck = deck
        self._lease_ms = lease_ms
        self._flights: dict[asyncio.Task[None], Flight] = {}
        self._stop = asyncio.Event()
        self._answered = asyncio.Event()
        self._answered.set()
        # Words about leases whose claim has not been answered yet.
        self._early: collections.deque[Interrupt] = collections.deque(maxlen=_EARLY_WORDS)

    async def run(self) -> None:
        backoff_seconds = _FIRST_BACKOFF_SECONDS
        while not self._stop.is_set():
            try:
                await self._claim()
                backoff_seconds = _FIRST_BACKOFF_SECONDS
            except BusError as error:
                keys = {"found": error.version} if isinstance(error, EnvelopeTooNew) else {}
                _log.warning("nothing claimed", reason=error.reason, again_in_seconds=backoff_seconds, **keys)
                await self._unless_stopped(asyncio.sleep(backoff_seconds))
                backoff_seconds = min(2 * backoff_seconds, _LAST_BACKOFF_SECONDS)

    async def _claim(self) -> None:
        deck = self._deck
        # Each wait is some turns of the event loop, which are long while many answers end at once.
        if not deck.backend.ready:
            await self._unless_stopped(deck.backend.wait_ready())
        if not deck.slots.free:
            await self._unless_stopped(deck.slots.wait_free())
        if self._stop.is_set() or not deck.backend.ready:
            return
        # Not interrupted by a stop, which waits for it: a cancelled claim may have taken leases that nobody holds.
        self._answered.clear()
        try:
            count = deck.backend.most(deck.slots.free)
            deliveries = await deck.bus.claim(deck.model, worker=deck.pod, count=count, lease_ms=self._lease_ms)
            deck.backend.claimed(len(deliveries))
            for delivery in deliveries:
                self._take_off(Flight(delivery, deck))
        finally:
            self._early.clear()
            self._answered.set()
        # Fewer than asked for are all there were, or a token says that there are more.
        if len(deliveries) < count:
            await self._unless_stopped(deck.bus.wait_for_work(deck.model, timeout_s=_LOOK_AT_LEAST_EVERY_SECONDS))

    def _take_off(self, flight: Flight) -> None:
        if self._stop.is_set():
            flight.prepare_to_stop()
        task = asyncio.create_task(flight.run(after=self._outlived_by(flight)), name="flight")
        self._flights[task] = flight
        task.add_done_callback(self._landed)
        for interrupt in self._early:
            if _lease(interrupt) == flight.token:
                flight.interrupt(interrupt.word)

    def _outlived_by(self, flight: Flight) -> set[asyncio.Task[None]]:
        """Earlier flights of the same task, ended here: that it could be claimed again says that their leases are lost
        before a renewal does (Redis came back as it was before). Whoever commits is fenced by the object.
        """
        outlived = {
            task: other
            for task, other in self._flights.items()
            if other.token.uid == flight.token.uid and not other.committing
        }
        for other in outlived.values():
            other.abort(Abort.LEASE_LOST)
        return set(outlived)

    def interrupt(self, interrupt: Interrupt) -> None:
        """Pass the operator's word on to who holds that lease; a word about another one came late."""
        for flight in self._flights.values():
            if flight.token == _lease(interrupt):
                _log.info("attempt interrupted", **flight.keys, word=interrupt.word.value)
                flight.interrupt(interrupt.word)
                return
        if not self._answered.is_set():
            self._early.append(interrupt)

    def _landed(self, task: asyncio.Task[None]) -> None:
        del self._flights[task]
        if not task.cancelled() and (error := task.exception()):
            _log.error("flight broke", **error_keys(error))

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def stop(self, *, finish_seconds: float, commit_seconds: float) -> None:
        """Claim nothing more. What runs has a moment to finish and is released then; commits have a longer one.

        A claim under way is waited for, within that moment: what it took is released with the rest.
        """
        self._stop.set()
        deadline = time.monotonic() + finish_seconds
        for flight in self._flights.values():
            flight.prepare_to_stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(finish_seconds):
                await self._answered.wait()
        await self._landing(max(0.0, deadline - time.monotonic()))
        for flight in self._flights.values():
            if not flight.committing:
                flight.abort(Abort.STOPPING)
        await self._landing(commit_seconds)
        for flight in self._flights.values():
            flight.abort(Abort.STOPPING)
        await self._landing(commit_seconds / 4)

    async def _landing(self, within_seconds: float) -> None:
        if self._flights:
            await asyncio.wait(set(self._flights), timeout=within_seconds)

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> None:
        """Wait for ``work`` or for a stop, whichever comes first. Raises what work raises."""
        working, stopped = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                await working
        finally:
            stopped.cancel()
            if not working.done():
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)


def _lease(interrupt: Interrupt) -> LeaseToken:
    return LeaseToken(interrupt.uid, interrupt.attempt, interrupt.nonce)
