"""A release over its life: passwords that stay, ownership, and tasks inside a release."""

import base64
import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from headrace_crds import Outcome
from headrace_crds.outcome import terminal_status, text_result
from tests.contract.chart.conftest import CHART, Helm, Release
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract

TASK = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "LLMTask",
    "metadata": {"name": "in-release"},
    "spec": {"modelRef": {"name": "m"}, "prompt": "Hello"},
}


def test_an_upgrade_keeps_passwords_and_rolls_nothing(release: Release) -> None:
    before, manifest = release.secret(), release.manifest()
    release.upgrade()
    assert release.secret() == before
    assert release.manifest() == manifest
    password = base64.b64decode(before["operator-password"]).decode()
    assert len(password) == 48
    assert password in base64.b64decode(before["operator-url"]).decode()
    assert password not in base64.b64decode(before["users.acl"]).decode()


def test_a_lost_secret_is_made_anew_and_rolls_redis_and_operator(release: Release) -> None:
    before, manifest = release.secret(), release.manifest()
    release.kubectl.ok("delete", "secret", f"{release.name}-headrace-redis", "-n", release.namespace)
    release.upgrade()
    after = release.secret()
    assert set(after) == set(before)
    assert after["operator-password"] != before["operator-password"]

    def checksums(text: str) -> set[str]:
        return {line.strip() for line in text.splitlines() if "redis-checksum" in line}

    assert len(checksums(release.manifest())) == 1
    assert checksums(release.manifest()) != checksums(manifest)


def test_a_second_release_is_refused(release: Release, helm: Helm, namespace: str) -> None:
    done = helm.run("install", "second", str(CHART), "-n", namespace, "--set", "crds.enabled=false")
    assert done.returncode != 0
    assert '"headrace-runner"' in done.stderr.replace("\\", "")
    helm.run("uninstall", "second", "-n", namespace)


def test_extra_manifests_may_hold_a_task(release: Release) -> None:
    release.upgrade("--set-json", "extraManifests=" + json.dumps([TASK]))
    name = release.kubectl.ok("get", "llmtask", "in-release", "-n", release.namespace, "-o", "name")
    assert name.strip() == "llmtask.headrace.dev/in-release"
    release.upgrade()
    assert release.kubectl.run("get", "llmtask", "in-release", "-n", release.namespace).returncode != 0


@pytest.mark.parametrize("outcome", [Outcome.COMPLETE, Outcome.FAILED])
def test_helm_waits_for_a_task_and_fails_with_it(
    helm: Helm, kubectl: Kubectl, namespace: str, tmp_path: Path, outcome: Outcome
) -> None:
    """The status is written by hand, in the shape that operator and runner write."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: work\nversion: 1.0.0\n", encoding="utf-8")
    (tmp_path / "templates/task.yaml").write_text(yaml.safe_dump(TASK), encoding="utf-8")
    command = [
        helm.program,
        "helm",
        f"--kubeconfig={helm.kubeconfig}",
        "install",
        "work",
        str(tmp_path),
        "-n",
        namespace,
    ]
    with subprocess.Popen(
        [*command, "--wait", "--timeout", "30s"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as install:
        task = _until_there(kubectl, namespace)
        write(kubectl, namespace, accepted(task["metadata"]["generation"]))
        with pytest.raises(subprocess.TimeoutExpired):
            install.communicate(timeout=3)
        result = text_result("Hi.", "Stop", None) if outcome is Outcome.COMPLETE else None
        final = terminal_status(
            outcome, reason="Because", message="told so", generation=1, completed_ms=0, attempts=(), result=result
        )
        write(kubectl, namespace, final)
        said, _ = install.communicate(timeout=40)
    assert (install.returncode == 0) is (outcome is Outcome.COMPLETE), said


def accepted(generation: int) -> dict[str, object]:
    """As the operator accepts: not Ready, so that nobody takes it for done."""
    condition = {
        "status": "False",
        "reason": "Queued",
        "message": "",
        "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    conditions = [{"type": kind, **condition} for kind in ("Finished", "Ready")]
    return {"observedGeneration": generation, "attempt": 1, "retries": 0, "phase": "Queued", "conditions": conditions}


def write(kubectl: Kubectl, namespace: str, status: object) -> None:
    patch = json.dumps({"status": status})
    kubectl.ok("patch", "llmtask", "in-release", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def _until_there(kubectl: Kubectl, namespace: str) -> dict[str, dict[str, int]]:
    deadline = time.monotonic() + 20
    while True:
        done = kubectl.run("get", "llmtask", "in-release", "-n", namespace, "-o", "json")
        if done.returncode == 0:
            found: dict[str, dict[str, int]] = json.loads(done.stdout)
            return found
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)
