"""What others do when models are more than GPUs: three policies, each with the knobs that it is tuned by.

All of them start replicas beyond the first one per model only where GPUs are free, one for every `each` slots' worth of
work, and know the same world as the planner.
"""

from dataclasses import dataclass
from math import ceil

from benchmarks.planner.world import PENDING, SERVING, STARTING, Pod, World, victims


def _wants_more(world: World, each: float) -> list[int]:
    """Models whose work asks for more replicas than they have, the fullest first."""
    found = []
    for model, queue in enumerate(world.queues):
        have, spec = len(world.live(model)), world.specs[model]
        if len(queue) and 0 < have < min(spec.most, ceil((len(queue) + world.flying(model)) / (each * spec.slots))):
            found.append((-len(queue) / have, model))
    return [model for _, model in sorted(found)]


def _promised(world: World) -> list[int]:
    """GPUs that are free and that no pod waits for, by node; what drains counts as promised to who waits."""
    free = list(world.free)
    for pods in world.pods:
        for pod in pods:
            if pod.state == PENDING:
                need = world.specs[pod.model].gpus
                node = max(range(len(free)), key=lambda each: free[each])
                free[node] -= need
    return free


def _fits(free: list[int], gpus: int) -> bool:
    """Takes them from `free` when a node has as many."""
    nodes = [(count, node) for node, count in enumerate(free) if count >= gpus]
    if not nodes:
        return False
    free[min(nodes)[1]] -= gpus
    return True


def _spread(world: World, each: float) -> None:
    free = _promised(world)
    for model in _wants_more(world, each):
        if _fits(free, world.specs[model].gpus):
            world.start(model)


@dataclass
class FirstCome:
    """The model of the oldest waiting task is loaded next, in the place of whoever's next task is the youngest."""

    residency: float
    each: float

    def decide(self, world: World) -> None:
        waiting = sorted((queue.oldest, model) for model, queue in enumerate(world.queues) if len(queue))
        free = _promised(world)
        for oldest, model in waiting:
            if world.live(model):
                continue
            gpus = world.specs[model].gpus
            if not _fits(free, gpus):
                leaving = victims(world, gpus, self._order(world, oldest))
                if not leaving:
                    continue
                for pod in leaving:
                    world.drain(pod)
            world.start(model)
        _spread(world, self.each)

    def _order(self, world: World, oldest: float) -> list[Pod]:
        """Replicas whose model has nothing that waits longer, the idle and the youngest queue first."""
        found = []
        for model, pods in enumerate(world.pods):
            queue = world.queues[model]
            head = queue.oldest if len(queue) else world.now
            for pod in pods:
                idle = not pod.flying and not len(queue)
                if pod.state == SERVING and head > oldest and (idle or world.now - pod.since >= self.residency):
                    found.append((-idle, -head, pod.since, pod.number, pod))
        return [each[-1] for each in sorted(found)]


@dataclass
class LeastRecentlyUsed:
    """A model that is asked for is loaded in the place of the one that was used least lately: one that is idle, or any
    after `residency`.
    """

    residency: float
    each: float

    def decide(self, world: World) -> None:
        free = _promised(world)
        for _, model in sorted((queue.oldest, model) for model, queue in enumerate(world.queues) if len(queue)):
            if world.live(model):
                continue
            gpus = world.specs[model].gpus
            if not _fits(free, gpus):
                leaving = victims(world, gpus, self._order(world))
                if not leaving:
                    continue
                for pod in leaving:
                    world.drain(pod)
            world.start(model)
        _spread(world, self.each)

    def _order(self, world: World) -> list[Pod]:
        found = []
        for model, pods in enumerate(world.pods):
            for pod in pods:
                idle = not pod.flying and not len(world.queues[model])
                if pod.state == SERVING and (idle or world.now - pod.since >= self.residency):
                    used = pod.idle_since if idle else world.now
                    found.append((used, pod.since, pod.number, pod))
        return [each[-1] for each in sorted(found)]


class Threshold:
    """Every model by itself, as an autoscaler on queue length: work / (each · slots), fewer only when the most of the
    last `cooldown` seconds was fewer. Pods wait for GPUs in the order in which they were asked for.
    """

    def __init__(self, cooldown: float, each: float) -> None:
        self.cooldown, self.each = cooldown, each
        self._above: dict[int, float] = {}
        """Since when a model has more than it needs."""
        self._most: dict[int, int] = {}

    def decide(self, world: World) -> None:
        for model, queue in enumerate(world.queues):
            live, spec = world.live(model), world.specs[model]
            if not live and not len(queue):
                continue
            work = len(queue) + world.flying(model)
            desired = min(spec.most, ceil(work / (self.each * spec.slots)))
            if desired >= len(live):
                self._above.pop(model, None)
                for _ in range(desired - len(live)):
                    world.start(model)
                continue
            since = self._above.setdefault(model, world.now)
            self._most[model] = max(desired, self._most.get(model, 0) if since < world.now else 0)
            if world.now - since >= self.cooldown:
                keep = self._most[model]
                self._above.pop(model)
                for pod in sorted(live, key=_goes_first)[: len(live) - keep]:
                    world.drain(pod)


def _goes_first(pod: Pod) -> tuple[bool, bool, int, float]:
    return (pod.state != PENDING, pod.state != STARTING, len(pod.flying), -pod.since)
