"""A cluster of GPUs in simulated time: pods start, serve in slots, drain and end. The same for every policy.

A policy asks for replicas and lets replicas drain. A pod waits, first come first placed, until a node has its GPUs,
which it holds until it has ended; it serves `start_seconds` later. One that drains takes nothing more and ends with
what it has in flight, after DRAIN_SECONDS without it: that work goes back to the front of its queue and begins anew.
"""

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.planner.traces import Trace

DRAIN_SECONDS = 60.0
END_SECONDS = 2.0
"""From the last work of a pod until its GPUs are free."""
ASK_SECONDS = 5.0
AFTERWARDS = 1.5
"""Times the horizon: what has not begun by then has waited until then."""

PENDING, STARTING, SERVING, DRAINING, ENDED = range(5)


@dataclass(eq=False)
class Pod:
    number: int
    model: int
    since: float
    state: int = PENDING
    node: int = -1
    flying: dict[int, float] = field(default_factory=dict)
    """Arrivals' numbers and when they began."""
    idle_since: float = 0.0


@dataclass(eq=False)
class Queue:
    """One model's waiting work: numbers of arrivals, first come first."""

    numbers: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    head: int = 0

    def __len__(self) -> int:
        return len(self.numbers) - self.head

    def push(self, number: int, at: float) -> None:
        self.numbers.append(number)
        self.times.append(at)

    def pop(self) -> int:
        self.head += 1
        return self.numbers[self.head - 1]

    def back(self, number: int, at: float) -> None:
        """To where it stood among what waits."""
        place = bisect_right(self.times, at, self.head)
        self.numbers.insert(place, number)
        self.times.insert(place, at)

    @property
    def oldest(self) -> float:
        return self.times[self.head]


class Policy(Protocol):
    def decide(self, world: "World") -> None: ...


@dataclass(frozen=True)
class Result:
    p95_wait: float
    mean_wait: float
    done: int
    """Tasks that ended within the horizon."""
    starts: int


class World:
    def __init__(self, trace: Trace) -> None:
        self.trace, self.specs, scale = trace, trace.specs, trace.scale
        self.now = 0.0
        self.free = [scale.per_node] * (scale.gpus // scale.per_node)
        self.pods: list[list[Pod]] = [[] for _ in self.specs]
        """By model, all that have not ended."""
        self.queues = [Queue() for _ in self.specs]
        self.arrived = 0
        self.measured_service: list[float | None] = [None] * len(self.specs)
        self.measured_start: list[float | None] = [None] * len(self.specs)
        self.last_work = [-1e9] * len(self.specs)
        self.last_served = [-1e9] * len(self.specs)
        self.starts = self.done = 0
        self._pending: list[Pod] = []
        self._events: list[tuple[float, int, Pod, int, int]] = []
        self._count = 0
        self._begun: list[float | None] = [None] * len(trace.arrivals)
        self._dirty = False

    # What a policy does.

    def start(self, model: int) -> None:
        self._count += 1
        pod = Pod(self._count, model, self.now)
        self.pods[model].append(pod)
        self._pending.append(pod)
        self._place()

    def drain(self, pod: Pod) -> None:
        if pod.state == PENDING:
            self._pending.remove(pod)
            self._gone(pod)
        elif pod.state == STARTING:
            pod.state, pod.since = DRAINING, self.now
            self._later(END_SECONDS, pod, ENDED)
        elif pod.state == SERVING:
            self.last_served[pod.model] = self.now
            pod.state, pod.since = DRAINING, self.now
            if pod.flying:
                self._later(DRAIN_SECONDS, pod, DRAINING)
            else:
                self._later(END_SECONDS, pod, ENDED)

    # What a policy sees, beside the fields.

    def live(self, model: int) -> list[Pod]:
        return [pod for pod in self.pods[model] if pod.state != DRAINING]

    def flying(self, model: int) -> int:
        return sum(len(pod.flying) for pod in self.pods[model])

    # The world's course.

    def run(self, policy: Policy) -> Result:
        arrivals, horizon = self.trace.arrivals, self.trace.scale.horizon
        asked, end = -ASK_SECONDS, horizon * AFTERWARDS
        while self.now < end:
            event_at = self._events[0][0] if self._events else end
            arrival_at = arrivals[self.arrived].at if self.arrived < len(arrivals) else end
            ask_at = max(self.now, asked + (self.trace.scale.replan_seconds if self._dirty else ASK_SECONDS))
            self.now = min(event_at, arrival_at, ask_at, end)
            if self.now >= end:
                break
            if event_at == self.now:
                self._happens(*heapq.heappop(self._events)[2:])
            elif arrival_at == self.now:
                self._arrives(arrivals[self.arrived].model)
            else:
                asked, self._dirty = self.now, False
                policy.decide(self)
            if self.arrived == len(arrivals) and self.now > horizon and not any(map(len, self.queues)):
                break
        waits = sorted(
            (end if begun is None else begun) - arrival.at for begun, arrival in zip(self._begun, arrivals, strict=True)
        )
        return Result(waits[int(0.95 * (len(waits) - 1))], sum(waits) / len(waits), self.done, self.starts)

    def _arrives(self, model: int) -> None:
        self.queues[model].push(self.arrived, self.now)
        self.arrived += 1
        self.last_work[model] = self.now
        if not self.pods[model]:
            self._dirty = True
        for pod in self.pods[model]:
            if pod.state == SERVING and len(pod.flying) < self.specs[model].slots:
                self._take(pod)
                break

    def _take(self, pod: Pod) -> None:
        queue, slots = self.queues[pod.model], self.specs[pod.model].slots
        while len(pod.flying) < slots and len(queue):
            number = queue.pop()
            pod.flying[number] = self.now
            self._begun[number] = self.now
            self._later(self.trace.arrivals[number].service_seconds, pod, SERVING, number)

    def _happens(self, pod: Pod, what: int, number: int) -> None:
        if pod.state == ENDED:
            return
        if what == SERVING:
            self._completes(pod, number)
        elif what == STARTING and pod.state == STARTING:
            pod.state, pod.since, pod.idle_since = SERVING, self.now, self.now
            took = self.specs[pod.model].start_seconds
            self.measured_start[pod.model] = took
            self._take(pod)
        elif what == DRAINING:
            for each in sorted(pod.flying, reverse=True):
                self.queues[pod.model].back(each, self.trace.arrivals[each].at)
                self._begun[each] = None
            pod.flying.clear()
            self._later(END_SECONDS, pod, ENDED)
        elif what == ENDED:
            self.free[pod.node] += self.specs[pod.model].gpus
            self._gone(pod)
            self._place()

    def _completes(self, pod: Pod, number: int) -> None:
        if number not in pod.flying:
            return  # It was given back.
        del pod.flying[number]
        model, took = pod.model, self.trace.arrivals[number].service_seconds
        self.done += self.now <= self.trace.scale.horizon
        known = self.measured_service[model]
        self.measured_service[model] = took if known is None else 0.9 * known + 0.1 * took
        self.last_work[model] = self.now
        if pod.state == SERVING:
            self._take(pod)
            if not pod.flying:
                pod.idle_since = self.now
                self._dirty = True
        elif not pod.flying:
            self._later(END_SECONDS, pod, ENDED)

    def _gone(self, pod: Pod) -> None:
        pod.state = ENDED
        self.pods[pod.model].remove(pod)
        self._dirty = True

    def _place(self) -> None:
        """Best fit, in the order of coming; a pod that fits nowhere keeps nobody from going before it."""
        for pod in list(self._pending):
            need = self.specs[pod.model].gpus
            fits = [(free, node) for node, free in enumerate(self.free) if free >= need]
            if not fits:
                continue
            _, pod.node = min(fits)
            self.free[pod.node] -= need
            assert self.free[pod.node] >= 0
            self._pending.remove(pod)
            pod.state, pod.since = STARTING, self.now
            self.starts += 1
            self._later(self.specs[pod.model].start_seconds, pod, STARTING)

    def _later(self, seconds: float, pod: Pod, what: int, number: int = -1) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, pod, what, number))


def victims(world: World, gpus: int, order: Sequence[Pod]) -> list[Pod]:
    """The first of `order` that leave `gpus` GPUs on one node when they have ended; none where it is not enough."""
    coming = list(world.free)
    chosen: dict[int, list[Pod]] = {}
    for pod in order:
        there = chosen.setdefault(pod.node, [])
        there.append(pod)
        coming[pod.node] += world.specs[pod.model].gpus
        if coming[pod.node] >= gpus:
            return there
    return []
