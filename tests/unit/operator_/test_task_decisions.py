"""What is to be done about one task: one row per situation."""

from typing import Any

import pytest
from operator_cases import (
    LOADING,
    MODEL,
    NAME_CONFLICT,
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

from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import INPUT_LIMIT_BYTES, LLMTask
from headrace_operator.decide import waiting
from headrace_operator.decide.finished import COMPLETION_GRACE_SECONDS
from headrace_operator.decide.plans import SETTLED, Enqueue, TaskPlan
from headrace_operator.decide.snapshots import Held, Place
from headrace_operator.decide.task import decide, unacceptable

COMMITTED = timestamp(NOW_MS - 3_000)
AN_OLD_LEASE = Held(1, Place.LEASED, NOW_MS - 600_000)
BACKOFF = queued(2, reason="RetryBackoff", retries=1)
NOT_READY = model(condition("Ready", "False", "ChecksumMismatch", "a.gguf has another digest"))


def not_ready(message: str) -> dict[str, Any]:
    return queued(reason="ModelNotReady", message=message)


ROWS: list[Any] = [
    # accept
    pytest.param(
        snapshot(task(), model=SERVING),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "Queued", "enqueue": 1},
        id="a new task of a serving model is queued and enqueued at attempt 1",
    ),
    pytest.param(
        snapshot(task(), model=LOADING),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelLoading", "enqueue": 1},
        id="enqueueing does not wait for a model that loads",
    ),
    pytest.param(
        snapshot(task(), model=model()),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelLoading", "enqueue": 1},
        id="a model without status yet counts as loading",
    ),
    pytest.param(
        snapshot(task(), model=model(replicas=0)),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelScaledToZero", "enqueue": 1},
        id="at scale zero the task is queued and says so",
    ),
    pytest.param(
        snapshot(task(), model=NOT_READY),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "ModelNotReady", "enqueue": 1},
        id="a broken model may be repaired: queued",
    ),
    pytest.param(
        snapshot(task(), model=NO_MODEL),
        {"phase": "Waiting", "attempt": 1, "retries": 0, "reason": "ModelNotFound"},
        id="a task before its model waits and is not enqueued",
    ),
    pytest.param(
        snapshot(task(), model=NAME_CONFLICT),
        {"phase": "Waiting", "attempt": 1, "retries": 0, "reason": "ModelNotReady"},
        id="a model that never gets a runner is handed nothing",
    ),
    pytest.param(
        snapshot(task(prompt="ä" * (INPUT_LIMIT_BYTES // 2 + 1)), model=SERVING),
        {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "InputTooLarge", "outcome": "Failed"},
        id="bytes count, not characters: too large at accept",
    ),
    pytest.param(
        snapshot(task(output={"jsonSchema": "{not json"}), model=NO_MODEL),
        {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "InvalidSchema", "outcome": "Failed"},
        id="a schema that is no JSON fails at accept, model or not",
    ),
    pytest.param(
        snapshot(task(output={"jsonSchema": "{not json"}), model=NO_MODEL, held=held("Queued")),
        {"phase": "Failed", "attempt": 1, "retries": 0, "reason": "InvalidSchema", "outcome": "Failed", "remove": True},
        id="a refused task leaves nothing in the bus",
    ),
    pytest.param(
        snapshot(task(queued(), prompt="ä" * (INPUT_LIMIT_BYTES // 2 + 1)), held=held("Queued")),
        {},
        id="an accepted task is not judged again",
    ),
    # model appears, goes
    pytest.param(
        snapshot(task(waiting_status()), model=SERVING),
        {"phase": "Queued", "attempt": 1, "retries": 0, "reason": "Queued", "enqueue": 1},
        id="the model appears: handed out at the same attempt",
    ),
    pytest.param(
        snapshot(task(waiting_status(4)), model=LOADING),
        {"phase": "Queued", "attempt": 4, "retries": 0, "reason": "ModelLoading", "enqueue": 4},
        id="the model comes back: handed out at the attempt that was never delivered",
    ),
    pytest.param(
        snapshot(task(waiting_status(2)), model=SERVING, held=held("Queued", 2)),
        {"phase": "Queued", "attempt": 3, "retries": 0, "reason": "Queued", "enqueue": 3},
        id="an entry nobody accounts for at a waiting task's attempt is superseded",
    ),
    pytest.param(snapshot(task(waiting_status()), model=NO_MODEL), {}, id="still no model: nothing to write"),
    pytest.param(
        snapshot(task(waiting_status(reason="ModelNotReady")), model=NO_MODEL),
        {"reason": "ModelNotFound"},
        id="the conflicting model is deleted: only the reason changes",
    ),
    pytest.param(
        snapshot(task(waiting_status()), model=NAME_CONFLICT),
        {"reason": "ModelNotReady"},
        id="the model appears with a name conflict: still waiting, for another reason",
    ),
    pytest.param(
        snapshot(task(waiting_status()), model=NO_MODEL, held=held("Queued")),
        {"remove": True},
        id="a waiting task keeps no entry",
    ),
    pytest.param(
        snapshot(task(queued()), model=NO_MODEL, held=held("Queued")),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 0,
            "reason": "ModelNotFound",
            "remove": True,
            "record": (1, "Released", "ModelNotFound"),
        },
        id="the model is deleted under a queued task: back to waiting at attempt 2",
    ),
    pytest.param(
        snapshot(task(queued(phase="Running")), model=NO_MODEL, held=held("Leased")),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 0,
            "reason": "ModelNotFound",
            "remove": True,
            "record": (1, "Released", "ModelNotFound"),
        },
        id="the model is deleted under a running task: its runner is fenced",
    ),
    pytest.param(
        snapshot(task(queued()), model=NO_MODEL),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 0,
            "reason": "ModelNotFound",
            "record": (1, "Released", "ModelNotFound"),
        },
        id="the model is deleted and its queue purged already",
    ),
    # as it should be
    pytest.param(snapshot(task(queued()), held=held("Queued")), {}, id="queued here and there: settled"),
    pytest.param(snapshot(task(queued()), held=held("Leased")), {}, id="leased: the runner's turn"),
    pytest.param(
        snapshot(task(queued(reason="ModelLoading")), held=held("Leased")),
        {},
        id="leased: the explanation is not touched",
    ),
    pytest.param(snapshot(task(queued(phase="Running")), held=held("Leased")), {}, id="running under a lease: settled"),
    pytest.param(snapshot(task(BACKOFF), held=held("Delayed", 2)), {}, id="in backoff: settled"),
    # explanations
    pytest.param(
        snapshot(task(queued(reason="ModelLoading")), held=held("Queued")),
        {"reason": "Queued"},
        id="the model serves now: the reason follows",
    ),
    pytest.param(
        snapshot(task(queued()), model=LOADING, held=held("Queued")),
        {"reason": "ModelLoading"},
        id="the model restarts: the reason follows",
    ),
    pytest.param(
        snapshot(task(BACKOFF), held=held("Queued", 2)),
        {"reason": "Queued"},
        id="the backoff is over and nobody claimed: the reason follows",
    ),
    pytest.param(
        snapshot(task(not_ready("ChecksumMismatch: x")), model=NOT_READY, held=held("Queued")),
        {},
        id="the model's message changed, its reason did not: no write",
    ),
    pytest.param(
        snapshot(task(not_ready("ClaimNotFound: x")), model=NOT_READY, held=held("Queued")),
        {"reason": "ModelNotReady"},
        id="the model is not ready for another reason: told",
    ),
    # deliveries that came back
    pytest.param(
        snapshot(task(queued()), held=came_back("Failed")),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 1,
            "reason": "RetryBackoff",
            "enqueue": 2,
            "delay": 500,
            "record": (1, "Failed", "EngineError"),
        },
        id="a retryable failure is charged and backs off",
    ),
    pytest.param(
        snapshot(task(queued(phase="Running")), held=came_back("LeaseExpired")),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 1,
            "losses": 1,
            "reason": "RetryBackoff",
            "enqueue": 2,
            "delay": 500,
            "record": (1, "Lost", "LeaseExpired"),
        },
        id="a vanished runner is charged and recorded as lost",
    ),
    pytest.param(
        snapshot(task(queued(phase="Running")), held=came_back("Released", reason="RunnerStopped")),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 2,
            "record": (1, "Released", "RunnerStopped"),
        },
        id="a stopping runner charges nobody and costs no time",
    ),
    pytest.param(
        snapshot(task(queued(3, retries=3)), held=came_back("Failed", 3)),
        {
            "phase": "Failed",
            "attempt": 3,
            "retries": 3,
            "reason": "BackoffLimitExceeded",
            "outcome": "Failed",
            "remove": True,
            "record": (3, "Failed", "EngineError"),
        },
        id="the backoff limit is used up",
    ),
    pytest.param(
        snapshot(task(queued(), backoffLimit=0), held=came_back("LeaseExpired")),
        {
            "phase": "Failed",
            "attempt": 1,
            "retries": 0,
            "losses": 1,
            "reason": "BackoffLimitExceeded",
            "outcome": "Failed",
            "remove": True,
            "record": (1, "Lost", "LeaseExpired"),
        },
        id="backoffLimit 0: the first loss is the end",
    ),
    pytest.param(
        snapshot(task(queued()), held=came_back("Failed", reason="EnvelopeInvalid", retryable=False)),
        {
            "phase": "Failed",
            "attempt": 1,
            "retries": 0,
            "reason": "EnvelopeInvalid",
            "outcome": "Failed",
            "remove": True,
            "record": (1, "Failed", "EnvelopeInvalid"),
        },
        id="a failure that cannot be cured ends the task for its own reason",
    ),
    pytest.param(
        snapshot(task(queued()), model=NO_MODEL, held=came_back("Failed")),
        {
            "phase": "Waiting",
            "attempt": 2,
            "retries": 1,
            "reason": "ModelNotFound",
            "remove": True,
            "record": (1, "Failed", "EngineError"),
        },
        id="it failed and the model is gone: charged, then waiting",
    ),
    pytest.param(
        snapshot(task(queued(2)), held=came_back("Failed", 1)),
        {"enqueue": 2},
        id="the object moved on before a crash: the older copy is superseded, nothing is charged twice",
    ),
    # the bus knows less, or more
    pytest.param(
        snapshot(task(queued())),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 2,
            "record": (1, "Released", "QueueStateLost"),
        },
        id="redis was flushed under a queued task: rebuilt at attempt 2",
    ),
    pytest.param(
        snapshot(task(queued(5, phase="Running", runner={"serviceAccount": "x", "pod": "pod-a"}))),
        {
            "phase": "Queued",
            "attempt": 6,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 6,
            "record": (5, "Released", "QueueStateLost"),
        },
        id="redis was flushed under a running task: its runner is fenced",
    ),
    pytest.param(
        snapshot(task(queued()), model_replaced=True),
        {
            "phase": "Queued",
            "attempt": 2,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 2,
            "record": (1, "Released", "ModelReplaced"),
        },
        id="the model was deleted and made again: another attempt, for that reason",
    ),
    pytest.param(
        snapshot(task(queued()), refused_attempt=1), {"enqueue": 1}, id="redis refused it whole: offered again as it is"
    ),
    pytest.param(
        snapshot(task(BACKOFF), refused_attempt=2),
        {"enqueue": 2, "delay": 500},
        id="refused whole while in backoff: offered again with a backoff",
    ),
    pytest.param(
        snapshot(task(queued(3)), refused_attempt=2),
        {
            "phase": "Queued",
            "attempt": 4,
            "retries": 0,
            "reason": "Queued",
            "enqueue": 4,
            "record": (3, "Released", "QueueStateLost"),
        },
        id="an older attempt's refusal says nothing about this one",
    ),
    pytest.param(snapshot(task(queued(2)), held=held("Queued", 1)), {"enqueue": 2}, id="the bus is behind: enqueue"),
    pytest.param(snapshot(task(queued(2)), held=held("Leased", 1)), {"enqueue": 2}, id="an older lease is superseded"),
    pytest.param(
        snapshot(task(BACKOFF), held=came_back("Failed", 1)),
        {"enqueue": 2, "delay": 500},
        id="a crash between write and enqueue keeps the backoff",
    ),
    pytest.param(
        snapshot(task(queued(2)), held=held("Queued", 7)),
        {"phase": "Queued", "attempt": 8, "retries": 0, "reason": "Queued", "enqueue": 8},
        id="an object from a backup: beyond what the bus has seen",
    ),
    # priority
    pytest.param(
        snapshot(task(queued(), generation=2, priority=9), held=held("Queued")),
        {"reason": "Queued", "enqueue": 1},
        id="priority edited while queued: offered again at the same attempt",
    ),
    pytest.param(
        snapshot(task(queued(), generation=2, priority=9), held=held("Leased")),
        {},
        id="priority edited while it runs: nothing",
    ),
    # the end
    pytest.param(snapshot(task(finished())), {}, id="finished and gone from the bus: settled"),
    pytest.param(
        snapshot(task({**finished(), "completionTime": COMMITTED}), held=held("Leased")),
        {},
        id="its runner is just completing: left alone",
    ),
    pytest.param(
        snapshot(task({**finished(), "completionTime": timestamp(NOW_MS - 21_000)}), held=AN_OLD_LEASE),
        {"remove": True},
        id="its runner had its time to complete: removed",
    ),
    pytest.param(
        snapshot(task({**finished(), "completionTime": COMMITTED}), held=AN_OLD_LEASE),
        {},
        id="a long run that was just committed: its runner has its time",
    ),
    # nonsense in Redis
    pytest.param(snapshot(task(queued()), senseless=True), {"remove": True}, id="an entry that does not read goes"),
    pytest.param(
        snapshot(task(queued()), held=held("Queued", 10**15)), {"remove": True}, id="an attempt nobody gave is not met"
    ),
    pytest.param(
        snapshot(task(finished()), held=held("Queued", 10**15)), {"remove": True}, id="not even by a finished task"
    ),
    pytest.param(
        snapshot(task(finished(2)), held=held("Leased", 1)), {"remove": True}, id="finished, an older lease stays"
    ),
    pytest.param(
        snapshot(task(finished()), held=held("Queued")), {"remove": True}, id="finished, an entry stays: removed"
    ),
    pytest.param(
        snapshot(task(finished()), held=came_back("LeaseExpired")),
        {"remove": True},
        id="committed, but its runner died before complete: nothing runs again",
    ),
    pytest.param(
        snapshot(task(finished(outcome="Failed")), model=NO_MODEL, held=came_back("Failed")),
        {"remove": True},
        id="finished outlives its model",
    ),
    pytest.param(snapshot(None), {"remove": True}, id="deleted: whatever is left goes, results too"),
    pytest.param(snapshot(None, model=NO_MODEL, held=held("Leased")), {"remove": True}, id="deleted while running"),
]


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
