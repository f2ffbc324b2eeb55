"""The terminal status has one shape, whoever writes it."""

import hashlib

import pytest

from headrace_crds.base import ConditionStatus
from headrace_crds.cache import ResponseCache
from headrace_crds.model import LLMModel
from headrace_crds.outcome import terminal_status, text_result, timestamp, with_condition
from headrace_crds.task import AttemptRecord, LLMTask, Outcome, TaskPhase, derive_phase
from headrace_crds.work import resolve


def conditions_of(outcome: Outcome) -> dict[str, str]:
    status = terminal_status(outcome, reason="Because", generation=3, completed_ms=1_767_225_600_000, attempts=[])
    assert status["phase"] == status["outcome"] == outcome.value
    assert status["completionTime"] == "2026-01-01T00:00:00Z"
    assert {c["observedGeneration"] for c in status["conditions"]} == {3}
    return {c["type"]: c["status"] for c in status["conditions"]}


@pytest.mark.parametrize(
    ("outcome", "want"),
    [
        (Outcome.COMPLETE, {"Finished": "True", "Ready": "True"}),
        (Outcome.FAILED, {"Finished": "True", "Ready": "False", "Stalled": "True"}),
        (Outcome.CANCELLED, {"Finished": "True", "Ready": "False"}),
    ],
)
def test_conditions_of_an_outcome(outcome: Outcome, want: dict[str, str]) -> None:
    assert conditions_of(outcome) == want


def test_only_the_last_ten_attempts_are_kept() -> None:
    records = [AttemptRecord(number=n, outcome="Lost", reason="LeaseExpired") for n in range(1, 15)]
    status = terminal_status(Outcome.FAILED, generation=1, completed_ms=0, attempts=records)
    assert [a["number"] for a in status["attempts"]] == list(range(5, 15))


def test_the_digest_is_over_the_text_in_utf8() -> None:
    result = text_result("ü\n", "Stop", None)
    assert (result.size_bytes, result.sha256) == (3, hashlib.sha256("ü\n".encode()).hexdigest())


def test_a_transition_time_moves_only_with_the_status() -> None:
    first = with_condition([], "Ready", ConditionStatus.FALSE, "A", "", generation=1, now=timestamp(0))
    same = with_condition(first, "Ready", ConditionStatus.FALSE, "B", "", generation=2, now=timestamp(9000))
    moved = with_condition(same, "Ready", ConditionStatus.TRUE, "C", "", generation=2, now=timestamp(9000))
    assert same[0].last_transition_time == timestamp(0)
    assert same[0].reason == "B"
    assert moved[0].last_transition_time == timestamp(9000)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("queued", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_an_outcome_decides_the_phase(outcome: Outcome, queued: bool, running: bool) -> None:
    assert derive_phase(outcome=outcome, queued=queued, running=running) == TaskPhase(outcome.value)


def model(**defaults: object) -> LLMModel:
    claim = {"claimName": "c", "path": "m.gguf"}
    return LLMModel.model_validate(
        {
            "metadata": {"name": "m", "namespace": "n"},
            "spec": {"local": {"source": {"persistentVolumeClaim": claim}}, "defaults": defaults},
        }
    )


def task(**spec: object) -> LLMTask:
    return LLMTask.model_validate({"metadata": {"generation": 4}, "spec": {"modelRef": {"name": "m"}, **spec}})


def test_work_takes_the_models_defaults_only_where_the_task_is_silent() -> None:
    work = resolve(task(prompt="p", parameters={"temperature": "1"}), model(temperature="0", maxTokens=9, stop=["x"]))
    assert work.model == "n/m"
    assert work.generation == 4
    assert [(m.role.value, m.content) for m in work.messages] == [("user", "p")]
    assert (work.parameters.temperature, work.parameters.max_tokens, work.parameters.stop) == ("1", 9, ["x"])


def test_max_tokens_is_always_set() -> None:
    assert resolve(task(prompt="p"), model()).parameters.max_tokens == 512


def test_a_cache_is_the_models_to_give_and_the_tasks_to_refuse() -> None:
    without = model()
    cached = without.model_copy(
        update={
            "spec": without.spec.model_copy(update={"cache": ResponseCache(ttl_seconds=5)}),
            "metadata": without.metadata.model_copy(update={"uid": "u", "generation": 3}),
        }
    )
    assert resolve(task(prompt="p"), without).cache is None
    assert resolve(task(prompt="p", cache="None"), cached).cache is None
    found = resolve(task(prompt="p"), cached).cache
    assert found is not None
    assert (found.incarnation, found.ttl_seconds, found.max_entries) == ("u/3", 5, 1000)
