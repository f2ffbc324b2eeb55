"""helm, and one release of the chart per module. Its pods never start: there is a control plane only."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace_crds.names import RUNNER_CLUSTER_ROLE, runner_name
from tests.contract.callers import service_account, token_of
from tests.contract.chart.task_world import World, wait_until_judged
from tests.contract.conftest import ROOT, Kubectl, required

CHART = ROOT / "charts/headrace"
Document = dict[str, Any]


@dataclass(frozen=True)
class Helm:
    program: str
    kubeconfig: str

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = [self.program, "helm", f"--kubeconfig={self.kubeconfig}", *args]
        return subprocess.run(command, text=True, capture_output=True, timeout=100, check=False)

    def ok(self, *args: str) -> str:
        done = self.run(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def template(self, *args: str, namespace: str = "headrace-system", name: str = "headrace") -> str:
        """Rendered without a cluster, as Argo CD does."""
        return self.ok("template", name, str(CHART), "-n", namespace, "--kube-version", "1.34.0", *args)

    def render(self, *args: str, namespace: str = "headrace-system") -> list[Document]:
        return documents(self.template(*args, namespace=namespace))

    def refusal(self, *args: str) -> str:
        done = self.run("template", "headrace", str(CHART), "--kube-version", "1.34.0", *args)
        assert done.returncode != 0, "rendered, though it should have been refused"
        return done.stderr


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def named(rendered: list[Document], kind: str, name: str) -> Document:
    found = [d for d in rendered if d["kind"] == kind and d["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


@pytest.fixture(scope="session")
def helm(kubeconfig: str) -> Helm:
    return Helm(required("HEADRACE_KUBE"), kubeconfig)


@dataclass(frozen=True)
class Release:
    """An installed chart."""

    name: str
    namespace: str
    helm: Helm
    kubectl: Kubectl

    def upgrade(self, *args: str) -> None:
        self.helm.ok("upgrade", self.name, str(CHART), "-n", self.namespace, "--reset-values", *RELEASE_VALUES, *args)

    def secret(self) -> dict[str, str]:
        name = f"{self.name}-headrace-redis"
        data: dict[str, str] = json.loads(self.kubectl.ok("get", "secret", name, "-n", self.namespace, "-o", "json"))[
            "data"
        ]
        return data

    def manifest(self) -> str:
        return self.helm.ok("get", "manifest", self.name, "-n", self.namespace)


# The CRDs are the session's, not the release's; "trusted" may write statuses.
RELEASE_VALUES = (
    "--set",
    "crds.enabled=false",
    "--set",
    "admission.extraStatusWriters={system:serviceaccount:restore:velero}",
)


# Per module and not per session: its policies would judge the writes of the other suites' tests.
@pytest.fixture(scope="module")
def release(kubectl: Kubectl, helm: Helm) -> Iterator[Release]:
    name = f"r{uuid.uuid4().hex[:8]}"
    namespace = f"{name}-system"
    kubectl.ok("create", "namespace", namespace)
    # Names that are fixed for the cluster may be left from a release that was not ended.
    helm.ok("install", name, str(CHART), "-n", namespace, "--take-ownership", *RELEASE_VALUES)
    yield Release(name, namespace, helm, kubectl)
    helm.ok("uninstall", name, "-n", namespace)
    kubectl.run("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def values_file(tmp_path: Path) -> Path:
    return tmp_path / "values.yaml"


@pytest.fixture(scope="module")
def world(kubectl: Kubectl, release: Release) -> Iterator[World]:
    namespace = f"{release.name}-team"
    kubectl.ok("create", "namespace", namespace)
    world = World(
        namespace,
        token_of(kubectl, release.namespace, f"{release.name}-headrace-operator"),
        service_account(kubectl, namespace, runner_name("a"), RUNNER_CLUSTER_ROLE),
        service_account(kubectl, namespace, runner_name("b"), RUNNER_CLUSTER_ROLE),
        service_account(kubectl, namespace, "editor", f"{release.name}-headrace-edit"),
        kubectl,
    )
    wait_until_judged(world)
    yield world
    kubectl.run("delete", "llmtasks,llmmodels", "--all", "-n", namespace, "--wait=false")
    kubectl.run("delete", "namespace", namespace, "--wait=false")
