"""How providers count what they allow per minute: `allows` takes a request or refuses it with 429."""

import collections
from typing import Protocol


class Limit(Protocol):
    def allows(self, now: float, cost: int = 1) -> bool: ...


class FixedWindow:
    """So many in each minute of the clock."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._minute, self._used = -1, 0

    def allows(self, now: float, cost: int = 1) -> bool:
        if int(now // 60) != self._minute:
            self._minute, self._used = int(now // 60), 0
        if self._used + cost > self._most:
            return False
        self._used += cost
        return True


class SlidingWindow:
    """So many in any 60 s."""

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._taken: collections.deque[tuple[float, int]] = collections.deque()
        self._used = 0

    def allows(self, now: float, cost: int = 1) -> bool:
        while self._taken and self._taken[0][0] <= now - 60:
            self._used -= self._taken.popleft()[1]
        if self._used + cost > self._most:
            return False
        self._taken.append((now, cost))
        self._used += cost
        return True


class TokenBucket:
    """Refilled evenly; `seconds` worth of it may be taken at once."""

    def __init__(self, per_minute: int, seconds: float = 60.0) -> None:
        self._rate = per_minute / 60
        self._most = max(1.0, self._rate * seconds)
        self._level, self._at = self._most, 0.0

    def allows(self, now: float, cost: int = 1) -> bool:
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < cost:
            return False
        self._level -= cost
        return True
