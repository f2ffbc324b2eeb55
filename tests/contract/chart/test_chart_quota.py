"""Who writes an LLMQuota, and what its ceiling refuses at admission."""

import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.contract.callers import MERGE_PATCH, TASKS, Caller, service_account, token_of
from tests.contract.chart.conftest import Release
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract

QUOTAS = "/apis/headrace.dev/v1alpha1/namespaces/{}/llmquotas"


@dataclass(frozen=True)
class World:
    """A namespace without a quota, and people."""

    namespace: str
    operator: Caller
    admin: Caller
    editor: Caller
    viewer: Caller

    @property
    def quotas(self) -> str:
        return QUOTAS.format(self.namespace)

    @property
    def quota(self) -> str:
        return f"{self.quotas}/default"

    def grant(self, **spec: Any) -> None:
        body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMQuota", "metadata": {"name": "default"}}
        done = self.admin.request("POST", self.quotas, {**body, "spec": spec})
        if done.status_code == 409:
            done = self.admin.request("PATCH", self.quota, {"spec": spec}, MERGE_PATCH)
        assert done.status_code in (200, 201), done.text

    def create(self, name: str, *, dry_run: bool = False, **spec: Any) -> httpx.Response:
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMTask",
            "metadata": {"name": name},
            "spec": {"modelRef": {"name": "a"}, "prompt": "Hello", **spec},
        }
        query = "?dryRun=All" if dry_run else ""
        return self.editor.request("POST", TASKS.format(self.namespace) + query, body)

    def edit(self, name: str, **spec: Any) -> httpx.Response:
        return self.editor.request("PATCH", f"{TASKS.format(self.namespace)}/{name}", {"spec": spec}, MERGE_PATCH)

    def ceiling_acts(self, refused: int) -> None:
        """The quota reaches the API server's cache a moment after it was written."""
        deadline = time.monotonic() + 30
        while (done := self.create("probe", dry_run=True, priority=refused)).status_code != 403:
            assert time.monotonic() < deadline, done.text
            time.sleep(0.1)


@pytest.fixture
def world(kubectl: Kubectl, release: Release, namespace: str) -> World:
    world = World(
        namespace,
        token_of(kubectl, release.namespace, f"{release.name}-headrace-operator"),
        service_account(kubectl, namespace, "admin", f"{release.name}-headrace-admin"),
        service_account(kubectl, namespace, "editor", f"{release.name}-headrace-edit"),
        service_account(kubectl, namespace, "viewer", f"{release.name}-headrace-view"),
    )
    deadline = time.monotonic() + 30
    for caller in (world.admin, world.editor, world.viewer):
        while caller.request("GET", world.quotas).status_code != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return world


def test_a_priority_above_the_ceiling_is_refused_where_it_is_written(world: World) -> None:
    assert world.create("before", priority=50).status_code == 201, "without a quota there is no ceiling"
    assert world.create("plain", priority=5).status_code == 201
    world.grant(priorityCeiling=10, maxQueuedTasks=3)
    world.ceiling_acts(11)
    refused = world.create("above", priority=42)
    assert refused.status_code == 403
    message = refused.json()["message"]
    for word in ("spec.priority is 42", "allows 10 at most", world.namespace, "ask the admins"):
        assert word in message
    assert world.create("at", priority=10).status_code == 201
    assert world.create("none").status_code == 201
    refused = world.edit("plain", priority=11)
    assert refused.status_code == 403
    assert "spec.priority is 11" in refused.json()["message"]
    assert world.edit("plain", priority=9).status_code == 200


def test_a_task_above_a_lowered_ceiling_can_still_be_edited(world: World) -> None:
    assert world.create("early", priority=50).status_code == 201
    world.grant(priorityCeiling=10)
    world.ceiling_acts(11)
    assert world.edit("early", cancel=True).status_code == 200
    assert world.edit("early", priority=20).status_code == 403
    assert world.edit("early", priority=10).status_code == 200


def test_a_negative_ceiling_refuses_what_says_nothing(world: World) -> None:
    world.grant(priorityCeiling=-10)
    world.ceiling_acts(-9)
    refused = world.create("plain")
    assert refused.status_code == 403
    assert "spec.priority is 0" in refused.json()["message"]
    assert world.create("modest", priority=-10).status_code == 201


def test_a_quota_without_a_ceiling_refuses_nothing(world: World) -> None:
    world.grant(priorityCeiling=0)
    world.ceiling_acts(1)
    world.grant(priorityCeiling=None, maxQueuedTasks=1)
    deadline = time.monotonic() + 30
    while (done := world.create("high", dry_run=True, priority=100)).status_code != 201:
        assert time.monotonic() < deadline, done.text
        time.sleep(0.1)


def test_a_quota_is_written_by_admins_alone(world: World) -> None:
    world.grant(maxQueuedTasks=3)
    more = {"spec": {"maxQueuedTasks": 300}}
    for caller in (world.editor, world.viewer):
        assert caller.request("GET", world.quota).status_code == 200
        for method, path, body in (
            ("PATCH", world.quota, more),
            ("PATCH", f"{world.quota}/status", {"status": {"queued": 0}}),
            ("DELETE", world.quota, None),
        ):
            done = caller.request(method, path, body, MERGE_PATCH)
            assert done.status_code == 403, (caller.name, method, path)
    assert world.admin.request("PATCH", world.quota, more, MERGE_PATCH).status_code == 200
    assert world.admin.request("PATCH", f"{world.quota}/status", {"status": {}}, MERGE_PATCH).status_code == 403
    done = world.operator.request("PATCH", f"{world.quota}/status", {"status": {"queued": 1}}, MERGE_PATCH)
    assert done.status_code == 200, done.text
    assert world.operator.request("PATCH", world.quota, more, MERGE_PATCH).status_code == 403
    assert world.admin.request("DELETE", world.quota).status_code == 200


def test_the_clusters_own_edit_cannot_write_quotas(kubectl: Kubectl, release: Release, namespace: str) -> None:
    """By impersonation of somebody who is bound to Kubernetes' own roles, into which the chart's are aggregated."""
    for role in ("edit", "admin"):
        kubectl.ok("create", "rolebinding", role, "-n", namespace, f"--clusterrole={role}", f"--user={role}-of-team")
    deadline = time.monotonic() + 30

    def can(user: str, verb: str) -> bool:
        question = ("auth", "can-i", verb, "llmquotas.headrace.dev", f"--as={user}", "-n", namespace)
        return kubectl.run(*question).returncode == 0

    while not (can("edit-of-team", "list") and can("admin-of-team", "list")):
        assert time.monotonic() < deadline, "no controller aggregates roles here"
        time.sleep(0.2)
    verbs = ("create", "update", "patch", "delete", "deletecollection")
    assert [can("edit-of-team", verb) for verb in verbs] == [False] * 5
    assert [can("admin-of-team", verb) for verb in verbs] == [True] * 5
