"""A namespace with tasks, two models' runners and people, and how its tasks' statuses are written."""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from headrace_crds import Outcome
from headrace_crds.names import runner_service_account
from headrace_crds.outcome import terminal_status, text_result
from tests.contract.callers import JSON_PATCH, MERGE_PATCH, TASKS, Caller
from tests.contract.conftest import Kubectl


@dataclass(frozen=True)
class World:
    """A namespace with two models' runners, the operator of the release, and people."""

    namespace: str
    operator: Caller
    runner: Caller
    other_runner: Caller
    editor: Caller
    kubectl: Kubectl

    @property
    def tasks(self) -> str:
        return TASKS.format(self.namespace)

    def status_path(self, task: str) -> str:
        return f"{self.tasks}/{task}/status"

    def create(self, name: str) -> dict[str, Any]:
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMTask",
            "metadata": {"name": name},
            "spec": {"modelRef": {"name": "a"}, "prompt": "Hello"},
        }
        done = self.editor.request("POST", self.tasks, body)
        assert done.status_code == 201, done.text
        task: dict[str, Any] = done.json()
        return task

    def assigned(self, name: str, model: str = "a") -> dict[str, Any]:
        """A task that the operator accepted and gave to a model."""
        self.create(name)
        status = {
            "attempt": 1,
            "retries": 0,
            "attempts": [],
            "phase": "Queued",
            "assignedModel": model,
            "runner": {"serviceAccount": runner_service_account(self.namespace, model)},
        }
        done = self.operator.request("PATCH", self.status_path(name), {"status": status}, MERGE_PATCH)
        assert done.status_code == 200, done.text
        task: dict[str, Any] = done.json()
        return task

    def patch(self, caller: Caller, task: str, *operations: dict[str, Any]) -> httpx.Response:
        return caller.request("PATCH", self.status_path(task), list(operations), JSON_PATCH)

    def read(self, task: str) -> dict[str, Any]:
        task_: dict[str, Any] = json.loads(self.kubectl.ok("get", "llmtask", task, "-n", self.namespace, "-o", "json"))
        return task_


def commit(task: dict[str, Any], text: str = "Hi.") -> list[dict[str, Any]]:
    """As a runner commits: tests, then every member at once."""
    final = terminal_status(
        Outcome.COMPLETE, generation=1, completed_ms=0, attempts=(), result=text_result(text, "Stop", None)
    )
    tests = [
        {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]},
        {"op": "test", "path": "/status/attempt", "value": task["status"]["attempt"]},
    ]
    return tests + [{"op": "add", "path": f"/status/{name}", "value": value} for name, value in final.items()]


def refused(done: httpx.Response, *words: str) -> None:
    assert done.status_code == 403, done.text
    for word in words:
        assert word in done.json()["message"]


def wait_until_judged(world: World) -> None:
    """RBAC and policies reach the API server's caches a moment after they were written."""
    deadline = time.monotonic() + 30
    while world.operator.request("GET", world.tasks).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    task = world.assigned("probe")
    probe = {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]}
    while world.patch(world.other_runner, "probe", probe).status_code != 403:
        assert time.monotonic() < deadline, "the admission policy does not act"
        time.sleep(0.1)
    while world.patch(world.runner, "probe", probe).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
