"""What contract tests stand on: a real API server with the CRDs, and kubectl to judge manifests with.

``hack/test`` starts the server. A run without it fails and says so: nothing is skipped.
"""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Kubectl:
    """kubectl of the test control plane. ``run`` returns whatever happened; ``ok`` insists on success."""

    program: str
    kubeconfig: str

    def run(self, *args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, "kubectl", f"--kubeconfig={self.kubeconfig}", *args],
            input=stdin,
            text=True,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def ok(self, *args: str, stdin: str | None = None) -> str:
        done = self.run(*args, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run contract tests by `make test-contract`, which starts what they need")
    return value


@pytest.fixture(scope="session")
def kubeconfig() -> str:
    return required("HEADRACE_TEST_KUBECONFIG")


@pytest.fixture(scope="session")
def kubectl(kubeconfig: str) -> Kubectl:
    kubectl = Kubectl(required("HEADRACE_KUBE"), kubeconfig)
    kubectl.ok("apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl.ok("wait", "--for=condition=Established", "crd/llmtasks.headrace.dev", "crd/llmmodels.headrace.dev")
    return kubectl


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"t-{uuid.uuid4().hex[:10]}"
    kubectl.ok("create", "namespace", name)
    yield name
    kubectl.run("delete", "llmtasks,llmmodels", "--all", "-n", name, "--wait=false")
    kubectl.run("delete", "namespace", name, "--wait=false")


Create = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def create(kubectl: Kubectl, namespace: str) -> Create:
    """kubectl create, strictly validated, in the test's namespace; apply would copy large inputs into an annotation."""

    def created(manifest: str) -> subprocess.CompletedProcess[str]:
        return kubectl.run("create", "--validate=strict", "-n", namespace, "-f", "-", stdin=manifest)

    return created
