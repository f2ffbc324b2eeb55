"""What a queue says before and after a task is created: a real Redis with the facade's own user, a real API server."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from headrace_bus import FACADE_ACL, Bus, Envelope, ModelKey, WorkClass
from headrace_facade.app import create_app
from headrace_facade.bounds import Bounds
from headrace_facade.context import open_context
from headrace_facade.own_account import NOT_SET_UP as NO_ACCOUNT
from headrace_facade.queues import AWAY, DENIED, NOT_SET_UP
from headrace_facade.settings import Settings
from tests.contract.callers import Caller
from tests.contract.conftest import Kubectl
from tests.contract.facade_.answers import as_, code
from tests.contract.facade_.conftest import allowed
from tests.contract.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.contract

BODY = {"model": "m", "prompt": "p"}
WHY = {"about", "name", "reason", "message", "remedy", "holds"}


@dataclass
class Queue:
    """The model's queue as operator and runners see it."""

    server: RedisServer
    bus: Bus
    model: ModelKey

    async def fill(self, namespace: str, *uids: str, created_ms: int = 1) -> None:
        for uid in uids:
            await self.bus.enqueue(
                self.model,
                Envelope(uid, WorkClass.TASK, namespace, uid, 1, created_ms, 0, 100, {"prompt": "secret"}),
            )


@pytest.fixture
async def queue(namespace: str) -> AsyncIterator[Queue]:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            model = ModelKey(namespace, "m")
            # The operator's doing: it loads the scripts.
            await bus.grant(model, "runner", "secret")
            redis = Redis.from_url(server.url)
            await redis.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
            await redis.aclose()
            yield Queue(server, bus, model)


@pytest.fixture
def settings(settings: Settings, queue: Queue, tmp_path: Path) -> Settings:
    url = tmp_path / "facade-url"
    url.write_text(queue.server.url.replace("redis://", "redis://facade:secret@") + "\n", encoding="utf-8")
    return replace(settings, redis_url_file=str(url), bounds=Bounds(model_tasks=3, namespace_tasks=2))


def stored(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl.ok("get", "llmtasks", "-n", namespace, "-o", "json"))["items"]
    return found


def tell(kubectl: Kubectl, what: str, namespace: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    kubectl.ok("patch", what, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


async def test_a_full_queue_is_told_before_anything_is_created(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl, queue: Queue
) -> None:
    await queue.fill("elsewhere", "a", "b", "c")
    answer = await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))
    assert code(answer, 503) == "QUEUE_FULL"
    assert int(answer.headers["Retry-After"]) == answer.json()["details"]["retry_after_seconds"] > 0
    assert stored(kubectl, namespace) == []
    # It asks for no room.
    suspended = await http.post("/api/v1/tasks", json={**BODY, "suspend": True}, headers=as_(alice))
    assert suspended.status_code == 202


async def test_a_namespace_that_fills_its_share_is_told_so(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl, queue: Queue
) -> None:
    await queue.fill(namespace, "a", "b")
    answer = await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))
    assert code(answer, 429) == "NAMESPACE_QUEUE_FULL"
    assert answer.headers["Retry-After"]
    assert stored(kubectl, namespace) == []


async def test_a_quota_that_is_used_up_is_told_to_whoever_may_read_it(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    quota = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMQuota",
        "metadata": {"name": "default"},
        "spec": {"maxQueuedTasks": 5},
    }
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(quota))
    tell(kubectl, "llmquota/default", namespace, {"queued": 3, "running": 2})
    reader = allowed(kubectl, namespace, "quotas", "get", "llmquotas")
    kubectl.ok(
        "create",
        "rolebinding",
        "more",
        "-n",
        namespace,
        "--role=alice-llmtasks",
        f"--serviceaccount={namespace}:quotas",
    )
    # Alice has no right to read it: her task waits in its object.
    assert (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).status_code == 202
    before = len(stored(kubectl, namespace))

    async def refused() -> httpx.Response:
        # What one caller could not read is remembered for two seconds.
        while (answer := await http.post("/api/v1/tasks", json=BODY, headers=as_(reader))).status_code == 202:
            nonlocal before
            before += 1
        return answer

    answer = await refused()
    assert code(answer, 429) == "QUOTA_EXCEEDED"
    assert "has 5 open tasks" in answer.json()["message"]
    assert len(stored(kubectl, namespace)) == before


async def test_a_full_queue_tells_nothing_to_whom_may_not_create(
    http: httpx.AsyncClient, namespace: str, kubectl: Kubectl, queue: Queue
) -> None:
    await queue.fill("elsewhere", "a", "b", "c")
    reader = allowed(kubectl, namespace, "reader", "get")
    assert code(await http.post("/api/v1/tasks", json=BODY, headers=as_(reader)), 403) == "FORBIDDEN"


async def test_what_a_key_has_made_is_found_though_the_queue_is_full(
    http: httpx.AsyncClient, alice: Caller, queue: Queue
) -> None:
    headers = {**as_(alice), "Idempotency-Key": "k"}
    made = (await http.post("/api/v1/tasks", json=BODY, headers=headers)).json()
    await queue.fill("elsewhere", "a", "b", "c")
    while (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).status_code == 202:
        pass  # counts may be a second old
    again = await http.post("/api/v1/tasks", json=BODY, headers=headers)
    assert (again.json()["task_id"], again.headers["Idempotent-Replayed"]) == (made["task_id"], "true")
    invalid = await http.post("/api/v1/tasks", json={**BODY, "priority": 1000}, headers=as_(alice))
    assert code(invalid, 422) == "VALIDATION_FAILED"


async def test_without_redis_tasks_are_taken_and_it_is_said(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl, queue: Queue
) -> None:
    assert (await http.get("/readyz")).json() == {"status": "ok", "redis": "ok", "models": NO_ACCOUNT}
    queue.server.stop()
    created = await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))
    assert created.status_code == 202
    assert (await http.get("/readyz")).json() == {"status": "ok", "redis": AWAY, "models": NO_ACCOUNT}
    task = created.json()
    tell(kubectl, f"llmtask/{task['name']}", namespace, {"attempt": 1, "phase": "Queued", "reason": "Queued"})
    why = (await http.get(f"/api/v1/tasks/{task['task_id']}/why", headers=as_(alice))).json()
    assert (why["reason"], why["position"], why["unknown"]["position"]) == ("Queued", None, AWAY)


async def test_a_redis_that_hangs_costs_one_request_a_second_and_the_others_nothing(
    http: httpx.AsyncClient, alice: Caller, queue: Queue
) -> None:
    with queue.server.frozen():
        assert (await http.get("/readyz")).json()["redis"] == AWAY
        assert (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).status_code == 202


@pytest.mark.parametrize(("url", "told"), [("redis://facade:wrong@", DENIED), (None, NOT_SET_UP)])
async def test_a_user_that_redis_does_not_know_is_said(
    settings: Settings, alice: Caller, queue: Queue, tmp_path: Path, url: str | None, told: str
) -> None:
    file = tmp_path / "other-url"
    if url is not None:
        file.write_text(queue.server.url.replace("redis://", url), encoding="utf-8")
    async with open_context(replace(settings, redis_url_file=str(file))) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            assert (await http.get("/readyz")).json()["redis"] == told
            assert (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).status_code == 202


async def test_why_tells_the_chain_the_position_and_when_it_may_start(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl, queue: Queue
) -> None:
    task = (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).json()
    path = f"/api/v1/tasks/{task['task_id']}/why"
    (item,) = stored(kubectl, namespace)
    at_first = (await http.get(path, headers=as_(alice))).json()
    assert (at_first["status"], at_first["reason"], at_first["position"]) == ("created", "NotAccepted", None)
    assert at_first["since"] == item["metadata"]["creationTimestamp"]

    told = {"phase": "Queued", "attempt": 1, "reason": "Queued", "message": "queued for LLMModel 'm'"}
    tell(kubectl, f"llmtask/{task['name']}", namespace, {**told, "acceptTime": "2026-01-01T00:00:00Z"})
    await queue.fill(namespace, "first", "second")
    await queue.fill(namespace, item["metadata"]["uid"], created_ms=10**12)
    why = (await http.get(path, headers=as_(alice))).json()
    assert (why["position"], why["ahead"], why["estimated_start_seconds"]) == (3, 2, None)
    assert "nothing has been measured" in why["unknown"]["estimated_start_seconds"]
    assert why["since"] == "2026-01-01T00:00:00Z"
    assert [set(link) for link in why["chain"]] == [WHY] * 4
    refused = {link["about"]: link["message"] for link in why["chain"] if link["reason"] == "NotReadable"}
    assert set(refused) == {"quota", "model"}
    assert all("forbidden" in message for message in refused.values())

    (delivery,) = await queue.bus.claim(queue.model, worker="p", count=1, lease_ms=60_000)
    await queue.bus.complete(queue.model, delivery.token)
    why = (await http.get(path, headers=as_(alice))).json()
    assert (why["position"], why["estimated_start_seconds"]) == (2, None)
    assert "no runner" in why["unknown"]["estimated_start_seconds"]

    await queue.bus.report(queue.model, "p", {"state": "Serving", "slots": 2}, ttl_ms=60_000)
    why = (await http.get(path, headers=as_(alice))).json()
    mean_ms = (await queue.bus.stats(queue.model)).mean_service_ms
    assert mean_ms is not None
    assert why["estimated_start_seconds"] == pytest.approx(mean_ms / 1000 * 1 / 2, abs=0.001)
    assert why["unknown"] == {}
    assert "secret" not in json.dumps(why)


async def test_why_shows_the_model_to_whom_may_read_it(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task = (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).json()
    told = {"attempt": 1, "phase": "Waiting", "reason": "ModelNotFound", "message": "no m"}
    tell(kubectl, f"llmtask/{task['name']}", namespace, told)
    kubectl.ok(
        "create",
        "role",
        "see",
        "-n",
        namespace,
        "--verb=get",
        "--resource=llmmodels.headrace.dev,llmquotas.headrace.dev",
    )
    kubectl.ok("create", "rolebinding", "see", "-n", namespace, "--role=see", f"--serviceaccount={namespace}:alice")
    path = f"/api/v1/tasks/{task['task_id']}/why"
    while True:
        why = (await http.get(path, headers=as_(alice))).json()
        links = {link["about"]: (link["reason"], link["holds"]) for link in why["chain"]}
        if links["model"][0] != "NotReadable":
            break
    assert links == {
        "task": ("ModelNotFound", True),
        "quota": ("NoQuota", False),
        "window": ("NotHandedOut", None),
        "model": ("ModelNotFound", True),
    }
    assert "not in the queue" in why["unknown"]["position"]


async def test_why_is_for_whoever_may_read_the_task(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task = (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).json()
    writer = allowed(kubectl, namespace, "writer", "create")
    assert code(await http.get(f"/api/v1/tasks/{task['task_id']}/why", headers=as_(writer)), 403) == "FORBIDDEN"
    assert code(await http.get(f"/api/v1/tasks/{namespace}.gone/why", headers=as_(alice)), 404) == "NOT_FOUND"
