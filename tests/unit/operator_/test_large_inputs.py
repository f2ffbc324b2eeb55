"""spec.inputFrom: what a ConfigMap gives, how long it is waited for, and what is too large."""

from typing import Any

import pytest
from operator_cases import (
    LOADING,
    NOW_MS,
    SERVING,
    came_back,
    held,
    merged,
    model,
    queued,
    snapshot,
    suspended,
    task,
    waiting,
)

from headrace_bus import Envelope, WorkClass
from headrace_bus.envelope import encode
from headrace_crds.inputs import LARGE_INPUT_LIMIT_BYTES, KeyRef
from headrace_crds.outcome import timestamp
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_crds.work import Work, resolve
from headrace_operator.decide import input as decide_input
from headrace_operator.decide.plans import Enqueue
from headrace_operator.decide.task import decide
from headrace_operator.decide.waiting import Waiting

REF = KeyRef(name="book", key="text")
FROM = {"prompt": None, "inputFrom": {"configMapKeyRef": {"name": "book", "key": "text"}}}
MISSING = Waiting(Reason.INPUT_NOT_FOUND, "ConfigMap 'book' does not exist")


def config_map(data: dict[str, Any] | None, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": "book", "labels": labels}, "data": data}


LABEL = {"headrace.dev/input": "true"}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, ["'book'", "does not exist", "headrace.dev/input", "'text'"]),
        (config_map({"text": "hi"}), ["'book'", "lacks the label", "headrace.dev/input", "'text'"]),
        (config_map({"text": "hi"}, **{"headrace.dev/input": "yes"}), ["lacks the label"]),
        ({"metadata": {"name": "book"}, "data": {"text": "hi"}}, ["lacks the label"]),
        (config_map({"other": "hi"}, **LABEL), ["'book'", "no text", "'text'", "headrace.dev/input"]),
        (config_map({"text": ""}, **LABEL), ["no text"]),
        (config_map(None, **LABEL), ["no text"]),
    ],
)
def test_what_is_missing_is_named(found: dict[str, Any] | None, words: list[str]) -> None:
    why = decide_input.text_of(REF, found)
    assert isinstance(why, Waiting)
    assert why.reason is Reason.INPUT_NOT_FOUND
    for word in [*words, "again within 5 minutes"]:
        assert word in why.message


def test_the_text_is_taken_as_it_is() -> None:
    assert decide_input.text_of(REF, config_map({"text": " a\n"}, **LABEL)) == " a\n"


def test_looks_are_made_ever_more_rarely() -> None:
    assert [decide_input.look_again_seconds(n) for n in (1, 2, 3, 5, 6, 1000)] == [10, 20, 40, 160, 300, 300]


@pytest.mark.parametrize(
    ("text", "schema", "words"),
    [
        ("a" * LARGE_INPUT_LIMIT_BYTES, None, ""),
        ("a" * (LARGE_INPUT_LIMIT_BYTES + 1), None, "921601 bytes in UTF-8"),
        ("ü" * (LARGE_INPUT_LIMIT_BYTES // 2), None, ""),
        ("ü" * (LARGE_INPUT_LIMIT_BYTES // 2 + 1), None, "bytes in UTF-8"),
        ("\n" * (LARGE_INPUT_LIMIT_BYTES // 2), None, ""),
        ("\n" * (LARGE_INPUT_LIMIT_BYTES * 2 // 3), None, "as JSON"),
        ("\x01" * 200_000, None, "as JSON"),
        ("a" * LARGE_INPUT_LIMIT_BYTES, '{"a":"' + "b" * 60_000 + '"}', ""),
        ("a" * LARGE_INPUT_LIMIT_BYTES, '{"a":"' + "b" * 65_000 + '"}', "as JSON"),
    ],
)
def test_what_is_too_large(text: str, schema: str | None, words: str) -> None:
    of = task(output={"jsonSchema": schema} if schema else None, **FROM)
    problem = decide_input.too_large(of, text)
    assert (words in problem) if words else problem == ""


@pytest.mark.parametrize(
    "text", ["a" * LARGE_INPUT_LIMIT_BYTES, "\n" * (LARGE_INPUT_LIMIT_BYTES // 2), 'ü"\\' * 150_000]
)
def test_what_is_not_too_large_fits_an_envelope(text: str) -> None:
    records = [{"number": n, "outcome": "Failed", "reason": "R" * 128, "message": "ü" * 512} for n in range(1, 11)]
    stop = {"stop": ["\x01" * 64] * 8}
    of = task({**queued(), "attempts": records}, output={"jsonSchema": '{"a":"b"}'}, parameters=stop, **FROM)
    assert decide_input.too_large(of, text) == ""
    work = resolve(of, SERVING, input_text=text)
    assert [each.content for each in Work.model_validate(work.dump()).messages] == [text]
    envelope = Envelope("uid", WorkClass.TASK, "team-a", "t", 1, NOW_MS, 0, 1, work.dump())
    assert encode(envelope)


def handed_out(of: LLMTask, **more: Any) -> tuple[Any, Any]:
    s = snapshot(of, **more)
    plan = decide(s)
    assert plan.enqueue is not None
    return s, decide_input.waits(plan, s, of, MISSING, 10.0)


@pytest.mark.parametrize("status", [None, waiting(2), queued(2), queued(1)])
def test_a_task_without_its_input_waits_at_an_attempt_that_nobody_had(status: dict[str, Any] | None) -> None:
    returned = came_back("Released") if status is not None and status["attempt"] == 1 else None
    _, plan = handed_out(task(status, **FROM), held=returned)
    assert plan.enqueue is None
    assert plan.status["reason"] == "InputNotFound"
    assert plan.requeue_after_seconds == 10.0
    if status is None or status["phase"] != "Waiting":
        assert plan.status["phase"] == "Waiting"
        assert plan.status["runner"] is None
    if returned is not None:
        assert plan.status["attempt"] == 2
        assert plan.status["attempts"][0]["number"] == 1
        assert plan.remove


def test_a_task_that_waits_for_the_same_input_is_not_written_again() -> None:
    before = {**waiting(2, "InputNotFound"), "message": MISSING.message}
    _, plan = handed_out(task(before, **FROM))
    assert (plan.status, plan.enqueue, plan.requeue_after_seconds) == (None, None, 10.0)
    other = {**before, "message": "ConfigMap 'book' lacks the label"}
    _, plan = handed_out(task(other, **FROM))
    assert plan.status["message"] == MISSING.message


def test_a_queued_copy_keeps_the_input_that_it_was_given() -> None:
    _, plan = handed_out(task(queued(), generation=2, **FROM), held=held("Queued"), model=model())
    assert plan.enqueue == Enqueue(1, as_it_is=True), "its place follows the edit"
    assert plan.enqueue_first
    assert not plan.remove
    assert "phase" not in plan.status


def test_too_large_is_the_end() -> None:
    s = snapshot(task(waiting(2), **FROM), model=LOADING)
    assert s.task is not None
    plan = decide_input.refused(s, s.task, "921601 bytes")
    assert plan.status is not None
    assert (plan.status["outcome"], plan.status["reason"]) == ("Failed", "InputTooLarge")


def test_a_plan_shows_no_input() -> None:
    assert "SECRET" not in repr(Enqueue(1, input_text="SECRET"))


def retried(status: dict[str, Any], ended_before_ms: int) -> dict[str, Any]:
    record = {"number": 1, "outcome": "Failed", "reason": "EngineError", "message": "decode failed"}
    return {
        **status,
        "retries": 3,
        "attempts": [{**record, "completionTime": timestamp(NOW_MS - ended_before_ms)}],
    }


def test_a_retry_that_waited_for_its_input_keeps_its_backoff() -> None:
    failed_once = task({**queued(1), "retries": 2}, **FROM)
    _, missing = handed_out(failed_once, held=came_back("Failed"))
    waits = task(merged(failed_once.dump()["status"], missing.status), **FROM)
    plan = decide(snapshot(waits, jitter=1.0))
    assert plan.status is not None
    assert plan.enqueue is not None
    assert (plan.enqueue.attempt, plan.status["phase"], plan.status["reason"]) == (2, "Queued", "RetryBackoff")
    assert plan.enqueue.not_before_ms is not None
    assert NOW_MS + 3_000 <= plan.enqueue.not_before_ms <= NOW_MS + 4_000
    assert plan.status["retries"] == 3, "nobody is charged again"


def test_a_backoff_that_passed_while_the_input_was_missing_is_not_waited_for_again() -> None:
    waits = task(retried(waiting(2, "InputNotFound"), 4_000), **FROM)
    plan = decide(snapshot(waits, jitter=1.0))
    assert plan.enqueue == Enqueue(2)
    resumed = task(retried(suspended(2), 0), **FROM)
    assert decide(snapshot(resumed, jitter=1.0)).enqueue == Enqueue(2)
