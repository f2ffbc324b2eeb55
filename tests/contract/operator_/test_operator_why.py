"""What the facade says of tasks that a real operator accepted: full queues before, and why a task waits after."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster_world import Cluster, StartOperator, until

from headrace_bus import Bus, ModelKey
from headrace_facade.app import create_app
from headrace_facade.bounds import Bounds
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Server
from tests.contract.facade_.conftest import allowed
from tests.contract.redis_server import RedisServer


@pytest.fixture
async def http(kubectl: Any, namespace: str, server: RedisServer, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """With the token of somebody who may do everything with tasks, models and quotas of the namespace."""
    caller = allowed(kubectl, namespace, "alice", "*", "llmtasks")
    for resource in ("llmmodels", "llmquotas"):
        kubectl.ok("create", "role", resource, "-n", namespace, "--verb=get", f"--resource={resource}.headrace.dev")
        subject = f"--serviceaccount={namespace}:alice"
        kubectl.ok("create", "rolebinding", resource, "-n", namespace, f"--role={resource}", subject)
    api = Server.of(kubectl)
    authority, url = tmp_path / "facade-ca.crt", tmp_path / "facade-url"
    authority.write_text(api.authority, encoding="utf-8")
    url.write_text(server.url, encoding="utf-8")
    settings = Settings(
        kube_url=api.url,
        kube_ca_file=str(authority),
        default_namespace=namespace,
        redis_url_file=str(url),
        bounds=Bounds(model_tasks=1),
    )
    async with open_context(settings) as context:
        transport = httpx.ASGITransport(create_app(context))
        headers = {"Authorization": f"Bearer {caller.token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://facade", headers=headers) as http:
            yield http


async def test_a_full_queue_is_told_before_and_explained_after(
    start: StartOperator, cluster: Cluster, bus: Bus, key: ModelKey, http: httpx.AsyncClient
) -> None:
    operator = start(**{"HEADRACE_ELECTION_LEASE_SECONDS": "8", "HEADRACE_QUEUE_MODEL_TASKS": "1"})
    await until(operator.leads, 60)
    cluster.model()
    body = {"model": key.name, "prompt": "p"}
    first = (await http.post("/api/v1/tasks", json=body)).json()

    async def why(name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await http.get(f"/api/v1/tasks/{key.namespace}.{name}/why")).json()
        return found

    async def in_the_queue() -> bool:
        return (await why(first["name"]))["position"] == 1

    await until(in_the_queue, 30)

    async def refused() -> bool:
        # Counts may be a second old.
        answer = await http.post("/api/v1/tasks", json=body)
        return answer.status_code == 503 and answer.json()["error_code"] == "QUEUE_FULL"

    await until(refused, 30)
    # Ahead of what was taken meanwhile.
    cluster.task("later", priority=100)

    async def explained() -> bool:
        return (await why("later"))["reason"] == "QueueFull"

    await until(explained, 30)
    told = await why("later")
    links = {link["about"]: (link["reason"], link["holds"]) for link in told["chain"]}
    assert (links["window"], links["quota"]) == (("QueueFull", True), ("NoQuota", False))
    assert told["position"] is None
    assert "not in the queue" in told["unknown"]["position"]

    cancelled = await http.post(f"/api/v1/tasks/{first['task_id']}/cancel")
    assert cancelled.status_code == 202

    async def next_one() -> bool:
        return (await why("later"))["position"] == 1

    await until(next_one, 30)
    assert (await http.get(f"/api/v1/tasks/{first['task_id']}")).json()["status"] == "cancelled"
    assert (await why(first["name"]))["chain"][0]["reason"] == "Cancelled"
