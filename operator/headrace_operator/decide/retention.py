"""Which finished tasks are deleted: those past their TTL, then the oldest beyond what namespace and cluster may keep.

What its webhook has not told yet is kept for as long as that is tried, within caps of its own namespace: no tenant's
results make room for what another tenant's receiver does not take.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import Final, Generic, Protocol, TypeVar

from headrace_operator.decide.webhook import BACKOFF_LIMIT_SECONDS, GIVE_UP_AFTER_SECONDS
from headrace_operator.refs import TaskRef


class Because(StrEnum):
    TTL = "TTL"
    PER_NAMESPACE = "PerNamespace"
    PER_CLUSTER = "PerCluster"


class FinishedTask(Protocol):
    """What is known of a finished task."""

    @property
    def ref(self) -> TaskRef: ...
    @property
    def completed_ms(self) -> int:
        """Redis TIME of its end; 0 where that is not to be read."""

    @property
    def ttl_seconds(self) -> int | None: ...
    @property
    def owes(self) -> str:
        """The host that its webhook is still to reach; empty: none."""


T = TypeVar("T", bound=FinishedTask)
KEPT_FOR_WEBHOOK_MS: Final = int((GIVE_UP_AFTER_SECONDS + 2 * BACKOFF_LIMIT_SECONDS) * 1000)
"""Longer than is tried: giving up is written first, also after an hour without the API server."""


YOUNG_MS: Final = 60_000
"""A result is there at least so long for who waits for it, as long as a cap finds older ones."""


@dataclass(frozen=True, slots=True)
class Caps:
    """How many finished tasks are kept; 0: any number."""

    per_namespace: int = 10_000
    """Of those that were told, and as many again of those whose webhook is owed: neither is charged to the other."""
    per_cluster: int = 20_000


@dataclass(frozen=True, slots=True)
class Due(Generic[T]):
    task: T
    because: Because
    owed: bool = False
    """Its webhook is given up with it."""


def due(finished: Iterable[T], caps: Caps, *, now_ms: int) -> list[Due[T]]:
    """Oldest first."""
    oldest_first = sorted(finished, key=lambda task: (task.completed_ms, task.ref.uid))
    owed = {task.ref.uid for task in oldest_first if _owed(task, now_ms)}
    found = {task.ref.uid: Because.TTL for task in oldest_first if task.ref.uid not in owed and _expired(task, now_ms)}
    if caps.per_namespace:
        found |= dict.fromkeys(_beyond_namespaces(_rest(oldest_first, found), owed, caps), Because.PER_NAMESPACE)
    if caps.per_cluster:
        rest = _rest(oldest_first, found)
        found |= dict.fromkeys(_beyond_cluster(rest, owed, caps.per_cluster, now_ms), Because.PER_CLUSTER)
    return [Due(task, found[task.ref.uid], task.ref.uid in owed) for task in oldest_first if task.ref.uid in found]


def _beyond_namespaces(oldest_first: Sequence[FinishedTask], owed: Collection[str], caps: Caps) -> Iterator[str]:
    left = Counter((task.ref.namespace, task.ref.uid in owed) for task in oldest_first)
    for task in oldest_first:
        group = (task.ref.namespace, task.ref.uid in owed)
        if left[group] > caps.per_namespace:
            left[group] -= 1
            yield task.ref.uid


def _beyond_cluster(
    oldest_first: Sequence[FinishedTask], owed: Collection[str], most: int, now_ms: int
) -> Iterator[str]:
    """Again and again one of the namespace that holds most; none of one that holds no more than its fair share."""
    held = Counter(task.ref.namespace for task in oldest_first)
    surplus, share = len(oldest_first) - most, fair_share(held.values(), most)
    for young in (False, True):
        mine: dict[str, list[FinishedTask]] = {}
        for task in oldest_first:
            if (now_ms - task.completed_ms < YOUNG_MS) is young:
                mine.setdefault(task.ref.namespace, []).append(task)
        # Of one namespace those first that were told; popped from the end.
        queues = {
            namespace: sorted(tasks, key=lambda task: task.ref.uid in owed)[::-1] for namespace, tasks in mine.items()
        }
        largest = [(-held[namespace], namespace) for namespace in queues]
        heapify(largest)
        while surplus > 0 and largest:
            count, namespace = heappop(largest)
            if -count <= share:
                break
            yield queues[namespace].pop().ref.uid
            surplus, held[namespace] = surplus - 1, held[namespace] - 1
            if queues[namespace]:
                heappush(largest, (count + 1, namespace))


def fair_share(held: Iterable[int], most: int) -> int:
    """The largest number that every namespace may hold so that all together hold `most`, where some hold less."""
    left = sorted(held)
    for place, count in enumerate(left):
        share = most // (len(left) - place)
        if count > share:
            return share
        most -= count
    return left[-1] if left else 0


def _rest(oldest_first: Sequence[T], found: Collection[str]) -> list[T]:
    return [task for task in oldest_first if task.ref.uid not in found]


def _expired(task: FinishedTask, now_ms: int) -> bool:
    return task.ttl_seconds is not None and task.completed_ms + task.ttl_seconds * 1000 <= now_ms


def _owed(task: FinishedTask, now_ms: int) -> bool:
    return task.owes != "" and now_ms - task.completed_ms < KEPT_FOR_WEBHOOK_MS
