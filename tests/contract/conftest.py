"""What contract tests stand on: a real API server with the CRDs, and kubectl to judge manifests with.

``hack/test`` starts a server for each test process: tests install releases and policies that would judge the others'
writes. A run without one fails and says so: nothing is skipped.
"""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.api_server import ApiServer, Judgement

ROOT = Path(__file__).parents[2]
CRDS = tuple(f"crd/{plural}.headrace.dev" for plural in ("llmtasks", "llmmodels", "llmquotas"))


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
    """HEADRACE_TEST_KUBECONFIG lists one for each test process, with colons between; one process uses the first."""
    given = required("HEADRACE_TEST_KUBECONFIG").split(os.pathsep)
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    if process >= len(given):
        pytest.fail(
            f"test process {process} has no control plane of its own: HEADRACE_TEST_KUBECONFIG names {len(given)}"
        )
    return given[process]


@pytest.fixture(scope="session")
def kubectl(kubeconfig: str) -> Kubectl:
    kubectl = Kubectl(required("HEADRACE_KUBE"), kubeconfig)
    kubectl.ok("apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl.ok("wait", "--for=condition=Established", *CRDS)
    return kubectl


@pytest.fixture(scope="session")
def api_server(kubectl: Kubectl) -> Iterator[ApiServer]:
    server = ApiServer(kubectl.kubeconfig)
    yield server
    server.close()


@pytest.fixture
def namespace(api_server: ApiServer) -> Iterator[str]:
    name = f"t-{uuid.uuid4().hex[:10]}"
    status, _ = api_server.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    assert status == 201
    yield name
    for plural in ("llmtasks", "llmmodels", "llmquotas"):
        api_server.request("DELETE", f"/apis/headrace.dev/v1alpha1/namespaces/{name}/{plural}")
    api_server.request("DELETE", f"/api/v1/namespaces/{name}")


Create = Callable[[str], Judgement]


@pytest.fixture
def create(api_server: ApiServer, namespace: str) -> Create:
    """Creates a manifest in the test's namespace, strictly validated."""
    return lambda manifest: api_server.create(namespace, manifest)
