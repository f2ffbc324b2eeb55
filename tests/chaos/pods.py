"""Runner pods as Deployment controller and kubelet would run them, from what the operator wrote.

A pod is a runner and a stub engine with the environment of the Deployment's containers, the Redis URL of the model's
Secret and a token of the model's ServiceAccount; of a remote model the runner alone. Paths and ports are the machine's
instead of the container's.
"""

import base64
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.chaos.control_plane import Api
from tests.chaos.processes import Kept

JOURNAL: Final = "generations.jsonl"
"""In the run's folder: what all engines and providers append to."""
FAKETIME: Final = next(map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), "")


@dataclass(frozen=True)
class Peculiar:
    """What is special about one pod: a command before its runner's (a network namespace), a wrong wall clock."""

    prefix: tuple[str, ...] = ()
    clock_offset: str = ""


@dataclass
class Pod:
    """The two containers share a name and a folder. `engine` None: of a remote model."""

    name: str
    runner: Kept
    engine: Kept | None
    body: Mapping[str, Any] = field(default_factory=dict)
    """The object, as the Deployment's controller would create it."""

    async def start(self) -> None:
        if self.engine is not None:
            await self.engine.start()
        await self.runner.start()

    async def end(self) -> None:
        await self.runner.end()
        if self.engine is not None:
            await self.engine.end()

    @property
    def serves(self) -> bool:
        """The runner's present process has reached its engine, or made its provider."""
        return self.runner.logged_since_start('"provider serves"' if self.engine is None else '"engine connected"')


def _environment(container: Mapping[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


async def make_pods(
    api: Api,
    deployment: Mapping[str, Any],
    folder: Path,
    base: Mapping[str, str],
    peculiar: Mapping[int, Peculiar],
    mounted: Mapping[str, Path] | None = None,
) -> list[Pod]:
    """As many as the Deployment has replicas, not started. `base` is every process' environment; `mounted`: the files
    that stand for those of the container, by the variables that name them.
    """
    spec = deployment["spec"]["template"]["spec"]
    containers = {each["name"]: each for each in spec["containers"]}
    namespace, name = deployment["metadata"]["namespace"], deployment["metadata"]["name"]
    volumes = {each["name"]: each for each in spec["volumes"]}
    secret = await api.request(
        "GET", f"/api/v1/namespaces/{namespace}/secrets/{volumes['redis']['secret']['secretName']}"
    )
    url = folder / f"{name}.redis-url"
    url.write_bytes(base64.b64decode(secret["data"]["url"]))
    pods = []
    for number in range(deployment["spec"]["replicas"]):
        odd = peculiar.get(number, Peculiar())
        pod = f"{name}-{number}"
        kubeconfig = folder / f"{pod}.kubeconfig"
        # The certificates of a run are minutes old: a clock that lies an hour back refuses them.
        verified = not odd.clock_offset.startswith("-")
        await api.kubeconfig(namespace, spec["serviceAccountName"], kubeconfig, verified=verified)
        runner = {
            **base,
            **_environment(containers["runner"]),
            **_shared(folder, pod),
            "HEADRACE_POD": pod,
            "HEADRACE_REDIS_URL_FILE": str(url),
            "HEADRACE_KUBECONFIG": str(kubeconfig),
            "HEADRACE_HTTP_PORT": str(free_port()),
        }
        for variable, path in (mounted or {}).items():
            assert variable in runner, f"the operator's pod has no {variable}"
            runner[variable] = str(path)
        if odd.clock_offset:
            # The monotonic clock is left alone: no machine's is wrong.
            runner |= {"LD_PRELOAD": FAKETIME, "FAKETIME": odd.clock_offset, "DONT_FAKE_MONOTONIC": "1"}
        argv = (*odd.prefix, sys.executable, "-P", "-m", "headrace_runner.main")
        engine = None
        if "engine" in containers:
            engine = _engine(folder, pod, {**base, **_environment(containers["engine"])}, runner["HEADRACE_MODEL"])
        kept = Kept(f"{pod}/runner", argv, runner, folder / f"{pod}.runner.log")
        pods.append(Pod(pod, kept, engine, _body(deployment, pod)))
    return pods


def _body(deployment: Mapping[str, Any], pod: str) -> dict[str, Any]:
    template = deployment["spec"]["template"]
    metadata = {**template["metadata"], "name": pod, "namespace": deployment["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


async def show(api: Api, pod: Pod) -> None:
    """Create the object of a pod that has a node and runs. Nobody probes it: what its runner reports is all that is
    known of it.
    """
    path = f"/api/v1/namespaces/{pod.body['metadata']['namespace']}/pods"
    await api.request("POST", path, pod.body)
    status = {"phase": "Running", "conditions": [{"type": "PodScheduled", "status": "True"}]}
    type_ = "application/merge-patch+json"
    await api.request("PATCH", f"{path}/{pod.name}/status", {"status": status}, type_=type_)


async def take_away(api: Api, pod: Pod) -> None:
    """Its node is lost: the object goes, whatever the processes do."""
    path = f"/api/v1/namespaces/{pod.body['metadata']['namespace']}/pods/{pod.name}?gracePeriodSeconds=0"
    await api.request("DELETE", path)


def _shared(folder: Path, pod: str) -> dict[str, str]:
    return {
        "HEADRACE_ENGINE_SOCKET": str(folder / f"{pod}.sock"),
        "HEADRACE_ENGINE_STATE": str(folder / f"{pod}.json"),
    }


def _engine(folder: Path, pod: str, environment: Mapping[str, str], model: str) -> Kept:
    own = {
        **environment,
        **_shared(folder, pod),
        "STUB_ENGINE_LOG": str(folder / JOURNAL),
        "STUB_ENGINE_POD": pod,
        "STUB_ENGINE_MODEL": model,
    }
    argv = (sys.executable, "-P", "-m", "tests.stub_engine.supervisor")
    return Kept(f"{pod}/engine", argv, own, folder / f"{pod}.engine.log")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def base_environment(tree: Path, checkout: Path) -> dict[str, str]:
    """The product of `tree`; the stub engine and this harness of `checkout`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    packages = [str(tree / part) for part in ("crds", "bus", "operator", "runner", "facade", "cli")]
    return {**kept, "PYTHONPATH": os.pathsep.join([*packages, str(checkout)]), "PYTHONDONTWRITEBYTECODE": "1"}
