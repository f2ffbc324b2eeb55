"""One reader per replica: everything that runners tell of this replica's calls comes through here.

One blocking read serves all models that have calls, and every few seconds one question per model says that somebody
still waits, and learns where each call stands.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from headrace_bus import FIRST, BusError, EntryState, Envelope, ModelKey, Token

LEASE_MS: Final = 10_000
RENEW_SECONDS: Final = 3.0
PENDING_MOST: Final = 1024
"""Events that a call may have unread: a client that takes none is not waited for."""
_READ_SECONDS: Final = 5.0
_AGAIN_SECONDS: Final = 0.5
_IDLE_SECONDS: Final = 60.0
_LOST_AFTER: Final = 2
"""Answers in a row that a call is not known: the first may have crossed with its end."""

_log = structlog.get_logger("headrace_facade")


class Bus(Protocol):
    """What calls need of `headrace_bus.CallBus`."""

    async def call(self, model: ModelKey, envelope: Envelope, *, reader: str, lease_ms: int) -> None: ...

    async def waiting(
        self, model: ModelKey, reader: str, uids: list[str], *, lease_ms: int
    ) -> list[EntryState | None]: ...

    async def hang_up(self, model: ModelKey, uid: str, *, reader: str) -> bool: ...

    async def tokens(
        self, reader: str, after: Mapping[ModelKey, str], *, timeout_s: float
    ) -> dict[ModelKey, tuple[str, list[Token]]]: ...

    async def replay(self, model: ModelKey, uid: str, *, after: str = ...) -> list[Token]: ...

    async def position(self, model: ModelKey, uid: str) -> int | None: ...


class Line:
    """One call's events at one model, in their order, as far as they have come."""

    def __init__(self, hub: "Hub", model: ModelKey, uid: str) -> None:
        self.model = model
        self.uid = uid
        self.state: EntryState | None = EntryState.QUEUED
        self.overrun = False
        self._hub = hub
        self._unknown = 0
        self._pending: deque[Token] = deque()
        self._ready: asyncio.Future[None] | None = None

    @property
    def is_lost(self) -> bool:
        """The bus has known nothing of it for a while."""
        return self._unknown >= _LOST_AFTER

    async def next(self, timeout_s: float) -> Token | None:
        """The next event; None when something else may have changed, or the time is over."""
        if not self._pending and not self.overrun and not self.is_lost:
            self._ready = asyncio.get_running_loop().create_future()
            # Cheaper than a task for a time-out.
            timer = asyncio.get_running_loop().call_later(timeout_s, self._wake)
            try:
                await self._ready
            finally:
                timer.cancel()
                self._ready = None
        return self._pending.popleft() if self._pending else None

    def restart(self) -> None:
        """Another attempt is queued: what was known of the last one is not of this one."""
        self._unknown, self.state = 0, EntryState.QUEUED

    def leave(self) -> None:
        """No more events are wanted."""
        self._hub.leave(self)

    def put(self, token: Token) -> None:
        self.state, self._unknown = EntryState.LEASED, 0
        if len(self._pending) >= PENDING_MOST:
            self.overrun = True
            # Nothing of it is read any more, whatever its client waits for.
            self._pending.clear()
        else:
            self._pending.append(token)
        self._wake()

    def tell(self, state: EntryState | None) -> None:
        """Where the call stands by the bus's word."""
        self._unknown = 0 if state is not None else self._unknown + 1
        if state is not None:
            self.state = state
        self._wake()

    def _wake(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)


class Hub:
    """Run ``read`` and ``renew`` as tasks."""

    def __init__(self, bus: Bus, reader: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.bus = bus
        self.reader = reader
        self._clock = clock
        self._lines: dict[ModelKey, dict[str, Line]] = {}
        self._after: dict[ModelKey, str] = {}
        self._idle_since: dict[ModelKey, float] = {}
        self._joined = asyncio.Event()

    @property
    def calls(self) -> int:
        return sum(map(len, self._lines.values()))

    def join(self, model: ModelKey, uid: str) -> Line:
        """Before the call is queued, so that no event passes by."""
        line = Line(self, model, uid)
        self._lines.setdefault(model, {})[uid] = line
        self._idle_since.pop(model, None)
        if model not in self._after:
            self._after[model] = FIRST
            self._joined.set()
        return line

    def leave(self, line: Line) -> None:
        lines = self._lines.get(line.model, {})
        lines.pop(line.uid, None)
        if not lines:
            self._lines.pop(line.model, None)
            self._idle_since[line.model] = self._clock()

    async def read(self) -> None:
        """Endless."""
        while True:
            self._joined.clear()
            self._drop_idle()
            if not self._after:
                await self._joined.wait()
                continue
            # A model that joins is read at once: the read of the others begins anew from where they were.
            reading = asyncio.ensure_future(self.bus.tokens(self.reader, dict(self._after), timeout_s=_READ_SECONDS))
            joined = asyncio.ensure_future(self._joined.wait())
            try:
                await asyncio.wait({reading, joined}, return_when=asyncio.FIRST_COMPLETED)
                if reading.done():
                    self._deliver(reading.result())
            except Exception as error:  # whatever it is, all calls of this replica wait for the next read
                _log.warning("events of calls not read", error=type(error).__name__)
                await asyncio.sleep(_AGAIN_SECONDS)
            finally:
                for task in (reading, joined):
                    if not task.done():
                        task.cancel()
                await asyncio.gather(reading, joined, return_exceptions=True)

    async def renew(self) -> None:
        """Endless."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await asyncio.gather(*(self._renew(model) for model in list(self._lines)))

    async def _renew(self, model: ModelKey) -> None:
        lines = list(self._lines.get(model, {}).values())
        try:
            states = await self.bus.waiting(model, self.reader, [line.uid for line in lines], lease_ms=LEASE_MS)
        except BusError as error:
            _log.warning("calls not renewed", reason=error.reason)
            return
        for line, state in zip(lines, states, strict=True):
            line.tell(state)

    def _deliver(self, found: Mapping[ModelKey, tuple[str, list[Token]]]) -> None:
        for model, (last, tokens) in found.items():
            self._after[model] = last
            lines = self._lines.get(model)
            if lines is None:
                continue
            for token in tokens:
                line = lines.get(token.uid)
                if line is not None:
                    line.put(token)

    def _drop_idle(self) -> None:
        now = self._clock()
        for model, since in list(self._idle_since.items()):
            if now - since >= _IDLE_SECONDS:
                del self._idle_since[model]
                self._after.pop(model, None)
