"""What stands in a model's keys may have been written by whoever reads that namespace's Secrets."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import MODEL, NO_MODEL, NOW_MS, SERVING, TASK, queued, snapshot, task, task_body

from headrace_bus import Entry, EntryState, Failure, Returned, ReturnReason
from headrace_crds.task import LLMTask
from headrace_operator.context import Context
from headrace_operator.decide import untrusted
from headrace_operator.decide.task import decide
from headrace_operator.observe_task import held_of, speaks_of, worth_asking
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.store import Store
from headrace_operator.views import report

NUMBERS = st.one_of(st.integers(), st.sampled_from([0, -1, 10**18, 2**63, -(2**63)]))


@pytest.mark.parametrize(
    ("changed", "is_ours"),
    [
        pytest.param({}, True, id="the model's own task"),
        pytest.param({"model": ModelRef("team-a", "llama")}, False, id="a task of another model of the namespace"),
        pytest.param({"model": ModelRef("team-b", "qwen")}, False, id="a task of another namespace"),
        pytest.param({"name": "other"}, False, id="another name"),
        pytest.param({"uid": "uid-2"}, False, id="another incarnation"),
    ],
)
def test_an_entry_speaks_for_its_own_models_tasks_alone(changed: dict[str, Any], is_ours: bool) -> None:
    assert speaks_of(TASK._replace(**changed), task_body()) is is_ours


@pytest.mark.parametrize(
    "ref",
    [
        TaskRef("team-b", "summary", "uid-1", MODEL),
        TaskRef("team-a", "../../../nodes/n", "uid-1", MODEL),
        TaskRef("team-a", "", "uid-1", MODEL),
        TaskRef("team-a", "Summary", "uid-1", MODEL),
    ],
    ids=["another namespace", "a path", "nothing", "no name that the API server takes"],
)
async def test_what_cannot_be_a_task_is_not_asked_for(ref: TaskRef) -> None:
    settings = SimpleNamespace(sharing_model_namespaces=(), serves=lambda _: True)
    ctx = cast("Context", SimpleNamespace(store=Store(), settings=settings, namespaces={}))
    assert not await worth_asking(ref, ctx)
    assert await worth_asking(TASK, ctx)


def entry(how: ReturnReason, failure: Failure | None, worker: str = "pod-a", **times: int) -> Entry:
    claimed, returned = times.get("claimed_ms", NOW_MS - 9_000), times.get("returned_ms", NOW_MS - 100)
    back = Returned(TASK.uid, 1, TASK.namespace, TASK.name, how, worker, claimed, returned, failure)
    return Entry(TASK.uid, 1, EntryState.RETURNED, TASK.namespace, TASK.name, returned, None, back)


@given(
    how=st.sampled_from(list(ReturnReason)),
    reason=st.text(),
    message=st.text(max_size=3_000),
    retryable=st.booleans(),
    worker=st.text(),
    claimed_ms=NUMBERS,
    returned_ms=NUMBERS,
    model=st.sampled_from([SERVING, NO_MODEL]),
    backoff_limit=st.integers(0, 1),
)
def test_nothing_that_a_runner_tells_keeps_a_decision_from_being_made(
    how: ReturnReason,
    reason: str,
    message: str,
    retryable: bool,
    worker: str,
    claimed_ms: int,
    returned_ms: int,
    model: Any,
    backoff_limit: int,
) -> None:
    told = entry(how, Failure(reason, message, retryable), worker, claimed_ms=claimed_ms, returned_ms=returned_ms)
    plan = decide(snapshot(task(queued(), backoffLimit=backoff_limit), model=model, held=held_of(told, NOW_MS)))
    assert plan.status is not None
    status = {**queued(), **{key: value for key, value in plan.status.items() if value is not None}}
    LLMTask.model_validate(task_body(status))
    record = plan.status["attempts"][-1]
    assert record["completionTime"] <= "2027-01-15T08:00:00Z"
    assert record["message"].isprintable()


@pytest.mark.parametrize("text", ["engine lost!", "", "engineLost", "E" * 65, "Engine\n", "ÄngineLost"])
def test_a_reason_that_is_no_word_is_a_runners_error(text: str) -> None:
    assert untrusted.reason(text) == "RunnerError"
    assert untrusted.reason("EngineLost") == "EngineLost"


def test_a_message_is_one_bounded_line() -> None:
    assert untrusted.message("one\ntwo\x1b[31m\u202ethree\ud800") == "one two [31m three"
    assert len(untrusted.message("a" * 5_000)) == untrusted.MESSAGE_LIMIT


def test_a_worker_is_a_name_or_nothing() -> None:
    assert untrusted.dns_name("headrace-qwen-5d4-x2") == "headrace-qwen-5d4-x2"
    assert [untrusted.dns_name(text) for text in ("", "Pod", "a/b", "a" * 254, "a\n")] == [""] * 5


def test_times_lie_in_the_past() -> None:
    assert [untrusted.milliseconds(value, NOW_MS) for value in (10**18, -5, 7)] == [NOW_MS, 0, 7]


@pytest.mark.parametrize("number", [True, "7", None, float("inf"), float("nan"), [1]])
def test_what_is_no_number_is_said(number: object) -> None:
    with pytest.raises(ValueError, match="number"):
        untrusted.number(number)


@pytest.mark.parametrize(
    "document",
    [
        {"state": "Loading", "sinceMs": float("inf")},
        {"state": "Loading", "restarts": float("nan")},
        {"state": "Loading", "generation": [1]},
    ],
    ids=["endless time", "no number", "a list"],
)
def test_a_report_with_impossible_numbers_counts_as_none(document: dict[str, Any]) -> None:
    assert report(document) is None


def test_a_reports_words_and_numbers_fit_the_model() -> None:
    engine = {"architecture": "lla\nma", "contextTokens": 2**70, "sizeBytes": 10**30, "notes": ["a\x00b", "c"]}
    found = report({"state": "Failed", "reason": "no word!", "message": "a\x00b", "sinceMs": 10**18, "engine": engine})
    assert found is not None
    assert (found.reason, found.message, found.since_ms) == ("RunnerError", "a b", untrusted.MILLISECONDS_MAX)
    assert found.engine is not None
    assert found.engine.architecture == "lla ma"
    assert found.engine.notes == ["a b", "c"]
    assert found.engine.context_tokens == found.engine.size_bytes == untrusted.NUMBER_MAX
