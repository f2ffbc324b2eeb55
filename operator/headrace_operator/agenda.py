"""Which key is due when: the work queue's bookkeeping, without clocks or tasks, so that its bounds can be proven.

A key is in at most one worker's hands. A key added while it is worked on is due again afterwards. Failures back off
exponentially; every key has a token bucket, so that nothing that happens makes it due more often than stated.
Namespaces take turns: what one has in line delays another's by one key, however many they are.
"""

import heapq
import math
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BURST: Final = 10
PER_SECOND: Final = 1.0
MAX_PER_MINUTE: Final = BURST + int(60 * PER_SECOND)
"""Reconciles per object in any minute, whatever happens. Each writes the object's status at most once."""
FIRST_BACKOFF_SECONDS: Final = 0.5
BACKOFF_LIMIT_SECONDS: Final = 60.0
REMEMBERED_FAILURES: Final = 1024
"""Keys that were given up, and whose failures are still counted."""
STALE_TIMES: Final = 1024
"""Times that no longer count are cleared away when they are more than these and the keys together."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Agenda(Generic[K]):
    """Times are seconds of any clock that does not go back; the caller brings them."""

    def __init__(self) -> None:
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._lines: dict[str, deque[tuple[float, K]]] = {}
        """What is due, by namespace. The dict's order is whose turn it is."""
        self._order = count()
        self._taken: set[K] = set()
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._buckets: dict[K, _Bucket] = {}

    def __len__(self) -> int:
        """Keys that wait; without those being worked on."""
        return len(self._due)

    def due(self, now: float) -> int:
        """Keys that wait for a worker and not for their time, which may be a deadline a day ahead."""
        return sum(at <= now for at in self._due.values())

    def add(self, key: K, now: float, after: float = 0.0) -> None:
        """Make the key due after so long; an earlier time stands."""
        if key in self._taken:
            self._again[key] = min(self._again.get(key, now + after), now + after)
        else:
            self._schedule(key, now + after)

    def drop(self, key: K, now: float) -> None:
        """Forget a time that was set for later: nothing is expected of the key any more."""
        if key in self._taken:
            # Whoever works on it may be about to set one.
            self._again[key] = now
        elif self._due.get(key, now) > now:
            del self._due[key]
            self._forget_stale_times()

    def take(self, now: float) -> K | None:
        """A key that is due, to be finished later; None when there is none."""
        while self._heap and self._heap[0][0] <= now:
            at, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == at:
                self._lines.setdefault(_namespace(key), deque()).append((at, key))
        while self._lines:
            at, key = self._in_turn()
            if self._due.get(key) != at:
                continue  # rescheduled since
            bucket = self._refilled(key, now)
            if bucket.tokens < 1:
                self._schedule(key, now + (1 - bucket.tokens) / PER_SECOND, replace=True)
                continue
            bucket.tokens -= 1
            del self._due[key]
            self._taken.add(key)
            return key
        return None

    def next_due(self) -> float | None:
        """When `take` is worth a try; may be early."""
        if self._lines:
            return -math.inf
        return self._heap[0][0] if self._heap else None

    def finish(self, key: K, now: float, *, again_after: float | None = None) -> None:
        """The work on a taken key succeeded."""
        self._failures.pop(key, None)
        self._put_back(key, now, again_after)

    def fail(self, key: K, now: float, *, give_up_after: int | None = None) -> float | None:
        """The work failed; gives the seconds after which it is due again.

        None: it failed so often in a row that it is tried again only when it is added again, once each time.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        if give_up_after is not None and failures + 1 >= give_up_after:
            self._put_back(key, now, None)
            self._forget_failures()
            return None
        backoff = min(BACKOFF_LIMIT_SECONDS, FIRST_BACKOFF_SECONDS * float(1 << min(failures, 16)))
        self._put_back(key, now, backoff)
        return backoff

    def _put_back(self, key: K, now: float, after: float | None) -> None:
        self._taken.discard(key)
        times = [at for at in (self._again.pop(key, None), None if after is None else now + after) if at is not None]
        if times:
            self._schedule(key, min(times))
        elif self._refilled(key, now).tokens >= BURST:
            del self._buckets[key]
        if len(self._buckets) > 4 * (len(self._due) + len(self._taken) + 256):
            self._forget_full_buckets(now)

    def _in_turn(self) -> tuple[float, K]:
        """The first in line of the namespace whose turn it is; that goes to the end."""
        namespace = next(iter(self._lines))
        line = self._lines.pop(namespace)
        first = line.popleft()
        if line:
            self._lines[namespace] = line
        return first

    def _forget_failures(self) -> None:
        if len(self._failures) > REMEMBERED_FAILURES + len(self._due) + len(self._taken):
            for key in [key for key in self._failures if key not in self._due and key not in self._taken]:
                del self._failures[key]

    def _schedule(self, key: K, at: float, *, replace: bool = False) -> None:
        present = self._due.get(key)
        if not replace and present is not None and present <= at:
            return
        self._due[key] = at
        heapq.heappush(self._heap, (at, next(self._order), key))
        self._forget_stale_times()

    def _forget_stale_times(self) -> None:
        """A key that became due earlier, or was dropped, left its former time behind: deadlines lie a day ahead."""
        if len(self._heap) > 2 * len(self._due) + STALE_TIMES:
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)

    def _refilled(self, key: K, now: float) -> _Bucket:
        bucket = self._buckets.setdefault(key, _Bucket(float(BURST), now))
        bucket.tokens = min(float(BURST), bucket.tokens + (now - bucket.at) * PER_SECOND)
        bucket.at = now
        return bucket

    def _forget_full_buckets(self, now: float) -> None:
        for key in [key for key in self._buckets if key not in self._due and key not in self._taken]:
            if self._refilled(key, now).tokens >= BURST:
                del self._buckets[key]


def _namespace(key: object) -> str:
    return str(getattr(key, "namespace", ""))
