"""Eight commits at once on one task, whatever their patch type: one outcome. And the adapter to the API server."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client, config
from kubernetes.aio.config import incluster_config
from pod_world import Tasks

from headrace_crds.outcome import text_result
from headrace_crds.task import Outcome
from headrace_crds.work import Work
from headrace_runner import patches
from headrace_runner.attempt import Attempt
from headrace_runner.commit import Committer, Ending
from headrace_runner.kube import KubeTaskStatus
from headrace_runner.verdict import Verdict

pytestmark = pytest.mark.contract

ROUNDS = 5


def attempt_of(task: Any, pod: str, number: int = 1) -> Attempt:
    work = Work(model="ns/smol", generation=1, messages=[], parameters={})  # type: ignore[arg-type]  # read from a dict
    return Attempt(
        uid=task.metadata.uid,
        namespace=task.metadata.namespace,
        name=task.metadata.name,
        number=number,
        work=work,
        pod=pod,
        claimed_ms=1_767_225_600_000,
        enqueued_ms=1_767_225_600_000,
        claimed_at=0.0,
        monotonic=lambda: 0.0,
    )


def verdict(text: str) -> Verdict:
    return Verdict(Outcome.COMPLETE, "Succeeded", "", text_result(text, "Stop", None))


async def by_runner(tasks: KubeTaskStatus, task: Any, number: int) -> str | None:
    commit = await Committer(tasks).commit(attempt_of(task, f"pod-{number}"), verdict(f"by {number}"))
    return f"by {number}" if commit.ending is Ending.COMMITTED else None


async def by_hand(objects: client.CustomObjectsApi, task: Any, number: int, content_type: str) -> str | None:
    status = attempt_of(task, f"pod-{number}").terminal_status(verdict(f"by {number}"), 1_767_225_600_000)
    where = ("headrace.dev", "v1alpha1", task.metadata.namespace, "llmtasks", task.metadata.name)
    identity = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "metadata": {"name": task.metadata.name}}
    body: Any = {**identity, "status": {"attempt": 1, **status}}
    options: dict[str, Any] = {"_content_type": content_type, "field_manager": f"other-{number}"}
    if "json-patch" in content_type:
        body = [{"op": "add", "path": f"/status/{key}", "value": value} for key, value in status.items()]
    elif "apply" in content_type:
        options["force"] = True
    try:
        await objects.patch_namespaced_custom_object_status(*where, body, **options)
    except client.ApiException:
        return None
    return f"by {number}"


async def test_eight_commits_at_once_leave_one_outcome(tasks: Tasks, kubeconfig: str) -> None:
    runner = await KubeTaskStatus.connect(Path(kubeconfig))
    configuration = client.Configuration()
    await config.load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        objects = client.CustomObjectsApi(api)
        for turn in range(ROUNDS):
            task = tasks.create(f"race-{turn}")
            won = await asyncio.gather(
                *(by_runner(runner, task, number) for number in (1, 2)),
                *(by_hand(objects, task, number, "application/json-patch+json") for number in (3, 4)),
                *(by_hand(objects, task, number, "application/merge-patch+json") for number in (5, 6)),
                *(by_hand(objects, task, number, "application/apply-patch+yaml") for number in (7, 8)),
            )
            winners = [each for each in won if each]
            assert len(winners) == 1
            status = tasks.get(f"race-{turn}").status
            assert status is not None
            assert status.result is not None
            assert status.result.text == winners[0]
    await runner.aclose()


async def test_a_commit_whose_answer_was_lost_is_found_again(tasks: Tasks, kubeconfig: str) -> None:
    task = tasks.create("lost-answer")
    api = await KubeTaskStatus.connect(Path(kubeconfig))

    class Deaf:
        """Sends the first commit and does not hear the answer."""

        heard = 0

        async def patch(self, namespace: str, name: str, operations: list[patches.Operation]) -> Any:
            answer = await api.patch(namespace, name, operations)
            self.heard += 1
            return type(answer)(0) if self.heard == 1 else answer

    commit = await Committer(Deaf()).commit(attempt_of(task, "pod-1"), verdict("once"))
    assert commit.ending is Ending.COMMITTED
    status = tasks.get("lost-answer").status
    assert status is not None
    assert status.attempts is not None
    assert len(status.attempts) == 1
    await api.aclose()


async def test_only_the_status_of_the_right_attempt_is_written(tasks: Tasks, kubeconfig: str) -> None:
    task = tasks.create("fenced", attempt=2)
    before = tasks.raw("fenced")
    api = await KubeTaskStatus.connect(Path(kubeconfig))
    commit = await Committer(api).commit(attempt_of(task, "pod-1", number=1), verdict("late"))
    assert commit.ending is Ending.MOVED
    # Looking again writes nothing either.
    assert tasks.raw("fenced") == before
    await api.aclose()


async def test_a_pod_uses_its_service_account(
    tasks: Tasks, kubectl: Any, namespace: str, runner_kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = await KubeTaskStatus.connect(runner_kubeconfig)
    host = api.host.removeprefix("https://").split(":")
    await api.aclose()
    kubectl_config = client.Configuration()
    await config.load_kube_config(config_file=kubectl.kubeconfig, client_configuration=kubectl_config)
    token = tmp_path / "token"
    token.write_text(kubectl.ok("create", "token", "headrace-smol", "-n", namespace).strip())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", kubectl_config.ssl_ca_cert)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host[0])
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", host[1])

    task = tasks.create("in-cluster")
    pod = await KubeTaskStatus.connect(None)
    commit = await Committer(pod).commit(attempt_of(task, "pod-1"), verdict("inside"))
    assert commit.ending is Ending.COMMITTED
    # It may patch a status and nothing else.
    for verb in ("get", "list", "update", "delete"):
        can = kubectl.run(
            "auth", "can-i", verb, "llmtasks", "-n", namespace, f"--as=system:serviceaccount:{namespace}:headrace-smol"
        )
        assert can.stdout.strip() == "no"
    await pod.aclose()
