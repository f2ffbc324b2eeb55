"""Sharing that ends while a task is open: an hour's grace for who was admitted."""

from dataclasses import replace
from typing import Any

import pytest
from operator_cases import (
    NO_MODEL,
    NOW_MS,
    World,
    came_back,
    condition,
    conditions_of,
    held,
    queued,
    snapshot,
    suspended,
    task,
    task_body,
    waiting,
)

from headrace_crds.outcome import timestamp
from headrace_operator.decide.task import decide
from headrace_operator.decide.withdrawn import GRACE_SECONDS


def withdrawn(since_seconds: int, status: dict[str, Any] | None = None) -> dict[str, Any]:
    """A task that waits since then."""
    status = status or waiting(2, "ModelNotShared")
    told = {
        **condition("Shared", "False", "ModelNotShared"),
        "lastTransitionTime": timestamp(NOW_MS - since_seconds * 1000),
    }
    return {**status, "conditions": [*status["conditions"], told]}


RUNNING = queued(phase="Running", reason="Running")


@pytest.mark.parametrize(
    ("status", "place", "attempt", "records"),
    [
        pytest.param(queued(), held("Queued"), 2, [], id="queued"),
        pytest.param(queued(), None, 2, [], id="queued, and lost by the bus"),
        pytest.param(RUNNING, held("Leased"), 2, [(1, "Lost", "ModelNotShared")], id="running"),
        pytest.param(RUNNING, came_back("Failed"), 2, [(1, "Failed", "EngineError")], id="came back"),
        pytest.param(RUNNING, came_back("LeaseExpired"), 2, [(1, "Lost", "LeaseExpired")], id="came back lost"),
        pytest.param(RUNNING, came_back("Released"), 2, [(1, "Released", "Released")], id="was given back"),
        pytest.param(waiting(3, "QueueFull"), None, None, [], id="waits for room"),
        pytest.param(waiting(1, "QuotaExceeded"), None, None, [], id="waits for its quota"),
        pytest.param(waiting(2, "ModelNotFound"), None, None, [], id="its model was made again"),
        pytest.param(
            waiting(1, "ModelNotFound"), None, None, [], id="it waited for room, and its model was made again"
        ),
        pytest.param(suspended(2), None, 2, [], id="resumed"),
        pytest.param(suspended(1), None, 1, [], id="suspended before it was handed out, and resumed"),
    ],
)
@pytest.mark.parametrize("by_chart", [False, True])
def test_who_was_admitted_waits(status: Any, place: Any, attempt: Any, records: Any, by_chart: bool) -> None:
    seen = snapshot(task(status), held=place, admitted=False)
    if by_chart:
        seen = replace(seen, model=None, may_share=False)
    plan = decide(seen)
    told = plan.status or {}
    assert "outcome" not in told
    assert (told["reason"], told.get("attempt")) == ("ModelNotShared", attempt)
    assert conditions_of(told)["Shared"] == ("False", "ModelNotShared")
    assert timestamp(NOW_MS + GRACE_SECONDS * 1000) in told["message"]
    assert "have to" in told["message"], "who is to do what"
    assert [(r["number"], r["outcome"], r["reason"]) for r in told.get("attempts") or []] == records
    charged = [each[1] for each in records if each[2] in ("EngineError", "LeaseExpired")]
    counted = (told.get("retries", 0), told.get("losses", 0))
    assert counted == (len(charged), charged.count("Lost")), "charged is what came back by itself, and nothing else"
    assert plan.enqueue is None
    assert (plan.take_back is not None) is (status["phase"] in ("Queued", "Running"))
    assert plan.requeue_after_seconds == GRACE_SECONDS


@pytest.mark.parametrize(
    ("status", "place", "reason", "losses"),
    [
        (queued(3, phase="Running", losses=2), came_back("LeaseExpired", 3), "Poison", 3),
        (queued(4, retries=3), came_back("Failed", 4), "BackoffLimitExceeded", None),
        (RUNNING, came_back("Failed", retryable=False), "EngineError", None),
    ],
)
def test_whose_last_attempt_came_back_waits_for_no_sharing(status: Any, place: Any, reason: str, losses: Any) -> None:
    told = decide(snapshot(task(status), held=place, admitted=False)).status or {}
    assert (told.get("outcome"), told["reason"], told.get("losses")) == ("Failed", reason, losses)


@pytest.mark.parametrize(("since_seconds", "fails"), [(GRACE_SECONDS - 1, False), (GRACE_SECONDS, True)])
def test_the_grace_ends_and_an_operators_restart_grants_no_other(since_seconds: int, fails: bool) -> None:
    seen = snapshot(task(withdrawn(since_seconds)), admitted=False)
    plan = decide(seen)
    if fails:
        assert plan.status is not None
        assert (plan.status["outcome"], plan.status["reason"]) == ("Failed", "ModelNotShared")
    else:
        assert plan.status is None
        assert plan.requeue_after_seconds == 1.0


def test_a_beginning_that_lies_ahead_grants_no_longer_grace() -> None:
    plan = decide(snapshot(task(withdrawn(-9_000)), admitted=False))
    assert plan.requeue_after_seconds == GRACE_SECONDS


def test_admitted_again_it_goes_on() -> None:
    world = World(task_body(queued()), held("Leased"))
    world.apply(decide(world.snapshot(admitted=False)))
    assert world.held is None
    assert world.status["phase"] == "Waiting"
    assert decide(world.snapshot(admitted=False)).status is None, "written again"
    world.apply(decide(world.snapshot()))
    assert (world.status["phase"], world.attempt, world.enqueued) == ("Queued", 2, [2])
    assert conditions_of(world.status)["Shared"] == ("True", "Shared")


@pytest.mark.parametrize("since_seconds", [60, GRACE_SECONDS + 60])
def test_who_is_suspended_stays_so(since_seconds: int) -> None:
    seen = task(withdrawn(since_seconds, suspended(2)), suspend=True)
    assert decide(snapshot(seen, admitted=False)).status is None
    status = withdrawn(since_seconds)
    plan = decide(snapshot(task(status, suspend=True, generation=2), admitted=False))
    assert plan.status is not None
    assert plan.status["phase"] == "Suspended"
    assert conditions_of(plan.status)["Shared"] == ("False", "ModelNotShared"), "its grace would begin again"


ELSEWHERE = {"modelRef": {"name": "qwen", "namespace": "models"}}


def edited(world: World, **spec: Any) -> None:
    assert world.body is not None
    metadata = {**world.body["metadata"], "generation": world.generation + 1}
    world.body = {**world.body, "metadata": metadata, "spec": {**world.body["spec"], **spec}}


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_suspension_admits_nobody(from_the_start: bool) -> None:
    world = World(task_body(None, suspend=from_the_start, **ELSEWHERE))
    world.apply(decide(world.snapshot(model=NO_MODEL)))
    edited(world, suspend=True)
    world.apply(decide(world.snapshot(model=NO_MODEL)))
    assert (world.status["phase"], world.attempt) == ("Suspended", 1)
    assert conditions_of(world.status)["Shared"] == ("Unknown", "ModelNotFound")
    assert decide(world.snapshot(admitted=False)).status is None, "judged before it is resumed"
    edited(world, suspend=False)
    status = decide(world.snapshot(admitted=False)).status or {}
    assert (status.get("outcome"), status["reason"]) == ("Failed", "ModelNotShared")
    world.apply(decide(world.snapshot(model=NO_MODEL)))
    assert conditions_of(world.status)["Shared"] == ("Unknown", "ModelNotFound"), "a missing model admits nobody"
    world.apply(decide(world.snapshot()))
    assert conditions_of(world.status)["Shared"] == ("True", "Shared")
    assert (decide(world.snapshot(admitted=False)).status or {})["phase"] == "Waiting"


def test_of_its_own_namespaces_model_a_task_says_nothing_of_sharing() -> None:
    for spec in ({}, {"suspend": True}, {"modelRef": {"name": "qwen", "namespace": "team-a"}}):
        assert "Shared" not in conditions_of(decide(snapshot(task(None, **spec), model=NO_MODEL)).status)


def test_the_deadline_and_a_cancel_come_first() -> None:
    over = {**withdrawn(60), "acceptTime": timestamp(NOW_MS - 100_000)}
    plan = decide(snapshot(task(over, activeDeadlineSeconds=60), admitted=False))
    assert (plan.status or {})["reason"] == "DeadlineExceeded"
    plan = decide(snapshot(task(withdrawn(60), cancel=True), admitted=False))
    assert (plan.status or {})["outcome"] == "Cancelled"


def test_a_model_that_was_deleted_meanwhile_is_said_to_be_missing() -> None:
    plan = decide(snapshot(task(withdrawn(60)), model=NO_MODEL, admitted=False))
    assert (plan.status or {})["reason"] == "ModelNotFound"
