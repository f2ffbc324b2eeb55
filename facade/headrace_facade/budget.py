"""How many bytes the process holds at once for all requests together. Pure accounting: no I/O and no waiting."""

from collections.abc import Iterator
from contextlib import contextmanager

from headrace_facade.errors import Unavailable


class Share:
    """What one request holds; it grows as bytes arrive, so that a promise of many bytes costs nothing."""

    def __init__(self, budget: "ByteBudget") -> None:
        self._budget = budget
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Raises Unavailable when all requests together would hold too much; what was held stays held."""
        self._budget.take(size_bytes)
        self.held_bytes += size_bytes

    def give_back(self) -> None:
        """All of it, before the end."""
        self._budget.held_bytes -= self.held_bytes
        self.held_bytes = 0


class ByteBudget:
    """`message` is told to whoever comes when nothing is left."""

    def __init__(self, limit_bytes: int, message: str) -> None:
        self._limit_bytes = limit_bytes
        self._message = message
        self.held_bytes = 0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Gives back all of it at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held_bytes -= share.held_bytes

    def take(self, size_bytes: int) -> None:
        if self.held_bytes + size_bytes > self._limit_bytes:
            raise Unavailable(self._message)
        self.held_bytes += size_bytes
