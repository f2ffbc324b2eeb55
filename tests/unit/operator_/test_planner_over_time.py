"""Bounds that hold over time, in the simulated cluster of the benchmark: nobody starves, nothing thrashes.

With M models of one GPU each, G GPUs that all may have, and every look P seconds after the one before, a model whose
work has waited for the starvation bound S (or whose turn ended then, whichever is later) serves within

    S + (floor((M - 1) / G) + 1) · (L + T + D + P) + L + P

L the longest start, T = max(residency, turnStarts · L) the longest turn, D the longest drain: in every such span each
GPU is taken at least once for who was longest without a turn, and nobody comes twice before everybody came once. No
replica with work goes for another's before it has served its residency R, so that no GPU sees more than
3600 / (L + R) starts an hour while there is work for all.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.planner.ours import Planner
from benchmarks.planner.traces import Arrival, Scale, Spec, Trace
from benchmarks.planner.world import ASK_SECONDS, DRAIN_SECONDS, END_SECONDS, SERVING, World
from headrace_operator.planner.facts import Policy

HORIZON = 3600.0
POLICIES = st.builds(
    Policy,
    residency_seconds=st.sampled_from([30.0, 60.0]),
    starvation_seconds=st.sampled_from([120.0, 300.0, 600.0]),
    swap_gain=st.sampled_from([1.0, 1.5, 8.0]),
    age_seconds=st.sampled_from([10.0, 300.0]),
    turn_starts=st.sampled_from([1.0, 2.0, 4.0]),
)


@st.composite
def overloads(draw: st.DrawFn) -> Trace:
    """More work than the GPUs can do, so that all of them are wanted all the time, unevenly among the models."""
    models, gpus = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    starts = [draw(st.sampled_from([10.0, 40.0, 60.0])) for _ in range(models)]
    specs = [Spec(1, 2, 10.0, start, draw(st.integers(1, 2))) for start in starts]
    arrivals = []
    for model in range(models):
        batch, every = draw(st.sampled_from([(1, 120.0), (40, 120.0), (300, 900.0), (1000, 1800.0)]))
        service = draw(st.sampled_from([5.0, 20.0, 200.0]))
        first = draw(st.integers(0, 300))
        for begun in range(first, int(HORIZON), int(every)):
            arrivals += [Arrival(begun + index / batch, model, service) for index in range(batch)]
    arrivals.sort(key=lambda arrival: (arrival.at, arrival.model))
    return Trace(Scale(models, gpus, gpus, 2, HORIZON, 1.0), specs, arrivals)


class Watched(Planner):
    """Notes for how long a model with work has been without a replica that serves."""

    longest = 0.0

    def decide(self, world: World) -> None:
        for model, queue in enumerate(world.queues):
            if len(queue) and not any(pod.state == SERVING for pod in world.pods[model]):
                self.longest = max(self.longest, world.now - max(queue.oldest, world.last_served[model]))
        super().decide(world)


def starved_at_most(trace: Trace, policy: Policy) -> float:
    models, gpus, start = trace.scale.models, trace.scale.gpus, max(spec.start_seconds for spec in trace.specs)
    turn = max(policy.residency_seconds, policy.turn_starts * start)
    span = start + turn + DRAIN_SECONDS + END_SECONDS + ASK_SECONDS
    return policy.starvation_seconds + ((models - 1) // gpus + 1) * span + start + ASK_SECONDS


@settings(max_examples=6, deadline=None)
@given(overloads(), POLICIES)
def test_nobody_starves_beyond_the_bound(trace: Trace, policy: Policy) -> None:
    watched = Watched(trace, policy)
    World(trace).run(watched)
    assert watched.longest <= starved_at_most(trace, policy)


@settings(max_examples=6, deadline=None)
@given(overloads(), POLICIES)
def test_gpus_change_hands_no_more_often_than_residency_lets_them(trace: Trace, policy: Policy) -> None:
    """The trace keeps all models busy; those that have nothing to do make room at once, and are left out here."""
    busy = [Arrival(0.0, model, 20.0) for model in range(trace.scale.models) for _ in range(600)]
    world = World(Trace(trace.scale, trace.specs, busy))
    world.run(Planner(world.trace, policy))
    shortest = min(spec.start_seconds for spec in trace.specs) + policy.residency_seconds
    assert world.starts <= trace.scale.gpus * (1 + world.now / shortest)


def test_a_model_that_is_never_drained_for_others_would_starve_them() -> None:
    """The bound is not one that anything keeps: without turns it is missed."""
    specs = [Spec(1, 2, 10.0, 10.0, 1), Spec(1, 2, 10.0, 10.0, 1)]
    arrivals = [Arrival(0.0, 0, 20.0)] * 1500 + [Arrival(1.0, 1, 20.0)]
    trace, bounded = Trace(Scale(2, 1, 1, 1, HORIZON, 1.0), specs, arrivals), Policy()
    waits = {}
    for turn_starts in (bounded.turn_starts, 10_000.0):
        watched = Watched(trace, Policy(turn_starts=turn_starts))
        World(trace).run(watched)
        waits[turn_starts] = watched.longest
    assert waits[bounded.turn_starts] <= starved_at_most(trace, bounded) < waits[10_000.0]
