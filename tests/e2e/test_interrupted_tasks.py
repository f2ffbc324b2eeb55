"""Cancel and suspend reach a generation in the middle, in a pod on a node."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import Cluster, eventually, running, task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def patch(headrace: Cluster, namespace: str, **spec: Any) -> None:
    headrace.kubectl("patch", "llmtask", "long", "-n", namespace, "--type=merge", "-p", json.dumps({"spec": spec}))


def test_a_running_task_is_cancelled_and_keeps_its_text(headrace: Cluster, namespace: str, weights: str) -> None:
    running(headrace, namespace, weights)
    patch(headrace, namespace, cancel=True)
    headrace.wait("llmtask/long", "condition=Finished", namespace, timeout=30)
    status = headrace.get("llmtask", "long", namespace)["status"]
    assert (status["outcome"], status["reason"], status["attempt"]) == ("Cancelled", "Cancelled", 1)
    assert status["result"]["partial"] is True
    assert status["result"]["finishReason"] == "Cancelled"
    assert status["result"]["text"].startswith("[")
    # The sequence is free: the model has one.
    headrace.apply(namespace, task("next", "smollm2"))
    headrace.wait("llmtask/next", "condition=Ready", namespace, timeout=60)


def test_a_suspended_task_gives_way_and_goes_on_without_a_charge(
    headrace: Cluster, namespace: str, weights: str
) -> None:
    running(headrace, namespace, weights)
    patch(headrace, namespace, suspend=True)
    eventually(
        lambda: headrace.get("llmtask", "long", namespace)["status"],
        lambda status: status["phase"] == "Suspended",
        within=20,
        what="the task is suspended",
    )
    headrace.apply(namespace, task("next", "smollm2"))
    headrace.wait("llmtask/next", "condition=Ready", namespace, timeout=60)
    patch(headrace, namespace, suspend=False)
    headrace.wait("llmtask/long", "condition=Finished", namespace, timeout=300)
    status = headrace.get("llmtask", "long", namespace)["status"]
    assert (status["outcome"], status["retries"]) == ("Complete", 0)
    assert [each["outcome"] for each in status["attempts"]] == ["Released", "Complete"]
    assert len(json.loads(status["result"]["text"])) == 80
