"""Which delivery is next, and how many are under way: bookkeeping without clocks or tasks.

Whoever hangs holds its own slots: at most so many per host, per namespace, per host of a namespace, and altogether.
Namespaces take turns, and within one the hosts.
"""

import heapq
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from itertools import count
from typing import Final

from headrace_operator.refs import TaskRef


@dataclass(frozen=True, slots=True)
class Limits:
    """Deliveries at once."""

    total: int = 64
    namespace: int = 8
    host: int = 8
    namespace_host: int = 4


LIMITS: Final = Limits()


class Outbox:
    """Times are seconds of any clock that does not go back. A ref is in it once: waiting, due or under way."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._hosts: dict[TaskRef, str] = {}
        self._heap: list[tuple[float, int, TaskRef]] = []
        self._order = count()
        self._lines: OrderedDict[str, OrderedDict[str, deque[TaskRef]]] = OrderedDict()
        """What is due, by namespace and host."""
        self._total = 0
        self._busy: Counter[tuple[str, str]] = Counter()
        """Deliveries under way by (namespace, host); "" stands for all."""

    def __len__(self) -> int:
        return len(self._hosts)

    def add(self, ref: TaskRef, host: str, due: float) -> None:
        """Once: a ref that is in it stays as it is."""
        if ref not in self._hosts:
            self._hosts[ref] = host
            heapq.heappush(self._heap, (due, next(self._order), ref))

    def next_due(self) -> float | None:
        """Of those that are not due yet."""
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> TaskRef | None:
        """One that is due and has room, to be finished later."""
        while self._heap and self._heap[0][0] <= now:
            ref = heapq.heappop(self._heap)[2]
            line = self._lines.setdefault(ref.namespace, OrderedDict())
            line.setdefault(self._hosts[ref], deque()).append(ref)
        if self._total >= self._limits.total:
            return None
        for namespace, hosts in self._lines.items():
            if self._busy[namespace, ""] >= self._limits.namespace:
                continue
            host = next((host for host in hosts if self._has_room(namespace, host)), None)
            if host is not None:
                return self._taken(namespace, host)
        return None

    def finish(self, ref: TaskRef, *, again: float | None) -> None:
        """The delivery under way ended; `again` is when the next one is due, None: never."""
        host = self._hosts.pop(ref)
        self._total -= 1
        for key in _scopes(ref.namespace, host):
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]
        if again is not None:
            self.add(ref, host, again)

    def _has_room(self, namespace: str, host: str) -> bool:
        return self._busy["", host] < self._limits.host and self._busy[namespace, host] < self._limits.namespace_host

    def _taken(self, namespace: str, host: str) -> TaskRef:
        """The first in line; its host and its namespace go to the end of theirs."""
        hosts = self._lines[namespace]
        ref = hosts[host].popleft()
        hosts.move_to_end(host)
        self._lines.move_to_end(namespace)
        if not hosts[host]:
            del hosts[host]
        if not hosts:
            del self._lines[namespace]
        self._total += 1
        self._busy.update(_scopes(namespace, host))
        return ref


def _scopes(namespace: str, host: str) -> tuple[tuple[str, str], ...]:
    return (namespace, ""), ("", host), (namespace, host)
