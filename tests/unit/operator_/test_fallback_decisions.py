"""Which model a task falls back to, when, and what the move leaves behind."""

from dataclasses import replace
from typing import Any

import pytest
from fallback_cases import GPT, LISTED, LLAMA, falling, named, own, target
from operator_cases import (
    MODEL,
    NOW_MS,
    TASK,
    came_back,
    finished,
    held,
    merged,
    queued,
    snapshot,
    suspended,
    task,
    task_body,
    waiting,
)

from headrace_crds.outcome import timestamp
from headrace_crds.task import LLMTask
from headrace_operator.decide.fallback import LOOK_AGAIN_SECONDS, SOON_SECONDS, STUCK, chain_of, hand_over, not_now
from headrace_operator.decide.snapshots import Held, Place, Target, TaskSnapshot
from headrace_operator.decide.task import decide
from headrace_operator.refs import ModelRef
from headrace_operator.views import task_ref

WAITS_IN_QUEUE = held("Queued")
NOT_CHARGED = {"retryable": False, "message": "wrong shape"}
INHERITED = {"policy": "List", "models": LISTED}


def moved(s: TaskSnapshot) -> str:
    """The model that it goes to, and why; empty where it stays."""
    plan = decide(s)
    return f"{plan.move.target}: {plan.move.because}" if plan.move is not None else ""


TO_GPT, TO_LLAMA = "team-a/gpt: ", "team-a/llama: "
ALL = own(when=("Unavailable", "RateLimited", "QueueTimeout", "Refused", "InvalidOutput"))
LIMITED, TIMEOUT = own(when=("RateLimited",)), own(when=("QueueTimeout",))
LONG_AGO = {"acceptTime": timestamp(NOW_MS - 120_000)}
JUST_NOW = {"acceptTime": timestamp(NOW_MS - 30_000)}

ROWS: list[Any] = [
    # what makes a task go
    pytest.param(falling(held=WAITS_IN_QUEUE), TO_GPT + "Unavailable", id="circuit open"),
    *(
        pytest.param(falling(of=named(reason), held=WAITS_IN_QUEUE), TO_GPT + "Unavailable", id=reason)
        for reason in ("LoadingWeights", "WaitingForGPU", "ScaledToZero", "EngineCrashed", "CredentialsRefused")
    ),
    pytest.param(falling(of=named(), held=WAITS_IN_QUEUE), "", id="it serves"),
    pytest.param(falling(of=named("CircuitOpen", since_seconds=59), held=WAITS_IN_QUEUE), "", id="not for so long"),
    pytest.param(
        falling(of=named("CircuitOpen", since_seconds=61), held=WAITS_IN_QUEUE),
        TO_GPT + "Unavailable",
        id="just so long",
    ),
    pytest.param(falling(held=held("Delayed")), TO_GPT + "Unavailable", id="in its backoff"),
    pytest.param(falling(held=held("Leased")), "", id="somebody works on it"),
    pytest.param(falling(queued(phase="Running"), held=held("Leased")), "", id="it runs"),
    pytest.param(falling(of=named("RateLimited"), held=WAITS_IN_QUEUE), "", id="a rate limit is another trigger"),
    pytest.param(
        falling(of=named("RateLimited"), held=WAITS_IN_QUEUE, fallback=LIMITED),
        TO_GPT + "RateLimited",
        id="rate limited",
    ),
    pytest.param(falling(held=WAITS_IN_QUEUE, fallback=LIMITED), "", id="unavailable is another trigger"),
    pytest.param(
        falling(queued(**LONG_AGO), of=named(), held=Held(1, Place.QUEUED, NOW_MS - 61_000), fallback=TIMEOUT),
        TO_GPT + "QueueTimeout",
        id="queue",
    ),
    pytest.param(
        falling(queued(**LONG_AGO), of=named(), held=WAITS_IN_QUEUE, fallback=TIMEOUT),
        "",
        id="what precedes the hand-out, such as a budget, is no wait in the queue",
    ),
    pytest.param(
        falling(queued(**JUST_NOW), of=named(), held=WAITS_IN_QUEUE, fallback=TIMEOUT), "", id="queue, not yet"
    ),
    pytest.param(
        falling({**waiting(reason="QueueFull"), **LONG_AGO}, of=named(), fallback=TIMEOUT),
        TO_GPT + "QueueTimeout",
        id="line",
    ),
    pytest.param(
        falling({**waiting(reason="QuotaExceeded"), **LONG_AGO}, fallback=ALL),
        "",
        id="another model has no other quota",
    ),
    pytest.param(falling({**waiting(reason="InputNotFound"), **LONG_AGO}, fallback=ALL), "", id="nor another input"),
    pytest.param(falling(suspended(), suspend=True), "", id="suspended"),
    pytest.param(falling(finished(), held=None), "", id="finished"),
    pytest.param(falling(held=WAITS_IN_QUEUE, cancel=True), "", id="cancelled"),
    # where to
    pytest.param(
        falling(held=WAITS_IN_QUEUE, targets=[target(GPT, "CircuitOpen"), target(LLAMA)]),
        TO_LLAMA + "Unavailable",
        id="passed over",
    ),
    pytest.param(
        falling(held=WAITS_IN_QUEUE, targets=[Target(GPT, None), target(LLAMA)]), TO_LLAMA + "Unavailable", id="missing"
    ),
    pytest.param(
        falling(held=WAITS_IN_QUEUE, targets=[target(GPT, admitted=False), target(LLAMA)]),
        TO_LLAMA + "Unavailable",
        id="not shared",
    ),
    pytest.param(
        falling(held=WAITS_IN_QUEUE, targets=[target(GPT, capabilities=["Embedding"]), target(LLAMA)]),
        TO_LLAMA + "Unavailable",
        id="not capable",
    ),
    pytest.param(falling(held=WAITS_IN_QUEUE, targets=[target(GPT, "RateLimited")]), "", id="none can serve"),
    # what came back
    pytest.param(
        falling(of=named(), held=came_back("Failed", reason="InvalidOutput", **NOT_CHARGED)), "", id="not asked for"
    ),
    pytest.param(
        falling(of=named(), held=came_back("Failed", reason="InvalidOutput", **NOT_CHARGED), fallback=ALL),
        TO_GPT + "InvalidOutput",
        id="invalid output",
    ),
    pytest.param(
        falling(of=named(), held=came_back("Failed", reason="ContentRefused", **NOT_CHARGED), fallback=ALL),
        TO_GPT + "Refused",
        id="refused",
    ),
    pytest.param(
        falling(of=named(), held=came_back("Failed", reason="ContextLengthExceeded", **NOT_CHARGED), fallback=ALL),
        "",
        id="refused for what the task itself is",
    ),
    pytest.param(
        falling(of=named(), held=came_back("Failed", reason="ProviderFailed"), backoffLimit=0),
        TO_GPT + "Unavailable",
        id="used up",
    ),
    pytest.param(falling(of=named(), held=came_back("Failed", reason="ProviderFailed")), "", id="retries are left"),
    pytest.param(falling(of=named(), held=came_back("Failed", reason="DecodeFailed"), backoffLimit=0), "", id="ours"),
    pytest.param(falling(queued(losses=2), of=named(), held=came_back("LeaseExpired"), fallback=ALL), "", id="poison"),
]


@pytest.mark.parametrize(("seen", "want"), ROWS)
def test_fallback(seen: TaskSnapshot, want: str) -> None:
    assert moved(seen) == want


def test_a_move_is_one_write_that_nobody_can_commit_after() -> None:
    plan = decide(falling(queued(2, retries=1, losses=1), held=held("Queued", 2), of=named("CircuitOpen")))
    assert plan.take_back is not None
    assert plan.take_back.attempt == 2
    assert plan.enqueue is None
    status = dict(plan.status or {})
    assert {
        name: status[name] for name in ("phase", "attempt", "assignedModel", "triedModels", "runner", "retries")
    } == {
        "phase": "Waiting",
        "attempt": 3,
        "assignedModel": "team-a/gpt",
        "triedModels": ["team-a/qwen"],
        "runner": None,
        "retries": 1,
    }
    told = "moved from team-a/qwen to team-a/gpt: CircuitOpen for 60 s"
    (record,) = status["attempts"]
    assert (record["number"], record["model"], record["reason"], record["message"]) == (
        2,
        "team-a/qwen",
        "FellBack",
        told,
    )
    assert (status["reason"], status["message"]) == ("FellBack", told)
    assert plan.announcement is not None
    assert (plan.announcement.reason, plan.announcement.note) == ("FellBack", told)


def test_what_was_passed_over_is_told() -> None:
    plan = decide(falling(held=WAITS_IN_QUEUE, targets=[target(GPT, "RateLimited"), target(LLAMA)]))
    assert "passed over team-a/gpt: RateLimited" in (plan.status or {})["message"]


@pytest.mark.parametrize("reason", ["InvalidOutput", "ContentRefused"])
def test_without_a_target_what_was_handed_over_ends_as_it_would_have(reason: str) -> None:
    back = came_back("Failed", reason=reason, **NOT_CHARGED)
    plan = decide(falling(of=named(), held=back, targets=[target(GPT, "CircuitOpen")], fallback=ALL))
    status = plan.status or {}
    assert (status["outcome"], status["reason"], status["message"]) == ("Failed", reason, "wrong shape")
    assert status["retries"] == 0


def test_what_was_handed_over_is_moved_uncharged_and_its_entry_removed_after_the_write() -> None:
    plan = decide(falling(of=named(), held=came_back("Failed", reason="InvalidOutput", **NOT_CHARGED), fallback=ALL))
    status = plan.status or {}
    assert (plan.take_back, plan.remove) == (None, True)
    assert (status["attempt"], status["retries"], status["startTime"]) == (2, 0, timestamp(NOW_MS - 9_000))
    assert status["attempts"][0]["message"].endswith("InvalidOutput; wrong shape")


def test_a_task_that_nobody_can_take_stays_and_says_so_once() -> None:
    away = [target(GPT, "CircuitOpen"), Target(LLAMA, None)]
    seen = falling(queued(reason="ModelNotReady", message="CircuitOpen: "), held=WAITS_IN_QUEUE, targets=away)
    plan = decide(seen)
    told = f"LLMModel 'qwen': {STUCK}team-a/gpt: CircuitOpen, team-a/llama: does not exist"
    assert (plan.status or {})["message"] == told
    assert (plan.explains_only, plan.move) == (True, None)
    assert "attempt" not in (plan.status or {})
    assert plan.requeue_after_seconds == LOOK_AGAIN_SECONDS
    written = LLMTask.model_validate({**seen.task.dump(), "status": merged(seen.task.status.dump(), plan.status)})  # type: ignore[union-attr]
    again = decide(replace(seen, task=written))
    assert (again.status, again.requeue_after_seconds) == (None, LOOK_AGAIN_SECONDS)


def test_of_what_is_not_shared_nothing_else_is_told() -> None:
    hidden = Target(ModelRef("secret", "gpt"), target().model, admitted=False)
    assert not_now(hidden, task()) == "does not serve namespace 'team-a'"


def test_it_is_looked_at_when_its_time_comes() -> None:
    plan = decide(falling(of=named("CircuitOpen", since_seconds=20), held=WAITS_IN_QUEUE))
    assert plan.requeue_after_seconds == pytest.approx(40)


def test_a_finished_task_is_not_looked_at_for_it() -> None:
    edited = falling(finished(), generation=2)
    assert decide(edited).requeue_after_seconds is None


@pytest.mark.parametrize(
    ("of", "fallback", "seconds"),
    [
        (named("CircuitOpen"), own(), SOON_SECONDS),
        (named("CircuitOpen", since_seconds=20), own(), 40),
        (named(), own(), None),
        (named(), TIMEOUT, 60),
        (named("RateLimited"), own(), None),
        (named("CircuitOpen"), {"policy": "None"}, None),
    ],
    ids=["down", "down lately", "serves", "may wait for long", "limited", "stays"],
)
def test_after_its_hand_out_it_is_looked_at_without_being_told(of: Any, fallback: Any, seconds: float | None) -> None:
    """Own writes are no news: without this look nobody would come back to it."""
    targets = [target()] if fallback["policy"] == "List" else []
    seen = falling(of=of, fallback=fallback)
    fresh = replace(seen, task=task(fallback=fallback), targets=targets)
    plan = decide(fresh)
    assert plan.enqueue is not None
    assert plan.requeue_after_seconds == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize(
    ("spec", "of", "want"),
    [
        ({}, None, []),
        ({}, INHERITED, ["gpt", "llama"]),
        ({"fallback": {"policy": "Inherit"}}, INHERITED, ["gpt", "llama"]),
        ({"fallback": {"policy": "None"}}, INHERITED, []),
        ({"fallback": own("llama")}, INHERITED, ["llama"]),
        ({}, {"policy": "None"}, []),
        ({}, {"policy": "List", "models": [{"name": "qwen", "namespace": "team-a"}, {"name": "gpt"}]}, ["gpt"]),
        ({"prompt": None, "embed": {"input": ["a"]}}, INHERITED, []),
        ({"prompt": None, "embed": {"input": ["a"]}, "fallback": own("gpt")}, None, ["gpt"]),
    ],
    ids=[
        "nothing",
        "the model's",
        "inherited",
        "none",
        "its own",
        "the model's none",
        "itself",
        "vectors",
        "its own vectors",
    ],
)
def test_the_chain(spec: dict[str, Any], of: Any, want: list[str]) -> None:
    chain = chain_of(task(queued(), **spec), named(fallback=of))
    assert [ref.name for ref in chain.models] == want


def test_after_five_moves_no_edited_list_moves_it_on() -> None:
    away = [f"team-a/m{number}" for number in range(4)]
    of = named(fallback=INHERITED)
    assert chain_of(task(queued(assignedModel="team-a/x", triedModels=away)), of)
    assert not chain_of(task(queued(assignedModel="team-a/x", triedModels=[*away, str(MODEL)])), of)


def test_a_shared_models_list_is_of_its_own_namespace() -> None:
    body = task_body(queued(), modelRef={"name": "qwen", "namespace": "models"})
    shared = named(fallback=INHERITED)
    shared = shared.model_copy(update={"metadata": shared.metadata.model_copy(update={"namespace": "models"})})
    chain = chain_of(LLMTask.model_validate(body), shared)
    assert chain.models == (ModelRef("models", "gpt"), ModelRef("models", "llama"))


def test_an_embedding_goes_to_who_makes_vectors() -> None:
    vectors = {"prompt": None, "embed": {"input": ["a"]}}
    chats, embeds = target(GPT), target(LLAMA, capabilities=["Embedding"])
    assert moved(falling(held=WAITS_IN_QUEUE, targets=[chats, embeds], **vectors)) == TO_LLAMA + "Unavailable"


def test_hand_over_ends_with_the_chain() -> None:
    assert hand_over(task(queued(), fallback=ALL), None) == ["ContentRefused", "InvalidOutput"]
    assert hand_over(task(queued(), fallback=own()), None) == []
    last = queued(assignedModel="team-a/llama", triedModels=["team-a/qwen", "team-a/gpt"])
    assert hand_over(task(last, fallback=ALL), None) == []


def test_a_moved_task_is_of_its_new_model_whatever_becomes_of_it() -> None:
    there = {**waiting(2, "FellBack"), "assignedModel": "team-a/gpt", "triedModels": ["team-a/qwen"]}
    body = task_body(there)
    ref = task_ref(body)
    assert ref.model == GPT
    served = target().model
    seen = replace(snapshot(task(there)), ref=ref, model=served)
    handed = dict(decide(seen).status or {})
    assert (handed["attempt"], handed["assignedModel"]) == (2, "team-a/gpt")
    assert handed["runner"]["serviceAccount"] == "team-a/headrace-gpt"
    # Suspended, without its model, or held back: it is still that model's.
    gone = dict(decide(replace(seen, task=task({**queued(2), **there, "phase": "Queued"}), model=None)).status or {})
    assert (gone["phase"], gone["assignedModel"]) == ("Waiting", "team-a/gpt")
    asleep = dict(decide(replace(seen, task=task(there, suspend=True))).status or {})
    assert (asleep["phase"], asleep["assignedModel"]) == ("Suspended", "team-a/gpt")


def test_where_it_came_from_is_told_with_the_hand_out_and_no_backoff_is_owed() -> None:
    record = {"number": 1, "outcome": "Failed", "reason": "FellBack", "message": "moved from a to b: X"}
    record["completionTime"] = timestamp(NOW_MS)
    there = {**waiting(2, "FellBack"), "assignedModel": "team-a/gpt", "triedModels": ["team-a/qwen"]}
    seen = task({**there, "retries": 3, "attempts": [record]})
    plan = decide(replace(snapshot(seen, jitter=1.0), ref=TASK._replace(model=GPT), model=target().model))
    assert plan.enqueue is not None
    assert plan.enqueue.not_before_ms is None
    assert (plan.status or {})["message"].endswith("; moved from a to b: X")


def test_a_backoff_is_no_wait_in_the_queue() -> None:
    ran = {"number": 1, "outcome": "Failed", "reason": "ProviderFailed", "startTime": timestamp(NOW_MS - 400_000)}
    ran["completionTime"] = timestamp(NOW_MS - 300_000)
    status = queued(2, attempts=[ran], acceptTime=timestamp(NOW_MS - 500_000))
    lately = Held(2, Place.QUEUED, NOW_MS - 10_000)
    assert moved(falling(status, of=named(), held=lately, fallback=TIMEOUT)) == ""
    since = Held(2, Place.QUEUED, NOW_MS - 61_000)
    assert moved(falling(status, of=named(), held=since, fallback=TIMEOUT)) == TO_GPT + "QueueTimeout"


def test_a_missing_model_has_been_missing_since_the_task_waits_for_it() -> None:
    seen = falling({**waiting(), **LONG_AGO})
    assert moved(replace(seen, model=None, named_model=None)) == TO_GPT + "Unavailable"
    soon = falling({**waiting(), **JUST_NOW})
    assert moved(replace(soon, model=None, named_model=None)) == ""
