"""Our work queue: keys in, reconciles out. Deduplicating, with backoff, a bounded rate per key, and N workers.

It decides nothing and knows neither kinds nor clients; the bounds are `agenda`'s.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar

import structlog

from headrace_bus import BusError
from headrace_operator.agenda import Agenda
from headrace_operator.errors import KubeConflict, KubeError, NotLeading, ObjectInvalid

K = TypeVar("K", bound=Hashable)
Reconcile = Callable[[K], Awaitable[float | None]]
"""Brings one key's object closer to what it should be; gives seconds after which to look again, or None."""

COMPLAIN_SECONDS: Final = 10.0
"""Between two log lines about the same kind of failure: when Redis is away, every key fails."""
GIVE_UP_AFTER: Final = 10
"""Failures in a row that another try will not mend: an object that does not read, a defect of ours."""
TRACED_LIMIT: Final = 1024

_log = structlog.get_logger()


class Observer(Protocol):
    """Whoever counts reconciles."""

    def reconciled(self, queue: str, outcome: str, seconds: float) -> None: ...


class WorkQueue(Generic[K]):
    """Closed until `run`: what is added before is dropped, because whoever runs it begins with everything there is."""

    def __init__(
        self,
        name: str,
        *,
        workers: int,
        observer: Observer | None = None,
        given_up: Callable[[K], None] = lambda _: None,
    ) -> None:
        """`given_up` is told of each key that is not tried again: what is kept for it may go to others."""
        self.name = name
        self._workers = workers
        self._observer = observer
        self._given_up = given_up
        self._agenda: Agenda[K] = Agenda()
        self._changed = asyncio.Event()
        self._open = False
        self._complained: dict[str, float] = {}
        self._traced: set[tuple[K, str]] = set()

    def __len__(self) -> int:
        """Keys that are due."""
        return self._agenda.due(_now())

    def add(self, key: K, *, after: float = 0.0) -> None:
        """Have the key reconciled. Cheap: a key that waits already waits once."""
        if self._open:
            self._agenda.add(key, _now(), after)
            self._changed.set()

    def drop(self, key: K) -> None:
        """Forget when the key was to be looked at again."""
        self._agenda.drop(key, _now())

    async def run(self, reconcile: Reconcile[K]) -> None:
        """Work until cancelled."""
        self._open = True
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(reconcile), name=f"{self.name}-{number}")
                try:
                    await asyncio.Event().wait()
                finally:
                    self._close()
        finally:
            self._agenda = Agenda()

    def _close(self) -> None:
        """A library under a reconcile may swallow the cancellation (asyncio.wait_for does, until Python 3.12)."""
        self._open = False
        self._changed.set()

    async def _work(self, reconcile: Reconcile[K]) -> None:
        while (key := await self._next()) is not None:
            started = _now()
            outcome, again_after, failed, give_up_after = "Done", None, False, None
            try:
                again_after = await reconcile(key)
            except KubeConflict as error:
                # The object changed under our hands: look again, at a rate that the agenda bounds.
                outcome, again_after = error.reason, 0.0
            except (KubeError, BusError, ObjectInvalid, NotLeading) as error:
                outcome, failed = error.reason, True
                give_up_after = GIVE_UP_AFTER if isinstance(error, ObjectInvalid) else None
                self._complain(key, error.reason, str(error))
            except Exception as error:
                outcome, failed, give_up_after = "Error", True, GIVE_UP_AFTER
                self._trace(key, error)
            if failed:
                if self._agenda.fail(key, _now(), give_up_after=give_up_after) is None:
                    self._complain(key, "GivenUp", f"{outcome}: not tried again before something changes")
                    self._given_up(key)
            else:
                self._agenda.finish(key, _now(), again_after=again_after)
            self._changed.set()
            if self._observer is not None:
                self._observer.reconciled(self.name, outcome, _now() - started)

    def _complain(self, key: K, reason: str, error: str) -> None:
        now = _now()
        if now - self._complained.get(reason, -COMPLAIN_SECONDS) >= COMPLAIN_SECONDS:
            self._complained[reason] = now
            _log.warning("reconcile failed", queue=self.name, key=str(key), reason=reason, error=error)

    def _trace(self, key: K, error: Exception) -> None:
        """The whole traceback once per key and kind of error."""
        kind = type(error).__name__
        if (key, kind) in self._traced:
            self._complain(key, kind, "as before")
            return
        if len(self._traced) >= TRACED_LIMIT:
            self._traced.clear()
        self._traced.add((key, kind))
        _log.error("reconcile broke", queue=self.name, key=str(key), error=kind, exc_info=error)

    async def _next(self) -> K | None:
        """None when the queue is closed."""
        while self._open:
            if (key := self._agenda.take(_now())) is not None:
                return key
            self._changed.clear()
            due = self._agenda.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
        return None


def _now() -> float:
    return asyncio.get_running_loop().time()
