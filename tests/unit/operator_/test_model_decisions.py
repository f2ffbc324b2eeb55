"""What a model's conditions say: one row per situation of scheduler, kubelet and engine."""

from typing import Any

import pytest
from model_rows import READY, ROWS, SERVES, VERIFIED, unplaced
from operator_cases import (
    ENGINE,
    MODEL,
    SCHEDULER_SAYS_GPU,
    conditions_of,
    deployment,
    gpu_model,
    merged,
    model,
    model_snapshot,
    pod,
    report,
)

from headrace_crds.model import LLMModel
from headrace_operator.decide.model import (
    BUSY_LOOK_SECONDS,
    PATIENT_LOOK_SECONDS,
    SETTLED_LOOK_SECONDS,
    decide,
)
from headrace_operator.decide.snapshots import LiveChild, Ownership


def after(of: LLMModel, plan: Any) -> dict[str, Any]:
    return dict(merged(of.status.dump() if of.status else {}, plan.status or {}))


@pytest.mark.parametrize(("of", "seen", "want", "phase"), ROWS)
def test_model(of: LLMModel, seen: dict[str, Any], want: dict[str, Any], phase: str) -> None:
    status = after(of, decide(model_snapshot(of, **seen)))
    found = conditions_of(status)
    assert {type_: found.get(type_) for type_ in want} == want
    assert status["phase"] == phase
    assert all(c["observedGeneration"] == of.metadata.generation for c in status["conditions"])


@pytest.mark.parametrize(("of", "seen", "want", "phase"), ROWS)
def test_a_second_look_at_the_same_writes_nothing(of: LLMModel, seen: dict[str, Any], want: Any, phase: str) -> None:
    status = after(of, decide(model_snapshot(of, **seen)))
    told = of.model_copy(update={"status": type(of).model_validate({"spec": of.spec, "status": status}).status})
    again = decide(model_snapshot(told, **seen))
    assert again.status is None
    assert again.announcement is None


def test_how_long_it_waits_for_what() -> None:
    of = gpu_model(count=2)
    status = decide(model_snapshot(of, pods=[unplaced(SCHEDULER_SAYS_GPU)])).status
    assert status is not None
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Placed")
    remedy = "free them or add a node with as many"
    assert message.startswith(
        f"waiting since 2027-01-15T07:59:10Z for 2 nvidia.com/gpu, {remedy}: 0/1 nodes are available"
    )
    assert status["load"] == {"stage": "Scheduling", "since": "2027-01-15T07:59:10Z"}


def test_what_the_engine_found_is_recorded() -> None:
    status = decide(model_snapshot(model(), **SERVES)).status
    assert status is not None
    assert status["engine"] == ENGINE
    assert (status["replicas"], status["readyReplicas"]) == (1, 1)
    assert "headrace.dev/model=qwen" in status["selector"]


def test_another_spec_forgets_what_the_engine_found() -> None:
    of = model(READY, generation=2, **VERIFIED)
    status = after(of, decide(model_snapshot(of, deployment=deployment(model(), spec_hash="of-another-spec"))))
    assert "engine" not in status


@pytest.mark.parametrize(
    ("seen", "seconds"),
    [
        pytest.param({}, BUSY_LOOK_SECONDS, id="nothing there yet"),
        pytest.param({"pods": [pod()], "reports": {"pod-a": report("Loading")}}, BUSY_LOOK_SECONDS, id="loading"),
        pytest.param({"pods": [unplaced(SCHEDULER_SAYS_GPU)]}, PATIENT_LOOK_SECONDS, id="waiting for a GPU"),
        pytest.param(
            {"pods": [pod()], "reports": {"pod-a": report("Failed", "ChecksumMismatch")}},
            PATIENT_LOOK_SECONDS,
            id="stalled: nothing loops hot",
        ),
        pytest.param(SERVES, SETTLED_LOOK_SECONDS, id="serving"),
    ],
)
def test_how_soon_it_is_looked_at_again(seen: dict[str, Any], seconds: float) -> None:
    assert decide(model_snapshot(gpu_model(), **seen)).requeue_after_seconds == seconds


def live(ownership: Ownership) -> list[LiveChild]:
    return [LiveChild(kind, "headrace-qwen", ownership, "uid-x") for kind in ("ServiceAccount", "Deployment")]


def test_a_foreign_object_is_named_and_nothing_is_touched() -> None:
    mixed = [*live(Ownership.OURS), LiveChild("Secret", "headrace-qwen", Ownership.FOREIGN)]
    plan = decide(model_snapshot(model(), live=mixed))
    assert not plan.children
    assert not plan.serve
    assert conditions_of(plan.status)["Ready"] == ("False", "NameConflict")
    assert conditions_of(plan.status)["Stalled"] == ("True", "NameConflict")
    assert plan.announcement is not None
    assert "Secret 'headrace-qwen'" in plan.announcement.note


def test_objects_of_the_deleted_model_are_waited_for() -> None:
    plan = decide(model_snapshot(model(), live=live(Ownership.PREDECESSOR)))
    assert not plan.children
    assert not plan.serve
    assert conditions_of(plan.status)["Ready"] == ("False", "Starting")
    assert plan.requeue_after_seconds == BUSY_LOOK_SECONDS


def test_only_our_own_objects_are_changed_by_force() -> None:
    mixed = [
        LiveChild("Secret", "headrace-qwen", Ownership.ABSENT),
        LiveChild("Deployment", "h", Ownership.OURS, "uid-d"),
    ]
    plan = decide(model_snapshot(model(), live=mixed))
    assert [manifest["kind"] for manifest in plan.children][-1] == "Deployment"
    assert plan.uids == {"Deployment": "uid-d"}


def test_children_are_left_alone_when_nothing_is_due() -> None:
    assert not decide(model_snapshot(model())).children


def test_a_model_that_is_gone_is_retired() -> None:
    plan = decide(model_snapshot(None))
    assert plan.retire
    assert plan.status is None


@pytest.mark.parametrize(("served", "retired"), [("", False), ("model-uid", False), ("another-uid", True)])
def test_a_model_made_again_begins_with_an_empty_queue(served: str, retired: bool) -> None:
    assert decide(model_snapshot(model(), served_uid=served)).retire is retired


def test_ready_is_announced_once() -> None:
    first = decide(model_snapshot(model(), **SERVES))
    assert first.announcement is not None
    assert first.announcement.reason == "Ready"
    assert decide(model_snapshot(model(READY), **SERVES)).announcement is None


def test_the_ref_reads_as_namespace_and_name() -> None:
    assert str(MODEL) == "team-a/qwen"


@pytest.mark.parametrize(
    ("served_uid", "queue_older", "retired"),
    [
        pytest.param("", False, False, id="a model that nobody knew"),
        pytest.param("model-uid", False, False, id="the one that is served"),
        pytest.param("model-uid", True, False, id="its own work was there before"),
        pytest.param("another-uid", False, True, id="made again under our eyes"),
        pytest.param("", True, True, id="made again while no operator ran"),
    ],
)
def test_what_a_predecessor_left_is_retired(served_uid: str, queue_older: bool, retired: bool) -> None:
    assert decide(model_snapshot(model(), served_uid=served_uid, queue_older=queue_older)).retire is retired
