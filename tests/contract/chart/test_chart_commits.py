"""Who may write a task's status: real tokens against RBAC and the admission policies of an installed chart."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from headrace_crds.names import RUNNER_CLUSTER_ROLE, runner_name, runner_service_account
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator.decide import task_status
from headrace_operator.decide.retry import undelivered_record
from headrace_operator.decide.waiting import Waiting
from headrace_operator.refs import ModelRef
from tests.contract.callers import MERGE_PATCH, MODELS, bind, service_account, token_of
from tests.contract.chart.conftest import Release
from tests.contract.chart.task_world import World, commit, refused
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract


def test_a_runner_commits_its_task_once(world: World) -> None:
    task = world.assigned("own")
    done = world.patch(world.runner, "own", *commit(task))
    assert done.status_code == 200, done.text
    assert done.json()["status"]["result"]["text"] == "Hi."
    again = world.patch(world.runner, "own", *commit(task, "Another."))
    assert again.status_code == 422
    assert "are final" in again.text
    assert world.read("own")["status"]["result"]["text"] == "Hi."


def test_of_eight_concurrent_commits_one_succeeds(world: World) -> None:
    task = world.assigned("eight")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: world.patch(world.runner, "eight", *commit(task, f"text {n}")), range(8)))
    succeeded = [a for a in answers if a.status_code == 200]
    assert len(succeeded) == 1
    assert {a.status_code for a in answers} <= {200, 409, 422}
    assert world.read("eight")["status"]["result"] == succeeded[0].json()["status"]["result"]


def test_another_models_runner_is_refused_and_told_why(world: World) -> None:
    task = world.assigned("foreign")
    refused(
        world.patch(world.other_runner, "foreign", *commit(task)),
        f"{world.namespace}/headrace-a",
        world.other_runner.user,
        "admission.extraStatusWriters",
    )
    assert "outcome" not in world.read("foreign")["status"]


def test_an_account_of_the_same_name_elsewhere_is_refused(world: World, kubectl: Kubectl, namespace: str) -> None:
    task = world.assigned("namesake")
    namesake = service_account(kubectl, namespace, runner_name("a"))
    bind(kubectl, world.namespace, f"{namespace}:{runner_name('a')}", RUNNER_CLUSTER_ROLE)
    refused(world.patch(namesake, "namesake", *commit(task)), "only the operator and the runner")


def test_nobodys_task_is_committed_by_nobody(world: World) -> None:
    task = world.create("unassigned")
    done = world.operator.request(
        "PATCH", world.status_path("unassigned"), {"status": {"attempt": 1, "phase": "Waiting"}}, MERGE_PATCH
    )
    assert done.status_code == 200, done.text
    task["status"] = {"attempt": 1}
    refused(world.patch(world.runner, "unassigned", *commit(task)), "assigned to (none)")


@pytest.mark.parametrize(
    ("member", "operation"),
    [
        ("attempt", {"op": "replace", "path": "/status/attempt", "value": 2}),
        ("retries", {"op": "replace", "path": "/status/retries", "value": 1}),
        ("retries", {"op": "remove", "path": "/status/retries"}),
        ("losses", {"op": "add", "path": "/status/losses", "value": 3}),
        ("acceptTime", {"op": "add", "path": "/status/acceptTime", "value": "2036-01-01T00:00:00Z"}),
        ("suspendTime", {"op": "add", "path": "/status/suspendTime", "value": "2036-01-01T00:00:00Z"}),
        ("suspendedSeconds", {"op": "add", "path": "/status/suspendedSeconds", "value": 86400}),
        ("assignedModel", {"op": "replace", "path": "/status/assignedModel", "value": "b"}),
        ("assignedModel", {"op": "remove", "path": "/status/assignedModel"}),
        ("triedModels", {"op": "add", "path": "/status/triedModels", "value": ["x/y"]}),
        ("runner.serviceAccount", {"op": "replace", "path": "/status/runner/serviceAccount", "value": "x/y"}),
        ("runner.serviceAccount", {"op": "remove", "path": "/status/runner"}),
    ],
)
def test_a_runner_leaves_the_operators_members_alone(
    world: World, member: str, operation: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    name = f"kept-{abs(hash(request.node.name)) % 10**8}"
    task = world.assigned(name)
    refused(world.patch(world.runner, name, operation), f"status.{member} is the operator's alone")
    # Nor together with a commit that would be in order.
    refused(world.patch(world.runner, name, *commit(task), operation), f"status.{member}")
    before = world.read(name)["status"]
    assert "outcome" not in before
    done = world.operator.request("PATCH", world.status_path(name), {"status": {"attempt": 2}}, MERGE_PATCH)
    assert done.status_code == 200, done.text


def test_the_runner_of_a_model_that_was_left_by_fallback_commits_nothing(world: World) -> None:
    """With its own token, and whichever attempt it names."""
    task = world.assigned("fallen")
    target = ModelRef(world.namespace, "b")
    seen = LLMTask.model_validate(task)
    told = undelivered_record(attempt=1, model="a", pod=None, now_ms=0, reason=Reason.FELL_BACK, message="")
    why = Waiting(Reason.FELL_BACK, "moved")
    for status, assigned in (
        (task_status.moved(seen, target, why, attempt=2, now_ms=0, record=told), "none"),
        ({"phase": "Queued", "runner": {"serviceAccount": runner_service_account(*target)}}, "headrace-b"),
    ):
        done = world.operator.request("PATCH", world.status_path("fallen"), {"status": status}, MERGE_PATCH)
        assert done.status_code == 200, done.text
        current = done.json()
        assert (current["status"]["attempt"], current["status"]["assignedModel"]) == (2, str(target))
        for claims in (task, current):
            zombie = world.patch(world.runner, "fallen", *commit(claims))
            # The test of the attempt is judged first: 422; who passes it is not the one that it is assigned to.
            assert zombie.status_code == (422 if claims is task else 403), zombie.text
        refused(world.patch(world.runner, "fallen", *commit(current)), assigned)
    assert "outcome" not in world.read("fallen")["status"]
    done = world.patch(world.other_runner, "fallen", *commit(current))
    assert done.status_code == 200, done.text


def test_a_runner_tells_its_pod_and_that_it_runs(world: World) -> None:
    task = world.assigned("runs")
    done = world.patch(
        world.runner,
        "runs",
        {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]},
        {"op": "add", "path": "/status/runner/pod", "value": "headrace-a-1"},
        {"op": "add", "path": "/status/phase", "value": "Running"},
    )
    assert done.status_code == 200, done.text


def test_a_patch_that_only_tests_reads_ones_own_task_and_writes_nothing(world: World) -> None:
    task = world.assigned("reread")
    probe = {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]}
    done = world.patch(world.runner, "reread", probe)
    assert done.status_code == 200
    assert done.json()["metadata"]["resourceVersion"] == task["metadata"]["resourceVersion"]
    refused(world.patch(world.other_runner, "reread", probe), "may write its status")
    wrong = world.patch(world.runner, "reread", {**probe, "value": "00000000-0000-0000-0000-000000000000"})
    assert wrong.status_code == 422
    assert world.patch(world.runner, "gone", probe).status_code == 404


def test_a_runner_reads_and_changes_nothing_else(world: World) -> None:
    world.assigned("private")
    path = f"{world.tasks}/private"
    for method, target in (
        ("GET", path),
        ("GET", f"{path}/status"),
        ("GET", world.tasks),
        ("GET", f"{world.tasks}?watch=1"),
        ("DELETE", path),
        ("GET", MODELS.format(world.namespace)),
        ("GET", f"/api/v1/namespaces/{world.namespace}/secrets"),
        ("GET", f"/api/v1/namespaces/{world.namespace}/configmaps"),
    ):
        assert world.runner.request(method, target).status_code == 403, (method, target)
    assert world.runner.request("PATCH", path, {"spec": {"priority": 1}}, MERGE_PATCH).status_code == 403
    assert world.runner.request("PUT", f"{path}/status", world.read("private")).status_code == 403


def test_a_tenant_cannot_write_a_status_even_with_the_runners_role(
    world: World, kubectl: Kubectl, release: Release
) -> None:
    task = world.assigned("tenant")
    refused(world.patch(world.editor, "tenant", *commit(task)), 'cannot patch resource "llmtasks/status"')
    # An admin of a namespace may bind any role that he could see through; admission does not mind roles.
    tenant = service_account(kubectl, world.namespace, "schemer", f"{release.name}-headrace-edit", RUNNER_CLUSTER_ROLE)
    deadline = time.monotonic() + 10
    while "may write its status" not in (done := world.patch(tenant, "tenant", *commit(task))).text:
        assert done.status_code == 403
        assert time.monotonic() < deadline
        time.sleep(0.1)
    refused(done, "only the operator and the runner")


def test_a_status_in_a_created_or_updated_object_is_dropped(world: World) -> None:
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMTask",
        "metadata": {"name": "born-finished"},
        "spec": {"modelRef": {"name": "a"}, "prompt": "Hello"},
        "status": {"outcome": "Complete", "attempt": 1, "completionTime": "2026-01-01T00:00:00Z"},
    }
    untouched = {"observedGeneration": 0}  # the CRD's default
    created = world.editor.request("POST", world.tasks, body)
    assert created.status_code == 201
    assert created.json()["status"] == untouched
    updated = world.editor.request("PATCH", f"{world.tasks}/born-finished", {"status": body["status"]}, MERGE_PATCH)
    assert updated.status_code == 200
    assert updated.json()["status"] == untouched


def test_an_admitted_restore_tool_may_write(world: World, kubectl: Kubectl) -> None:
    kubectl.run("create", "namespace", "restore")
    kubectl.run("create", "serviceaccount", "velero", "-n", "restore")
    bind(kubectl, world.namespace, "restore:velero", RUNNER_CLUSTER_ROLE)
    velero = token_of(kubectl, "restore", "velero")
    task = world.assigned("restored", model="b")
    deadline = time.monotonic() + 10
    while (done := world.patch(velero, "restored", *commit(task))).status_code != 200:
        assert time.monotonic() < deadline, done.text
        time.sleep(0.1)


def test_only_the_operator_writes_a_models_status(world: World, kubectl: Kubectl) -> None:
    model = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": "a"},
        "spec": {"local": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}},
    }
    kubectl.ok("create", "-n", world.namespace, "-f", "-", stdin=json.dumps(model))
    kubectl.ok(
        "create", "role", "liar", "-n", world.namespace, "--verb=patch", "--resource=llmmodels.headrace.dev/status"
    )
    liar = service_account(kubectl, world.namespace, "liar")
    subject = f"--serviceaccount={world.namespace}:liar"
    kubectl.ok("create", "rolebinding", "liar", "-n", world.namespace, "--role=liar", subject)
    path = f"{MODELS.format(world.namespace)}/a/status"
    patch = {"status": {"phase": "Serving"}}
    deadline = time.monotonic() + 10
    while "cannot patch resource" in (done := liar.request("PATCH", path, patch, MERGE_PATCH)).text:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    refused(done, "only the operator may write a model's status", "change the spec instead")
    assert world.operator.request("PATCH", path, patch, MERGE_PATCH).status_code == 200


def test_commits_do_not_queue_with_other_service_accounts(world: World, kubectl: Kubectl, release: Release) -> None:
    """The API server names the FlowSchema that a request was put into."""
    task = world.assigned("flow")

    def schema_of(answer: httpx.Response) -> str:
        uid = answer.headers["X-Kubernetes-PF-FlowSchema-UID"]
        schemas = json.loads(kubectl.ok("get", "flowschemas", "-o", "json"))["items"]
        return next(str(schema["metadata"]["name"]) for schema in schemas if schema["metadata"]["uid"] == uid)

    committed = world.patch(world.runner, "flow", *commit(task))
    assert committed.status_code == 200
    assert schema_of(committed) == f"{release.name}-headrace-runners"
    assert schema_of(world.operator.request("GET", world.tasks)) == f"{release.name}-headrace-operator"
    assert schema_of(world.editor.request("GET", world.tasks)) == "service-accounts"


def test_people_have_the_rights_of_their_role(world: World, kubectl: Kubectl, release: Release) -> None:
    viewer = service_account(kubectl, world.namespace, "viewer", f"{release.name}-headrace-view")
    admin = service_account(kubectl, world.namespace, "admin", f"{release.name}-headrace-admin")
    world.create("seen")
    rights = {
        # who: read tasks, write tasks, read models, write models, scale models, write statuses
        viewer: (True, False, True, False, False, False),
        world.editor: (True, True, True, False, False, False),
        admin: (True, True, True, True, True, False),
    }
    questions = (
        ("list", "llmtasks"),
        ("create", "llmtasks"),
        ("list", "llmmodels"),
        ("create", "llmmodels"),
        ("patch", "llmmodels/scale"),
        ("patch", "llmtasks/status"),
    )
    for who, expected in rights.items():
        answers = tuple(
            kubectl.run(
                "auth",
                "can-i",
                verb,
                resource.split("/")[0] + ".headrace.dev",
                *([f"--subresource={resource.split('/')[1]}"] if "/" in resource else []),
                f"--as={who.user}",
                "-n",
                world.namespace,
            ).returncode
            == 0
            for verb, resource in questions
        )
        assert answers == expected, who.name
