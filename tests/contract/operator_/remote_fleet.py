"""Remote models whole: the operator's Deployments run as processes, as scheduler and kubelet would run their pods.

A runner gets what the operator wrote and nothing else: the environment of its container, the Redis URL of its Secret
(a user with the runner's rights), a token of its ServiceAccount, the provider's key as the kubelet mounts it.
"""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from cluster_world import Cluster, Operator, kubeconfig_of, until
from redis.asyncio import Redis
from redis_server import RedisServer
from remote_stands import KEY, Stand

from headrace_bus import ModelKey
from tests.contract.runner_.pod_world import Engine, Runner

PROMPT: Final = "Vermilion-Kestrel-90817 asks"
"""In every task's text; nothing else in the world says it."""
ANNOTATION: Final = "headrace.dev/allowed-hosts"
_KINDS: Final = (
    *("llmmodel", "pod", "deployment", "serviceaccount", "networkpolicy", "rolebinding", "role", "configmap"),
    *("event", "secret", "lease", "llmtask"),
)


class Fleet:
    """Models, their runners and the search for what must not be said."""

    def __init__(self, cluster: Cluster, server: RedisServer, redis: Redis, folder: Path, operator: Operator) -> None:
        self.cluster = cluster
        self.runners: dict[str, Runner] = {}
        self.logs: list[Path] = [operator.log]
        self._operator = operator
        self._server = server
        self._redis = redis
        self._folder = folder

    def add(self, stand: Stand, **remote: Any) -> None:
        """The Secret, annotated, and the model."""
        metadata = {"name": stand.name, "annotations": {ANNOTATION: stand.host}}
        self.cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"key": KEY}})
        body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMModel", "metadata": {"name": stand.name}}
        self.cluster.create({**body, "spec": {"remote": {**stand.remote(), **remote}}})

    def key_file(self, name: str) -> Path:
        """Where the kubelet puts the Secret's entry."""
        return self._folder / f"{name}.key"

    async def start(self, name: str, engine: Engine | None = None, *, ready: bool = True) -> Runner:
        """A pod of the model's Deployment, and its process; it is waited for until it is ready."""
        number = len(self.logs)
        pod, runner_name = f"headrace-{name}-{number}", f"headrace-{name}"

        async def deployment() -> dict[str, Any] | None:
            return self.cluster.get("deployment", runner_name)

        found = await until(deployment)
        assert found is not None
        spec = found["spec"]["template"]["spec"]
        self.cluster.pod(pod, runner=runner_name)
        container = next(each for each in spec["containers"] if each["name"] == "runner")
        settings = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        folder = self._folder / pod
        folder.mkdir()
        volumes = {each["name"]: each for each in spec["volumes"]}
        url = self._secret(volumes["redis"]["secret"]["secretName"])["url"]
        (folder / "acl-url").write_text(url)
        settings["HEADRACE_REDIS_URL_FILE"] = str(folder / "acl-url")
        settings["HEADRACE_LEASE_SECONDS"] = "2"
        if "credentials" in volumes:
            named = volumes["credentials"]["secret"]
            self.key_file(name).write_text(self._secret(named["secretName"])[named["items"][0]["key"]])
            settings["HEADRACE_CREDENTIAL_FILE"] = str(self.key_file(name))
        if engine is not None:
            settings |= engine.settings
        account = kubeconfig_of(self.cluster, spec["serviceAccountName"], folder)
        key = ModelKey(self.cluster.namespace, name)
        runner = Runner(folder, self._server, None, key, account, pod, settings=settings)
        if name in self.runners:
            self.runners[name].end()
        self.runners[name] = runner
        self.logs.append(runner.log)
        if ready:
            await until(runner.ready)
            self.cluster.pod_ready(pod)
        return runner

    async def available(self, name: str) -> None:
        async def serves() -> bool:
            return self.cluster.conditions(name=name).get("Available") == ("True", "Serving")

        await until(serves)

    def task(self, name: str, model: str, act: str = "talk", **spec: Any) -> None:
        self.cluster.task(name, modelRef={"name": model}, prompt=f"{PROMPT} act={act}", **spec)

    async def status_when(self, name: str, **want: Any) -> dict[str, Any]:
        """The task's status once these members are so."""

        async def there() -> dict[str, Any] | None:
            status = self.cluster.status(name)
            assert "outcome" not in status or want.get("phase", status["phase"]) == status["phase"], status
            return status if all(status.get(member) == value for member, value in want.items()) else None

        try:
            return await until(there) or {}
        except AssertionError:
            seen = json.dumps(self.cluster.status(name), indent=1)
            raise AssertionError(f"{name}: {want} is wanted, this is: {seen}") from None

    def end(self) -> None:
        for runner in self.runners.values():
            runner.end()

    async def leaks(self) -> list[str]:
        """Where the key is besides its Secret, and the prompt besides its task and what still waits for its outcome."""
        open_uids, found = set(), []
        for kind in _KINDS:
            for item in self.cluster.request("GET", self.cluster.path(kind))["items"]:
                where = f"{kind}/{item['metadata']['name']}"
                if kind == "llmtask":
                    if "outcome" not in item.get("status", {}):
                        open_uids.add(item["metadata"]["uid"])
                    item["spec"].pop("prompt")
                    # A small model likes to repeat what it was told.
                    item.get("status", {}).get("result", {}).pop("text", None)
                if kind == "secret" and item["metadata"]["name"] in self.runners:
                    continue
                found += _found(where, json.dumps(item))
        for log in self.logs:
            found += _found(str(log.relative_to(self._folder)), log.read_text())
        for name, runner in self.runners.items():
            if runner.process.poll() is None:
                found += _found(f"metrics of {name}", (await runner.get("/metrics"))[1])
                found += _found(f"readyz of {name}", (await runner.get("/readyz"))[1])
        answer = await self._operator.http("/metrics")
        assert answer is not None
        found += _found("metrics of the operator", answer.text)
        for where, text in [each async for each in self._dump()]:
            # A result that repeats the prompt is the model's doing, and whoever may read the task reads both.
            live = any(uid in where for uid in open_uids) or ":result:" in where
            found += [leak for leak in _found(where, text) if not (live and leak.startswith("prompt"))]
        return found

    async def _dump(self) -> AsyncIterator[tuple[str, str]]:
        """All that Redis holds, as (key, its type's whole content)."""
        async with Redis.from_url(self._server.url) as redis:
            async for key in redis.scan_iter(count=1000):
                kind = (await redis.type(key)).decode()
                read = {
                    "string": lambda key: redis.get(key),
                    "hash": lambda key: redis.hgetall(key),
                    "set": lambda key: redis.smembers(key),
                    "zset": lambda key: redis.zrange(key, 0, -1),
                    "list": lambda key: redis.lrange(key, 0, -1),
                    "stream": lambda key: redis.xrange(key),
                }[kind]
                yield key.decode(), f"{key!r} {await read(key)!r}"

    def _secret(self, name: str) -> dict[str, str]:
        secret = self.cluster.get("secret", name)
        assert secret is not None
        return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def _found(where: str, text: str) -> list[str]:
    # A piece of the key tells as much as the whole.
    marks = {"key": KEY[10:24], "prompt": PROMPT[:20]}
    return [
        f"{name} in {where}: …{text[max(0, text.index(mark) - 200) :][:300]}…"
        for name, mark in marks.items()
        if mark in text
    ]
