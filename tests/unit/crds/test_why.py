"""The chain of causes: which part of a task's way keeps it, and what to do."""

from typing import Any

import pytest

from headrace_crds.model import LLMModel
from headrace_crds.quota import LLMQuota
from headrace_crds.reasons import Reason
from headrace_crds.why import About, Link, Seen, TaskFacts, explain, since

SPEC = {"modelRef": {"name": "m"}, "prompt": "p"}
T0, T1, T2 = (f"2026-01-01T00:00:0{n}Z" for n in range(3))


def task(phase: str | None = None, reason: str = "", *, spec: dict[str, Any] | None = None, **status: Any) -> TaskFacts:
    told = {"phase": phase, "reason": reason, "message": "told", "attempt": 1, **status} if phase else {}
    metadata = {"namespace": "ns", "name": "t", "uid": "u", "creationTimestamp": T0}
    return TaskFacts.of({"metadata": metadata, "spec": SPEC | (spec or {}), "status": told})


def condition(type_: str, status: str, reason: str, at: str = T1) -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason, "message": f"{reason} told", "lastTransitionTime": at}


def model(*conditions: dict[str, Any], replicas: int = 1) -> Seen[LLMModel]:
    claim = {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}
    body = {
        "metadata": {"name": "m", "namespace": "ns"},
        "spec": {"local": {"source": claim}, "replicas": replicas},
        "status": {"conditions": conditions, "readyReplicas": 1},
    }
    return Seen(LLMModel.model_validate(body))


SERVING = model(
    condition("Ready", "True", "Serving"),
    condition("Available", "True", "Serving"),
    condition("Placed", "True", "Scheduled"),
)
NO_MODEL: Seen[LLMModel] = Seen()
NO_QUOTA: Seen[LLMQuota] = Seen()


def quota(**spec: Any) -> Seen[LLMQuota]:
    return Seen(LLMQuota.model_validate({"spec": spec, "status": {"queued": 3, "running": 2}}))


def holding(links: list[Link]) -> list[tuple[str, str]]:
    return [(link.about.value, link.reason) for link in links if link.holds]


@pytest.mark.parametrize(
    ("found", "seen", "granted", "expected"),
    [
        (task(), NO_MODEL, NO_QUOTA, [("task", "NotAccepted"), ("model", "ModelNotFound")]),
        (
            task("Waiting", "ModelNotFound"),
            NO_MODEL,
            NO_QUOTA,
            [("task", "ModelNotFound"), ("model", "ModelNotFound")],
        ),
        (
            task("Waiting", "QuotaExceeded"),
            SERVING,
            quota(maxQueuedTasks=5),
            [("task", "QuotaExceeded"), ("quota", "QuotaExceeded")],
        ),
        (
            # By the chart's default.
            task("Waiting", "QuotaExceeded"),
            SERVING,
            NO_QUOTA,
            [("task", "QuotaExceeded"), ("quota", "QuotaExceeded")],
        ),
        *(
            (task("Waiting", reason), SERVING, granted, [("task", reason), ("quota", reason)])
            for reason in ("BudgetExhausted", "RemoteNotAllowed")
            for granted in (quota(budgets=[{"window": "Daily", "tokens": 1}]), NO_QUOTA)
        ),
        (task("Waiting", "QueueFull"), SERVING, NO_QUOTA, [("task", "QueueFull"), ("window", "QueueFull")]),
        (task("Queued", "Queued"), SERVING, quota(), [("task", "Queued"), ("window", "Queued")]),
        (
            task("Queued", "CircuitOpen"),
            model(condition("Ready", "True", "ConfigurationValid"), condition("Available", "False", "CircuitOpen")),
            NO_QUOTA,
            [("task", "CircuitOpen"), ("model", "CircuitOpen")],
        ),
        (task("Queued", "RetryBackoff"), SERVING, quota(), [("task", "RetryBackoff"), ("window", "RetryBackoff")]),
        (
            task("Queued", "ModelScaledToZero"),
            model(condition("Ready", "True", "ScaledToZero"), replicas=0),
            NO_QUOTA,
            [("task", "ModelScaledToZero"), ("model", "ModelScaledToZero")],
        ),
        (
            task("Queued", "ModelNotReady"),
            model(condition("Ready", "False", "ImagePullFailed"), condition("Available", "False", "ImagePullFailed")),
            NO_QUOTA,
            [("task", "ModelNotReady"), ("model", "ImagePullFailed")],
        ),
        (
            task("Queued", "WaitingForGPU"),
            model(
                condition("Ready", "False", "WaitingForGPU"),
                condition("Available", "False", "WaitingForGPU"),
                condition("Placed", "False", "WaitingForGPU"),
            ),
            NO_QUOTA,
            [("task", "WaitingForGPU"), ("model", "WaitingForGPU"), ("placement", "WaitingForGPU")],
        ),
        (
            task("Queued", "ModelNotReady"),
            # It has served, and stays Ready.
            model(condition("Ready", "True", "WeightsVerified"), condition("Available", "False", "RunnerSilent")),
            NO_QUOTA,
            [("task", "ModelNotReady"), ("model", "RunnerSilent")],
        ),
        (task("Queued", "ModelLoading"), model(), NO_QUOTA, [("task", "ModelLoading"), ("model", "ModelLoading")]),
        (
            task("Queued", "Queued"),
            # One of two pods finds no node: the other one serves.
            model(condition("Available", "True", "Serving"), condition("Placed", "False", "WaitingForGPU"), replicas=2),
            NO_QUOTA,
            [("task", "Queued"), ("window", "Queued")],
        ),
    ],
)
def test_what_keeps_a_task(
    found: TaskFacts, seen: Seen[LLMModel], granted: Seen[LLMQuota], expected: list[tuple[str, str]]
) -> None:
    links = explain(found, seen, granted)
    assert holding(links) == expected
    assert all(link.reason and link.message for link in links)
    assert all(link.remedy for link in links if link.holds), links
    assert [link.about for link in links] == [each for each in About if each in {link.about for link in links}]


@pytest.mark.parametrize(
    ("found", "reason", "says"),
    [
        (task("Running", "Running", runner={"pod": "p-1"}), "Running", "attempt 1 runs on p-1"),
        (task("Suspended", "Suspended"), "Suspended", "told"),
        (task("Complete", "Succeeded", outcome="Complete"), "Succeeded", "told"),
        (task("Failed", "InvalidOutput", outcome="Failed"), "InvalidOutput", "told"),
    ],
)
def test_what_needs_no_more_than_the_task(found: TaskFacts, reason: str, says: str) -> None:
    (link,) = explain(found, NO_MODEL, NO_QUOTA)
    assert (link.reason, link.message) == (reason, says)


def test_what_to_do_names_the_task_and_the_model() -> None:
    (suspended,) = explain(task("Suspended", "Suspended"), NO_MODEL, NO_QUOTA)
    assert "headrace resume t -n ns" in suspended.remedy
    (failed,) = explain(task("Failed", "Poison", outcome="Failed"), NO_MODEL, NO_QUOTA)
    assert failed.remedy == "headrace dlq show t -n ns"
    shared = task("Queued", "ModelScaledToZero", spec={"modelRef": {"namespace": "models", "name": "big"}})
    link = explain(shared, model(replicas=0), NO_QUOTA)[3]
    assert (link.name, link.remedy) == ("models/big", "kubectl scale llmmodel big -n models --replicas=1")


def test_what_may_not_be_read_is_said_and_ends_nothing() -> None:
    found = task("Queued", "ModelNotReady")
    links = explain(found, Seen(unread="no right to get it"), Seen(unread="no right to get it"))
    assert [(link.about.value, link.reason, link.holds) for link in links] == [
        ("task", "ModelNotReady", True),
        ("quota", "NotReadable", None),
        ("window", "Queued", None),
        ("model", "NotReadable", None),
    ]
    assert links[1].message == links[3].message == "no right to get it"
    exceeded = explain(task("Waiting", "QuotaExceeded"), SERVING, Seen(unread="no right to get it"))
    assert ("quota", Reason.QUOTA_EXCEEDED.value) in holding(exceeded)


def test_a_quota_shows_what_is_used_of_what() -> None:
    (link,) = [
        each
        for each in explain(task("Queued", "Queued"), SERVING, quota(maxQueuedTasks=9, maxRunningTasks=2))
        if each.about is About.QUOTA
    ]
    assert (link.reason, link.message, link.holds) == ("WithinQuota", "handed out 5 of 9, running 2 of 2", False)


def test_a_cancelled_task_is_on_its_way_out() -> None:
    first = explain(task("Queued", "Queued", spec={"cancel": True}), SERVING, NO_QUOTA)[0]
    assert (first.message, first.holds) == ("cancellation is under way", False)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (task(), T0),
        (task("Queued", "Queued", acceptTime=T1), T1),
        (task("Suspended", "Suspended", acceptTime=T1, suspendTime=T2), T2),
        (task("Running", "Running", startTime=T1), T1),
        (task("Running", "Running", startTime=T1, conditions=[condition("Running", "True", "Running", T2)]), T2),
        (task("Failed", "Poison", outcome="Failed", completionTime=T2), T2),
    ],
)
def test_since_when(found: TaskFacts, expected: str) -> None:
    assert since(found) == expected


def test_a_later_versions_spec_is_read_as_far_as_it_goes() -> None:
    body = {"metadata": {"name": "t", "namespace": "ns"}, "spec": {"modelRef": {"name": "m"}, "sound": {}}}
    assert TaskFacts.of(body).model == "ns/m"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "ConfigMap 'book' does not exist: create it with the label …",
            "kubectl create configmap book -n ns --from-file=ch1=",
        ),
        ("ConfigMap 'book' lacks the label headrace.dev/input", "kubectl label --overwrite configmap book -n ns"),
        (
            "ConfigMap 'book' with the label … holds no text under the key 'ch1'",
            "kubectl edit configmap book -n ns: put the text under data.ch1",
        ),
    ],
)
def test_a_missing_input_is_remedied_by_its_cause(message: str, told: str) -> None:
    given = {"inputFrom": {"configMapKeyRef": {"name": "book", "key": "ch1"}}}
    link = explain(task("Waiting", "InputNotFound", spec=given, message=message), SERVING, NO_QUOTA)[0]
    assert link.remedy.startswith(told)
    assert "within 5 minutes" in link.remedy
    assert 'kubectl patch llmtask t -n ns --type merge -p \'{"spec": {"priority": 1}}\'' in link.remedy


def test_a_missing_model_of_another_namespace_has_to_be_shared() -> None:
    spec = {"modelRef": {"name": "m", "namespace": "models"}}
    links = [link for link in explain(task("Waiting", "ModelNotFound", spec=spec), NO_MODEL, NO_QUOTA) if link.holds]
    assert len(links) == 2
    for link in links:
        assert "spec.sharing that admits namespace ns;" in link.remedy
        assert "name models" in link.remedy
