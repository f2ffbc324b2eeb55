"""Waiting for tasks, following them and their reports: watches and rights of a real API server."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest

from headrace_facade.context import Context, open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Caller
from tests.contract.conftest import Kubectl
from tests.contract.facade_.answers import as_, code
from tests.contract.facade_.conftest import allowed
from tests.contract.runner_.pod_world import until
from tests.fake_calls.service import FakeContext
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract

BODY = {"model": "m", "prompt": "the secret question"}
RUNNING = {"attempt": 1, "phase": "Running", "assignedModel": "team-a/m", "startTime": "2026-01-01T00:00:00Z"}
FAILED = {
    "attempt": 1,
    "phase": "Failed",
    "outcome": "Failed",
    "reason": "InvalidOutput",
    "message": "it is no JSON",
    "completionTime": "2026-01-01T00:00:09Z",
}


@pytest.fixture
async def context(settings: Settings) -> AsyncIterator[Context]:
    async with open_context(settings) as context:
        yield context


@pytest.fixture
async def http(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    """Over a real connection: what is told on the way is seen on the way, and who goes away is noticed."""
    async with (
        served(cast("FakeContext", context)) as address,
        httpx.AsyncClient(base_url=address, timeout=70) as http,
    ):
        yield http


@pytest.fixture
def watcher(kubectl: Kubectl, namespace: str) -> Caller:
    return allowed(kubectl, namespace, "watcher", "create,get,watch")


async def tell(kubectl: Kubectl, namespace: str, name: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    arguments = ("patch", "llmtask", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    await asyncio.to_thread(kubectl.ok, *arguments)


async def made(http: httpx.AsyncClient, caller: Caller, name: str) -> str:
    answer = await http.post("/api/v1/tasks", json={**BODY, "name": name}, headers=as_(caller))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


async def seated(context: Context, count: int) -> None:
    async def so_many() -> bool:
        return context.following.followers == count

    await until(so_many, 10)


async def test_a_wait_ends_early_with_the_task(
    http: httpx.AsyncClient, context: Context, watcher: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task_id = await made(http, watcher, "t")
    waiting = asyncio.create_task(http.get(f"/api/v1/tasks/{task_id}", params={"wait": "60s"}, headers=as_(watcher)))
    await seated(context, 1)
    await tell(kubectl, namespace, "t", RUNNING)
    await tell(kubectl, namespace, "t", FAILED)
    async with asyncio.timeout(20):
        answer = await waiting
    assert (answer.json()["status"], answer.json()["reason"]) == ("failed", "InvalidOutput")
    await seated(context, 0)
    # Of a task that has ended nobody waits.
    async with asyncio.timeout(20):
        again = await http.get(f"/api/v1/tasks/{task_id}", params={"wait": "60s"}, headers=as_(watcher))
    assert again.json() == answer.json()


async def test_the_time_ends_a_wait_and_who_goes_away_gives_it_back(
    http: httpx.AsyncClient, context: Context, watcher: Caller
) -> None:
    task_id = await made(http, watcher, "t")
    path = f"/api/v1/tasks/{task_id}"
    answer = await http.get(path, params={"wait": "1s"}, headers=as_(watcher))
    assert (answer.status_code, answer.json()["status"]) == (200, "created")
    assert code(await http.get(path, params={"wait": "61s"}, headers=as_(watcher)), 422) == "VALIDATION_FAILED"
    assert code(await http.get(path, params={"wait": "long"}, headers=as_(watcher)), 422) == "VALIDATION_FAILED"
    waiting = asyncio.create_task(http.get(path, params={"wait": "60s"}, headers=as_(watcher)))
    await seated(context, 1)
    waiting.cancel()
    await seated(context, 0)


async def test_waiting_takes_the_right_to_watch_and_strangers_see_nothing(
    http: httpx.AsyncClient, context: Context, alice: Caller, watcher: Caller, kubectl: Kubectl, namespace: str
) -> None:
    task_id = await made(http, alice, "t")
    path = f"/api/v1/tasks/{task_id}"
    for way in ("?wait=30s", "/events"):
        assert code(await http.get(path + way, headers=as_(alice)), 403) == "FORBIDDEN"
    kubectl.ok("create", "namespace", other := f"{namespace}-other")
    try:
        stranger = allowed(kubectl, other, "stranger", "create,get,list,watch")
        for way in ("?wait=30s", "/events", "/report"):
            answer = await http.get(path + way, headers=as_(stranger))
            assert code(answer, 403) == "FORBIDDEN"
            assert "secret" not in answer.text
    finally:
        kubectl.run("delete", "namespace", other, "--wait=false")
    assert code(await http.get(f"/api/v1/tasks/{namespace}.none?wait=30s", headers=as_(watcher)), 404) == "NOT_FOUND"
    assert context.following.followers == 0


async def test_a_task_is_followed_to_its_end(
    http: httpx.AsyncClient, context: Context, watcher: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task_id = await made(http, watcher, "t")
    told: list[tuple[str, dict[str, Any]]] = []
    async with (
        asyncio.timeout(40),
        http.stream("GET", f"/api/v1/tasks/{task_id}/events", headers=as_(watcher)) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        name = ""
        async for line in answer.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                told.append((name, json.loads(line.removeprefix("data: "))))
                match len(told):
                    case 1:
                        status = {"attempt": 1, "phase": "Queued", "reason": "Queued"}
                        await tell(kubectl, namespace, "t", status)
                    case 2:
                        await tell(kubectl, namespace, "t", RUNNING)
                    case 3:
                        await tell(kubectl, namespace, "t", FAILED)
    assert [name for name, _ in told] == ["waiting", "waiting", "running", "failed"]
    assert [data["status"] for _, data in told] == ["created", "queued", "processing", "failed"]
    assert told[2][1]["model"] == "team-a/m"
    await seated(context, 0)


async def test_a_task_that_is_deleted_ends_its_followers(
    http: httpx.AsyncClient, context: Context, watcher: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task_id = await made(http, watcher, "t")
    path = f"/api/v1/tasks/{task_id}"
    waiting = asyncio.create_task(http.get(path, params={"wait": "60s"}, headers=as_(watcher)))
    following = asyncio.create_task(http.get(f"{path}/events", headers=as_(watcher)))
    await seated(context, 2)
    await asyncio.to_thread(kubectl.ok, "delete", "llmtask", "t", "-n", namespace)
    async with asyncio.timeout(30):
        assert code(await waiting, 404) == "NOT_FOUND"
        events = (await following).text
    assert events.rstrip().split("\n")[-2] == "event: error"
    assert '"error_code":"NOT_FOUND"' in events


async def test_a_report(http: httpx.AsyncClient, watcher: Caller, namespace: str, kubectl: Kubectl) -> None:
    task_id = await made(http, watcher, "t")
    attempt = {"number": 1, "pod": "p-1", "outcome": "Failed", "reason": "InvalidOutput"}
    await tell(kubectl, namespace, "t", RUNNING)
    await tell(kubectl, namespace, "t", {**FAILED, "attempts": [attempt]})
    path = f"/api/v1/tasks/{task_id}/report"
    told = await http.get(path, headers=as_(watcher))
    assert (told.status_code, told.json()["status"], told.json()["attempts"][0]["pod"]) == (200, "failed", "p-1")
    text = await http.get(path, headers=as_(watcher) | {"Accept": "text/plain"})
    assert text.headers["content-type"].startswith("text/plain")
    assert text.text.startswith(f"Task {task_id}: failed (InvalidOutput)\n  it is no JSON\n")
    assert "secret" not in told.text + text.text


async def test_who_comes_back_hears_what_has_happened_since(
    http: httpx.AsyncClient, watcher: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task_id = await made(http, watcher, "t")
    path = f"/api/v1/tasks/{task_id}/events"

    async def first(seen: str | None = None) -> list[str]:
        """Lines of the first event, whose connection breaks then."""
        headers = as_(watcher) | ({"Last-Event-ID": seen} if seen else {})
        lines: list[str] = []
        async with asyncio.timeout(30), http.stream("GET", path, headers=headers) as answer:
            async for line in answer.aiter_lines():
                lines.append(line)
                if line.startswith("data: "):
                    break
        return lines

    def id_in(lines: list[str]) -> str:
        return next(line.removeprefix("id: ") for line in lines if line.startswith("id: "))

    seen = id_in(await first())
    # While nobody listens.
    await tell(kubectl, namespace, "t", {"attempt": 1, "phase": "Queued", "reason": "Queued"})
    await tell(kubectl, namespace, "t", RUNNING)
    lines = await first(seen)
    assert "event: waiting" in lines
    assert '"status":"queued"' in lines[-1]
    lines = await first(id_in(lines))
    assert "event: running" in lines
    running = id_in(lines)
    await tell(kubectl, namespace, "t", FAILED)
    async with asyncio.timeout(30):
        rest = (await http.get(path, headers=as_(watcher) | {"Last-Event-ID": running})).text
    assert rest.count("\nevent: ") == 1
    assert "event: failed" in rest
    last = id_in(rest.splitlines())
    # A browser comes back after the end, too, and is told to stop.
    assert (await http.get(path, headers=as_(watcher) | {"Last-Event-ID": last})).status_code == 204
    # What the API server has forgotten: where it stands.
    old = (await http.get(path, headers=as_(watcher) | {"Last-Event-ID": "1"})).text
    assert old.rstrip().count("event: failed") == 1
