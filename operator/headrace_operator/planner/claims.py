"""What a model's work may claim of a GPU: weighted work per second and GPU, and the tier that it stands in.

A task weighs 1 and once more for every `age_seconds` that it has waited; a call `call_weight` times as much. One of k
replicas with work of weight W, of n pieces, each of `service` in one of its slots, claims

    W / k / gpus / (service · max(1, n / k / slots))              where it serves: what it gets done
    W'/ k / gpus / (start + service · max(1, n'/ k / slots))      where it would have to start first

so that a short backlog is not worth a start, a long one is, and whoever serves is best left to finish its batch.
W' and n' are of what the k - 1 others would leave until it serves. What is in flight counts for the one that serves
alone, as its sign of what comes.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from operator import mul

from headrace_operator.planner.facts import AGE_STARTS_SECONDS, ModelFacts, Policy
from headrace_operator.planner.wanted import service_ms, start_ms


class Tier(IntEnum):
    """A higher one needs no gain to go before a lower one."""

    TASKS = 0
    CALLS = 1
    STARVING = 2
    """It has nothing, and its work has waited beyond the bound: whoever was longest without a turn comes first."""
    GUARANTEED = 3
    """minReplicas, and whatever a Manual model asks for."""


@dataclass(slots=True)
class Load:
    """A model's work as the claims need it."""

    weight: float
    """Of what waits."""
    waiting: int
    in_flight: int
    calls: bool
    oldest_seconds: int
    """Where the age bucket of its oldest work begins."""
    starving: bool
    calls_starve: bool
    gpus: int
    slots: int
    service_seconds: float
    start_seconds: float

    def holds(self, replicas: int) -> float:
        """The claim of one of so many that serve."""
        pieces = self.waiting + self.in_flight
        return (self.weight + self.in_flight) / replicas / self.gpus / self._serving(pieces / replicas)

    def asks(self, replicas: int) -> float:
        """The claim of the last of so many, that would have to start: what the others leave of the work by then."""
        if not self.waiting:
            return 0.0
        share = self._left_for(replicas)
        return self.weight * share / self.waiting / self.gpus / (self.start_seconds + self._serving(share))

    def worth_a_place(self, replicas: int) -> bool:
        """The last of so many would serve what waits for as long as it takes to start; of a first one any work does."""
        return replicas == 1 or self._serving(self._left_for(replicas)) >= self.start_seconds

    def _left_for(self, replicas: int) -> float:
        """Of what waits, when the others have served for as long as one more takes to start."""
        others = (replicas - 1) * self.slots * self.start_seconds / self.service_seconds
        return max(0.0, self.waiting - others) / replicas

    def _serving(self, pieces: float) -> float:
        return self.service_seconds * max(1.0, pieces / self.slots)


def load(model: ModelFacts, policy: Policy) -> Load:
    """`model` asks for GPUs."""
    backlog = model.backlog
    weights, tasks_from, calls_from = _scales(policy)
    calls, tasks = sum(map(mul, backlog.calls, weights)), sum(map(mul, backlog.tasks, weights))
    oldest_call, oldest_task = _oldest(backlog.calls), _oldest(backlog.tasks)
    calls_starve = oldest_call >= calls_from
    return Load(
        weight=policy.call_weight * calls + tasks,
        waiting=backlog.total,
        in_flight=model.in_flight,
        calls=oldest_call >= 0,
        oldest_seconds=AGE_STARTS_SECONDS[max(0, oldest_call, oldest_task)],
        starving=calls_starve or oldest_task >= tasks_from,
        calls_starve=calls_starve,
        gpus=max(1, model.gpu.count if model.gpu is not None else 1),
        slots=max(1, model.slots),
        service_seconds=service_ms(model) / 1000,
        start_seconds=start_ms(model) / 1000,
    )


def turn_ms(model: ModelFacts, policy: Policy) -> float:
    """How long a replica of it serves its backlog before it has to make room for who starves."""
    return max(policy.residency_seconds * 1000, policy.turn_starts * start_ms(model))


def _oldest(counts: tuple[int, ...]) -> int:
    """The last bucket that holds something; -1 where none does."""
    for index in range(len(counts) - 1, -1, -1):
        if counts[index]:
            return index
    return -1


@lru_cache(maxsize=64)
def _scales(policy: Policy) -> tuple[tuple[float, ...], int, int]:
    """Weights of the age buckets by their middles, and the first one that starves, for tasks and for calls."""
    ends = (*AGE_STARTS_SECONDS[1:], 2 * AGE_STARTS_SECONDS[-1])
    ages = [(start + end) / 2 for start, end in zip(AGE_STARTS_SECONDS, ends, strict=True)]
    weights = tuple(1 + age / policy.age_seconds for age in ages)
    return weights, _bucket_from(policy.starvation_seconds), _bucket_from(policy.call_starvation_seconds)


def _bucket_from(seconds: float) -> int:
    """The first bucket in which all have waited so long; the last one where none has."""
    later = (index for index, start in enumerate(AGE_STARTS_SECONDS) if start >= seconds)
    return next(later, len(AGE_STARTS_SECONDS) - 1)
