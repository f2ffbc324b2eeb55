"""That the work ends with the leadership, whatever the libraries under it do with a cancellation."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from headrace_operator import elections, kube
from headrace_operator.elections import Election, LeadershipLost
from headrace_operator.errors import KubeUnavailable
from headrace_operator.kube import LEASES, TASKS, Kube
from headrace_operator.workqueue import WorkQueue

LEASE_SECONDS = 0.6


class Server:
    """Of one Lease; keeps what else is written, and may keep its answer to itself."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.writes: list[float] = []
        self.silent = False
        self.asked = asyncio.Event()
        self.written = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.set()
        if self.silent:
            await asyncio.Event().wait()
        if "/leases" not in request.path:
            if request.method != "GET":
                self.writes.append(time.monotonic())
                self.written.set()
            return web.json_response({})
        if request.method == "GET":
            return web.json_response(self.lease or {}, status=200 if self.lease else 404)
        body = await request.json()
        version = int(body["metadata"].get("resourceVersion", "0")) + 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
        return web.json_response(self.lease)


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Kube]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = Kube(configuration)
    yield client
    await client.aclose()
    await runner.cleanup()


def candidate(client: Kube, given_up: list[str]) -> Election:
    return Election(client, "team-a", "me", LEASE_SECONDS, give_up=lambda: given_up.append("yes"))


async def write(client: Kube) -> None:
    await client.patch_status(TASKS, "team-a", "t", {}, resource_version="1")


async def test_nothing_is_written_by_a_leader_whose_loop_stood_still(client: Kube, server: Server) -> None:
    """The loop stalls beyond the lease while all is enqueued; every write in line behind that is refused."""
    election = candidate(client, [])
    client.fence(election.seconds_left)
    queue: WorkQueue[int] = WorkQueue("tasks", workers=8)
    stalled_until = 0.0

    async def reconcile(_: int) -> None:
        await write(client)

    async def work() -> None:
        nonlocal stalled_until
        async with asyncio.TaskGroup() as group:
            group.create_task(queue.run(reconcile))
            await asyncio.sleep(0)
            queue.add(-1)
            await server.written.wait()
            for key in range(200):
                queue.add(key)
            time.sleep(LEASE_SECONDS)  # noqa: ASYNC251  it is the stall
            stalled_until = time.monotonic()

    with pytest.raises(LeadershipLost):
        await election.lead(work)
    assert [at for at in server.writes if at >= stalled_until] == []
    assert len(server.writes) == 1, "a test that never wrote would show nothing"
    assert election.seconds_left() < 0


async def test_a_write_does_not_outlast_the_lease(client: Kube, server: Server) -> None:
    client.fence(lambda: 0.1)
    server.silent = True
    with pytest.raises(KubeUnavailable):
        async with asyncio.timeout(5):
            await write(client)


async def test_reads_and_the_lease_itself_are_not_fenced(client: Kube) -> None:
    client.fence(lambda: 0.0)
    assert await client.get(TASKS, "team-a", "t") == {}
    await client.create(LEASES, "team-a", {"metadata": {}})
    with pytest.raises(KubeUnavailable, match="not sent"):
        await write(client)


async def test_work_that_does_not_end_ends_the_process(client: Kube, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elections, "STOP_SECONDS", 0.05)
    given_up: list[str] = []
    over = asyncio.Event()

    async def stubborn() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                continue

    leading = asyncio.create_task(candidate(client, given_up).lead(stubborn))
    await asyncio.sleep(LEASE_SECONDS / 3)
    leading.cancel()
    await asyncio.wait({leading}, timeout=5)
    assert given_up == ["yes"]
    over.set()
    await asyncio.sleep(0)


async def test_work_that_ends_gives_nothing_up(client: Kube, server: Server) -> None:
    given_up: list[str] = []

    async def work() -> None:
        pass

    await candidate(client, given_up).lead(work)
    assert given_up == []
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "", "it is given back"


async def test_a_cancelled_request_stays_cancelled_when_it_is_late_too(
    client: Kube, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp's timer turns this pair into a TimeoutError; a worker would go on."""
    monkeypatch.setattr(kube, "REQUEST_TIMEOUT_SECONDS", 0.2)
    server.silent = True
    writing = asyncio.create_task(write(client))
    await server.asked.wait()
    asyncio.get_running_loop().call_soon(writing.cancel)
    time.sleep(0.3)  # noqa: ASYNC251  both are due when the loop goes on
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_a_queue_ends_though_a_reconcile_swallows_its_cancellation() -> None:
    begun: list[int] = []
    queue: WorkQueue[int] = WorkQueue("tasks", workers=2)
    busy = asyncio.Event()

    async def reconcile(key: int) -> None:
        begun.append(key)
        try:
            busy.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

    running = asyncio.create_task(queue.run(reconcile))
    await asyncio.sleep(0)
    for key in range(5):
        queue.add(key)
    await busy.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=2)
    assert done, "the queue works on"
    assert running.cancelled()
    assert len(begun) == 2
