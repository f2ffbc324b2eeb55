"""Parked results: one outcome with a ConfigMap, whatever a runner wrote and whoever was killed."""

from typing import Any

import pytest
from operator_cases import NO_MODEL, NOW_MS, World, came_back, parked, queued, snapshot, task, task_body, waiting

from headrace_crds.names import LABEL_MANAGED_BY
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask, LLMTaskStatus
from headrace_operator.decide.large_result import config_map_name, is_same, parked_result, unwritable
from headrace_operator.decide.task import decide

HOOK = {"url": "https://hooks.example/", "secretRef": {"name": "k", "key": "k"}}


def test_it_is_committed_with_a_reference() -> None:
    s = snapshot(
        task(queued(3, phase="Running"), webhook=HOOK), held=came_back("Parked", 3), parked=parked("x" * 40_000)
    )
    plan = decide(s)
    assert plan.create is not None
    metadata = plan.create["metadata"]
    assert metadata["name"] == "headrace-uid-1-3"
    assert metadata["namespace"] == "team-a"
    assert metadata["labels"][LABEL_MANAGED_BY] == "headrace"
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("LLMTask", "uid-1", True)
    assert plan.create["immutable"] is True
    assert plan.create["data"] == {"text": "x" * 40_000}
    assert plan.remove
    assert plan.status is not None
    status = LLMTaskStatus.model_validate(plan.status)
    assert (status.outcome, status.reason) == ("Complete", "Succeeded")
    assert status.result is not None
    assert status.result.text is None
    assert status.result.config_map_ref is not None
    assert (status.result.config_map_ref.name, status.result.config_map_ref.key) == ("headrace-uid-1-3", "text")
    assert status.result.size_bytes == 40_000
    assert status.usage is not None
    assert status.timings is not None
    assert status.attempts is not None
    (record,) = status.attempts
    assert (record.number, record.outcome, record.pod) == (3, "Complete", "headrace-qwen-abc")
    assert {c.type: c.status for c in status.conditions} == {"Finished": "True", "Ready": "True", "Notified": "False"}
    assert plan.status["startTime"] == "2027-01-15T07:59:51Z"


@pytest.mark.parametrize("spec", [{"suspend": True}, {"activeDeadlineSeconds": 1}, {"cancel": True}])
def test_what_was_generated_counts_whatever_happened_since(spec: dict[str, Any]) -> None:
    plan = decide(snapshot(task(queued(), **spec), held=came_back("Parked"), parked=parked()))
    assert plan.status is not None
    assert plan.status["outcome"] == "Complete"


def test_a_partial_text_belongs_to_a_cancel() -> None:
    left = parked(finish_reason="Cancelled")
    plan = decide(snapshot(task(queued(), cancel=True), held=came_back("Parked"), parked=left))
    assert plan.status is not None
    assert (plan.status["outcome"], plan.status["reason"]) == ("Cancelled", "Cancelled")
    assert plan.status["result"]["partial"] is True
    plan = decide(snapshot(task(queued()), held=came_back("Parked"), parked=left))
    assert plan.create is None
    assert plan.status is not None
    assert plan.status["attempt"] == 2, "nobody asked for that"


@pytest.mark.parametrize(
    ("status", "attempt", "more"),
    [
        (queued(2), 1, {}),
        (queued(1), 2, {}),
        (waiting(1), 1, {}),
        (queued(1), 1, {"admitted": False}),
        (queued(1), 1, {"parked": None}),
    ],
)
def test_what_is_not_the_attempts_own_is_not_committed(
    status: dict[str, Any], attempt: int, more: dict[str, Any]
) -> None:
    s = snapshot(task(status), held=came_back("Parked", attempt), **{"parked": parked(), **more})
    assert s.task is not None
    assert parked_result(s, s.task) is None
    assert decide(s).create is None


def test_times_that_lie_ahead_are_cut() -> None:
    left = parked(claimed_ms=NOW_MS + 10**9, completed_ms=0)
    plan = decide(snapshot(task(queued()), held=came_back("Parked"), parked=left))
    assert plan.status is not None
    assert plan.status["completionTime"] == plan.status["startTime"] == "2027-01-15T08:00:00Z"


def test_killed_anywhere_there_is_one_outcome() -> None:
    """The ConfigMap alone, the ConfigMap and the status, all: deciding again leads to the same."""
    world = World(task_body(queued()), came_back("Parked"))
    plan = decide(world.snapshot())
    assert decide(world.snapshot()) == plan, "only the ConfigMap was made"
    entry = world.held
    world.apply(plan)
    before = world.status
    world.held = entry
    after = decide(world.snapshot())
    assert (after.status, after.create, after.remove) == (None, None, True), "the entry was left"
    world.apply(after)
    assert world.status == before
    assert world.created == ["headrace-uid-1-1"]
    lost = World(task_body(queued()), None)
    lost.apply(decide(lost.snapshot()))
    assert lost.attempt == 2, "Redis was flushed: generated again, under another name"
    assert config_map_name("u", 1) != config_map_name("u", 2)


def test_a_result_that_does_not_read_is_as_if_it_was_given_back() -> None:
    seen = came_back("Parked", reason=Reason.RUNNER_ERROR, message="the result that its runner parked does not read")
    plan = decide(snapshot(task(queued()), held=seen))
    assert plan.enqueue is not None
    assert plan.status is not None
    (record,) = plan.status["attempts"]
    assert (record["outcome"], record["reason"]) == ("Released", "RunnerError")
    assert plan.status["retries"] == 0


@pytest.mark.parametrize(
    ("reason", "retryable", "outcome", "retries"),
    [
        (Reason.RESULT_TOO_LARGE, False, "Failed", None),
        (Reason.COMMIT_REFUSED, True, None, 1),
        (Reason.NAME_CONFLICT, None, None, 0),
    ],
)
def test_what_cannot_be_written_never_loops(
    reason: Reason, retryable: bool | None, outcome: str | None, retries: int | None
) -> None:
    s = snapshot(task(queued()), held=came_back("Parked"), parked=parked())
    plan = decide(unwritable(s, reason, "it cannot be", retryable))
    assert plan.create is None
    assert plan.status is not None
    assert plan.status.get("outcome") == outcome
    if outcome is not None:
        assert plan.status["reason"] == reason
        assert plan.remove
        return
    assert (plan.status["attempt"], plan.status["retries"]) == (2, retries)
    assert plan.status["attempts"][0]["reason"] == reason


def test_only_the_same_content_under_the_name_is_ours() -> None:
    s = snapshot(task(queued()), held=came_back("Parked"), parked=parked())
    made = decide(s).create
    assert made is not None
    found = {**made, "metadata": {**made["metadata"], "uid": "u", "resourceVersion": "1"}}
    assert is_same(dict(made), found)
    assert not is_same(dict(made), {**found, "data": {"text": "forged"}})
    assert not is_same(dict(made), {**found, "metadata": {"name": "x", "ownerReferences": []}})
    stranger = [{**made["metadata"]["ownerReferences"][0], "uid": "other"}]
    assert not is_same(dict(made), {**found, "metadata": {**found["metadata"], "ownerReferences": stranger}})


def test_a_plan_shows_no_result() -> None:
    s = snapshot(task(queued()), held=came_back("Parked"), parked=parked("SECRET"))
    assert "SECRET" not in repr(decide(s))
    assert "SECRET" not in repr(s)


def test_without_a_model_it_is_committed_all_the_same() -> None:
    of = LLMTask.model_validate(task_body(queued()))
    plan = decide(snapshot(of, model=NO_MODEL, held=came_back("Parked"), parked=parked()))
    assert plan.status is not None
    assert plan.status["outcome"] == "Complete"
