"""What a shared model's runner may do in a tenant's namespace, and which right the operator may give it there."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from headrace_crds import Outcome
from headrace_crds.names import FIELD_MANAGER_OPERATOR, runner_name, runner_service_account, shared_binding_name
from headrace_crds.outcome import terminal_status, text_result
from headrace_operator.decide import sharing
from headrace_operator.refs import ModelRef
from tests.contract.callers import JSON_PATCH, MERGE_PATCH, TASKS, Caller, service_account, token_of
from tests.contract.chart.conftest import Release
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract

APPLY = "application/apply-patch+yaml"
BINDINGS = "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings"
MODEL = "a"


@dataclass(frozen=True)
class World:
    """A models' namespace that may share, a tenant's, one that admits nobody, and who acts in them."""

    models: str
    tenant: str
    other: str
    operator: Caller
    runner: Caller
    editor: Caller
    kubectl: Kubectl

    @property
    def model(self) -> ModelRef:
        return ModelRef(self.models, MODEL)

    def task(self, name: str, *, assigned: ModelRef | None = None, namespace: str = "") -> dict[str, Any]:
        """A task of the tenant that the operator assigned."""
        namespace = namespace or self.tenant
        model = assigned or self.model
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMTask",
            "metadata": {"name": name},
            "spec": {"modelRef": {"name": model.name, "namespace": model.namespace}, "prompt": "Hello"},
        }
        done = self.submitted(namespace, body)
        status = {
            "attempt": 1,
            "retries": 0,
            "attempts": [],
            "phase": "Queued",
            "assignedModel": str(model),
            "runner": {"serviceAccount": runner_service_account(*model)},
        }
        answer = self.operator.request("PATCH", f"{done}/status", {"status": status}, MERGE_PATCH)
        assert answer.status_code == 200, answer.text
        task: dict[str, Any] = answer.json()
        return task

    def submitted(self, namespace: str, body: dict[str, Any]) -> str:
        done = self.editor.request("POST", TASKS.format(namespace), body)
        assert done.status_code == 201, done.text
        return f"{TASKS.format(namespace)}/{body['metadata']['name']}"

    def patch(self, task: dict[str, Any], *operations: dict[str, Any]) -> httpx.Response:
        metadata = task["metadata"]
        path = f"{TASKS.format(metadata['namespace'])}/{metadata['name']}/status"
        return self.runner.request("PATCH", path, list(operations), JSON_PATCH)

    def bind(self, manifest: dict[str, Any]) -> httpx.Response:
        metadata = manifest["metadata"]
        path = f"{BINDINGS.format(metadata['namespace'])}/{metadata['name']}"
        query = f"?fieldManager={FIELD_MANAGER_OPERATOR}&fieldValidation=Strict&force=true"
        return self.operator.request("PATCH", path + query, manifest, APPLY)


def commit(task: dict[str, Any]) -> list[dict[str, Any]]:
    result = text_result("Hi.", "Stop", None)
    final = terminal_status(Outcome.COMPLETE, generation=1, completed_ms=0, attempts=(), result=result)
    tests = [
        {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]},
        {"op": "test", "path": "/status/attempt", "value": task["status"]["attempt"]},
    ]
    return tests + [{"op": "add", "path": f"/status/{name}", "value": value} for name, value in final.items()]


def eventually(act: Callable[[], httpx.Response], done: Callable[[httpx.Response], bool]) -> None:
    """RBAC and policies reach the API server's caches a moment after they were written."""
    deadline = time.monotonic() + 30
    while not done(answer := act()):
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)


@pytest.fixture(scope="module")
def world(kubectl: Kubectl, release: Release) -> Iterator[World]:
    models, tenant, other = (f"{release.name}-{name}" for name in ("models", "tenant", "other"))
    for namespace in (models, tenant, other):
        kubectl.ok("create", "namespace", namespace)
    release.upgrade("--set", f"sharing.modelNamespaces={{{models}}}")
    editor = service_account(kubectl, tenant, "editor", f"{release.name}-headrace-edit")
    kubectl.ok(
        "create", "rolebinding", "editor", "-n", other,
        f"--clusterrole={release.name}-headrace-edit", f"--serviceaccount={tenant}:editor",
    )  # fmt: skip
    world = World(
        models,
        tenant,
        other,
        token_of(kubectl, release.namespace, f"{release.name}-headrace-operator"),
        service_account(kubectl, models, runner_name(MODEL)),
        editor,
        kubectl,
    )
    binding = sharing.binding(world.model, tenant)
    eventually(lambda: world.bind(binding), lambda answer: answer.status_code in (200, 201))
    task = world.task("probe")
    probe = {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]}
    eventually(lambda: world.patch(task, probe), lambda answer: answer.status_code == 200)
    yield world
    for namespace in (models, tenant, other):
        kubectl.run("delete", "llmtasks", "--all", "-n", namespace, "--wait=false")
        kubectl.run("delete", "namespace", namespace, "--wait=false")


def test_the_runner_commits_in_the_tenants_namespace(world: World) -> None:
    task = world.task("own")
    done = world.patch(task, *commit(task))
    assert done.status_code == 200, done.text
    assert done.json()["status"]["result"]["text"] == "Hi."


def test_a_task_of_another_model_is_out_of_reach(world: World) -> None:
    for name, model in (("namesake", ModelRef(world.tenant, MODEL)), ("other-model", ModelRef(world.models, "b"))):
        task = world.task(name, assigned=model)
        refused = world.patch(task, *commit(task))
        assert refused.status_code == 403, refused.text
        assert "may write its status" in refused.json()["message"]


def test_a_namespace_that_is_not_bound_is_out_of_reach(world: World) -> None:
    task = world.task("elsewhere", namespace=world.other)
    refused = world.patch(task, *commit(task))
    assert refused.status_code == 403
    assert "cannot patch resource" in refused.json()["message"]


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "replace", "path": "/status/attempt", "value": 2},
        {"op": "replace", "path": "/status/assignedModel", "value": "x/y"},
        {"op": "replace", "path": "/status/runner/serviceAccount", "value": "x/y"},
        {"op": "remove", "path": "/status/runner"},
        {"op": "add", "path": "/status/retries", "value": 7},
    ],
    ids=["attempt", "assignedModel", "serviceAccount", "runner", "retries"],
)
def test_the_operators_members_stay_the_operators(
    world: World, operation: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = f"kept-{request.node.callspec.id.lower()}"
    task = world.task(name)
    for operations in ([operation], [*commit(task), operation]):
        refused = world.patch(task, *operations)
        assert refused.status_code == 403, refused.text
        assert "is the operator's alone" in refused.json()["message"]


def test_nothing_else_of_the_tenants_is_read_or_changed(world: World) -> None:
    world.task("private")
    tasks = TASKS.format(world.tenant)
    for method, path in (
        ("GET", tasks),
        ("GET", f"{tasks}/private"),
        ("GET", f"{tasks}/private/status"),
        ("DELETE", f"{tasks}/private"),
        ("GET", f"/api/v1/namespaces/{world.tenant}/secrets"),
        ("GET", f"/api/v1/namespaces/{world.tenant}/configmaps"),
        ("GET", BINDINGS.format(world.tenant)),
    ):
        assert world.runner.request(method, path).status_code == 403, (method, path)
    for path in (f"{tasks}/private", f"/apis/headrace.dev/v1alpha1/namespaces/{world.tenant}/llmquotas/default"):
        assert world.runner.request("PATCH", path, {"spec": {"priority": 1}}, MERGE_PATCH).status_code == 403


def forged(world: World, forgery: str) -> dict[str, Any]:
    manifest = sharing.binding(world.model, world.other)
    metadata, (subject,) = manifest["metadata"], manifest["subjects"]
    match forgery:
        case "another account":
            subject["name"] = "editor"
        case "an account elsewhere":
            subject["namespace"] = world.tenant
        case "a person besides":
            manifest["subjects"].append({"kind": "User", "name": "m", "apiGroup": "rbac.authorization.k8s.io"})
        case "a namespace that may not share":
            return sharing.binding(ModelRef(world.tenant, MODEL), world.other)
        case "the model's own namespace":
            metadata["namespace"] = world.models
        case "another name":
            metadata["name"] = shared_binding_name(world.models, "b")
        case "no labels":
            metadata["labels"] = {}
        case _:
            raise AssertionError(forgery)
    return manifest


@pytest.mark.parametrize(
    "forgery",
    [
        "another account",
        "an account elsewhere",
        "a person besides",
        "a namespace that may not share",
        "the model's own namespace",
        "another name",
        "no labels",
    ],
)
def test_the_operator_gives_no_other_right(world: World, forgery: str) -> None:
    refused = world.bind(forged(world, forgery))
    assert refused.status_code == 403, refused.text
    assert "the operator writes objects" in refused.json()["message"]


def test_the_operator_gives_no_role_but_the_runners(world: World) -> None:
    manifest = sharing.binding(world.model, world.other)
    for role in ({"name": "admin"}, {"kind": "Role", "name": "headrace-runner"}):
        refused = world.bind({**manifest, "roleRef": {**manifest["roleRef"], **role}})
        assert refused.status_code in (403, 404), refused.text


def test_the_operator_takes_its_own_right_back_and_no_other(world: World) -> None:
    ours = f"{BINDINGS.format(world.other)}/{shared_binding_name(*world.model)}"
    assert world.bind(sharing.binding(world.model, world.other)).status_code == 201
    assert world.operator.request("DELETE", ours).status_code == 200
    refused = world.operator.request("DELETE", f"{BINDINGS.format(world.other)}/editor")
    assert refused.status_code == 403, refused.text
    assert "the operator writes objects" in refused.json()["message"]


def test_a_right_that_no_value_backs_any_more_can_still_be_taken(world: World, release: Release) -> None:
    path = f"{BINDINGS.format(world.other)}/{shared_binding_name(*world.model)}"
    manifest = sharing.binding(world.model, world.other)
    assert world.bind(manifest).status_code == 201
    release.upgrade()
    changed = {**manifest, "metadata": {**manifest["metadata"], "annotations": {"a": "b"}}}
    eventually(lambda: world.bind(changed), lambda answer: answer.status_code == 403)
    assert world.operator.request("DELETE", path).status_code == 200
