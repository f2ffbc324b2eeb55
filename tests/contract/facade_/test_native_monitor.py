"""What a tenant sees of the whole: real API server, real Redis with the facade's own rights, real telemetry."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from headrace_bus import FACADE_ACL, Bus, Envelope, ModelKey, WorkClass
from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Caller
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.answers import as_, code
from tests.contract.facade_.conftest import allowed
from tests.contract.facade_.own_rights import OwnRights, installed, removed
from tests.contract.redis_server import RedisServer, redis_server
from tests.contract.runner_.pod_world import until

pytestmark = pytest.mark.contract

GPU = {"uuid": "GPU-1", "name": "A GPU", "totalBytes": 100, "usedBytes": 40, "freeBytes": 60, "utilizationPercent": 7}


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    sharing = ("--set", f"sharing.modelNamespaces={{{namespace}}}")
    yield installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, tmp_path, *sharing)
    removed(kubectl, namespace)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def bus(server: RedisServer, namespace: str) -> AsyncIterator[Bus]:
    async with Bus.connect(server.url) as bus:
        await bus.grant(ModelKey(namespace, "own"), "runner", "secret")
        async with Redis.from_url(server.url) as redis:
            await redis.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
        yield bus


@pytest.fixture
def settings(own: OwnRights, server: RedisServer, namespace: str, tmp_path: Path) -> Settings:
    url = tmp_path / "facade-url"
    url.write_text(server.url.replace("redis://", "redis://facade:secret@"), encoding="utf-8")
    return replace(own.settings, redis_url_file=str(url), sharing_model_namespaces=(namespace,))


@pytest.fixture
async def http(settings: Settings, bus: Bus) -> AsyncIterator[httpx.AsyncClient]:
    del bus  # The facade's user is its doing.
    async with open_context(settings) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            yield http


@pytest.fixture
def stranger(kubectl: Kubectl, namespace: str) -> Iterator[Caller]:
    """Of another namespace, with which the model `shared` is shared."""
    other = f"{namespace}-other"
    kubectl.ok("create", "namespace", other)
    yield allowed(kubectl, other, "stranger", "create")
    kubectl.run("delete", "namespace", other, "--wait=false")


def model(kubectl: Kubectl, namespace: str, name: str, **more: Any) -> None:
    source = {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMModel",
        "metadata": {"name": name},
        "spec": {"local": {"source": source, "gpu": {"count": 1}}, **more},
    }
    kubectl.ok("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))


async def fill(bus: Bus, key: ModelKey, namespace: str, *uids: str) -> None:
    for uid in uids:
        await bus.enqueue(key, Envelope(uid, WorkClass.TASK, namespace, uid, 1, 1, 0, 100, {"prompt": "secret"}))


async def seen(http: httpx.AsyncClient, caller: Caller, models: set[str], what: str = "status") -> dict[str, Any]:
    """Once the facade has read so many models."""
    async with asyncio.timeout(30):
        while True:
            answer = await http.get(f"/api/v1/monitor/{what}", headers=as_(caller))
            if answer.status_code != 503:
                assert answer.status_code == 200, answer.text
                found: dict[str, Any] = answer.json()
                if {each["model"] for each in found["queues"]} == models:
                    return found
            # Nothing else waits in here: the facade's watch would never get its turn.
            await asyncio.sleep(0.05)


async def test_a_tenant_sees_its_own_numbers_and_the_models_that_serve_it(
    http: httpx.AsyncClient, bus: Bus, kubectl: Kubectl, namespace: str, alice: Caller, stranger: Caller
) -> None:
    own, shared = ModelKey(namespace, "own"), ModelKey(namespace, "shared")
    await fill(bus, own, namespace, "a")
    await fill(bus, shared, namespace, "b", "c")
    await fill(bus, shared, stranger.namespace, "d")
    report = {"state": "Serving", "slots": 4}
    for key in (own, shared):
        await bus.report(key, "pod-1", report, ttl_ms=30_000)
        await bus.telemetry(key, "pod-1", [GPU, {"name": 3}], ttl_ms=30_000)
    model(kubectl, namespace, "own")
    model(kubectl, namespace, "shared", sharing={"namespaces": {"from": "All"}})

    told = await seen(http, alice, {"own", "shared"})
    queues = {each["model"]: each for each in told["queues"]}
    assert (told["namespace"], told["away"], told["left_off"]) == (namespace, [], 0)
    assert (queues["own"]["queued"], queues["own"]["queued_together"], queues["own"]["slots"]) == (1, 1, 4)
    assert (queues["shared"]["queued"], queues["shared"]["queued_together"]) == (2, 3)
    assert queues["shared"]["oldest_wait_seconds"] >= 0
    assert {each["model"] for each in told["models"]} == {"own", "shared"}
    assert [(each["model"], each["pod"], each["name"], each["used_bytes"]) for each in told["gpus"]] == [
        ("own", "pod-1", "A GPU", 40),
        ("shared", "pod-1", "A GPU", 40),
    ]

    told = await seen(http, stranger, {f"{namespace}/shared"})
    (queue,) = told["queues"]
    assert {name: value for name, value in queue.items() if value is not None} == {
        "model": f"{namespace}/shared",
        "queued": 1,
    }
    assert told["gpus"] == []
    assert (await seen(http, stranger, {f"{namespace}/shared"}, "queue"))["queues"] == [queue]
    # Naming another's namespace takes a right there.
    for what in ("status", "queue"):
        refused = await http.get(f"/api/v1/monitor/{what}", params={"namespace": namespace}, headers=as_(stranger))
        assert code(refused, 403) == "FORBIDDEN"
        misspelt = await http.get(f"/api/v1/monitor/{what}", params={"namspace": namespace}, headers=as_(alice))
        assert code(misspelt, 422) == "VALIDATION_FAILED"


async def test_what_is_away_is_told(
    http: httpx.AsyncClient, server: RedisServer, kubectl: Kubectl, namespace: str, alice: Caller
) -> None:
    model(kubectl, namespace, "own")
    assert (await seen(http, alice, {"own"}))["away"] == []
    server.stop()

    async def known() -> bool:
        told = await seen(http, alice, {"own"})
        assert [each["model"] for each in told["models"]] == ["own"]
        (queue,) = told["queues"]
        # What was seen a moment ago is told for two seconds.
        return [each["what"] for each in told["away"]] == ["redis"] and queue["queued"] is None and queue["unknown"]

    await until(known)


def happened(kubectl: Kubectl, namespace: str, name: str, regarding: dict[str, str]) -> None:
    """An event as the operator tells it."""
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": "2026-01-01T00:00:08.000000Z",
        "reportingController": "headrace.dev/operator",
        "reportingInstance": "one",
        "action": "Reconcile",
        "type": "Warning",
        "reason": "Told",
        "note": f"of {name}",
        "regarding": {"namespace": namespace, **regarding},
    }
    kubectl.ok("create", "-f", "-", stdin=json.dumps(event))


async def test_records_are_told_to_who_may_read_them(
    http: httpx.AsyncClient, kubectl: Kubectl, namespace: str, alice: Caller, stranger: Caller
) -> None:
    body = {"model": "m", "prompt": "the secret question", "name": "t", "namespace": namespace}
    made = await http.post("/api/v1/tasks", json=body, headers=as_(alice))
    assert made.status_code == 202, made.text
    uid = kubectl.ok("get", "llmtask", "t", "-n", namespace, "-o", "jsonpath={.metadata.uid}").strip()
    ours = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "name": "t"}
    happened(kubectl, namespace, "t.now", {**ours, "uid": uid})
    happened(kubectl, namespace, "t.earlier", {**ours, "uid": "earlier"})
    happened(kubectl, namespace, "pod.1", {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p"})
    path, task_id = "/api/v1/monitor/logs", made.json()["task_id"]

    # Alice may read tasks and no events.
    assert code(await http.get(path, headers=as_(alice)), 403) == "FORBIDDEN"
    told = (await http.get(path, params={"task": task_id}, headers=as_(alice))).json()
    assert ([each["reason"] for each in told["items"]], bool(told["missing"])) == (["Created"], True)
    kubectl.ok("create", "role", "events", "-n", namespace, "--verb=list", "--resource=events")
    subject = f"--serviceaccount={namespace}:{alice.name}"
    kubectl.ok("create", "rolebinding", "events", "-n", namespace, "--role=events", subject)

    async def granted() -> bool:
        return (await http.get(path, headers=as_(alice))).status_code == 200

    await until(granted)
    told = (await http.get(path, headers=as_(alice))).json()
    assert {each["message"] for each in told["items"]} == {"of t.now", "of t.earlier"}
    assert told["missing"] is None
    told = (await http.get(path, params={"task": task_id}, headers=as_(alice))).json()
    assert {(each["reason"], each["source"]) for each in told["items"]} == {
        ("Created", "status"),
        ("Told", "headrace.dev/operator"),
    }
    assert "secret" not in json.dumps(told)
    assert len((await http.get(path, params={"limit": 1}, headers=as_(alice))).json()["items"]) == 1
    # Another tenant sees neither.
    for query in ({"task": task_id}, {"namespace": namespace}):
        assert code(await http.get(path, params=query, headers=as_(stranger)), 403) == "FORBIDDEN"
    assert code(await http.get(path, headers=as_(stranger)), 403) == "FORBIDDEN"
    both = {"task": task_id, "namespace": "elsewhere"}
    assert code(await http.get(path, params=both, headers=as_(alice)), 422) == "VALIDATION_FAILED"
    assert code(await http.get(path, params={"task": f"{namespace}.none"}, headers=as_(alice)), 404) == "NOT_FOUND"
