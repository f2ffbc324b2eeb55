"""From every state that object, model and bus can be in, the plans lead somewhere and stop."""

from itertools import product
from typing import Any

import pytest
from fallback_cases import falling
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import (
    LOADING,
    NAME_CONFLICT,
    NO_MODEL,
    NOW_MS,
    REMOTE,
    SERVING,
    World,
    came_back,
    finished,
    held,
    model,
    parked,
    queued,
    snapshot,
    suspended,
    task_body,
    waiting,
)

from headrace_crds.task import LLMTask, TaskPhase
from headrace_operator.decide.plans import SETTLED
from headrace_operator.decide.snapshots import Held, Place
from headrace_operator.decide.task import GATES, decide

SENSELESS = 10_000
"""An attempt that nobody gave."""

STATUSES: dict[str, dict[str, Any] | None] = {
    "new": None,
    "Waiting": waiting(2),
    "Suspended": suspended(2),
    "Queued": queued(2),
    "Running": queued(2, phase="Running"),
    "Complete": finished(2),
    "Failed": finished(2, "Failed"),
    "Cancelled": finished(2, "Cancelled"),
}
MODELS: dict[str, Any] = {
    "serving": SERVING,
    "loading": LOADING,
    "at zero": model(replicas=0),
    "conflict": NAME_CONFLICT,
    "none": NO_MODEL,
}
PARKED = parked()
PLACES: dict[str, Held | None] = {"nothing": None, "senseless": held("Queued", SENSELESS)} | {
    f"{place} at {attempt}": make(attempt)
    for attempt in (1, 2, 3)
    for place, make in {
        "queued": lambda n: held("Queued", n),
        "delayed": lambda n: held("Delayed", n),
        "leased": lambda n: held("Leased", n),
        "failed": lambda n: came_back("Failed", n),
        "fatal": lambda n: came_back("Failed", n, retryable=False),
        "lost": lambda n: came_back("LeaseExpired", n),
        "released": lambda n: came_back("Released", n),
        "parked": lambda n: came_back("Parked", n),
    }.items()
}
SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "suspend": {"suspend": True},
    "cancel": {"cancel": True},
    "cancel and suspend": {"cancel": True, "suspend": True},
    "queue deadline passed": {"queueDeadlineSeconds": 10},
    "deadline passed": {"activeDeadlineSeconds": 10},
    "deadline passed a moment ago": {"activeDeadlineSeconds": 55},
    "deadline ahead": {"activeDeadlineSeconds": 600, "queueDeadlineSeconds": 600},
    "deadline passed, suspend": {"activeDeadlineSeconds": 10, "suspend": True},
}
LAST_ASKED_MS = (None, NOW_MS - 3_000, NOW_MS - 10_000)
STEPS = 5
"""Away with an entry that makes no sense, let go by its runner, rebuilt, explained; then rest."""
EVERYTHING = [
    pytest.param(STATUSES[status], MODELS[model_], PLACES[place], id=f"{status}, model {model_}, bus {place}")
    for status, model_, place in product(STATUSES, MODELS, PLACES)
]


def test_every_phase_is_covered() -> None:
    assert {phase.value for phase in TaskPhase} <= set(STATUSES)


@pytest.mark.parametrize(("status", "model_", "held_"), EVERYTHING)
def test_it_comes_to_rest(status: dict[str, Any] | None, model_: Any, held_: Held | None) -> None:
    for spec in SPECS.values():
        comes_to_rest(status, model_, held_, spec)


def comes_to_rest(status: dict[str, Any] | None, model_: Any, held_: Held | None, spec: dict[str, Any]) -> None:
    world = World(task_body(status, **spec), held_, answers=True)
    before = (status or {}).get("attempt", 0)
    for _ in range(STEPS):
        plan = decide(world.snapshot(model=model_, cancel_asked_ms=NOW_MS - 10_000 if world.interrupted else None))
        writes, sent, entry = world.status_writes, len(world.enqueued), world.held
        world.apply(plan)
        after = world.status
        LLMTask.model_validate(world.body)
        assert world.attempt >= before, "attempt never goes back"
        before = world.attempt
        if (status or {}).get("outcome"):
            assert after == status, "finished is final"
        if (world.status_writes, len(world.enqueued), world.held) == (writes, sent, entry):
            break
    else:
        pytest.fail(f"it does not come to rest with {spec}")
    assert world.status_writes <= 2
    assert_at_rest(world, model_, spec)


@pytest.mark.parametrize(("status", "model_", "held_"), EVERYTHING)
def test_an_operator_that_dies_between_two_writes_leaves_something_to_see(
    status: dict[str, Any] | None, model_: Any, held_: Held | None
) -> None:
    for spec, generation in product(SPECS.values(), (1, 2)):
        world = World(task_body(status, generation=generation, **spec), held_, answers=True)
        world.apply(decide(world.snapshot(model=model_)), dies=True)
        for _ in range(STEPS + 1):
            before = world.copy()
            world.apply(decide(world.snapshot(model=model_, cancel_asked_ms=NOW_MS - 10_000)))
            if world == before:
                break
        else:
            pytest.fail(f"it does not come to rest with {spec}")
        assert_at_rest(world, model_, spec)
        waits = world.held is not None and world.held.place in (Place.QUEUED, Place.DELAYED)
        assert not waits or world.placed_generation == world.generation, "an edited priority is not lost"


def assert_at_rest(world: World, model_: Any, spec: dict[str, Any]) -> None:
    status, entry = world.status, world.held
    if status.get("outcome"):
        assert entry is None or entry == held("Leased", status["attempt"])
        assert "suspendTime" not in status
        return
    assert "cancel" not in spec, spec
    assert status["acceptTime"]
    assert (status["phase"] == "Suspended") == ("suspend" in spec) == ("suspendTime" in status)
    if status["phase"] == "Suspended":
        assert entry is None
        assert "runner" not in status
    elif status["phase"] == "Waiting":
        assert model_ in (NO_MODEL, NAME_CONFLICT)
    else:
        assert entry is not None
        assert entry.attempt == status["attempt"], "an open task that is handed out has its entry"
        assert entry.returned is None


def test_every_gate_is_the_first_to_open_for_something() -> None:
    opened: set[str] = set()
    models = [*MODELS.values(), REMOTE]
    situations = product(STATUSES.values(), models, PLACES.values(), (1, 2), ("{}", "[]"), SPECS.values())
    for status, model_, place, generation, schema, spec in situations:
        body = task_body(status, generation=generation, output={"jsonSchema": schema}, **spec)
        task = LLMTask.model_validate(body)
        for clocks, admitted in product((True, False), (True, False)):
            if not clocks and status is not None and task.status is not None:
                task = task.model_copy(update={"status": task.status.model_copy(update={"accept_time": None})})
            left = (
                PARKED if place is not None and place.returned is not None and place.returned.how == "Parked" else None
            )
            allowed = model_ is not REMOTE
            seen = snapshot(task, model=model_, held=place, admitted=admitted, parked=left, remote_allowed=allowed)
            opened |= {next((gate.__name__ for gate in GATES if gate(seen, task) is not None), "settled")}
    stuck = falling(held=held("Queued"))
    opened |= {next(gate.__name__ for gate in GATES if stuck.task is not None and gate(stuck, stuck.task) is not None)}
    assert opened == {gate.__name__ for gate in GATES} | {"settled"}


@settings(max_examples=300)
@given(
    status=st.sampled_from(list(STATUSES.values())),
    model_=st.sampled_from(list(MODELS.values())),
    held_=st.sampled_from(list(PLACES.values())),
    spec=st.sampled_from(list(SPECS.values())),
    answers=st.booleans(),
    asked=st.sampled_from(LAST_ASKED_MS),
    jitter=st.floats(0, 1),
    backoff_limit=st.integers(0, 100),
    retries=st.integers(0, 100),
    losses=st.integers(0, 4),
    generation=st.integers(1, 3),
    refused=st.sampled_from([None, 1, 2]),
    replaced=st.booleans(),
)
def test_a_plan_applied_leads_to_rest_by_small_steps(
    status: dict[str, Any] | None,
    model_: Any,
    held_: Held | None,
    spec: dict[str, Any],
    answers: bool,
    asked: int | None,
    jitter: float,
    backoff_limit: int,
    retries: int,
    losses: int,
    generation: int,
    refused: int | None,
    replaced: bool,
) -> None:
    if status is not None:
        status = {**status, "retries": retries, "losses": losses}
    world = World(task_body(status, generation=generation, backoffLimit=backoff_limit, **spec), held_, answers=answers)
    for _ in range(STEPS):
        plan = decide(
            world.snapshot(
                model=model_, jitter=jitter, refused_attempt=refused, model_replaced=replaced, cancel_asked_ms=asked
            )
        )
        before = world.copy()
        world.apply(plan)
        twice = world.copy()
        twice.apply(plan)
        assert (twice.body, twice.held, twice.enqueued) == (world.body, world.held, world.enqueued), "applied twice"
        # An object that is behind the bus, as after a backup, goes to one beyond what the bus has seen.
        seen = max(before.attempt, before.held.attempt if before.held is not None else 0)
        assert before.attempt <= world.attempt <= seen + 1
        assert world.attempt <= before.attempt + 1 or before.held is not None
        assert len(world.enqueued) <= len(before.enqueued) + 1
        if (world.body, world.held) == (before.body, before.held):
            assert plan.status is None, "what changes nothing is not written again and again"
            assert plan == SETTLED or plan.enqueue is None
            assert plan.interrupt is None or plan.requeue_after_seconds is not None, "whoever asks looks again"
            return
    pytest.fail(f"not settled after {STEPS} plans: {plan.details}")
