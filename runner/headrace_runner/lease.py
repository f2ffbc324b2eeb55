"""Renews leases where nothing else can block it: a thread of its own, with its own event loop and Redis connections.

Neither inference (another container), validation (other processes) nor a slow API server (the main loop) reaches it.
It must not know what a lease is for: whoever holds one says whom to tell when it is lost.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from headrace_bus import Bus, BusError, LeaseToken, ModelKey

_RETRY_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 10.0

_log = structlog.get_logger()


class LeaseKeeper:
    """Renews every held lease each ``every_seconds``.

    ``connect`` makes the thread's own bus. An unanswered renewal is tried again each second and is not a loss: only
    Redis' word that the lease is another's, or nobody's any more, is one. Its time-outs have to be shorter than a third
    of the lease, so that a lost reply costs a try and not the lease. ``on_lost`` runs in the event loop that called
    ``start``.
    """

    def __init__(
        self, connect: Callable[[], Bus], model: ModelKey, *, lease_ms: int, every_seconds: float | None = None
    ) -> None:
        self._connect = connect
        self._model = model
        self._lease_ms = lease_ms
        self._every_seconds = lease_ms / 3000 if every_seconds is None else every_seconds
        self._held: dict[LeaseToken, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._owner: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    def start(self) -> None:
        """Start the thread. To be called from the event loop in which ``on_lost`` shall run."""
        self._owner = asyncio.get_running_loop()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="leases", daemon=True)
        self._thread.start()
        self._ready.wait(_STOP_SECONDS)

    async def aclose(self) -> None:
        """End the thread; leases that are still held run out."""
        if self._thread is None or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the thread's loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, _STOP_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the thread runs: without it every lease is lost in silence."""
        return self._thread is not None and self._thread.is_alive()

    def hold(self, token: LeaseToken, on_lost: Callable[[], None]) -> None:
        with self._lock:
            self._held[token] = on_lost

    def drop(self, token: LeaseToken) -> None:
        with self._lock:
            self._held.pop(token, None)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready.set()
        async with self._connect() as bus:
            delay = self._every_seconds
            while not await self._stopped(delay):
                begun = time.monotonic()
                renewed = await self._renew(bus)
                period = self._every_seconds if renewed else min(_RETRY_SECONDS, self._every_seconds)
                delay = max(0.0, period - (time.monotonic() - begun))

    async def _stopped(self, within_seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_seconds):
                await self._stop.wait()
        return self._stop.is_set()

    async def _renew(self, bus: Bus) -> bool:
        with self._lock:
            tokens = list(self._held)
        try:
            kept = await bus.renew(self._model, tokens, lease_ms=self._lease_ms)
        except BusError as error:
            _log.warning("leases not renewed", reason=error.reason, leases=len(tokens))
            return False
        for token, alive in zip(tokens, kept, strict=True):
            if not alive:
                self._tell(token)
        return True

    def _tell(self, token: LeaseToken) -> None:
        with self._lock:
            on_lost = self._held.pop(token, None)
        if on_lost is not None and self._owner is not None:
            with contextlib.suppress(RuntimeError):  # the owner's loop is closed: there is nobody to tell
                self._owner.call_soon_threadsafe(on_lost)
