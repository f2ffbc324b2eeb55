"""Which finished tasks are deleted: those past their TTL, then the oldest beyond what namespace and cluster may keep.

What its webhook has not told yet is kept for as long as that is tried.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Generic, Protocol, TypeVar

from headrace_operator.decide.webhook import GIVE_UP_AFTER_SECONDS
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
KEPT_FOR_WEBHOOK_MS: Final = int(GIVE_UP_AFTER_SECONDS * 1000)


@dataclass(frozen=True, slots=True)
class Caps:
    """How many finished tasks are kept; 0: any number."""

    per_namespace: int = 1_000
    per_cluster: int = 20_000


@dataclass(frozen=True, slots=True)
class Due(Generic[T]):
    task: T
    because: Because


def due(finished: Iterable[T], caps: Caps, *, now_ms: int) -> list[Due[T]]:
    """Oldest first."""
    oldest_first = sorted(finished, key=lambda task: (task.completed_ms, task.ref.uid))
    deletable = [task for task in oldest_first if not _owed(task, now_ms)]
    found = {task.ref.uid: Due(task, Because.TTL) for task in deletable if _expired(task, now_ms)}
    if caps.per_namespace:
        left = Counter(task.ref.namespace for task in oldest_first if task.ref.uid not in found)
        for task in deletable:
            if task.ref.uid not in found and left[task.ref.namespace] > caps.per_namespace:
                left[task.ref.namespace] -= 1
                found[task.ref.uid] = Due(task, Because.PER_NAMESPACE)
    if caps.per_cluster:
        surplus = len(oldest_first) - len(found) - caps.per_cluster
        rest = _rest(deletable, found)
        found |= {task.ref.uid: Due(task, Because.PER_CLUSTER) for task in rest[: max(0, surplus)]}
    return [found[task.ref.uid] for task in deletable if task.ref.uid in found]


def _rest(deletable: Sequence[T], found: dict[str, Due[T]]) -> list[T]:
    return [task for task in deletable if task.ref.uid not in found]


def _expired(task: FinishedTask, now_ms: int) -> bool:
    return task.ttl_seconds is not None and task.completed_ms + task.ttl_seconds * 1000 <= now_ms


def _owed(task: FinishedTask, now_ms: int) -> bool:
    return task.owes != "" and now_ms - task.completed_ms < KEPT_FOR_WEBHOOK_MS
