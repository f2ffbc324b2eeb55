"""What becomes of a hand-out for which there is no seat, and the words for it."""

from typing import Any

import pytest
from operator_cases import MODEL, SERVING, came_back, held, merged, queued, snapshot, task, waiting

from headrace_crds.quota import LLMQuotaSpec
from headrace_operator.decide import quota, window
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.task import decide
from headrace_operator.decide.waiting import Waiting
from headrace_operator.decide.window import Bounds, Hindrance, Scope

BOUNDS = Bounds(10, 1_000, 5, 500)
FULL = window.queue_full(Hindrance(Scope.MODEL, 10, 900), MODEL, "team-a", BOUNDS)


def plan_for(status: dict[str, Any] | None, why: Waiting = FULL, **more: Any) -> tuple[TaskPlan, TaskPlan]:
    """What would be done, and what is done instead."""
    generation = more.pop("generation", 1)
    seen = snapshot(task(status, generation=generation), model=SERVING, **more)
    assert seen.task is not None
    plan = decide(seen)
    return plan, window.held_back(plan, seen, seen.task, why)


def test_a_task_is_accepted_though_there_is_no_room() -> None:
    plan, instead = plan_for(None)
    assert plan.enqueue is not None
    assert instead.enqueue is None
    assert instead.status is not None
    after = task(merged({}, instead.status)).status
    assert after is not None
    assert (after.phase, after.reason, after.attempt, after.retries) == ("Waiting", "QueueFull", 1, 0)
    assert (after.assigned_model, after.runner, after.outcome) == (None, None, None)
    assert after.accept_time is not None, "the clocks begin"
    assert not instead.explains_only


def test_who_waits_already_is_written_when_the_reason_changes_and_only_then() -> None:
    _, instead = plan_for(waiting(reason="ModelNotFound"))
    assert instead.explains_only
    assert instead.status is not None
    assert (instead.status["reason"], "phase" in instead.status) == ("QueueFull", False)
    other = window.queue_full(Hindrance(Scope.NAMESPACE, 5, 400), MODEL, "team-a", BOUNDS)
    for why in (FULL, other):
        _, instead = plan_for(waiting(reason="QueueFull"), why)
        assert (instead.status, instead.enqueue, instead.remove) == (None, None, False)
    _, instead = plan_for(waiting(reason="QueueFull"), generation=2)
    assert instead.status is not None
    assert instead.status["observedGeneration"] == 2


def test_an_entry_of_who_waits_is_removed() -> None:
    plan, instead = plan_for(waiting(2, reason="QueueFull"), held=held("Queued", 1))
    assert plan.enqueue is not None
    assert instead.remove


def test_who_was_handed_out_needs_no_other_room() -> None:
    for status in (queued(), queued(phase="Running", reason="Running")):
        assert window.holds_room(task(status))
    for before in (None, waiting(), queued(phase="Suspended", reason="Suspended")):
        assert not window.holds_room(task(before))


def test_what_is_no_hand_out_is_left_alone() -> None:
    for plan, instead in (
        plan_for(queued(), held=held("Queued")),
        plan_for(queued(), held=came_back("Failed", retryable=False)),
    ):
        assert instead is plan


@pytest.mark.parametrize(
    ("hindrance", "words"),
    [
        (Hindrance(Scope.MODEL, 10, 900), ("'qwen' has 10 tasks with 900 bytes", "10 tasks and 1000 bytes")),
        (
            Hindrance(Scope.NAMESPACE, 5, 400),
            ("has 5 tasks with 400 bytes", "5 tasks and 500 bytes"),
        ),
        (Hindrance(Scope.TURN), ("others of namespace 'team-a' come first",)),
    ],
)
def test_a_full_queue_is_told_with_its_numbers(hindrance: Hindrance, words: tuple[str, ...]) -> None:
    why = window.queue_full(hindrance, MODEL, "team-a", BOUNDS)
    assert why.reason == "QueueFull"
    for word in words:
        assert word in why.message


OWN = "of LLMQuota 'default', which the namespace's admins can raise"
CHART = "of the chart, which an LLMQuota of an admin can raise"


@pytest.mark.parametrize(
    ("own", "default", "tasks", "source"),
    [
        (None, {}, None, ""),
        ({}, {}, None, ""),
        ({"maxQueuedTasks": 5}, {}, 5, f"maxQueuedTasks {OWN}"),
        ({"maxQueuedTasks": 5, "maxRunningTasks": 2}, {}, 2, f"maxRunningTasks {OWN}"),
        ({"maxQueuedTasks": 0}, {"maxQueuedTasks": 9}, 0, f"maxQueuedTasks {OWN}"),
        ({"maxQueuedTasks": 5}, {"maxRunningTasks": 3}, 3, f"quota.default.maxRunningTasks {CHART}"),
        (None, {"maxQueuedTasks": 7}, 7, f"quota.default.maxQueuedTasks {CHART}"),
    ],
)
def test_the_narrowest_bound_counts_and_says_whose_it_is(
    own: dict[str, int] | None, default: dict[str, int], tasks: int | None, source: str
) -> None:
    spec = LLMQuotaSpec.model_validate(own) if own is not None else None
    granted = quota.grant(spec, LLMQuotaSpec.model_validate(default))
    assert (granted.tasks, granted.source) == (tasks, source)
    if tasks is not None:
        why = quota.exceeded(Hindrance(Scope.QUOTA, tasks), "team-a", granted)
        assert why.reason == "QuotaExceeded"
        assert f"at most {tasks} by {source}" in why.message


def test_a_ceiling_lowers_and_never_raises() -> None:
    granted = quota.grant(LLMQuotaSpec(priority_ceiling=10, weight=7), LLMQuotaSpec())
    assert [granted.clamped(priority) for priority in (-5, 10, 99)] == [-5, 10, 10]
    assert granted.weight == 7
    assert quota.grant(None, LLMQuotaSpec()).clamped(99) == 99


def test_another_ceiling_moves_what_is_queued() -> None:
    seen = snapshot(task(queued()), held=held("Queued"), misplaced=True)
    plan = decide(seen)
    assert plan.enqueue is not None
    assert plan.enqueue.attempt == 1
    assert decide(snapshot(task(queued()), held=held("Queued"))).enqueue is None


def test_an_offer_that_is_held_back_leaves_no_object_that_says_queued() -> None:
    for place, refused in ((None, 2), (held("Queued", 1), None)):
        plan, instead = plan_for(queued(2), held=place, refused_attempt=refused)
        assert plan.enqueue is not None
        assert plan.status is None
        assert instead.enqueue is None
        assert instead.status is not None
        after = task(merged(queued(2), instead.status)).status
        assert after is not None
        assert (after.phase, after.reason, after.attempt) == ("Waiting", "QueueFull", 2)
        assert (after.assigned_model, after.runner) == (None, None)
        assert instead.remove is (place is not None)
        again = decide(snapshot(task(merged(queued(2), instead.status))))
        assert again.enqueue is not None
        assert again.enqueue.attempt == 2
