"""Weights that come over a network: the operator's Job on a real API server with the real Job controller, its pod's
command run here as the kubelet would run it, against a file server on loopback.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_world import ENGINE, MODEL, RUNNER, Cluster, Operator, StartOperator, until

from headrace_bus import Bus, ModelKey

# Test folders are no packages; the server's module lies beside.
sys.path.insert(0, str(Path(__file__).parents[1] / "weights"))
from redis_server import RedisServer
from weights_server import FileServer, gguf_of, serving_apart

SIZE = 1_000_000
CHUNK = 65_536


@pytest.fixture
def files() -> Iterator[FileServer]:
    with serving_apart(FileServer(gguf_of(SIZE))) as files:
        yield files


def begin(start: StartOperator, files: FileServer, **weights: Any) -> Operator:
    return start(HEADRACE_WEIGHTS=json.dumps({"allowedHosts": [f"127.0.0.1:{files.port}"], **weights}))


def fetched_model(cluster: Cluster, files: FileServer, *, claim: bool = True, **spec: Any) -> str:
    if claim and cluster.get("persistentvolumeclaim", "weights") is None:
        request = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
        cluster.create(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}, "spec": request}
        )
    source = {"http": {"url": files.url(), **spec.pop("http", {})}, "sha256": spec.pop("sha256", files.sha256)}
    cache = {"persistentVolumeClaim": {"claimName": "weights"}}
    return cluster.model(claim=False, local={"source": source, "cache": cache}, **spec)


class Kubelet:
    """Runs the container `weights` of the Job's pod as a process of this machine, and writes its pod's status."""

    def __init__(self, cluster: Cluster, server: RedisServer, folder: Path) -> None:
        self.cluster, self.redis, self.folder = cluster, server, folder
        self.cache = folder / "cache"
        self.cache.mkdir(exist_ok=True)

    def job(self) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.cluster.request("GET", f"{self._jobs}/{RUNNER}")
        return found

    @property
    def _jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.cluster.namespace}/jobs"

    def delete_job(self) -> None:
        self.cluster.request("DELETE", f"{self._jobs}/{RUNNER}", json={"propagationPolicy": "Background"})

    async def pod(self) -> dict[str, Any]:
        """The Job's pod that has not ended, as the Job controller made it."""

        async def waiting() -> dict[str, Any] | None:
            job = self.job()
            pods = self.cluster.request("GET", self.cluster.path("pod"))["items"]
            for pod in pods:
                owners = [owner["uid"] for owner in pod["metadata"].get("ownerReferences") or []]
                if job and job["metadata"]["uid"] in owners and pod["status"]["phase"] == "Pending":
                    return dict(pod)
            return None

        return await until(waiting)

    def process(self, pod: dict[str, Any], **more: str) -> "subprocess.Popen[bytes]":
        (container,) = pod["spec"]["containers"]
        assert container["command"] == ["headrace-weights"]
        environment = {each["name"]: each.get("value", "") for each in container["env"]}
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts["cache"] == environment["HEADRACE_WEIGHTS_CACHE"]
        self._redis_url(environment)
        own = {
            "HEADRACE_WEIGHTS_CACHE": str(self.cache),
            "HEADRACE_POD": pod["metadata"]["name"],
            "HEADRACE_NODE": "node-a",
            "HEADRACE_TERMINATION_LOG": str(self.folder / "termination-log"),
            "HEADRACE_WEIGHTS_CHUNK_BYTES": str(CHUNK),
        }
        (self.folder / "termination-log").write_text("")
        command = [sys.executable, "-P", "-m", "headrace_runner.weights.main"]
        with (self.folder / "weights.log").open("ab") as sink:
            return subprocess.Popen(command, env={**os.environ, **environment, **own, **more}, stdout=sink, stderr=sink)

    def _redis_url(self, environment: dict[str, str]) -> None:
        import base64

        secret = self.cluster.get("secret", RUNNER)
        assert secret is not None
        url = base64.b64decode(secret["data"]["weights-url"]).decode().replace(":6379", f":{self.redis.port}")
        assert environment["HEADRACE_REDIS_URL_FILE"] == "/etc/headrace/redis/weights-url"
        (self.folder / "weights-url").write_text(url)
        environment["HEADRACE_REDIS_URL_FILE"] = str(self.folder / "weights-url")

    def runs(self, pod: dict[str, Any]) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now}
        state = {"running": {"startedAt": now}}
        self._status(pod, {"phase": "Running", "conditions": [placed], "containerStatuses": [self._container(state)]})

    def ended(self, pod: dict[str, Any], code: int) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        message = (self.folder / "termination-log").read_text()
        words = {"exitCode": code, "message": message, "startedAt": now, "finishedAt": now}
        phase = "Failed" if code else "Succeeded"
        self._status(pod, {"phase": phase, "containerStatuses": [self._container({"terminated": words})]})

    def _container(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"name": "weights", "state": state, "ready": False, "restartCount": 0, "image": "i", "imageID": "i"}

    def _status(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        self.cluster.patch("pod", pod["metadata"]["name"], {"status": status}, status=True)

    async def run(self) -> int:
        """The whole life of one pod; gives the exit code."""
        pod = await self.pod()
        self.runs(pod)
        code = self.process(pod).wait(60)
        self.ended(pod, code)
        return code


@pytest.fixture
def kubelet(cluster: Cluster, server: RedisServer, tmp_path: Path) -> Iterator[Kubelet]:
    kubelet = Kubelet(cluster, server, tmp_path)
    yield kubelet
    log = tmp_path / "weights.log"
    print(log.read_text() if log.exists() else "no downloader ran")


def conditions(cluster: Cluster, **want: tuple[str, str] | None) -> bool:
    found = cluster.conditions()
    return all(found.get(type_) == value for type_, value in want.items())


async def told(cluster: Cluster, **want: tuple[str, str] | None) -> None:
    async def so() -> bool:
        return conditions(cluster, **want)

    await until(so)


def replicas(cluster: Cluster) -> int | None:
    deployment = cluster.get("deployment", RUNNER)
    return None if deployment is None else int(deployment["spec"]["replicas"])


async def test_from_a_url_to_runners(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    fetched_model(cluster, files)
    await told(cluster, Ready=("False", "DownloadingWeights"))
    assert cluster.status(MODEL, "llmmodel")["phase"] == "Loading"
    assert cluster.status(MODEL, "llmmodel")["load"]["stage"] == "Downloading"
    pod = await kubelet.pod()
    assert replicas(cluster) == 0, "no runner before there is something to load"
    assert pod["spec"]["automountServiceAccountToken"] is False
    policy = cluster.get("networkpolicy", f"{RUNNER}.weights")
    assert policy is not None
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()

    files.bytes_per_second = 20_000
    kubelet.runs(pod)
    process = kubelet.process(pod)

    async def half() -> bool:
        load = cluster.status(MODEL, "llmmodel").get("load") or {}
        return 0 < load.get("percent", 0) < 100 and load.get("bytesPerSecond", 0) > 0 and "etaSeconds" in load

    await until(half)
    files.bytes_per_second = None
    code = process.wait(60)
    assert code == 0
    kubelet.ended(pod, code)

    async def recorded() -> bool:
        return (cluster.status(MODEL, "llmmodel").get("weights") or {}).get("sha256") == files.sha256

    await until(recorded)
    assert cluster.status(MODEL, "llmmodel")["weights"]["sizeBytes"] == len(files.content)

    async def runs() -> bool:
        return replicas(cluster) == 1

    await until(runs)
    deployment = cluster.get("deployment", RUNNER)
    assert deployment is not None
    template = deployment["spec"]["template"]["spec"]
    volume = next(each for each in template["volumes"] if each["name"] == "model")
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    engine = next(each for each in template["containers"] if each["name"] == "engine")
    path = next(each["value"] for each in engine["env"] if each["name"] == "HEADRACE_MODEL_PATH")
    assert (kubelet.cache / path.removeprefix("/models/")).read_bytes() == files.content

    cluster.pod("pod-a")
    cluster.pod_ready("pod-a")
    await bus.report(key, "pod-a", {"state": "Serving", "generation": 1, "engine": ENGINE}, ttl_ms=60_000)
    await told(cluster, Ready=("True", "Serving"))
