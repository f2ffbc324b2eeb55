"""A bound on how often something may be done per key and minute; what exceeds it has to wait, not to fail."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Allowance(Generic[K]):
    """`per_minute` at once, then evenly refilled: in any minute at most twice as many."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left: dict[K, tuple[float, float]] = {}

    def take(self, key: K) -> bool:
        """Whether it may be done now."""
        now = self._clock()
        left, at = self._left.get(key, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - at) * self._per_minute / 60)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        return allowed

    def forget(self, key: K) -> None:
        self._left.pop(key, None)
