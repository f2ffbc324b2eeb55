"""Finds out whose generation an engine does not survive.

A prompt that kills the engine takes its neighbours in the batch down with it, so a death charges nobody who was not
alone with the engine. Whoever ran then is a suspect. Suspects are tried again in halves, one half after another and
nobody beside: a half that ends well is cleared, one that the engine does not survive is halved again. Who is alone at
the end has its ``EngineLost`` to itself. All that happens within the same attempts; leases are renewed meanwhile.

::

    open ──the engine dies under several──► [half, half] ──a half ended──► [half] ──► open
      └──a suspect of an earlier attempt comes──► [it alone] ──► open

Who has been on trial for a minute, or for half as long again as the engine lived with it, is cleared and runs on beside
the others: a long generation must not keep everybody waiting. Whoever waited for its turn, or was begun again, is given
back when its time runs out: what others' trials and an engine's death took is not its to pay.
An engine that leaves by a goodbye has begun nothing of what it did not answer: that is asked of the next engine.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import structlog

from headrace_crds.reasons import Reason
from headrace_runner.attempt import Attempt
from headrace_runner.cut import Quarantined
from headrace_runner.engine.client import EngineClient, EngineLost, EngineRefused
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Generate, GenerationResult
from headrace_runner.engine_link import EngineLink
from headrace_runner.streaming import CallStream

MARGIN_SECONDS: Final = 0.5
"""So long before its time is over a suspect is given back."""
TRIAL_SECONDS: Final = 60.0
"""So long a trial lasts at least before it clears whoever is still generating."""
TRIAL_FACTOR: Final = 1.5
"""Of the time after which the engine died: a trial that is shorter says nothing."""
_LOOK_AGAIN_SECONDS: Final = 0.05

_log = structlog.get_logger()


class Quarantine:
    """Who may use the engine now. ``open`` is set while nobody is suspected: only then anything should be claimed."""

    def __init__(self, link: EngineLink) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self._link = link
        self._running: dict[str, EngineClient] = {}
        self._begun: dict[str, float] = {}
        self._clearing: dict[str, asyncio.TimerHandle] = {}
        self._cleared: set[str] = set()
        self._trial_seconds = TRIAL_SECONDS
        # The last one is on trial. Nobody is in two.
        self._groups: list[list[str]] = []
        self._crowds: weakref.WeakKeyDictionary[EngineClient, list[str]] = weakref.WeakKeyDictionary()
        self._changed = asyncio.Event()

    def trial(self, attempt: Attempt, stream: CallStream | None = None) -> "Trial":
        """The engine for one attempt, whose text goes to ``stream`` as well. Raises EngineLost while there is none."""
        return Trial(self, self._link.client, attempt, stream)

    def accuse(self, suspects: Iterable[str]) -> None:
        """Try these again before anybody else, in halves."""
        accused = list(suspects)
        self._forget(accused)
        middle = (len(accused) + 1) // 2
        self._groups += [half for half in (accused[middle:], accused[:middle]) if half]
        self._settle()

    def suspect(self, generation_id: str) -> None:
        """Try it alone when all that are accused already have been tried."""
        self._forget([generation_id])
        self._groups.insert(0, [generation_id])
        self._settle()

    def leave(self, generation_id: str) -> None:
        """It ended, however that was."""
        self._halt(generation_id)
        self._forget([generation_id])
        self._settle()

    async def enter(self, generation_id: str, first: EngineClient | None) -> EngineClient:
        """Wait until it may run, on ``first`` if that still serves; notes that it runs."""
        while True:
            changed = self._changed
            if not self._may_run(generation_id):
                await changed.wait()
                continue
            if first is not None and not first.closed.is_set():
                client = first
            else:
                await self._link.serving.wait()
                client = self._link.client
                if client.closed.is_set():
                    # Its end is known here before the link has noticed.
                    await asyncio.sleep(_LOOK_AGAIN_SECONDS)
                    continue
                if not self._may_run(generation_id):
                    continue
            self._running[generation_id] = client
            loop = asyncio.get_running_loop()
            self._begun[generation_id] = loop.time()
            if self._groups:
                clear = loop.call_later(self._trial_seconds, self._clear, generation_id)
                self._clearing[generation_id] = clear
            return client

    def died(self, client: EngineClient) -> list[str]:
        """Whose generations the engine had when it died; the first to ask has all of them accused."""
        crowd = self._crowds.get(client)
        if crowd is None:
            crowd = self._crowds[client] = [each for each, on in self._running.items() if on is client]
            if len(crowd) > 1:
                now = asyncio.get_running_loop().time()
                longest_seconds = max(now - self._begun[each] for each in crowd)
                self._trial_seconds = max(TRIAL_SECONDS, TRIAL_FACTOR * longest_seconds)
                _log.warning("engine died under several", suspects=len(crowd))
                self.accuse(crowd)
        return crowd

    def stopped(self, generation_id: str) -> None:
        """It runs no more, and will run again."""
        self._halt(generation_id)
        self._settle()

    def _halt(self, generation_id: str) -> None:
        self._running.pop(generation_id, None)
        self._begun.pop(generation_id, None)
        self._cleared.discard(generation_id)
        if (clear := self._clearing.pop(generation_id, None)) is not None:
            clear.cancel()

    def _clear(self, generation_id: str) -> None:
        self._cleared.add(generation_id)
        self._forget([generation_id])
        self._settle()

    def must_wait(self, generation_id: str) -> bool:
        """It is not its turn."""
        return not self._may_run(generation_id)

    def _may_run(self, generation_id: str) -> bool:
        if not self._groups:
            return True
        on_trial = self._groups[-1]
        return generation_id in on_trial and all(each in on_trial or each in self._cleared for each in self._running)

    def _forget(self, ended: Iterable[str]) -> None:
        gone = set(ended)
        groups = ([each for each in group if each not in gone] for group in self._groups)
        self._groups = [group for group in groups if group]

    def _settle(self) -> None:
        if self._groups:
            self.open.clear()
        else:
            self.open.set()
        self._changed.set()
        self._changed = asyncio.Event()


class Trial:
    """An engine as one attempt sees it: one that may die under others' generations without that being told."""

    def __init__(
        self, quarantine: Quarantine, client: EngineClient, attempt: Attempt, stream: CallStream | None = None
    ) -> None:
        self._quarantine = quarantine
        self._client: EngineClient | None = client
        self._attempt = attempt
        self._stream = stream
        # An earlier attempt was alone with an engine that died: it is tried alone from the start.
        self._suspected = any(
            record.get("outcome") == "Failed" and record.get("reason") == Reason.ENGINE_LOST
            for record in attempt.work.attempts
        )
        self._limit: asyncio.Timeout | None = None
        self._asking = False

    async def generate(
        self, request: Generate | Embed, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult:
        """As an EngineClient's, but no goodbye is an answer.

        Raises EngineLost where it was alone with the engine, and Quarantined.
        """
        if self._suspected:
            self._quarantine.suspect(request.id)
        try:
            async with asyncio.timeout(None) as self._limit:
                return await self._tried(request, on_progress)
        except TimeoutError as error:
            if self._limit is None or not self._limit.expired():
                raise
            raise Quarantined("its time was over before an engine that lasts had answered") from error
        finally:
            self._quarantine.leave(request.id)

    async def abort(self, generation_id: str) -> None:
        """As an EngineClient's; while it waits for its turn there is nothing to abort, and it ends as Quarantined."""
        if self._client is not None and self._asking:
            await self._client.abort(generation_id)
        elif self._limit is not None and not self._limit.expired():
            self._limit.reschedule(0.0)

    async def _tried(self, request: Generate | Embed, on_progress: Callable[[int], None] | None) -> GenerationResult:
        disturbed = False
        while True:
            self._bound(True)
            disturbed |= self._quarantine.must_wait(request.id)
            self._client = await self._quarantine.enter(request.id, self._client)
            # From here on its time is its own, unless some of it went to others.
            self._bound(disturbed)
            try:
                self._asking = True
                if self._stream is None or not isinstance(request, Generate):
                    return await self._client.generate(request, on_progress=on_progress)
                self._stream.begin()
                streaming = replace(request, stream=True)
                return await self._client.generate(streaming, on_progress=on_progress, on_delta=self._stream.delta)
            except EngineLost:
                if len(self._quarantine.died(self._client)) < 2:
                    raise
                disturbed, self._client = True, None
                self._quarantine.stopped(request.id)
            except EngineRefused as refused:
                if not refused.left:
                    raise
                self._asking = False
                self._quarantine.stopped(request.id)
                # It may still work on what it had begun.
                left, self._client, disturbed = self._client, None, True
                self._bound(disturbed)
                await left.closed.wait()
            finally:
                self._asking = False

    def _bound(self, bounded: bool) -> None:
        assert self._limit is not None  # noqa: S101  set by generate
        left_seconds = max(0.0, self._attempt.left_ms / 1000 - MARGIN_SECONDS)
        self._limit.reschedule(asyncio.get_running_loop().time() + left_seconds if bounded else None)
