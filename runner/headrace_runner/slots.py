"""How many tasks a runner may hold: one per sequence of the engine, and a bounded number whose commit is parked."""

import asyncio
from typing import Final

PARKED_PER_SEQUENCE: Final = 8
"""Results that may wait for the API server; above it nothing more is claimed, as it might be generated in vain."""
PARKED_LIMIT: Final = 2048
"""Of all sequences together: each may hold a text of some hundred KiB."""


class Slots:
    """Counts; usable from one event loop."""

    def __init__(self, sequences: int, *, parked_limit: int | None = None) -> None:
        self.sequences = sequences
        self.generating = 0
        self.parked = 0
        self._parked_limit = min(PARKED_PER_SEQUENCE * sequences, PARKED_LIMIT)
        if parked_limit is not None:
            self._parked_limit = parked_limit
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        """So many tasks may be claimed."""
        return max(0, min(self.sequences - self.generating, self._parked_limit - self.parked - self.generating))

    def take(self) -> None:
        self.generating += 1

    def park(self) -> None:
        """A task has its result: the sequence is free, the task is not over."""
        self.generating -= 1
        self.parked += 1
        self._changed.set()

    def leave(self, *, parked: bool) -> None:
        if parked:
            self.parked -= 1
        else:
            self.generating -= 1
        self._changed.set()

    async def wait_free(self) -> int:
        """Wait until something may be claimed; how much."""
        while not self.free:
            self._changed.clear()
            await self._changed.wait()
        return self.free
