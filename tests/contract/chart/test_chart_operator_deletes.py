"""Which tasks the operator may delete: its real token against RBAC and the admission policy of an installed chart."""

import json
import time

import pytest

from tests.contract.callers import MERGE_PATCH, TASKS, token_of
from tests.contract.chart.conftest import Release
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract


def test_the_operator_deletes_finished_tasks_alone(kubectl: Kubectl, release: Release, namespace: str) -> None:
    operator = token_of(kubectl, release.namespace, f"{release.name}-headrace-operator")
    for name in ("open", "done"):
        spec = {"modelRef": {"name": "m"}, "prompt": "hello"}
        body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "metadata": {"name": name}, "spec": spec}
        kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(body))
    ended = {"attempt": 1, "outcome": "Failed", "phase": "Failed", "completionTime": "2026-01-01T00:00:00Z"}
    path = TASKS.format(namespace)
    deadline = time.monotonic() + 30
    # RBAC reaches the API server's caches a moment after it was written.
    while (done := operator.request("PATCH", f"{path}/done/status", {"status": ended}, MERGE_PATCH)).status_code != 200:
        assert time.monotonic() < deadline, done.text
        time.sleep(0.1)
    while (refused := operator.request("DELETE", f"{path}/open?dryRun=All")).status_code != 403:
        assert time.monotonic() < deadline, refused.text
        time.sleep(0.1)
    assert "the operator deletes finished tasks alone" in refused.json()["message"]
    stale = {"preconditions": {"uid": done.json()["metadata"]["uid"], "resourceVersion": "1"}}
    assert operator.request("DELETE", f"{path}/done", stale).status_code == 409
    assert operator.request("DELETE", f"{path}/done").status_code == 200
    assert kubectl.run("get", "llmtask", "open", "-n", namespace).returncode == 0
    # Nobody else is judged.
    kubectl.ok("delete", "llmtask", "open", "-n", namespace)
