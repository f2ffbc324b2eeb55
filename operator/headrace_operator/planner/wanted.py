"""How many replicas one model should have, were it alone: by its backlog, its measured rates, minimum and maximum.

     nothing waits or runs, idleSeconds over          work: ceil(work / tasks per replica) at once
0 ◄──────────────────────────────────────── n ◄────────────────────────────────────────────────── any
                                            │ less work: down to half as full, no sooner than idleSeconds
                                            ▼ after the replica began
                                           n - 1
"""

from dataclasses import dataclass
from math import ceil
from typing import Final

from headrace_operator.planner.facts import ModelFacts, Replica, ReplicaState, Verdict

UNMEASURED_SERVICE_MS: Final = 10_000.0
UNMEASURED_START_MS: Final = 60_000.0
STARTS_AHEAD: Final = 2.0
"""One more replica is worth its start when those that are there would be busy for so many starts."""
SHRINK_FULL: Final = 0.5
"""Replicas go when those that stay are no fuller than this."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a model wants. `surplus` are pods that it has beyond that, in the order in which they go."""

    model: ModelFacts
    live: tuple[Replica, ...]
    """All that do not drain, in the order in which they would go."""
    wanted: int
    verdict: Verdict
    message: str
    work: int
    """What waits and what runs."""
    need: int
    """Up to here it asks for more; what it has beyond that it keeps for a while."""

    @property
    def surplus(self) -> tuple[Replica, ...]:
        return self.live[: max(0, len(self.live) - self.wanted)]

    @property
    def kept(self) -> tuple[Replica, ...]:
        return self.live[max(0, len(self.live) - self.wanted) :]


def want(model: ModelFacts, now_ms: int) -> Want:
    """By mode, work and idleness; `wanted` is within minReplicas and maxReplicas unless the mode is Manual."""
    live = tuple(sorted((r for r in model.replicas if r.state is not ReplicaState.DRAINING), key=_going))
    work, scaling = model.backlog.total + model.in_flight, model.scaling
    if scaling.manual is not None:
        return Want(
            model,
            live,
            scaling.manual,
            Verdict.MANUAL,
            f"spec.replicas asks for {scaling.manual}",
            work,
            scaling.manual,
        )
    low, high = scaling.min_replicas, max(scaling.min_replicas, scaling.max_replicas)
    if work == 0:
        count, verdict, message = _idle(model, live, low, high, now_ms)
        return Want(model, live, count, verdict, message, work, low)
    each = tasks_per_replica(model)
    need = ceil(work / each)
    told = f"{model.backlog.total} waiting and {model.in_flight} in flight, {each:.0f} for each replica: {need} needed"
    if need > high:
        return Want(model, live, high, Verdict.MAXIMUM, f"{told}, maxReplicas is {high}", work, high)
    slowly = _slowly(model, live, work, each, now_ms)
    if max(need, slowly) < low:
        return Want(model, live, low, Verdict.MINIMUM, f"{told}, minReplicas is {low}", work, low)
    count = min(high, max(need, slowly, low))
    if count > need:
        told = f"{told}, {count} kept: fewer would be more than half full, or they began within idleSeconds"
    return Want(model, live, count, Verdict.BACKLOG, told, work, max(need, low))


def tasks_per_replica(model: ModelFacts) -> float:
    """``spec.scaling.tasksPerReplica``, else what a replica serves in twice the time of a start."""
    if model.scaling.tasks_per_replica is not None:
        return float(max(1, model.scaling.tasks_per_replica))
    return STARTS_AHEAD * max(1, model.slots) * max(1.0, start_ms(model) / service_ms(model))


def service_ms(model: ModelFacts) -> float:
    return max(1.0, UNMEASURED_SERVICE_MS if model.service_ms is None else model.service_ms)


def start_ms(model: ModelFacts) -> float:
    return max(1.0, UNMEASURED_START_MS if model.start_ms is None else model.start_ms)


def idle_from_ms(model: ModelFacts, live: tuple[Replica, ...]) -> int:
    """When a model without work had some, or a replica that began since: it began for some."""
    return max([model.last_work_ms, *(replica.since_ms for replica in live)])


def _idle(model: ModelFacts, live: tuple[Replica, ...], low: int, high: int, now_ms: int) -> tuple[int, Verdict, str]:
    idle_seconds, present = model.scaling.idle_seconds, min(high, len(live))
    rest_seconds = (idle_from_ms(model, live) - now_ms) / 1000 + idle_seconds
    if present > low and rest_seconds > 0:
        message = f"no work; {present} kept for {rest_seconds:.0f} of {idle_seconds} idleSeconds more"
        return present, Verdict.WARM, message
    if low:
        return low, Verdict.MINIMUM, f"no work, minReplicas is {low}"
    return 0, Verdict.IDLE, f"no work for {idle_seconds} idleSeconds or more: 0 replicas until there is"


def _slowly(model: ModelFacts, live: tuple[Replica, ...], work: int, each: float, now_ms: int) -> int:
    """How many stay when the work has become less: load that swings up and down does not stop and start replicas."""
    half_full = min(len(live), ceil(work / (each * SHRINK_FULL)))
    young = sum(1 for replica in live if now_ms - replica.since_ms < model.scaling.idle_seconds * 1000)
    return max(half_full, young)


def _going(replica: Replica) -> tuple[bool, bool, int, int, str]:
    """Who goes first: without a node, not serving, with the least in flight, the youngest."""
    return (replica.node != "", replica.state is ReplicaState.SERVING, replica.busy, -replica.since_ms, replica.pod)
