"""The installation under measurement, for models that somebody else serves: what benchmarks/tasks has, with a stub of
the provider for each model and a runner process with what the operator wrote into that model's Deployment.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from payload import MAX_TOKENS, TEMPERATURE, prompt

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tasks"))
from api import GROUP, MERGE_PATCH, Api, Body, tasks_path  # noqa: E402
from load import Follower, spread  # noqa: E402
from world import NAMESPACE, SYSTEM, World, free_port, install_chart, is_ready, redis_server  # noqa: E402

from headrace_bus import Envelope, ModelKey, WorkClass  # noqa: E402
from headrace_crds.model import LLMModel  # noqa: E402
from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS, METADATA_ONLY  # noqa: E402
from headrace_crds.task import LLMTask  # noqa: E402
from headrace_crds.work import resolve  # noqa: E402
from headrace_operator.decide import task_status, waiting  # noqa: E402

__all__ = ["Api", "Follower", "Installation", "installation", "spread", "tasks_path"]
KEY = "sk-bench"
SECRET = "provider"
_MODELS = f"/apis/{GROUP}/namespaces/{NAMESPACE}/llmmodels"
_SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


@dataclass
class Stub:
    """A stub's process, and where it listens."""

    process: subprocess.Popen[str]
    port: int

    @classmethod
    def start(cls, *arguments: str) -> "Stub":
        command = [sys.executable, "-P", str(HERE / "stub.py"), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return cls(process, int(process.stdout.readline()))

    def seen(self) -> dict[str, Any]:
        """The stub's figures; blocks."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/seen", timeout=5) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@dataclass
class Installation(World):
    """`stubs` by the names of their models."""

    stubs: dict[str, Stub] = field(default_factory=dict)
    models: dict[str, LLMModel] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    """Of the runners' metrics."""
    operator_token: str = ""

    async def prepare(self, helm: str, kubeconfig: Path, specs: dict[str, Body]) -> None:
        """The chart and a model for each stub; `specs` has members of their `spec.remote`."""
        await install_chart(self.api, helm, kubeconfig)
        await self._clear()
        hosts = ",".join(f"127.0.0.1:{stub.port}" for stub in self.stubs.values())
        await self._renew(_SECRETS, _secret(hosts))
        for name, stub in self.stubs.items():
            await self._renew(_MODELS, _model(name, stub.port, specs[name]))
            self.models[name] = LLMModel.model_validate(await self.api.document("GET", f"{_MODELS}/{name}"))
        self.operator_token = await self.api.token(SYSTEM, "bench-headrace-operator")
        await self.operate()

    async def operate(self) -> None:
        """Start the operator, which makes what the models' runners need."""
        hosts = ",".join(f"127.0.0.1:{stub.port}" for stub in self.stubs.values())
        await self.start_operator(self.operator_token, HEADRACE_REMOTE_ALLOWED_HOSTS=hosts)

    async def start_runner(self, model: str) -> None:
        """One, with the variables of the model's own Deployment but for what is a file in a pod."""
        await self.runner_files(model)
        deployment = await self.found(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/headrace-{model}")
        while not (environment := _environment(deployment)).get("HEADRACE_ALLOWED_HOSTS"):
            await asyncio.sleep(0.1)
            deployment = await self.found(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/headrace-{model}")
        (self.folder / "key").write_text(KEY)
        port = self.ports[model] = free_port()
        own = {
            "HEADRACE_POD": f"headrace-{model}-0",
            "HEADRACE_REDIS_URL_FILE": str(self.folder / f"{model}.redis"),
            "HEADRACE_KUBECONFIG": str(self.folder / f"{model}.kubeconfig"),
            "HEADRACE_CREDENTIAL_FILE": str(self.folder / "key"),
            "HEADRACE_HTTP_PORT": str(port),
        }
        self.start(f"runner-{model}", "-m", "headrace_runner.main", **{**environment, **own})
        await self.until(lambda: is_ready(port))

    async def end_process(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        await asyncio.to_thread(process.wait, 30)

    async def queued(self, model: str, names: Iterable[str], at_once: int) -> list[Envelope]:
        """Objects with the status that the operator gives what it hands out, and what it would enqueue for them."""
        made: list[Envelope] = []

        async def one(name: str) -> None:
            created = await self.api.document("POST", tasks_path(NAMESPACE), task(model, name), accept=METADATA_ONLY)
            # The API server answers with no spec, and the operator reads whole objects.
            parsed = LLMTask.model_validate({**created, "kind": "LLMTask", "spec": task(model, name)["spec"]})
            why = waiting.explain(self.models[model])
            status = task_status.queued(parsed, why, attempt=1, now_ms=int(time.time() * 1000))
            await self.api.request(
                "PATCH",
                tasks_path(NAMESPACE, name) + "/status",
                {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "status": status},
                content=MERGE_PATCH,
                token=self.operator_token,
                accept=METADATA_ONLY,
                query={"fieldManager": "headrace-operator", "fieldValidation": "Strict"},
            )
            made.append(_envelope(parsed, resolve(parsed, self.models[model]).dump()))

        await spread(names, at_once, one)
        return made

    async def _clear(self) -> None:
        """What an earlier run left has the names that this one gives."""
        await self.api.request("DELETE", tasks_path(NAMESPACE))
        # A stranger's state: there is no event to wait for that costs less.
        while (await self.api.document("GET", tasks_path(NAMESPACE), query={"limit": "1"})).get("items"):  # noqa: ASYNC110
            await asyncio.sleep(0.2)

    async def _renew(self, path: str, body: Body) -> None:
        """As if it had never been there: an earlier run's names other ports."""
        own = f"{path}/{body['metadata']['name']}"
        await self.api.apply(path, body)
        document = await self.api.document("GET", own)
        changed = {"metadata": body["metadata"]} | {key: body[key] for key in ("spec", "stringData") if key in body}
        await self.api.document(
            "PUT", own, {**document, **changed, "metadata": {**document["metadata"], **body["metadata"]}}
        )


def key_of(model: str) -> ModelKey:
    return ModelKey(NAMESPACE, model)


def task(model: str, name: str) -> Body:
    number = int(name.rpartition("-")[2])
    return {
        "apiVersion": GROUP,
        "kind": "LLMTask",
        "metadata": {"name": name},
        "spec": {
            "modelRef": {"name": model},
            "prompt": prompt(number),
            "parameters": {"maxTokens": MAX_TOKENS, "temperature": str(TEMPERATURE)},
        },
    }


def _envelope(parsed: LLMTask, payload: dict[str, Any]) -> Envelope:
    metadata = parsed.metadata
    return Envelope(
        uid=metadata.uid,
        kind=WorkClass.TASK,
        namespace=metadata.namespace,
        name=metadata.name,
        attempt=1,
        created_ms=int(time.time() * 1000),
        priority=0,
        cost_tokens=MAX_TOKENS,
        payload=payload,
    )


def _environment(deployment: Body) -> dict[str, str]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def _secret(hosts: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET, "annotations": {ANNOTATION_ALLOWED_HOSTS: hosts}},
        "stringData": {"key": KEY},
    }


def _model(name: str, port: int, remote: Body) -> Body:
    spec = {
        "provider": "OpenAI",
        "model": "gpt-bench",
        "baseURL": f"http://127.0.0.1:{port}/v1",
        "credentials": {"secretKeyRef": {"name": SECRET, "key": "key"}},
        **remote,
    }
    return {
        "apiVersion": GROUP,
        "kind": "LLMModel",
        "metadata": {"name": name},
        "spec": {"remote": spec, "capabilities": ["Chat"]},
    }


@contextlib.asynccontextmanager
async def installation(api: Api, folder: Path, stubs: dict[str, Sequence[str]]) -> AsyncIterator[Installation]:
    """Stubs with their arguments by model, and a Redis with the chart's durability."""
    running: dict[str, Stub] = {}
    with redis_server(appendonly="yes", appendfsync="everysec", maxmemory_policy="noeviction") as server:
        made = Installation(api, folder, server, 1, stubs=running)
        try:
            for name, arguments in stubs.items():
                running[name] = Stub.start(*arguments)
            yield made
        finally:
            made.end()
            for stub in running.values():
                stub.end()


def redis_clients(port: int) -> int:
    """Connections to the Redis server, the one that asks left out."""
    with redis.Redis(port=port) as direct:
        info: dict[str, Any] = direct.info("clients")
        return int(info["connected_clients"]) - 1


def redis_seconds(port: int) -> float:
    """CPU seconds of the Redis server."""
    with redis.Redis(port=port) as direct:
        info: dict[str, Any] = direct.info("cpu")
        return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])
