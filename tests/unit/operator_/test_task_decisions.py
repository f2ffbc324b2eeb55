"""What is to be done about one task: one row per situation."""

from typing import Any

import pytest
from operator_cases import (
    LOADING,
    MODEL,
    NO_MODEL,
    NOW_MS,
    SERVING,
    TASK,
    came_back,
    condition,
    finished,
    gpu_model,
    held,
    model,
    queued,
    snapshot,
    summary,
    task,
    task_body,
)
from operator_cases import (
    waiting as waiting_status,
)
from task_rows_coming_back import COMING_BACK, COMMITTED
from task_rows_going_out import GOING_OUT

from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.decide import waiting
from headrace_operator.decide.finished import COMPLETION_GRACE_SECONDS
from headrace_operator.decide.plans import SETTLED, Enqueue, TaskPlan
from headrace_operator.decide.snapshots import Held, Place
from headrace_operator.decide.task import decide, unacceptable

ROWS = [*GOING_OUT, *COMING_BACK]


@pytest.mark.parametrize(("seen", "want"), ROWS)
def test_task(seen: Any, want: dict[str, Any]) -> None:
    assert summary(decide(seen)) == want


def test_there_are_enough_rows() -> None:
    assert len(ROWS) >= 50


def test_accept_names_who_may_commit() -> None:
    status = decide(snapshot(task())).status
    assert status is not None
    assert status["runner"] == {"serviceAccount": "team-a/headrace-qwen", "pod": None}
    assert status["assignedModel"] == str(MODEL)
    assert {c["type"]: c["status"] for c in status["conditions"]} == {"Finished": "False", "Ready": "False"}


def test_waiting_names_nobody() -> None:
    status = decide(snapshot(task(queued()), model=NO_MODEL)).status
    assert status is not None
    assert status["runner"] is None
    assert status["assignedModel"] is None


def test_a_failure_is_what_helm_flux_and_argo_read() -> None:
    status = decide(snapshot(task(output={"jsonSchema": "[]"}))).status
    assert status is not None
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Finished": "True",
        "Ready": "False",
        "Stalled": "True",
    }
    assert status["completionTime"]


def test_the_last_failure_is_told_when_the_limit_is_used_up() -> None:
    plan = decide(snapshot(task(queued(), backoffLimit=0), held=came_back("Failed")))
    assert plan.status is not None
    assert "EngineError: decode failed" in plan.status["message"]
    assert plan.announcement is not None
    assert plan.announcement.type == "Warning"


def test_the_first_claim_is_kept_as_start_time() -> None:
    first = decide(snapshot(task(queued()), held=came_back("LeaseExpired"))).status
    later = decide(snapshot(task(queued(startTime="2027-01-15T07:00:00Z")), held=came_back("LeaseExpired"))).status
    assert first is not None
    assert first["startTime"] == "2027-01-15T07:59:51Z"
    assert later is not None
    assert "startTime" not in later


def test_a_running_condition_ends_with_its_attempt() -> None:
    status = queued(phase="Running", reason="Running")
    status["conditions"].append(condition("Running", "True", "Running"))
    patch = decide(snapshot(task(status), held=came_back("LeaseExpired"))).status
    assert patch is not None
    assert {c["type"]: c["status"] for c in patch["conditions"]}["Running"] == "False"


def test_the_eleventh_record_drops_the_first() -> None:
    records = [{"number": n, "outcome": "Released", "reason": "RunnerStopped", "message": ""} for n in range(1, 11)]
    patch = decide(snapshot(task(queued(11, attempts=records)), held=came_back("LeaseExpired", 11))).status
    assert patch is not None
    assert [record["number"] for record in patch["attempts"]] == list(range(2, 12))


def test_a_finished_task_whose_runner_completes_is_looked_at_again() -> None:
    just = task({**finished(), "completionTime": COMMITTED})
    left = decide(snapshot(just, held=held("Leased"))).requeue_after_seconds
    assert left == COMPLETION_GRACE_SECONDS - 3
    future = task({**finished(), "completionTime": timestamp(NOW_MS + 60_000)})
    assert decide(snapshot(future, held=held("Leased"))).requeue_after_seconds == COMPLETION_GRACE_SECONDS


@pytest.mark.parametrize("held_", [None, held("Leased"), held("Queued")], ids=["gone", "completing", "left over"])
def test_a_finished_task_that_was_edited_is_observed_in_one_write(held_: Held | None) -> None:
    plan = decide(snapshot(task(finished(), generation=3), held=held_))
    assert plan.status is not None
    assert set(plan.status) == {"observedGeneration", "conditions"}
    assert plan.status["observedGeneration"] == 3
    # kubectl wait takes a condition of an older generation for one that is out of date.
    assert plan.status["conditions"]
    assert {each["observedGeneration"] for each in plan.status["conditions"]} == {3}
    told = task({**finished(), "observedGeneration": 3}, generation=3)
    assert decide(snapshot(told, held=held_)).status is None


def test_an_explanation_is_marked_as_bounded() -> None:
    assert decide(snapshot(task(queued()), model=LOADING, held=held("Queued"))).explains_only
    assert not decide(snapshot(task(waiting_status()), model=SERVING)).explains_only


def test_messages_do_not_change_with_the_clock() -> None:
    placed = condition("Placed", "False", "WaitingForGPU", "waiting since 2027-01-15T08:00:00Z for 1 nvidia.com/gpu")
    seen = gpu_model(condition("Ready", "False", "WaitingForGPU"), placed)
    why = waiting.explain(seen)
    assert why.reason == "WaitingForGPU"
    assert "since 2027-01-15T08:00:00Z for 1 nvidia.com/gpu" in why.message


def test_nothing_of_the_prompt_is_in_a_plan() -> None:
    body = task_body(prompt="SECRET-PROMPT", output={"jsonSchema": '{"SECRET-SCHEMA"'})
    plan = decide(snapshot(LLMTask.model_validate(body)))
    assert "SECRET" not in repr(plan)


def test_settled_does_nothing() -> None:
    assert TaskPlan("as it should be") == SETTLED
    assert Enqueue(1) != Enqueue(2)
    assert str(TASK) == "team-a/summary"


def test_what_the_queue_never_takes_ends_the_task() -> None:
    plan = unacceptable(snapshot(task(queued(3)), held=held("Queued", 2)), task(queued(3)), Reason.INPUT_TOO_LARGE, "m")
    assert summary(plan) == {
        "phase": "Failed",
        "attempt": 3,
        "retries": 0,
        "reason": "InputTooLarge",
        "outcome": "Failed",
        "remove": True,
    }
    done = task(finished())
    assert unacceptable(snapshot(done), done, Reason.INPUT_TOO_LARGE, "m") == SETTLED


@pytest.mark.parametrize("place", [held("Leased", 3), came_back("Failed", 3)])
def test_what_the_queue_never_takes_ends_with_the_record_of_its_last_attempt(place: Held) -> None:
    of = task(queued(3))
    if place.place is Place.LEASED:  # leased while the object says that it waits: its commit would be refused
        of = task(queued(3, phase="Waiting"))
    plan = unacceptable(snapshot(of, held=place), of, Reason.INPUT_TOO_LARGE, "m")
    assert plan.status is not None
    assert plan.status["attempts"][-1]["number"] == 3
    assert plan.status["startTime"]


@pytest.mark.parametrize("phase", ["Queued", "Running"])
def test_what_the_queue_does_not_take_leaves_alone_whoever_works_on_it(phase: str) -> None:
    of = task(queued(3, phase=phase))
    plan = unacceptable(snapshot(of, held=held("Leased", 3)), of, Reason.INPUT_TOO_LARGE, "m")
    assert (plan.status, plan.remove, plan.announcement) == (None, False, None)
    assert plan.requeue_after_seconds


@pytest.mark.parametrize(
    ("available", "reason", "words"),
    [
        ("RunnerSilent", Reason.MODEL_NOT_READY, "RunnerSilent: look at its logs"),
        ("Starting", Reason.MODEL_LOADING, "is being started"),
        ("ScaledToZero", Reason.MODEL_LOADING, "is being started"),
    ],
)
def test_a_ready_model_that_does_not_serve_is_explained_by_available(
    available: str, reason: Reason, words: str
) -> None:
    seen = model(
        condition("Ready", "True", "WeightsVerified"), condition("Available", "False", available, "look at its logs")
    )
    why = waiting.explain(seen)
    assert why.reason is reason
    assert words in why.message
