"""Answers that are kept for a while, and questions that are asked once for all who wait. No I/O."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from headrace_facade.errors import Unavailable

V = TypeVar("V")
ENTRIES_MOST: Final = 10_000
"""Of each kind; a key of 32 bytes and a small answer are about 1 KiB."""
QUESTIONS_MOST: Final = 32
"""Under way at once: strangers' garbage must not be the API server's whole day."""
WAIT_S: Final = 5.0
"""For one's turn to ask."""


class Kept(Generic[V]):
    """Good answers and refusals are bounded apart: who sends a million wrong tokens forgets nobody else's right one.

    A failure to ask is not kept, and told to all who waited for it.
    """

    def __init__(
        self,
        good_s: float,
        refused_s: float,
        *,
        entries: int = ENTRIES_MOST,
        questions: int = QUESTIONS_MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._good_s = good_s
        self._refused_s = refused_s
        self._entries = entries
        self._clock = clock
        self._slots = asyncio.Semaphore(questions)
        self._good: dict[bytes, tuple[V, float]] = {}
        self._refused: dict[bytes, float] = {}
        self._asked: dict[bytes, asyncio.Task[V | None]] = {}

    async def get(
        self, key: bytes, ask: Callable[[], Awaitable[V | None]], lasts_s: Callable[[V], float] | None = None
    ) -> V | None:
        """What `ask` says, or said a moment ago; None is its refusal. `lasts_s` shortens how long a good one is kept.

        Raises what `ask` raises, and Unavailable when too many others ask.
        """
        now = self._clock()
        if (kept := self._good.get(key)) is not None and now < kept[1]:
            return kept[0]
        if (until := self._refused.get(key)) is not None and now < until:
            return None
        asking = self._asked.get(key)
        if asking is None:
            if len(self._asked) >= self._entries:
                raise Unavailable("too many identities are being verified: try again")
            asking = asyncio.create_task(self._ask(key, ask, lasts_s))
            self._asked[key] = asking
            asking.add_done_callback(lambda done: self._done(key, done))
        # One who goes away must not take the answer from the others.
        return await asyncio.shield(asking)

    def __len__(self) -> int:
        return len(self._good) + len(self._refused) + len(self._asked)

    async def _ask(
        self, key: bytes, ask: Callable[[], Awaitable[V | None]], lasts_s: Callable[[V], float] | None
    ) -> V | None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._slots.acquire()
        except TimeoutError as error:
            raise Unavailable("too many identities are being verified: try again") from error
        try:
            # From before the question on: what is kept is as old as what the API server knew then.
            began = self._clock()
            answer = await ask()
        finally:
            self._slots.release()
        self._good.pop(key, None)
        self._refused.pop(key, None)
        if answer is None:
            _bounded(self._refused, self._entries)
            self._refused[key] = began + self._refused_s
        else:
            good_s = self._good_s if lasts_s is None else min(self._good_s, lasts_s(answer))
            _bounded(self._good, self._entries)
            self._good[key] = answer, began + good_s
        return answer

    def _done(self, key: bytes, task: "asyncio.Task[V | None]") -> None:
        self._asked.pop(key, None)
        if not task.cancelled():
            task.exception()  # Seen, also where everybody has gone away.


def _bounded(entries: dict[bytes, V], most: int) -> None:
    """Forgets the oldest where one more would be too many."""
    while len(entries) >= most:
        del entries[next(iter(entries))]
