"""The installation under measurement: the chart's rights and policies, one operator process, runner processes under
their own ServiceAccount and Redis user, one stub engine for all. What Deployments would start is started here.
"""

import asyncio
import base64
import contextlib
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from api import Api, Refused
from load import MODEL

from headrace_bus import OPERATOR_ACL
from headrace_crds.model import LLMModel
from headrace_runner.engine.client import Stage, read_state

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "contract"))
from redis_server import RedisServer, free_port, redis_server  # noqa: E402

SYSTEM = "headrace-bench-system"
NAMESPACE = "headrace-bench"
RELEASE = "bench"
PARALLELISM = 32
_WITHIN_SECONDS = 300.0


@dataclass
class World:
    api: Api
    folder: Path
    server: RedisServer
    runners: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    operator_port: int = 0

    def start(self, name: str, *arguments: str, **environment: str) -> None:
        log = (self.folder / f"{name}.log").open("wb")
        self.processes[name] = subprocess.Popen(
            [sys.executable, "-P", *arguments],
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()

    def end(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def alive(self) -> None:
        """Raises when a process ended, with the end of its log."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                tail = (self.folder / f"{name}.log").read_text()[-2000:]
                raise RuntimeError(f"{name} ended with {process.returncode}: {tail}")

    async def start_operator(self, token: str, **environment: str) -> None:
        self.operator_port = free_port()
        with redis.Redis(port=self.server.port) as direct:
            direct.execute_command("ACL", "SETUSER", "operator", "reset", "on", ">secret", *OPERATOR_ACL)
        files = {
            "operator.kubeconfig": self.api.kubeconfig(token),
            "operator.redis": f"redis://operator:secret@127.0.0.1:{self.server.port}/0",
            "runner.key": "a key of thirty-two characters..",
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        self.start(
            "operator",
            "-m",
            "headrace_operator.main",
            HEADRACE_KUBECONFIG=str(self.folder / "operator.kubeconfig"),
            HEADRACE_NAMESPACE=SYSTEM,
            HEADRACE_REDIS_URL_FILE=str(self.folder / "operator.redis"),
            HEADRACE_RUNNER_REDIS_SECRET_FILE=str(self.folder / "runner.key"),
            HEADRACE_RUNNER_REDIS_ADDRESS=f"redis://127.0.0.1:{self.server.port}/0",
            HEADRACE_RUNNER_IMAGE="headrace-runner:bench",
            HEADRACE_IDENTITY="bench-operator-0",
            HEADRACE_HTTP_PORT=str(self.operator_port),
            **environment,
        )
        await self.until(self._leads)

    def _leads(self) -> bool:
        return "\nheadrace_leader 1.0" in self.operator_metrics()

    def operator_metrics(self) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.operator_port}/metrics", timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except (urllib.error.URLError, OSError):
            return ""

    async def start_runners(self) -> None:
        """As many as asked for; their Redis URL is the one that the operator wrote into the model's Secret."""
        await self.runner_files(MODEL)
        self._start_engine()
        await self.until(lambda: read_state(self.folder / "engine.json").state is Stage.SERVING)
        ports = []
        for number in range(self.runners):
            ports.append(free_port())
            self.start(
                f"runner-{number}",
                "-m",
                "headrace_runner.main",
                HEADRACE_MODEL=f"{NAMESPACE}/{MODEL}",
                HEADRACE_MODEL_GENERATION="1",
                HEADRACE_POD=f"headrace-{MODEL}-{number}",
                HEADRACE_REDIS_URL_FILE=str(self.folder / f"{MODEL}.redis"),
                HEADRACE_PARALLELISM=str(PARALLELISM),
                HEADRACE_ENGINE_SOCKET=str(self.folder / "engine.sock"),
                HEADRACE_ENGINE_STATE=str(self.folder / "engine.json"),
                HEADRACE_HTTP_PORT=str(ports[-1]),
                HEADRACE_KUBECONFIG=str(self.folder / f"{MODEL}.kubeconfig"),
            )
        for port in ports:
            await self.until(lambda port=port: is_ready(port))  # type: ignore[misc]

    async def runner_files(self, model: str) -> None:
        """What the operator makes for the model's runners, as files: MODEL.redis and MODEL.kubeconfig."""
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/headrace-{model}"
        url = ""
        # What an earlier run left names another Redis.
        while not url.endswith(f":{self.server.port}/0"):
            secret = await self.found(path)
            url = base64.b64decode(secret["data"]["url"]).decode()
            await asyncio.sleep(0.05)
        (self.folder / f"{model}.redis").write_text(url)
        await self.found(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/headrace-{model}")
        await self.found(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings/headrace-{model}")
        token = await self.api.token(NAMESPACE, f"headrace-{model}")
        (self.folder / f"{model}.kubeconfig").write_text(self.api.kubeconfig(token))

    def _start_engine(self) -> None:
        weights = self.folder / "weights.gguf"
        weights.write_bytes(b"GGUF")
        self.start(
            "engine",
            "-m",
            "tests.stub_engine.supervisor",
            PYTHONPATH=f"{os.environ.get('PYTHONPATH', '')}:{ROOT}",
            HEADRACE_ENGINE_SOCKET=str(self.folder / "engine.sock"),
            HEADRACE_ENGINE_STATE=str(self.folder / "engine.json"),
            HEADRACE_MODEL_PATH=str(weights),
            HEADRACE_MODELS_DIR=str(self.folder),
            HEADRACE_CONTEXT_TOKENS="8192",
            HEADRACE_PARALLELISM=str(PARALLELISM),
        )

    async def until(self, condition: object, within_seconds: float = _WITHIN_SECONDS) -> None:
        assert callable(condition)
        deadline = time.monotonic() + within_seconds
        while not await asyncio.to_thread(condition):
            self.alive()
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {within_seconds} s")
            await asyncio.sleep(0.05)

    async def found(self, path: str) -> dict[str, dict[str, str]]:
        deadline = time.monotonic() + _WITHIN_SECONDS
        while True:
            try:
                return await self.api.document("GET", path)
            except Refused as refused:
                if refused.status != 404 or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def model_manifest() -> dict[str, object]:
    """The model of the stub engine."""
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "stub.gguf"}}
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": MODEL},
        "spec": {"local": {"source": source, "parallelism": PARALLELISM, "contextTokens": 8192}},
    }


async def install_chart(api: Api, helm: str, kubeconfig: Path) -> None:
    """The chart and the namespaces."""
    for namespace in (SYSTEM, NAMESPACE):
        await api.namespace(namespace)
    chart = str(ROOT / "charts" / "headrace")
    done = await asyncio.create_subprocess_exec(
        *(helm, f"--kubeconfig={kubeconfig}", "upgrade", "--install", RELEASE, chart, "-n", SYSTEM, "--take-ownership"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    if await done.wait() != 0:
        raise RuntimeError("helm install failed")


async def install(api: Api, helm: str, kubeconfig: Path) -> LLMModel:
    """The chart (its pods never start here), the namespaces and the model."""
    await install_chart(api, helm, kubeconfig)
    request = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
    await api.apply(
        f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims", {"metadata": {"name": "models"}, "spec": request}
    )
    path = f"/apis/headrace.dev/v1alpha1/namespaces/{NAMESPACE}/llmmodels"
    await api.apply(path, model_manifest())
    return LLMModel.model_validate(await api.document("GET", f"{path}/{MODEL}"))


@contextlib.asynccontextmanager
async def world(api: Api, folder: Path, runners: int) -> AsyncIterator[World]:
    """Operator and runners on a Redis of their own, with the chart's durability."""
    with redis_server(appendonly="yes", appendfsync="everysec", maxmemory_policy="noeviction") as server:
        made = World(api, folder, server, runners)
        try:
            yield made
        finally:
            made.end()
