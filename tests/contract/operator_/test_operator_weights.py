"""Weights that come over a network: the operator's Job on a real API server with the real Job controller, its pod's
command run here as the kubelet would run it, against a file server on loopback.
"""

import base64
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

from headrace_bus import Bus, BusDenied, ModelKey

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

    def redis_url(self) -> str:
        secret = self.cluster.get("secret", RUNNER)
        assert secret is not None
        return base64.b64decode(secret["data"]["weights-url"]).decode().replace(":6379", f":{self.redis.port}")

    def _redis_url(self, environment: dict[str, str]) -> None:
        assert environment["HEADRACE_REDIS_URL_FILE"] == "/etc/headrace/redis/weights-url"
        (self.folder / "weights-url").write_text(self.redis_url())
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


async def test_a_pod_that_is_killed_is_followed_by_one_that_goes_on(
    start: StartOperator, cluster: Cluster, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    files.bytes_per_second = 40_000
    fetched_model(cluster, files)
    pod = await kubelet.pod()
    kubelet.runs(pod)
    process = kubelet.process(pod)
    await files.sent(6 * CHUNK)
    process.kill()
    process.wait()
    kubelet.ended(pod, 137)
    files.bytes_per_second, asked = None, len(files.asked)
    assert await kubelet.run() == 0

    async def runs() -> bool:
        return replicas(cluster) == 1

    await until(runs)
    assert files.asked_bytes(asked) < len(files.content), "not from the beginning"


async def test_a_wrong_digest_stands_still_until_the_model_is_corrected(
    start: StartOperator, cluster: Cluster, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    fetched_model(cluster, files, sha256="0" * 64)
    assert await kubelet.run() == 65
    await told(cluster, Ready=("False", "WrongDigest"), Stalled=("True", "WrongDigest"))
    job = kubelet.job()
    assert job is not None
    assert job["status"]["failed"] == 1, "one pod, as the next would find the same"
    assert replicas(cluster) == 0
    assert "WrongDigest" in cluster.reasons_of_events()

    source = {"local": {"source": {"sha256": files.sha256}}}
    cluster.patch("llmmodel", MODEL, {"spec": source})
    assert await kubelet.run() == 0

    async def runs() -> bool:
        return replicas(cluster) == 1

    await until(runs)
    await told(cluster, Stalled=None)
    again = kubelet.job()
    assert again is not None
    assert again["metadata"]["uid"] != job["metadata"]["uid"]


async def test_a_deleted_job_is_a_word_to_try_again(
    start: StartOperator, cluster: Cluster, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    files.statuses = [404]
    fetched_model(cluster, files)
    assert await kubelet.run() == 65
    await told(cluster, Stalled=("True", "WeightsNotFound"))
    kubelet.delete_job()
    assert await kubelet.run() == 0
    await told(cluster, Stalled=None)


async def test_a_full_cache_is_a_reason_with_numbers(
    start: StartOperator, cluster: Cluster, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    source = {"http": {"url": files.url()}, "sha256": files.sha256}
    cache = {"persistentVolumeClaim": {"claimName": "weights"}, "limitBytes": 1_048_576}
    files.content = gguf_of(2_000_000)
    source["sha256"] = files.sha256
    request = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    cluster.create(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights"}, "spec": request}
    )
    cluster.model(claim=False, local={"source": source, "cache": cache})
    assert await kubelet.run() == 65
    await told(cluster, Ready=("False", "DiskFull"), Stalled=None)
    message = next(c["message"] for c in cluster.status(MODEL, "llmmodel")["conditions"] if c["type"] == "Ready")
    assert "limit of 1048576 bytes has 1048576 bytes free and needs 2000101 bytes" in message
    assert "tried again at" in message
    assert files.sent_bytes <= 2 * CHUNK


async def test_credentials_reach_the_job_when_their_owner_says_so(
    start: StartOperator, cluster: Cluster, files: FileServer, kubelet: Kubelet, tmp_path: Path
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    files.token = "Bearer t0ken"
    cluster.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"token": "t0ken"}}
    )
    credentials = {"secretKeyRef": {"name": "hub", "key": "token"}}
    fetched_model(cluster, files, http={"credentials": credentials})
    await told(cluster, Ready=("False", "HostNotAllowed"))
    assert kubelet.job() is None
    hosts = {"headrace.dev/allowed-hosts": f"127.0.0.1:{files.port}"}
    cluster.patch("secret", "hub", {"metadata": {"annotations": hosts}})
    pod = await kubelet.pod()
    volume = next(each for each in pod["spec"]["volumes"] if each["name"] == "source")
    assert volume["secret"]["secretName"] == "hub"
    (tmp_path / "token").write_text("t0ken")
    kubelet.runs(pod)
    code = kubelet.process(pod, HEADRACE_WEIGHTS_SECRET_DIR=str(tmp_path)).wait(60)
    assert code == 0


async def test_a_missing_claim_is_said_before_anything_is_fetched(
    start: StartOperator, cluster: Cluster, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    fetched_model(cluster, files, claim=False)
    await told(cluster, Ready=("False", "ClaimNotFound"))
    assert kubelet.job() is None


async def test_what_was_evicted_is_fetched_again(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    fetched_model(cluster, files)
    assert await kubelet.run() == 0

    async def runs() -> bool:
        return replicas(cluster) == 1

    async def stopped() -> bool:
        return replicas(cluster) == 0

    await until(runs)
    # It was verified long ago, and its Job has gone.
    kubelet.delete_job()
    cluster.patch("llmmodel", MODEL, {"status": {"weights": {"since": "2026-01-01T00:00:00Z"}}}, status=True)
    cluster.pod("pod-a")
    lacking = {"state": "Failed", "reason": "ModelFileNotFound", "message": "gone", "generation": 1}
    await bus.report(key, "pod-a", lacking, ttl_ms=60_000)
    await until(stopped)
    cluster.request("DELETE", cluster.path("pod", "pod-a"), params={"gracePeriodSeconds": "0"})
    (kubelet.cache / files.sha256 / "model.gguf").unlink()
    assert await kubelet.run() == 0
    await until(runs)
    assert files.sent_bytes == 2 * len(files.content)


async def test_the_downloaders_redis_user_reports_and_sees_no_queue(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, files: FileServer, kubelet: Kubelet
) -> None:
    operator = begin(start, files)
    await until(operator.leads)
    fetched_model(cluster, files)
    uid = cluster.task("secret-work")

    async def queued() -> bool:
        return await bus.inspect(key, uid) is not None

    await until(queued)
    await kubelet.pod()
    url = kubelet.redis_url()
    async with Bus.connect(url) as downloader:
        await downloader.report(key, "w", {"state": "Downloading"}, ttl_ms=60_000)
        assert (await bus.reports(key))["w"] == {"state": "Downloading"}
        for denied in (
            lambda: downloader.claim(key, worker="w", count=1, lease_ms=1_000),
            lambda: downloader.inspect(key, uid),
            lambda: downloader.report(ModelKey(key.namespace, "another"), "w", {"state": "x"}, ttl_ms=1_000),
            lambda: downloader.purge(key),
        ):
            with pytest.raises(BusDenied):
                await denied()
    cluster.delete("llmmodel", MODEL)

    async def revoked() -> bool:
        try:
            async with Bus.connect(url) as gone:
                await gone.report(key, "w", {"state": "Downloading"}, ttl_ms=1_000)
        except BusDenied:
            return True
        return False

    await until(revoked)


async def test_a_nodes_file_is_refused_until_the_chart_admits_it(start: StartOperator, cluster: Cluster) -> None:
    path = "/srv/models/m.gguf"
    refusing = start()
    await until(refusing.leads)
    cluster.model(claim=False, local={"source": {"hostPath": {"path": path}}})
    await told(cluster, Ready=("False", "HostPathNotAllowed"), Stalled=("True", "HostPathNotAllowed"))
    assert cluster.get("deployment", RUNNER) is None
    refusing.stop()
    admitting = start("operator-1", HEADRACE_WEIGHTS=json.dumps({"hostPaths": ["/srv/models"]}))
    await until(admitting.leads)

    async def runs() -> bool:
        return replicas(cluster) == 1

    await until(runs)


async def test_an_image_is_mounted_where_the_cluster_has_image_volumes_and_else_it_is_said(
    operator: Operator, cluster: Cluster
) -> None:
    source = {"image": {"reference": "r.example/m:q4", "path": "m.gguf"}, "sha256": "0" * 64}
    cluster.model(claim=False, local={"source": source})

    async def told_one_way() -> bool:
        deployment = cluster.get("deployment", RUNNER)
        if deployment is not None:
            volumes = deployment["spec"]["template"]["spec"]["volumes"]
            return any(each.get("image", {}).get("reference") == "r.example/m:q4" for each in volumes)
        return False

    async def told_the_other_way() -> bool:
        return conditions(cluster, Ready=("False", "ImageVolumesUnavailable")) and replicas(cluster) == 0

    async def either() -> bool:
        return await told_one_way() or await told_the_other_way()

    await until(either)
