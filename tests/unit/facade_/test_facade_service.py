"""Requests become objects, and objects answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_crds import LLMTask, Outcome, TaskPhase
from headrace_crds.task import LLMTaskStatus, Parameters
from headrace_facade.errors import FieldProblem, Invalid
from headrace_facade.objects import task_status, to_summary, to_task
from headrace_facade.schema import CreateTask, SamplingParameters, TaskStatus
from headrace_facade.submission import decimal_text, in_request_words, manifest, request_field, schema_text


def request(**members: Any) -> CreateTask:
    return CreateTask.model_validate({"model": "m", **members})


def spec(**members: Any) -> dict[str, Any]:
    found: dict[str, Any] = manifest(request(**members))["spec"]
    return found


def test_every_parameter_of_the_api_can_be_asked_for() -> None:
    assert set(SamplingParameters.model_fields) == set(Parameters.model_fields)


def test_a_request_becomes_a_task() -> None:
    made = manifest(
        request(
            messages=[{"role": "user", "content": "Hi"}],
            parameters={
                "temperature": 0.7,
                "max_tokens": 16,
                "top_p": 1,
                "stop": ["\n", "END"],
                "presence_penalty": -1.5,
            },
            json_schema='{"type":  "object"}',
            priority=-5,
            name="n",
        )
    )
    assert made == {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMTask",
        "metadata": {"name": "n"},
        "spec": {
            "modelRef": {"name": "m"},
            "messages": [{"role": "user", "content": "Hi"}],
            "parameters": {
                "temperature": "0.7",
                "maxTokens": 16,
                "topP": "1",
                "stop": ["\n", "END"],
                "presencePenalty": "-1.5",
            },
            "output": {"jsonSchema": '{"type":  "object"}'},
            "priority": -5,
        },
    }
    LLMTask.model_validate(made)


def test_what_is_absent_stays_absent() -> None:
    assert manifest(request(prompt="p"))["metadata"] == {"generateName": "task-"}
    assert spec(prompt="p") == {"modelRef": {"name": "m"}, "prompt": "p"}
    assert spec(prompt="p", parameters={})["parameters"] == {}


def test_an_empty_name_is_not_a_missing_one() -> None:
    assert manifest(request(prompt="p", name=""))["metadata"] == {"name": ""}


def test_one_stop_text_is_a_list_of_one() -> None:
    assert spec(parameters={"stop": "END"})["parameters"] == {"stop": ["END"]}


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.7, "0.7"),
        (1.0, "1"),
        (0.0, "0"),
        (-0.0, "0"),
        (1e-5, "0.00001"),
        (0.1 + 0.2, "0.3"),
        (-2.0, "-2"),
        (0.9999999, "1"),
        (1e-9, "0"),
        (-1e-9, "0"),
    ],
)
def test_numbers_become_decimal_strings(number: float, text: str) -> None:
    assert decimal_text(number) == text


@given(st.floats(min_value=-4, max_value=4))
def test_a_decimal_string_is_one_that_the_api_takes(number: float) -> None:
    text = decimal_text(number)
    assert Parameters.model_validate({"presencePenalty": text}).presence_penalty == text
    assert float(text) == pytest.approx(number, abs=1e-6)


def test_a_schema_keeps_its_order_and_its_numbers() -> None:
    assert schema_text({"b": {"z": 1.0, "a": "ü"}, "a": [1, 2]}) == '{"b":{"z":1.0,"a":"ü"},"a":[1,2]}'
    text = '{ "b": 1.0e3,\n"a": "\\u00fc" }'
    assert schema_text(text) is text


def test_a_schema_that_is_no_json_is_refused_by_name() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for schema in ({"maximum": float("inf")}, {"a": "\ud800"}, deep):
        with pytest.raises(Invalid) as refused:
            schema_text(schema)
        assert [p.field for p in refused.value.problems] == ["json_schema"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("spec.parameters.topP", "parameters.top_p"),
        ("spec.parameters.stop[9]", "parameters.stop[9]"),
        ("spec.messages[0].content", "messages[0].content"),
        ("spec.modelRef.name", "model"),
        ("spec.output.jsonSchema", "json_schema"),
        ("spec.output", "json_schema"),
        ("spec.priority", "priority"),
        ("metadata.name", "name"),
        ("spec", ""),
        ("<nil>", ""),
        ("", ""),
    ],
)
def test_the_api_servers_fields_are_told_in_the_requests_words(path: str, field: str) -> None:
    assert request_field(path) == field


def test_a_refusal_is_told_once_with_the_field() -> None:
    twice = [FieldProblem("spec.parameters.topP", "must be between 0 and 1")] * 2
    told = in_request_words(Invalid("the API server's", twice))
    assert told.problems == (FieldProblem("parameters.top_p", "must be between 0 and 1"),)
    assert told.message == "parameters.top_p: must be between 0 and 1"
    nameless = Invalid("the API server's")
    assert in_request_words(nameless) is nameless


@pytest.mark.parametrize("phase", TaskPhase)
def test_every_phase_has_a_word(phase: TaskPhase) -> None:
    assert task_status(LLMTaskStatus(phase=phase)) in TaskStatus


@pytest.mark.parametrize("outcome", Outcome)
def test_the_outcome_decides(outcome: Outcome) -> None:
    expected = {"Complete": "completed", "Failed": "failed", "Cancelled": "cancelled"}[outcome]
    assert task_status(LLMTaskStatus(outcome=outcome, phase=TaskPhase.RUNNING)) == expected


def test_the_way_of_a_task_in_their_words() -> None:
    way = [None, TaskPhase.WAITING, TaskPhase.QUEUED, TaskPhase.RUNNING]
    words = [task_status(LLMTaskStatus(phase=phase)) for phase in way]
    assert words == ["created", "created", "queued", "processing"]


ITEM: dict[str, Any] = {
    "metadata": {"name": "n.with.dots", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"modelRef": {"name": "m"}, "prompt": "p", "priority": 7},
    "status": {
        "outcome": "Complete",
        "phase": "Complete",
        "attempt": 2,
        "retries": 1,
        "reason": "Succeeded",
        "message": "",
        "startTime": "2026-01-01T00:00:01Z",
        "completionTime": "2026-01-01T00:00:02Z",
        "result": {"text": "Hi", "finishReason": "Stop", "sizeBytes": 2, "sha256": "0" * 64, "enforcement": "Grammar"},
        "usage": {"promptTokens": 3, "cachedTokens": 1, "completionTokens": 2, "costMicros": 7, "currency": "EUR"},
        "timings": {"queuedMillis": 1, "firstTokenMillis": 2, "generationMillis": 3},
    },
}


def test_a_finished_task_shows_everything() -> None:
    assert to_task(ITEM).model_dump(mode="json") == {
        "task_id": "ns.n.with.dots",
        "namespace": "ns",
        "name": "n.with.dots",
        "model": "m",
        "status": "completed",
        "reason": "Succeeded",
        "message": "",
        "priority": 7,
        "attempt": 2,
        "retries": 1,
        "created_at": "2026-01-01T00:00:00Z",
        "started_at": "2026-01-01T00:00:01Z",
        "completed_at": "2026-01-01T00:00:02Z",
        "metadata": {},
        "result": {
            "text": "Hi",
            "text_missing": None,
            "config_map": None,
            "partial": False,
            "finish_reason": "Stop",
            "size_bytes": 2,
            "sha256": "0" * 64,
            "enforcement": "Grammar",
        },
        "usage": {
            "prompt_tokens": 3,
            "cached_tokens": 1,
            "completion_tokens": 2,
            "reasoning_tokens": None,
            "cache_hit": None,
            "cost_micros": 7,
            "currency": "EUR",
        },
        "timings": {"queued_ms": 1, "first_token_ms": 2, "generation_ms": 3},
    }
    assert "result" not in to_summary(ITEM).model_dump()


def test_a_task_that_nobody_looked_at_and_one_of_a_later_version() -> None:
    task = to_task({"metadata": ITEM["metadata"], "spec": {"modelRef": {"name": "m"}, "inputFrom": {}}})
    assert (task.status, task.attempt, task.retries, task.result) == ("created", None, 0, None)
    # The CRD may give a new object a status of its own.
    assert to_task({**ITEM, "status": {"observedGeneration": 0}}).status == "created"
