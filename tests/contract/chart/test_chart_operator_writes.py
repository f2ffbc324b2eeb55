"""What the operator may write: its real token against RBAC and the admission policy of an installed chart."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml

from headrace_crds.names import (
    FIELD_MANAGER_OPERATOR,
    RUNNER_CLUSTER_ROLE,
    runner_labels,
    runner_name,
    weights_labels,
    weights_name,
)
from tests.contract.callers import MERGE_PATCH, Caller, token_of
from tests.contract.chart.conftest import Release
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract

APPLY = "application/apply-patch+yaml"
MODELS = ("m", "other", "kept", "taken-labels", "taken-ownerreferences")
PLACES = {
    "Secret": "/api/v1/namespaces/{}/secrets",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
}


@dataclass(frozen=True)
class Team:
    """A namespace with a model's uid, the operator of the release, and people's own objects."""

    namespace: str
    operator: Caller
    kubectl: Kubectl

    def path(self, kind: str, name: str) -> str:
        return f"{PLACES[kind].format(self.namespace)}/{name}"

    def apply(self, body: dict[str, Any], *, force: bool = False) -> httpx.Response:
        query = f"?fieldManager={FIELD_MANAGER_OPERATOR}&fieldValidation=Strict&force={str(force).lower()}"
        return self.operator.request("PATCH", self.path(body["kind"], body["metadata"]["name"]) + query, body, APPLY)

    def create(self, body: dict[str, Any]) -> None:
        """As somebody else."""
        self.kubectl.ok("create", "-n", self.namespace, "-f", "-", stdin=json.dumps(body))


UIDS: dict[str, str] = {}
"""Of the models that exist: the garbage collector takes what refers to another."""


def owner(model: str = "m", **members: Any) -> dict[str, Any]:
    uid = UIDS.get(model, "11111111-1111-1111-1111-111111111111")
    reference = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMModel", "name": model, "uid": uid}
    return {**reference, "controller": True, "blockOwnerDeletion": True, **members}


def child(kind: str, model: str = "m", **metadata: Any) -> dict[str, Any]:
    """As the operator makes it, as far as a policy looks."""
    name, labels = runner_name(model), runner_labels(model)
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    rest: dict[str, dict[str, Any]] = {
        "Secret": {"apiVersion": "v1", "data": {"url": "eA=="}},
        "ServiceAccount": {"apiVersion": "v1", "automountServiceAccountToken": False},
        "RoleBinding": {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "x"}],
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": RUNNER_CLUSTER_ROLE,
            },
        },
        "NetworkPolicy": {"apiVersion": "networking.k8s.io/v1", "spec": {"podSelector": {}}},
        "Deployment": {
            "apiVersion": "apps/v1",
            "spec": {"selector": {"matchLabels": labels}, "template": pod},
        },
    }
    made = {"name": name, "labels": labels, "ownerReferences": [owner(model)]} | metadata
    return {"kind": kind, "metadata": made, **rest[kind]}


def forbidden(done: httpx.Response, *words: str) -> None:
    assert done.status_code == 403, done.text
    for word in words:
        assert word in done.json()["message"]
    assert "c2VjcmV0" not in done.text


@pytest.fixture(scope="module")
def team(kubectl: Kubectl, release: Release) -> Iterator[Team]:
    namespace = f"{release.name}-writes"
    kubectl.ok("create", "namespace", namespace)
    team = Team(namespace, token_of(kubectl, release.namespace, f"{release.name}-headrace-operator"), kubectl)
    for model in MODELS:
        spec = {"local": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}}
        team.create(
            {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMModel", "metadata": {"name": model}, "spec": spec}
        )
        UIDS[model] = kubectl.ok("get", "llmmodel", model, "-n", namespace, "-o", "jsonpath={.metadata.uid}")
    team.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bank"}, "data": {"pin": "c2VjcmV0"}})
    deadline = time.monotonic() + 30
    # RBAC and policies reach the API server's caches a moment after they were written.
    probe = team.path("Secret", "bank") + "?dryRun=All"
    while "operator-writes" not in (done := team.operator.request("PATCH", probe, {}, MERGE_PATCH)).text:
        assert time.monotonic() < deadline, done.text
        time.sleep(0.1)
    yield team
    kubectl.run("delete", "llmmodels", "--all", "-n", namespace, "--wait=false")
    kubectl.run("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize("kind", PLACES)
def test_the_operator_applies_its_children_and_they_can_be_deleted(team: Team, kind: str) -> None:
    body = child(kind)
    created = team.apply(body)
    assert created.status_code == 201, created.text
    body["metadata"]["annotations"] = {"a": "b"}
    again = team.apply({**body, "metadata": {**body["metadata"], "uid": created.json()["metadata"]["uid"]}}, force=True)
    assert again.status_code == 200, again.text
    # The probe of whose a Secret is, and a person's own write.
    own = team.operator.request("PATCH", team.path(kind, "headrace-m") + "?dryRun=All", {}, MERGE_PATCH)
    assert own.status_code == 200
    team.kubectl.ok("annotate", kind, "headrace-m", "-n", team.namespace, "c=d")
    team.kubectl.ok("delete", kind, "headrace-m", "-n", team.namespace)


@pytest.mark.parametrize("query", ["", "?dryRun=All"])
@pytest.mark.parametrize("body", [{}, {"data": {"a": "eA=="}}])
def test_a_foreign_secret_is_neither_patched_nor_read(team: Team, query: str, body: dict[str, Any]) -> None:
    path = team.path("Secret", "bank")
    forbidden(team.operator.request("PATCH", path + query, body, MERGE_PATCH), "secrets bank", "headrace.dev/model")
    forbidden(team.operator.request("GET", path), "cannot get resource")
    adopted = child("Secret", name="bank")
    forbidden(team.operator.request("PATCH", f"{path}?fieldManager=o&force=true&{query[1:]}", adopted, APPLY))


def test_a_secret_that_remote_models_may_use_is_looked_at_and_no_more(team: Team) -> None:
    hosts = {"headrace.dev/allowed-hosts": "api.example.com"}
    body = {"apiVersion": "v1", "kind": "Secret", "data": {"key": "c2VjcmV0"}}
    team.create({**body, "metadata": {"name": "provider", "annotations": hosts}})
    path, bank = team.path("Secret", "provider"), team.path("Secret", "bank")
    look = team.operator.request("PATCH", path + "?dryRun=All", {}, MERGE_PATCH)
    assert look.status_code == 200, look.text
    assert look.json()["metadata"]["annotations"] == hosts
    forbidden(team.operator.request("PATCH", path, {}, MERGE_PATCH), "secrets provider")
    forbidden(team.operator.request("PATCH", path, {"data": {"key": "eA=="}}, MERGE_PATCH))
    forbidden(team.operator.request("GET", path), "cannot get resource")
    annotated = {"metadata": {"annotations": hosts}}
    forbidden(team.operator.request("PATCH", bank + "?dryRun=All", annotated, MERGE_PATCH), "secrets bank")
    other = {**child("Secret", name="new", labels={}), "metadata": {"name": "new", "annotations": hosts}}
    dry_run = f"{team.path('Secret', 'new')}?fieldManager=o&dryRun=All"
    forbidden(team.operator.request("PATCH", dry_run, other, APPLY))


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize(
    "strange",
    [
        {"name": "bank"},
        {"name": "headrace-other"},
        {"labels": {}},
        {"ownerReferences": []},
        {"ownerReferences": [owner(controller=False)]},
        {"ownerReferences": [owner(kind="Deployment")]},
        {"ownerReferences": [owner("other")]},
    ],
)
def test_what_no_model_owns_is_not_created(team: Team, kind: str, strange: dict[str, Any]) -> None:
    forbidden(team.apply(child(kind, **strange)), "the operator writes objects")


@pytest.mark.parametrize("kind", PLACES)
@pytest.mark.parametrize("strange", [{"labels": {}}, {"ownerReferences": []}])
def test_what_somebody_else_made_is_not_taken_over(team: Team, kind: str, strange: dict[str, Any]) -> None:
    model = "taken-" + next(iter(strange)).lower()
    body = child(kind, model)
    team.create({**body, "metadata": {**body["metadata"], **strange}})
    forbidden(team.apply(body, force=True), "the operator writes objects")
    merge = {"metadata": body["metadata"]}
    forbidden(team.operator.request("PATCH", team.path(kind, runner_name(model)), merge, MERGE_PATCH))


@pytest.mark.parametrize("kind", PLACES)
def test_a_child_cannot_be_let_go(team: Team, kind: str) -> None:
    body = child(kind, "kept")
    assert team.apply(body).status_code == 201
    for members in ({"ownerReferences": None}, {"labels": {"headrace.dev/model": "other"}}):
        path = team.path(kind, runner_name("kept"))
        forbidden(team.operator.request("PATCH", path, {"metadata": members}, MERGE_PATCH))


def test_the_policy_names_the_releases_own_operator(release: Release) -> None:
    policies = [d for d in yaml.safe_load_all(release.manifest()) if d and d["kind"] == "ValidatingAdmissionPolicy"]
    conditions = {
        d["metadata"]["name"]: c["expression"]
        for d in policies
        for c in d["spec"].get("matchConditions", ())
        if "userInfo" in c["expression"]
    }
    user = f"system:serviceaccount:{release.namespace}:{release.name}-headrace-operator"
    expected = f"request.userInfo.username == '{user}'"
    assert conditions == {
        f"{release.name}-headrace-operator-deletes": expected,
        f"{release.name}-headrace-operator-writes": expected,
    }


def result(uid: str, **metadata: Any) -> dict[str, Any]:
    """A ConfigMap as the operator makes it of a large result."""
    task = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "name": "t", "uid": uid, "controller": True}
    made = {"name": f"headrace-{uid}-1", "ownerReferences": [task]} | metadata
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": made, "data": {"text": "x"}}


def weights_job(**metadata: Any) -> dict[str, Any]:
    """As the operator makes it, as far as a policy looks."""
    made = {"name": runner_name("m"), "labels": weights_labels("m"), "ownerReferences": [owner()]} | metadata
    pod = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": made, "spec": {"suspend": True, "template": pod}}


def test_a_weights_job_is_created_looked_at_and_deleted_and_nobody_elses(team: Team) -> None:
    path = f"/apis/batch/v1/namespaces/{team.namespace}/jobs"
    created = team.operator.request("POST", path, weights_job())
    assert created.status_code == 201, created.text
    own = f"{path}/{runner_name('m')}"
    assert team.operator.request("GET", own).status_code == 200
    forbidden(team.operator.request("PATCH", own, {"spec": {"suspend": False}}, MERGE_PATCH), "cannot patch resource")
    assert team.operator.request("DELETE", own, {"propagationPolicy": "Background"}).status_code == 200
    team.create(weights_job(name="backup", labels={}, ownerReferences=[]))
    forbidden(team.operator.request("DELETE", f"{path}/backup"), "the operator writes objects")


@pytest.mark.parametrize(
    "strange",
    [{"name": "bank"}, {"name": "headrace-m.weights"}, {"labels": {}}, {"ownerReferences": []}],
    ids=["name", "name of the policy", "labels", "owner"],
)
def test_a_job_that_no_model_owns_is_not_created(team: Team, strange: dict[str, Any]) -> None:
    path = f"/apis/batch/v1/namespaces/{team.namespace}/jobs"
    forbidden(team.operator.request("POST", path, weights_job(**strange)), "the operator writes objects")


def test_the_weights_job_has_a_network_policy_of_its_own_and_nothing_else_has_its_name(team: Team) -> None:
    name = weights_name("m")
    assert team.apply(child("NetworkPolicy", name=name)).status_code == 201
    for kind in ("Secret", "Deployment"):
        forbidden(team.apply(child(kind, name=name)), "the operator writes objects")
    forbidden(team.apply(child("NetworkPolicy", name=weights_name("other"))), "the operator writes objects")


UID = "22222222-2222-2222-2222-222222222222"


def test_a_results_config_map_is_created_and_not_changed(team: Team) -> None:
    path = f"/api/v1/namespaces/{team.namespace}/configmaps"
    assert team.operator.request("POST", path + "?dryRun=All", result(UID)).status_code == 201
    team.create(result(UID, name="headrace-kept", ownerReferences=[]))
    assert team.operator.request("GET", f"{path}/headrace-kept").status_code == 200
    forbidden(team.operator.request("PATCH", f"{path}/headrace-kept", {"data": {"text": "y"}}, MERGE_PATCH))
    forbidden(team.operator.request("DELETE", f"{path}/headrace-kept"))


@pytest.mark.parametrize(
    "strange",
    [
        {"name": "bank"},
        {"name": "headrace-m"},
        {"name": "headrace-11111111-1111-1111-1111-111111111111-1"},
        {"ownerReferences": []},
        {"ownerReferences": [owner()]},
        {"ownerReferences": [owner(kind="LLMTask", uid=UID, controller=False)]},
    ],
)
def test_another_config_map_is_not_created(team: Team, strange: dict[str, Any]) -> None:
    path = f"/api/v1/namespaces/{team.namespace}/configmaps"
    forbidden(team.operator.request("POST", path, result(UID, **strange)), "the operator writes ConfigMaps")
