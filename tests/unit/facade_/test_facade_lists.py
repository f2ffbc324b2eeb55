"""How much is held while tasks are listed: against an HTTP server that gives large answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from headrace_facade.bounds import Bounds
from headrace_facade.budget import ByteBudget
from headrace_facade.chunks import CHUNK_BYTES, LISTS_AT_ONCE, PAGE, Lists
from headrace_facade.errors import Forbidden, Unavailable
from headrace_facade.kube import ANSWER_LIMIT_BYTES, AnswerTooLarge, KubeClient
from headrace_facade.queues import Queues
from headrace_facade.room import Room
from headrace_facade.schema import CreateTask, TaskList
from headrace_facade.service import TaskService

MIB = 1024 * 1024


@dataclass
class ApiServer:
    """Lists `count` tasks with prompts of `prompt_bytes`; remembers the pages it was asked for."""

    count: int = 100
    prompt_bytes: int = 1
    asked: list[tuple[int, int]] = field(default_factory=list)
    url: str = ""
    forbidden: bool = False

    async def list(self, request: web.Request) -> web.Response:
        if self.forbidden:
            return web.json_response({"message": "alice cannot"}, status=403)
        limit, start = int(request.query["limit"]), int(request.query.get("continue", "0"))
        self.asked.append((start, limit))
        end = min(start + limit, self.count)
        items = [
            {
                "metadata": {"name": f"t{n}", "namespace": "ns"},
                "spec": {"modelRef": {"name": "m"}, "prompt": "x" * self.prompt_bytes},
            }
            for n in range(start, end)
        ]
        more = {"continue": str(end), "remainingItemCount": self.count - end} if end < self.count else {}
        return web.Response(text=json.dumps({"metadata": more, "items": items}), content_type="application/json")


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    application = web.Application()
    application.router.add_post("/apis/headrace.dev/v1alpha1/namespaces/ns/llmtasks", server.list)
    application.router.add_get("/apis/headrace.dev/v1alpha1/namespaces/ns/llmtasks", server.list)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


async def listed(server: ApiServer, limit: int, continue_: str | None = None, budget: int = 64 * MIB) -> TaskList:
    answers = ByteBudget(budget, "too many answers")
    async with KubeClient.connect(server.url, None, 10.0, answers) as kube:
        found = await TaskService(kube, Room(kube, Queues(None), Bounds()), "ns", None).list(
            None, limit, continue_, "token"
        )
    assert answers.held_bytes == 0
    return found


@pytest.mark.parametrize("named", [None, "ns"])
async def test_a_refusal_for_the_default_namespace_says_where_it_comes_from(
    server: ApiServer, named: str | None
) -> None:
    server.forbidden = True
    request = CreateTask(model="m", prompt="p", namespace=named, suspend=True)
    async with KubeClient.connect(server.url, None, 10.0, ByteBudget(64 * MIB, "too many answers")) as kube:
        tasks = TaskService(kube, Room(kube, Queues(None), Bounds()), "ns", None)
        for asked in (tasks.list(named, 1, None, "token"), tasks.create(request, None, "token")):
            with pytest.raises(Forbidden, match="alice cannot") as refusal:
                await asked
            assert ("default 'ns' was taken" in refusal.value.message) is (named is None)


async def test_a_chunk_is_read_in_pages(server: ApiServer) -> None:
    chunk = await listed(server, 50)
    assert [item.name for item in chunk.items] == [f"t{n}" for n in range(50)]
    assert (chunk.continue_, chunk.remaining) == ("50", 50)
    assert server.asked == [(0, PAGE), (20, PAGE), (40, 10)]
    rest = await listed(server, 100, chunk.continue_)
    assert [item.name for item in rest.items] == [f"t{n}" for n in range(50, 100)]
    assert (rest.continue_, rest.remaining) == (None, None)


async def test_a_chunk_of_large_tasks_ends_early_and_goes_on(server: ApiServer) -> None:
    server.prompt_bytes = MIB
    names: list[str] = []
    continue_: str | None = None
    while True:
        chunk = await listed(server, 100, continue_)
        assert 0 < len(chunk.items) * MIB < CHUNK_BYTES + ANSWER_LIMIT_BYTES
        names += [item.name for item in chunk.items]
        continue_ = chunk.continue_
        if continue_ is None:
            break
    assert names == [f"t{n}" for n in range(100)]


async def test_a_task_larger_than_any_is_an_error(server: ApiServer) -> None:
    server.prompt_bytes = ANSWER_LIMIT_BYTES
    with pytest.raises(AnswerTooLarge, match="8 MiB"):
        await listed(server, 3)
    assert server.asked == [(0, 3), (0, 1)]


async def test_answers_share_a_budget(server: ApiServer) -> None:
    server.prompt_bytes = MIB
    with pytest.raises(Unavailable, match="too many answers"):
        await listed(server, 3, budget=2 * MIB)


async def test_few_lists_are_read_at_once() -> None:
    lists = Lists(wait_s=0.01)
    async with AsyncExitStack() as held:
        for _ in range(LISTS_AT_ONCE):
            await held.enter_async_context(lists.slot())
        with pytest.raises(Unavailable, match="too many lists"):
            await held.enter_async_context(lists.slot())
    await asyncio.wait_for(lists.slot().__aenter__(), 1)
