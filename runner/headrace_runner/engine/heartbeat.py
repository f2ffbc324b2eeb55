"""The decode thread's sign of life: without it a hung step could not be told from a long one.

It says once a second that it works, and at once when it begins and when nothing is left to do. Silence after ``busy``
means that a step does not end; silence after ``idle`` means nothing.
"""

import time
from collections.abc import Callable
from typing import Final

EVERY_SECONDS: Final = 1.0


class Heartbeat:
    """``tell`` is called with whether sequences run. Only the decode thread may use it."""

    def __init__(self, tell: Callable[[bool], None], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._monotonic = monotonic
        self._told_at: float | None = None

    def busy(self) -> None:
        """A step begins."""
        now = self._monotonic()
        if self._told_at is None or now - self._told_at >= EVERY_SECONDS:
            self._told_at = now
            self._tell(True)

    def idle(self) -> None:
        """No sequence runs."""
        if self._told_at is not None:
            self._told_at = None
            self._tell(False)


class Pulse:
    """The supervisor's side: since when the child has owed a sign of life."""

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._due: float | None = None

    def beat(self, busy: bool, now: float) -> None:
        self._due = now + self._stall_seconds if busy else None

    def left_seconds(self, now: float) -> float | None:
        """Seconds until the child counts as stalled (0: it does); None while nothing runs."""
        return None if self._due is None else max(0.0, self._due - now)
