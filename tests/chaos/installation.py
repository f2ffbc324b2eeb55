"""The chart, installed into the control plane with the run's Redis; its Deployments as processes."""

import asyncio
import base64
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.control_plane import Api, ApiError, Body
from tests.chaos.pods import free_port
from tests.chaos.processes import Kept
from tests.chaos.settings import RunSettings

SYSTEM: Final = "headrace-system"
RELEASE: Final = "headrace"
OPERATOR: Final = "headrace-operator"
FACADE: Final = "headrace-facade"
SUBMITTER: Final = "submitter"
DEPLOYMENT_SECONDS: Final = 90.0


async def create(api: Api, path: str, body: Body) -> None:
    """What is there already stays."""
    try:
        await api.request("POST", path, body)
    except ApiError as error:
        if error.status != 409:
            raise


async def namespace(api: Api, name: str) -> None:
    await create(api, "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


async def remove_namespace(api: Api, name: str) -> None:
    """With all that it holds, by and by; its tasks and models at once, as a later run's operator would serve them."""
    for kind in ("llmtasks", "llmmodels"):
        await api.request("DELETE", f"/apis/headrace.dev/v1alpha1/namespaces/{name}/{kind}")
    await api.request("DELETE", f"/api/v1/namespaces/{name}")


@dataclass(frozen=True)
class Places:
    """What the chart is told: Redis as each part reaches it; the tasks' namespace; who gets webhooks; the providers'
    hosts.
    """

    operator_url: str
    facade_url: str
    runner_address: str
    tenant: str
    receiver: str
    providers: tuple[str, ...] = ()


async def install(api: Api, settings: RunSettings, places: Places) -> None:
    """Install or upgrade the chart of the tree, with its CRDs. Raises RuntimeError with Helm's words."""
    await namespace(api, SYSTEM)
    await namespace(api, places.tenant)
    secret = {
        "operator-url": places.operator_url,
        "facade-url": places.facade_url,
        "runner-key": "a key of chaos runs, forty characters...",
    }
    path = f"/api/v1/namespaces/{SYSTEM}/secrets"
    await _replace_secret(api, path, "chaos-redis", secret)
    values = {
        "operator": {"replicas": 2},
        "redis": {"external": {"address": places.runner_address}, "existingSecret": "chaos-redis"},
        "webhooks": {"allowedHosts": [places.receiver], "secretNamespaces": [places.tenant]},
        "remote": {"allowedHosts": list(places.providers)},
        # Nothing but the run takes tasks away.
        "retention": {"perNamespace": 0, "perCluster": 0},
        "facade": {"defaultTtlSeconds": -1},
    }
    file = settings.folder / "values.json"
    file.write_text(json.dumps(values))
    chart = str(settings.tree / "charts/headrace")
    kubeconfig = str(settings.state / "kubeconfig")
    await _command(
        *(settings.kube, "helm", "--kubeconfig", kubeconfig, "upgrade", "--install", RELEASE, chart),
        *("-n", SYSTEM, "--take-ownership", "--values", str(file)),
    )
    await _command(
        *(settings.kube, "kubectl", "--kubeconfig", kubeconfig, "wait", "--for=condition=Established"),
        *("--timeout=60s", "crd/llmtasks.headrace.dev", "crd/llmmodels.headrace.dev"),
    )


async def _replace_secret(api: Api, path: str, name: str, values: Mapping[str, str]) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    if await api.find(f"{path}/{name}") is None:
        await api.request("POST", path, body)
    else:
        await api.request("PUT", f"{path}/{name}", body)


async def _command(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, error = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv[1:4])} failed: {error.decode()[-2000:]}")
    return out.decode()


async def _container(api: Api, deployment: str) -> tuple[str, dict[str, str], int]:
    """ServiceAccount, environment and replicas of a Deployment of the release."""
    found = await api.request("GET", f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{deployment}")
    spec = found["spec"]["template"]["spec"]
    environment = {each["name"]: each["value"] for each in spec["containers"][0]["env"] if "value" in each}
    return spec["serviceAccountName"], environment, found["spec"]["replicas"]


async def make_operators(api: Api, settings: RunSettings, base: Mapping[str, str]) -> list[Kept]:
    """Every replica, not started."""
    account, environment, replicas = await _container(api, OPERATOR)
    secret: dict[str, Any] = await api.request("GET", f"/api/v1/namespaces/{SYSTEM}/secrets/chaos-redis")
    files = {}
    for key in ("operator-url", "runner-key"):
        files[key] = settings.folder / key
        files[key].write_bytes(base64.b64decode(secret["data"][key]))
    # Shorter than the chart allows.
    periods = settings.periods.environment()
    operators = []
    for number in range(replicas):
        name = f"operator-{number}"
        kubeconfig = settings.folder / f"{name}.kubeconfig"
        await api.kubeconfig(SYSTEM, account, kubeconfig)
        own = {
            "HEADRACE_NAMESPACE": SYSTEM,
            "HEADRACE_IDENTITY": name,
            "HEADRACE_KUBECONFIG": str(kubeconfig),
            "HEADRACE_REDIS_URL_FILE": str(files["operator-url"]),
            "HEADRACE_RUNNER_REDIS_SECRET_FILE": str(files["runner-key"]),
            "HEADRACE_HTTP_PORT": str(free_port()),
        }
        argv = (sys.executable, "-P", "-m", "headrace_operator.main")
        operators.append(Kept(name, argv, {**base, **environment, **periods, **own}, settings.folder / f"{name}.log"))
    return operators


async def make_facade(api: Api, settings: RunSettings, base: Mapping[str, str], redis_url: str) -> tuple[Kept, int]:
    """The facade, not started, and its port."""
    _, environment, _ = await _container(api, FACADE)
    url = settings.folder / "facade-url"
    url.write_text(redis_url)
    authority = settings.folder / "ca.crt"
    authority.write_text(api.authority)
    port = free_port()
    own = {
        "HEADRACE_KUBE_URL": api.url,
        "HEADRACE_REDIS_URL_FILE": str(url),
        "HEADRACE_KUBE_CA_FILE": str(authority),
        "HEADRACE_HOST": "127.0.0.1",
        "HEADRACE_PORT": str(port),
        "HEADRACE_METRICS_PORT": "0",
    }
    argv = (sys.executable, "-P", "-c", "from headrace_facade.main import main; main()")
    return Kept("facade", argv, {**base, **environment, **own}, settings.folder / "facade.log"), port


async def submitter_token(api: Api, tenant: str) -> str:
    """A token of somebody who may edit in the namespace, by the role that the chart adds its rights to."""
    rbac = "rbac.authorization.k8s.io"
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": SUBMITTER}}
    await create(api, f"/api/v1/namespaces/{tenant}/serviceaccounts", account)
    binding = {
        "apiVersion": f"{rbac}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": SUBMITTER},
        "subjects": [{"kind": "ServiceAccount", "name": SUBMITTER, "namespace": tenant}],
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "edit"},
    }
    await create(api, f"/apis/{rbac}/v1/namespaces/{tenant}/rolebindings", binding)
    return await api.token(tenant, SUBMITTER)


def local_model(tenant: str, name: str, replicas: int, parallelism: int) -> Body:
    """One that the operator makes a Deployment for."""
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "stub.gguf"}}
    return model(tenant, name, replicas, {"local": {"source": source, "parallelism": parallelism}})


def model(tenant: str, name: str, replicas: int, spec: Body) -> Body:
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": name, "namespace": tenant},
        "spec": {"replicas": replicas, **spec},
    }


async def create_model(api: Api, body: Body) -> Body:
    """Create it; gives the Deployment that the operator makes for it. Raises TimeoutError."""
    tenant, name = body["metadata"]["namespace"], body["metadata"]["name"]
    await create(api, f"/apis/headrace.dev/v1alpha1/namespaces/{tenant}/llmmodels", body)
    path = f"/apis/apps/v1/namespaces/{tenant}/deployments/headrace-{name}"
    async with asyncio.timeout(DEPLOYMENT_SECONDS):
        while (deployment := await api.find(path)) is None:  # noqa: ASYNC110  the API server tells nobody
            await asyncio.sleep(0.1)
    return deployment


def log_tail(path: Path, lines: int = 20) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
