"""A real runner and engine as processes, and the operator's part played by hand."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from headrace_bus import Bus, EnqueueOutcome, Envelope, ModelKey, WorkClass
from headrace_crds import LLMModel, LLMTask
from headrace_crds.work import resolve
from headrace_runner.engine.client import Stage, read_state

# Test folders are no packages; the fixture's module lies one above.
sys.path.insert(0, str(Path(__file__).parents[1]))
from redis_server import RedisServer, free_port

from tests.contract.api_server import ApiServer

ROOT = Path(__file__).parents[3]
WITHIN_SECONDS = 60.0
CONTEXT_TOKENS = 8192
ENDLESS = {
    "output": {"regex": '"[a-z ,.]*Q{20}"'},
    "parameters": {"maxTokens": CONTEXT_TOKENS - 256, "temperature": "0"},
}
"""A shape that no model comes to the end of by itself, and that is cheap to keep to; a fast machine makes 400 tokens of
it in a second.
"""
POD = "headrace-smol-0"
T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T]], within_seconds: float = WITHIN_SECONDS) -> T:
    """Wait until the condition gives something true, and give it."""
    deadline = time.monotonic() + within_seconds
    while not (value := await condition()):
        assert time.monotonic() < deadline, f"still {value!r}"
        await asyncio.sleep(0.02)
    return value


class Engine:
    """The supervisor and its child, as in the engine container; or another one that stands in its place."""

    def __init__(self, folder: Path, model: Path, supervisor: str = "headrace_runner.engine.supervisor") -> None:
        self.socket, self.state = folder / "engine.sock", folder / "engine.json"
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", supervisor],
            env={
                **os.environ,
                # The stand-in lies among the tests.
                "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
                "HEADRACE_ENGINE_SOCKET": str(self.socket),
                "HEADRACE_ENGINE_STATE": str(self.state),
                "HEADRACE_MODEL_PATH": str(model),
                "HEADRACE_MODELS_DIR": str(model.parent),
                "HEADRACE_CONTEXT_TOKENS": str(CONTEXT_TOKENS),
                "HEADRACE_PARALLELISM": "2",
            },
        )

    @property
    def settings(self) -> dict[str, str]:
        """Of the runner beside it."""
        return {"HEADRACE_ENGINE_SOCKET": str(self.socket), "HEADRACE_ENGINE_STATE": str(self.state)}

    async def serving(self) -> bool:
        assert self.process.poll() is None
        return read_state(self.state).state is Stage.SERVING

    def kill_child(self) -> None:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill_child()
            self.process.kill()
            self.process.wait()


class Tasks:
    """Plays the operator: accepts tasks and enqueues them."""

    def __init__(self, api_server: ApiServer, namespace: str, bus: Bus, model: ModelKey) -> None:
        self._api_server = api_server
        self._namespace = namespace
        self._path = f"/apis/headrace.dev/v1alpha1/namespaces/{namespace}/llmtasks"
        self._created: dict[str, str] = {}
        self._bus = bus
        self._model = LLMModel.model_validate(
            {
                "metadata": {"name": model.name, "namespace": model.namespace},
                "spec": {"local": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}},
            }
        )
        self.key = model

    def create(self, name: str, *, attempt: int = 1, **spec: Any) -> LLMTask:
        spec = {"modelRef": {"name": self.key.name}, "prompt": "Say hello.", **spec}
        self._request(
            *("POST", "?fieldValidation=Strict"),
            {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "metadata": {"name": name}, "spec": spec},
        )
        now = "2026-01-01T00:00:00Z"
        waiting = {"status": "False", "lastTransitionTime": now, "reason": "Queued", "message": ""}
        self.write_status(
            name,
            phase="Queued",
            attempt=attempt,
            retries=0,
            attempts=[],
            assignedModel=str(self.key),
            runner={"serviceAccount": f"{self._namespace}/headrace-smol"},
            conditions=[{"type": "Finished", **waiting}, {"type": "Ready", **waiting}],
        )
        task = self.get(name)
        self._created[task.metadata.uid] = name
        return task

    async def forget(self) -> None:
        """Leave nothing of what was created: whoever still generates is told to drop it."""
        for uid, name in self._created.items():
            self._api_server.request("DELETE", f"{self._path}/{name}")
            await self._bus.remove(self.key, uid)

    def write_status(self, name: str, **status: Any) -> None:
        self._request("PATCH", f"/{name}/status", {"status": status})

    def delete(self, name: str) -> None:
        self._request("DELETE", f"/{name}")

    def get(self, name: str) -> LLMTask:
        return LLMTask.model_validate(self.raw(name))

    def raw(self, name: str) -> dict[str, Any]:
        return self._request("GET", f"/{name}")

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        status, answer = self._api_server.request(method, self._path + path, body)
        assert status in (200, 201), answer
        return answer

    def work(self, task: LLMTask) -> dict[str, Any]:
        """An envelope's payload."""
        return resolve(task, self._model).dump()

    async def enqueue(
        self, task: LLMTask, *, attempt: int = 1, within_ms: int | None = None, stream_to: str | None = None
    ) -> None:
        """Hand it out; its deadline is over ``within_ms`` from this moment on. Its text grows at ``stream_to``."""
        deadline_ms = None if within_ms is None else await self._bus.server_time_ms() + within_ms
        envelope = Envelope(
            uid=task.metadata.uid,
            kind=WorkClass.TASK,
            namespace=self._namespace,
            name=task.metadata.name,
            attempt=attempt,
            created_ms=1_700_000_000_000,
            priority=0,
            cost_tokens=100,
            payload=resolve(task, self._model, deadline_ms=deadline_ms)
            .model_copy(update={"stream_to": stream_to})
            .dump(),
        )
        outcome = await self._bus.enqueue(self.key, envelope)
        assert outcome is (EnqueueOutcome.SUPERSEDED if attempt > 1 else EnqueueOutcome.ENQUEUED)

    async def finished(self, name: str) -> LLMTask:
        async def outcome() -> LLMTask | None:
            task = self.get(name)
            return task if task.status and task.status.outcome else None

        return await until(outcome)

    async def running(self, name: str) -> LLMTask:
        async def phase() -> LLMTask | None:
            task = self.get(name)
            return task if task.status and task.status.phase == "Running" else None

        return await until(phase)


class Gate:
    """A TCP relay to the API server that can be shut."""

    def __init__(self, target: tuple[str, int], port: int, kubeconfig: Path) -> None:
        self.port = port
        self.kubeconfig = kubeconfig
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)

    async def shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(*self._target)
        self._open |= {writer, forth}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            try:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(reader, forth), pump(back, writer))


class Runner:
    """A runner process with its log."""

    def __init__(
        self,
        folder: Path,
        redis: RedisServer,
        engine: Engine | None,
        model: ModelKey,
        kubeconfig: Path,
        pod: str = POD,
        *,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """``settings`` are those of a remote model, which has no engine."""
        self.port = free_port()
        url = folder / "redis-url"
        url.write_text(redis.url)
        self.log = folder / "runner.log"
        self._sink = self.log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-W", "error", "-m", "headrace_runner.main"],
            stdout=self._sink,
            stderr=subprocess.STDOUT,
            env={
                **os.environ,
                "HEADRACE_MODEL": str(model),
                "HEADRACE_MODEL_GENERATION": "3",
                "HEADRACE_POD": pod,
                "HEADRACE_REDIS_URL_FILE": str(url),
                "HEADRACE_PARALLELISM": "2",
                "HEADRACE_LEASE_SECONDS": "2",
                "HEADRACE_HTTP_PORT": str(self.port),
                "HEADRACE_KUBECONFIG": str(kubeconfig),
                **({} if engine is None else engine.settings),
                **(settings or {}),
            },
        )

    async def get(self, path: str) -> tuple[int, str]:
        def fetch() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as reply:
                    return reply.status, reply.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()
            except (urllib.error.URLError, TimeoutError):  # a busy machine answers late
                assert self.process.poll() is None, self.log.read_text()
                return 0, ""

        return await asyncio.to_thread(fetch)

    async def ready(self) -> bool:
        return (await self.get("/readyz"))[0] == 200

    async def metric(self, line_start: str) -> float:
        _, text = await self.get("/metrics")
        lines = [line for line in text.splitlines() if line.startswith(line_start)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    async def idle(self) -> bool:
        """Nothing is generated, and no outcome is on its way."""
        lines = ("headrace_runner_generating", "headrace_runner_parked_commits")
        return not any([await self.metric(line) for line in lines])

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._sink.close()


StartRunner = Callable[..., Awaitable[Runner]]
