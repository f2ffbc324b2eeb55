"""The planner in the simulated cluster, told what it would be told in a real one; and the same with a look into the
future.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from benchmarks.planner.traces import Trace
from benchmarks.planner.world import DRAINING, PENDING, SERVING, STARTING, Pod, World
from headrace_operator.planner.facts import (
    AGE_STARTS_SECONDS,
    Backlog,
    GpuNeed,
    ModelFacts,
    NodeFacts,
    Policy,
    Replica,
    ReplicaState,
    Scaling,
)
from headrace_operator.planner.planning import plan

GPU = "nvidia.com/gpu"
EPOCH_MS = 1_700_000_000_000
_STATES = {
    PENDING: ReplicaState.STARTING,
    STARTING: ReplicaState.STARTING,
    SERVING: ReplicaState.SERVING,
    DRAINING: ReplicaState.DRAINING,
}
IDLE_SECONDS = 3600
"""Of all models: the two swapping baselines unload nothing that is in nobody's way."""
_NONE = Backlog()


class Planner:
    """`each`: tasksPerReplica of every model in times of its slots, None leaves it out.

    `ahead`: how many seconds of what is to come it is told as if it waited already; 0 is the planner as it is."""

    def __init__(self, trace: Trace, policy: Policy, ahead: float = 0.0, each: int | None = None) -> None:
        scale = trace.scale
        names = [f"n{number:03}" for number in range(scale.gpus // scale.per_node)]
        self._policy, self._ahead = policy, ahead
        self._nodes = [NodeFacts(name, {GPU: scale.per_node}) for name in names]
        self._names = names
        self._refs = [f"team/m{number:04}" for number in range(scale.models)]
        everywhere = frozenset(names)
        self._needs = [GpuNeed(GPU, spec.gpus, everywhere) for spec in trace.specs]
        self._scalings = [Scaling(0, spec.most, IDLE_SECONDS, each and each * spec.slots) for spec in trace.specs]
        self._future: list[list[float]] = [[] for _ in trace.specs]
        if ahead:
            for arrival in trace.arrivals:
                self._future[arrival.model].append(arrival.at)

    def facts(self, world: World) -> list[ModelFacts]:
        return [self._of(world, model) for model in range(len(world.specs))]

    def decide(self, world: World) -> None:
        decided = plan(self.facts(world), self._nodes, _ms(world.now), self._policy).decisions
        for model, ref in enumerate(self._refs):
            decision, live = decided[ref], world.live(model)
            for pod in live:
                if str(pod.number) in decision.drains:
                    world.drain(pod)
            for _ in range(decision.replicas - len(world.live(model))):
                world.start(model)

    def _of(self, world: World, model: int) -> ModelFacts:
        service, start = world.measured_service[model], world.measured_start[model]
        pods = world.pods[model]
        backlog = self._backlog(world, model)
        return ModelFacts(
            ref=self._refs[model],
            scaling=self._scalings[model],
            slots=world.specs[model].slots,
            gpu=self._needs[model],
            backlog=backlog,
            in_flight=sum(len(pod.flying) for pod in pods),
            service_ms=None if service is None else service * 1000,
            start_ms=None if start is None else start * 1000,
            last_work_ms=_ms(world.last_work[model]) if world.last_work[model] >= 0 else 0,
            served_ms=_ms(world.last_served[model]) if world.last_served[model] >= 0 else 0,
            replicas=tuple(self._replica(pod) for pod in pods),
        )

    def _replica(self, pod: Pod) -> Replica:
        node = "" if pod.node < 0 else self._names[pod.node]
        return Replica(str(pod.number), _STATES[pod.state], _ms(pod.since), len(pod.flying), node)

    def _backlog(self, world: World, model: int) -> Backlog:
        queue = world.queues[model]
        coming = self._coming(self._future[model], world.now)
        if not len(queue):
            return Backlog(tasks=(coming, *[0] * (len(AGE_STARTS_SECONDS) - 1))) if coming else _NONE
        counts, end = [], len(queue.times)
        for start in (*AGE_STARTS_SECONDS[1:], None):
            # Younger than `start` are those after this place.
            place = queue.head if start is None else bisect_right(queue.times, world.now - start, queue.head, end)
            counts.append(end - place)
            end = place
        counts[0] += coming
        return Backlog(tasks=tuple(counts))

    def _coming(self, times: Sequence[float], now: float) -> int:
        return bisect_left(times, now + self._ahead) - bisect_right(times, now) if self._ahead else 0


def _ms(seconds: float) -> int:
    return EPOCH_MS + int(seconds * 1000)
