"""The node cluster with the chart installed, once per run, and a restricted namespace per test.

``hack/test`` brings the cluster up; its env file names kubectl, helm and the images.
"""

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

ROOT = Path(__file__).parents[2]
SYSTEM = "headrace-system"
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def required(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run end-to-end tests by `make test-e2e`, which starts what they need")
    return value


@dataclass(frozen=True)
class Cluster:
    """kubectl and helm of the test cluster; every failing command shows what it said."""

    env: dict[str, str]

    def run(self, *args: str, stdin: str | None = None, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            args, input=stdin, text=True, capture_output=True, timeout=timeout, check=False, env=self.env, cwd=ROOT
        )

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 180) -> str:
        done = self.run(self.env["KUBECTL"], *args, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(args)}: {done.stderr}"
        return done.stdout

    def helm(self, *args: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        return self.run(self.env["HELM"], *args, timeout=timeout)

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.kubectl("get", kind, name, "-n", namespace, "-o", "json"))
        return body

    def apply(self, namespace: str, *manifests: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text)

    def wait(self, resource: str, condition: str, namespace: str, timeout: int = 120) -> None:
        self.kubectl(
            "wait", resource, "-n", namespace, f"--for={condition}", f"--timeout={timeout}s", timeout=timeout + 20
        )


T = TypeVar("T")


def eventually(read: Callable[[], T], holds: Callable[[T], bool], *, within: float = 60, what: str = "") -> T:
    """Poll until the condition holds; fail with the last value seen."""
    deadline = time.monotonic() + within
    while True:
        value = read()
        if holds(value):
            return value
        assert time.monotonic() < deadline, f"not within {within} s: {what}; last seen: {value}"
        time.sleep(0.2)


def sourced(env_file: str) -> dict[str, str]:
    done = subprocess.run(
        ["bash", "-c", f". '{env_file}'; env -0"], capture_output=True, text=True, check=True, timeout=20
    )
    env = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if "=" in pair)
    env["KUBECONFIG"] = env["HEADRACE_KUBECONFIG_EFFECTIVE"]
    return env


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster(sourced(required("HEADRACE_CLUSTER_ENV")))


@pytest.fixture(scope="session")
def provider_namespace() -> str:
    """For a provider's API inside the cluster; not made yet."""
    return f"e2e-provider-{uuid.uuid4().hex[:6]}"


@pytest.fixture(scope="session")
def provider_host(provider_namespace: str) -> str:
    """Where remote models may find it, by the chart's word."""
    return f"provider.{provider_namespace}.svc:8000"


@pytest.fixture(scope="session")
def headrace(cluster: Cluster, provider_host: str, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The chart of this checkout, installed and ready."""
    values = tmp_path_factory.mktemp("helm") / "values.yaml"
    values.write_text(cluster.run(str(ROOT / "hack/chart-values")).stdout, encoding="utf-8")
    done = cluster.helm(
        "upgrade",
        "--install",
        "headrace",
        "charts/headrace",
        *("--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "5m", "--values", str(values)),
        *("--set", f"remote.allowedHosts={{{provider_host}}}"),
    )
    assert done.returncode == 0, done.stderr
    return cluster


@pytest.fixture
def namespace(headrace: Cluster) -> Iterator[str]:
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    headrace.kubectl("create", "namespace", name)
    headrace.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    # The GPU and the cores have to be free again for the next test.
    headrace.kubectl("delete", "llmtasks,llmmodels", "--all", "-n", name)
    headrace.kubectl("delete", "pods", "--all", "-n", name, "--grace-period=1")
    headrace.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def weights(headrace: Cluster, namespace: str) -> str:
    """A claim in the test's namespace that holds the real model's file; its name."""
    done = headrace.run(str(ROOT / "tests/cluster/model-volume"), namespace, "models", required("HEADRACE_TEST_MODEL"))
    assert done.returncode == 0, done.stderr
    return "models"


def model(name: str, claim: str, path: str = MODEL_FILE, **local: Any) -> dict[str, Any]:
    source: dict[str, Any] = {"persistentVolumeClaim": {"claimName": claim, "path": path}}
    if "sha256" in local:
        source["sha256"] = local.pop("sha256")
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": name},
        "spec": {"local": {"source": source, "contextTokens": 2048, **local}},
    }


def task(name: str, model_name: str, **spec: Any) -> dict[str, Any]:
    if "messages" not in spec:
        spec.setdefault("prompt", "What is the capital of France?")
    spec.setdefault("parameters", {"maxTokens": 16, "temperature": "0"})
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMTask",
        "metadata": {"name": name},
        "spec": {"modelRef": {"name": model_name}, **spec},
    }


def long_task(name: str, model_name: str) -> dict[str, Any]:
    """Runs for many seconds: the schema does not let the document end early."""
    schema = {
        "type": "array",
        "items": {"type": "integer", "minimum": 100000, "maximum": 999999},
        "minItems": 80,
        "maxItems": 80,
    }
    return task(
        name,
        model_name,
        prompt="Write six-digit numbers.",
        parameters={"maxTokens": 1600, "temperature": "0"},
        output={"jsonSchema": json.dumps(schema)},
    )


def running(headrace: Cluster, namespace: str, weights: str) -> dict[str, Any]:
    """A long task in the middle of its generation."""
    headrace.apply(namespace, model("smollm2", weights), long_task("long", "smollm2"))
    return eventually(
        lambda: headrace.get("llmtask", "long", namespace),
        lambda t: t.get("status", {}).get("phase") == "Running",
        within=180,
        what="the task runs",
    )


def condition(body: dict[str, Any], type_: str) -> dict[str, Any] | None:
    conditions = body.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), None)
