"""Models that Redis named, each given out at once, but not again before a fifth of a second has gone by.

Whoever has one model's password may publish as fast as it likes: that costs its own model's looks.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from headrace_operator.refs import ModelRef

GAP_SECONDS: Final = 0.2
_REMEMBERED: Final = 1024


class Heard:
    """For one who takes. However often a model is named, it waits once; named while it is looked at, it comes again."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._due: dict[ModelRef, float] = {}
        self._given: dict[ModelRef, float] = {}
        self._named = asyncio.Event()

    def add(self, ref: ModelRef) -> None:
        """Named once more."""
        if ref not in self._due:
            self._due[ref] = self._given.get(ref, float("-inf")) + GAP_SECONDS
            self._named.set()

    def take(self) -> ModelRef | None:
        """The one that is due for the longest, if any is."""
        now = self._clock()
        ref = min(self._due, key=self._due.__getitem__, default=None)
        if ref is None or self._due[ref] > now:
            return None
        del self._due[ref]
        if len(self._given) >= _REMEMBERED:
            self._given = {each: at for each, at in self._given.items() if now - at < GAP_SECONDS}
        self._given[ref] = now
        return ref

    async def next(self) -> ModelRef:
        """Waits until one is due."""
        while True:
            self._named.clear()
            if (ref := self.take()) is not None:
                return ref
            wait = min(self._due.values()) - self._clock() if self._due else None
            try:
                async with asyncio.timeout(None if wait is None else max(0.0, wait)):
                    await self._named.wait()
            except TimeoutError:
                continue
