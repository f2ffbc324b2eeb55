"""An operator process under exactly the rights that RBAC.md names, and hands for what is not there.

No controller and no kubelet runs beside the API server: pods, their conditions, runners and the collection of owned
objects are played by hand, on the real API server and the real Redis.
"""

import asyncio
import base64
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml

import headrace_operator
from headrace_bus import Bus, EntryState, ModelKey
from headrace_crds.names import runner_name

# Test folders are no packages; the fixture's module lies one above.
sys.path.insert(0, str(Path(__file__).parents[1]))
from redis_server import free_port

WITHIN_SECONDS = 30.0
MODEL = "smol"
RUNNER = f"headrace-{MODEL}"
ENGINE = {"architecture": "llama", "contextTokens": 2048, "quantization": "Q4_1", "sizeBytes": 98_000_000}
CHILD_KINDS = ("serviceaccount", "rolebinding", "secret", "networkpolicy", "deployment")
T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T]], within_seconds: float = WITHIN_SECONDS) -> T:
    """Wait until the condition gives something true, and give it."""
    deadline = time.monotonic() + within_seconds
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"still {value!r}"
        await asyncio.sleep(0.02)
    return value


def granted_rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of RBAC.md as (scope, rule): what is documented is what the operator gets here."""
    text = (Path(headrace_operator.__file__).parent / "RBAC.md").read_text()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 5 or cells[0] not in ("cluster", "own", "listed", "nodes", "sharing"):
            continue
        scope, group, resource, verbs, _ = cells
        names = re.findall(r"`([^`]+)`", resource)
        rule: dict[str, Any] = {
            "apiGroups": ["" if group == "*core*" else group.strip("`")],
            "resources": [names[0]],
            "verbs": [verb.strip() for verb in verbs.split(",")],
        }
        if len(names) > 1:
            rule["resourceNames"] = names[1:]
        yield scope, rule


API_VERSIONS = {
    "llmtask": "headrace.dev/v1alpha1",
    "llmmodel": "headrace.dev/v1alpha1",
    "deployment": "apps/v1",
    "networkpolicy": "networking.k8s.io/v1",
    "role": "rbac.authorization.k8s.io/v1",
    "rolebinding": "rbac.authorization.k8s.io/v1",
    "clusterrole": "rbac.authorization.k8s.io/v1",
    "lease": "coordination.k8s.io/v1",
    "event": "events.k8s.io/v1",
}
PATCH_TYPES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


class Cluster:
    """The API server as an administrator sees it, in one namespace. kubectl would be most of the tests' time."""

    def __init__(self, kubectl: Any, namespace: str) -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        config = json.loads(kubectl.ok("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        self.config = config
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:
            for part in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[part]))
            pair.flush()
            context.load_cert_chain(pair.name)
        self._http = httpx.Client(base_url=cluster["server"], verify=context, trust_env=False, timeout=30)

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The answer's document; None for what is not there."""
        answer = self._http.request(method, path, **options)
        if answer.status_code == 404:
            return None
        assert answer.is_success, answer.text
        return answer.json()

    def stream(self, path: str, options: dict[str, str]) -> Iterator[Any]:
        with self._http.stream("GET", path, params=options) as answer:
            yield from (json.loads(line) for line in answer.iter_lines())

    def path(self, kind: str, name: str = "") -> str:
        version = API_VERSIONS.get(kind, "v1")
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        root = "/apis/" if "/" in version else "/api/"
        where = "" if kind in ("clusterrole", "node") else f"/namespaces/{self.namespace}"
        return f"{root}{version}{where}/{plural}" + (f"/{name}" if name else "")

    def create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        options = {"fieldValidation": "Strict"}
        return dict(self.request("POST", self.path(manifest["kind"].lower()), json=manifest, params=options))

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self.request("GET", self.path(kind, name))
        return found

    def delete(self, kind: str, name: str) -> None:
        self.request("DELETE", self.path(kind, name), json={"gracePeriodSeconds": 0})

    def patch(self, kind: str, name: str, patch: Any, *, type_: str = "merge", status: bool = False) -> None:
        path = self.path(kind, name) + ("/status" if status else "")
        headers = {"Content-Type": PATCH_TYPES[type_]}
        assert self.request("PATCH", path, content=json.dumps(patch), headers=headers) is not None

    def reasons_of_events(self) -> set[str]:
        return {item["reason"] for item in self.request("GET", self.path("event"))["items"]}

    def delete_pods(self) -> None:
        self.request("DELETE", self.path("pod"), params={"gracePeriodSeconds": "0"})

    # What a user does

    def task(self, name: str, **spec: Any) -> str:
        said = {} if "messages" in spec else {"prompt": "say hello"}
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMTask",
            "metadata": {"name": name},
            "spec": {"modelRef": {"name": MODEL}, **said, **spec},
        }
        uid: str = self.create(body)["metadata"]["uid"]
        return uid

    def model(self, *, name: str = MODEL, claim: bool = True, **spec: Any) -> str:
        if claim and self.get("persistentvolumeclaim", "models") is None:
            request = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
            self.create(
                {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": request}
            )
        source = {"persistentVolumeClaim": {"claimName": "models", "path": "smol.gguf"}}
        body = {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMModel",
            "metadata": {"name": name},
            "spec": {"local": {"source": source, **spec.pop("local", {})}, **spec},
        }
        uid: str = self.create(body)["metadata"]["uid"]
        return uid

    def status(self, name: str, kind: str = "llmtask") -> dict[str, Any]:
        found = self.get(kind, name)
        return dict((found or {}).get("status") or {})

    def conditions(self, kind: str = "llmmodel", name: str = MODEL) -> dict[str, tuple[str, str]]:
        return {c["type"]: (c["status"], c["reason"]) for c in self.status(name, kind).get("conditions") or []}

    # What scheduler and kubelet do

    def pod(
        self, name: str, *, runner: str = RUNNER, scheduled: bool = True, message: str = "", node: str = ""
    ) -> None:
        """A pod as the Deployment's template makes it, with the scheduler's word."""
        deployment = self.get("deployment", runner)
        assert deployment is not None
        template = deployment["spec"]["template"]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, **template["metadata"]},
            "spec": {**template["spec"], **({"nodeName": node} if node else {})},
        }
        self.create(body)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        placed = {"type": "PodScheduled", "status": str(scheduled), "lastTransitionTime": now, "message": message}
        if not scheduled:
            placed["reason"] = "Unschedulable"
        self.patch("pod", name, {"status": {"conditions": [placed]}}, status=True)

    def pod_ready(self, name: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        both = [{"type": each, "status": "True", "lastTransitionTime": now} for each in ("PodScheduled", "Ready")]
        self.patch("pod", name, {"status": {"phase": "Running", "conditions": both}}, status=True)

    def node(self, name: str, allocatable: dict[str, str]) -> None:
        """Ready, with these resources; again for one that is there: others."""
        if self.get("node", name) is None:
            self.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        status = {
            "capacity": allocatable,
            "allocatable": allocatable,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Played"}],
        }
        self.patch("node", name, {"status": status}, status=True)

    # What the garbage collector does

    def collect(self) -> None:
        for kind in CHILD_KINDS:
            self.delete(kind, RUNNER)
        self.delete_pods()

    def commit(self, name: str, attempt: int, *, outcome: str = "Complete", **members: Any) -> None:
        """What a runner writes when it is done."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        finished = {"type": "Finished", "status": "True", "reason": "Succeeded", "lastTransitionTime": now}
        patch = [
            {"op": "test", "path": "/status/attempt", "value": attempt},
            {"op": "add", "path": "/status/outcome", "value": outcome},
            {"op": "add", "path": "/status/phase", "value": outcome},
            {"op": "add", "path": "/status/completionTime", "value": now},
            {"op": "add", "path": "/status/conditions", "value": [finished]},
            *({"op": "add", "path": f"/status/{name}", "value": value} for name, value in members.items()),
        ]
        self.patch("llmtask", name, patch, type_="json", status=True)


class Writes:
    """Counts the writes of one object from here on, its creation excepted: every version that a watch tells."""

    def __init__(self, cluster: Cluster, kind: str, name: str) -> None:
        self._cluster, self._kind, self._name = cluster, kind, name
        self._since = cluster.request("GET", cluster.path(kind))["metadata"]["resourceVersion"]

    def count(self) -> int:
        found = self._cluster.get(self._kind, self._name)
        assert found is not None
        last, written = found["metadata"]["resourceVersion"], 0
        if int(last) <= int(self._since):
            return 0
        options = {"watch": "1", "resourceVersion": self._since, "fieldSelector": f"metadata.name={self._name}"}
        for event in self._cluster.stream(self._cluster.path(self._kind), options):
            written += event["type"] == "MODIFIED"
            if event["object"]["metadata"]["resourceVersion"] == last:
                break
        return written


class Operator:
    """A `headrace-operator` process that serves one namespace."""

    def __init__(
        self, folder: Path, kubeconfig: Path, namespace: str, redis_url: str, identity: str, **more: str
    ) -> None:
        self.port = free_port()
        self.log = folder / "operator.log"
        (folder / "redis-url").write_text(redis_url)
        (folder / "redis-key").write_text("a key of thirty-two characters..")
        self._environment = {
            **os.environ,
            "HEADRACE_KUBECONFIG": str(kubeconfig),
            "HEADRACE_NAMESPACE": namespace,
            "HEADRACE_WATCH_NAMESPACES": namespace,
            "HEADRACE_REDIS_URL_FILE": str(folder / "redis-url"),
            "HEADRACE_RUNNER_REDIS_SECRET_FILE": str(folder / "redis-key"),
            "HEADRACE_RUNNER_REDIS_ADDRESS": "redis://127.0.0.1:6379/0",
            "HEADRACE_RUNNER_IMAGE": "headrace-runner:test",
            "HEADRACE_IDENTITY": identity,
            "HEADRACE_HTTP_PORT": str(self.port),
            "HEADRACE_SWEEP_SECONDS": "1",
            "HEADRACE_RELIST_SECONDS": "2",
            "HEADRACE_REAP_SECONDS": "0.2",
            "HEADRACE_ELECTION_LEASE_SECONDS": "3",
            **more,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-P", "-m", "headrace_operator.main"]
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(command, env=self._environment, stdout=sink, stderr=sink)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(20)

    async def http(self, path: str) -> httpx.Response | None:
        assert self.process is not None
        assert self.process.poll() is None, "the operator ended"
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                return await client.get(f"http://127.0.0.1:{self.port}{path}", timeout=5)
        except httpx.TransportError:
            return None

    async def ready(self) -> bool:
        answer = await self.http("/readyz")
        return answer is not None and answer.status_code == 200

    async def leads(self) -> bool:
        answer = await self.http("/metrics")
        return answer is not None and "\nheadrace_leader 1.0" in answer.text


StartOperator = Callable[..., Operator]


def kubeconfig_of(cluster: Cluster, account: str, folder: Path) -> Path:
    """A kubeconfig with the account's own token."""
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    answer = cluster.request("POST", cluster.path("serviceaccount", account) + "/token", json=asked)
    user = {"name": cluster.config["contexts"][0]["context"]["user"], "user": {"token": answer["status"]["token"]}}
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump({**cluster.config, "users": [user]}))
    return path


async def in_state(bus: Bus, key: ModelKey, uid: str, state: EntryState, attempt: int) -> bool:
    entry = await bus.inspect(key, uid)
    return entry is not None and (entry.state, entry.attempt) == (state, attempt)


async def serve(cluster: Cluster, bus: Bus, key: ModelKey, pod: str = "pod-a") -> None:
    """A pod that serves, as far as the operator can see."""
    runner = runner_name(key.name)

    async def has_deployment() -> bool:
        return cluster.get("deployment", runner) is not None

    await until(has_deployment)
    cluster.pod(pod, runner=runner)
    cluster.pod_ready(pod)
    await bus.report(key, pod, {"state": "Serving", "generation": 1, "engine": ENGINE}, ttl_ms=60_000)

    async def available() -> bool:
        return cluster.conditions(name=key.name).get("Available") == ("True", "Serving")

    await until(available)
