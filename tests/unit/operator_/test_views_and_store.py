"""What is kept of bodies and reports, and what is not."""

import json
from typing import Any

import pytest
from operator_cases import MODEL, TASK, finished, model, queued, suspended, task_body, waiting

from headrace_operator.errors import ObjectInvalid
from headrace_operator.metrics import Metrics
from headrace_operator.store import Store
from headrace_operator.views import (
    TaskView,
    deployment_view,
    milliseconds,
    parse_task,
    pod_view,
    report,
    task_ref,
    task_view,
)

POD: dict[str, Any] = {
    "metadata": {
        "name": "headrace-qwen-abc",
        "namespace": "team-a",
        "creationTimestamp": "2027-01-15T08:00:00Z",
        "annotations": {"headrace.dev/spec-generation": "3"},
        "labels": {"headrace.dev/model": "qwen"},
    },
    "status": {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": "0/1 nodes are available",
                "lastTransitionTime": "2027-01-15T08:00:01Z",
            }
        ],
        "containerStatuses": [
            {"name": "runner", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "m"}}},
            {"name": "engine", "restartCount": 0, "state": {"running": {"startedAt": "2027-01-15T08:00:02Z"}}},
        ],
    },
}


def test_no_prompt_schema_or_result_is_remembered() -> None:
    body = task_body(
        {**finished(), "message": "RESULT", "result": {"text": "RESULT"}},
        prompt="PROMPT",
        output={"jsonSchema": '{"SCHEMA": 1}'},
    )
    kept = repr(task_view(body))
    assert not any(word in kept for word in ("PROMPT", "SCHEMA", "RESULT"))


def test_an_object_that_does_not_read_names_places_not_values() -> None:
    with pytest.raises(ObjectInvalid) as caught:
        parse_task(task_body(messages=[{"role": "SECRET", "content": "SECRET"}], prompt=None))
    assert "spec.messages.0.role" in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_pod_is_what_scheduler_and_kubelet_say() -> None:
    view = pod_view(POD)
    assert (view.scheduled, view.scheduling_message, view.spec_generation) == (False, "0/1 nodes are available", 3)
    assert [(c.name, c.waiting_reason, c.started_ms is not None) for c in view.containers] == [
        ("runner", "CrashLoopBackOff", False),
        ("engine", "", True),
    ]
    assert pod_view({"metadata": POD["metadata"]}).scheduled is None


def test_a_deployment_remembers_the_spec_it_was_made_from() -> None:
    view = deployment_view(
        {
            "metadata": {
                "name": "headrace-qwen",
                "namespace": "team-a",
                "generation": 4,
                "annotations": {"headrace.dev/spec-hash": "abc", "headrace.dev/spec-generation": "nonsense"},
                "ownerReferences": [{"uid": "other"}, {"uid": "model-uid", "controller": True}],
            },
            "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]},
        }
    )
    assert (view.owner_uid, view.spec_hash, view.spec_generation) == ("model-uid", "abc", 0)
    assert view.replica_failure == "exceeded quota"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"state": "Serving", "engine": "nonsense"},
        {"state": "Serving", "sinceMs": "soon"},
        {"state": "x", "restarts": ["x"]},
    ],
    ids=["empty", "engine is no object", "time is no number", "restarts is a list"],
)
def test_a_report_that_is_none_counts_as_none(document: dict[str, Any]) -> None:
    assert report(document) is None


def test_a_report_reads() -> None:
    found = report({"state": "Failed", "reason": "ChecksumMismatch", "message": "m", "sinceMs": 5, "generation": 2})
    assert found is not None
    assert (found.state, found.reason, found.generation, found.since_ms) == ("Failed", "ChecksumMismatch", 2, 5)


@pytest.mark.parametrize(
    ("text", "want"), [(None, None), ("", None), ("nonsense", None), ("1970-01-01T00:00:01Z", 1_000)]
)
def test_timestamps(text: str | None, want: int | None) -> None:
    assert milliseconds(text) == want


def view_of(status: dict[str, Any] | None = None, version: str = "1") -> TaskView:
    body = task_body(status)
    body["metadata"]["resourceVersion"] = version
    return task_view(body)


def test_the_same_version_again_is_no_news() -> None:
    store = Store()
    assert store.put_task(view_of())
    assert not store.put_task(view_of())
    assert store.put_task(view_of(version="2"))


def test_tasks_are_found_by_model_until_they_are_finished() -> None:
    store = Store()
    store.put_task(view_of(queued()))
    assert [view.ref for view in store.open_tasks_of(MODEL)] == [TASK]
    store.put_task(view_of(finished(), "2"))
    assert store.open_tasks_of(MODEL) == []
    assert store.drop_task(TASK)
    assert not store.drop_task(TASK)
    assert store.task(TASK.uid) is None


def test_a_model_made_again_is_not_dropped_for_its_predecessor() -> None:
    store = Store()
    store.put_model(MODEL, model())
    assert not store.drop_model(MODEL, "another-uid")
    assert store.models() == [MODEL]
    assert store.drop_model(MODEL, "model-uid")
    assert store.models() == []


def test_pods_come_and_go() -> None:
    store, view = Store(), pod_view(POD)
    assert store.put_pod(MODEL, view)
    assert not store.put_pod(MODEL, view)
    assert store.pods(MODEL) == [view]
    assert store.drop_pod(MODEL, view.name)
    assert not store.drop_pod(MODEL, view.name)


def test_a_key_knows_what_it_needs_when_the_object_is_gone() -> None:
    assert task_ref(task_body()) == TASK


def test_waiting_tasks_are_counted_by_reason() -> None:
    store, metrics = Store(), Metrics()
    metrics.watch_store(store)
    for n, status in enumerate((queued(), queued(reason="ModelLoading"), waiting(), suspended(), None)):
        body = task_body(status)
        body["metadata"]["uid"] = f"uid-{n}"
        store.put_task(task_view(body))
    for n, status in enumerate((queued(phase="Running", reason="Running"), finished())):
        body = task_body(status)
        body["metadata"]["uid"] = f"more-{n}"
        store.put_task(task_view(body))
    told = [line for line in metrics.exposition().decode().splitlines() if line.startswith("headrace_tasks_waiting{")]
    assert told == [
        f'headrace_tasks_waiting{{reason="{reason}"}} 1.0'
        for reason in ("ModelLoading", "ModelNotFound", "New", "Queued", "Suspended")
    ]


@pytest.mark.parametrize("digits", [19, 4_301, 100_000])
def test_a_number_that_is_too_long_is_none(digits: int) -> None:
    pod = {**POD, "metadata": {**POD["metadata"], "annotations": {"headrace.dev/spec-generation": "9" * digits}}}
    assert pod_view(pod).spec_generation == 0
    pod["metadata"]["annotations"]["headrace.dev/spec-generation"] = "9" * 18
    assert pod_view(pod).spec_generation == 10**18 - 1


@pytest.mark.parametrize(
    "spec",
    [
        {"prompt": "\x01" * 10_000},
        {"prompt": 'a"\n\\' * 2_500},
        {"prompt": "🌊" * 10_000},
        {"prompt": "x", "output": {"jsonSchema": '{"type": "object"}' + "\t" * 5_000}},
        {"prompt": None, "messages": [{"role": "User", "content": "x"}] * 900},
        {"prompt": None, "inputFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}},
    ],
)
def test_a_task_counts_with_what_redis_stores_of_it(spec: dict[str, Any]) -> None:
    body = task_body(**spec)
    work = {
        "messages": spec.get("messages") or [{"role": "User", "content": spec["prompt"] or "\x01" * 170_000}],
        "jsonSchema": (spec.get("output") or {}).get("jsonSchema"),
    }
    stored_bytes = len(json.dumps(work, ensure_ascii=False).encode())
    assert stored_bytes <= task_view(body).input_bytes
    if "inputFrom" not in spec:
        assert task_view(body).input_bytes <= stored_bytes * 2 + 2_048
    assert task_view({**body, "status": finished()}).input_bytes == 0
