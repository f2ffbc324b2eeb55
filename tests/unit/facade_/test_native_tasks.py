"""Reports, waits and watches of tasks, without an API server that judges: against an HTTP server that plays one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from headrace_facade.budget import ByteBudget
from headrace_facade.errors import FacadeError, Forbidden, Invalid, NotFound, Throttled, Unavailable
from headrace_facade.kube import KubeClient
from headrace_facade.native.follow_answers import prefers_text, wait_seconds
from headrace_facade.native.following import Following
from headrace_facade.native.report import as_text, report
from headrace_facade.queues import Queues
from headrace_facade.watches import Seats, Watches
from headrace_facade.why import WhyService

ENDED = {
    "attempt": 2,
    "phase": "Complete",
    "outcome": "Complete",
    "reason": "Succeeded",
    "retries": 1,
    "assignedModel": "team-a/spare",
    "triedModels": ["team-a/m"],
    "startTime": "2026-01-01T00:00:01Z",
    "completionTime": "2026-01-01T00:00:11Z",
    "attempts": [
        {
            "number": 1,
            "pod": "p-1",
            "startTime": "2026-01-01T00:00:01Z",
            "completionTime": "2026-01-01T00:00:03.5Z",
            "outcome": "Lost",
            "reason": "LeaseExpired",
            "message": "its runner\x1b[2J vanished",
        }
    ],
    "usage": {"promptTokens": 11, "cachedTokens": 4, "completionTokens": 7, "costMicros": 1500, "currency": "EUR"},
    "timings": {"queuedMillis": 5, "firstTokenMillis": 6, "generationMillis": 70},
    "result": {"text": "the secret answer", "finishReason": "Stop", "sizeBytes": 17, "sha256": "0" * 64},
}
FAILED = {**ENDED, "outcome": "Failed", "phase": "Failed"}
RUNNING = {"attempt": 1, "phase": "Running", "assignedModel": "team-a/m"}


def task(status: dict[str, Any] | None = None, uid: str = "u", version: str = "5") -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "team-a",
            "name": "t",
            "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "resourceVersion": version,
        },
        "spec": {"modelRef": {"name": "m"}, "prompt": "the secret question"},
        "status": status or {},
    }


def test_a_report_says_what_became_of_it_and_nothing_of_what_was_said() -> None:
    told = report(task(ENDED))
    assert (told.status, told.model, told.assigned_model, told.seconds) == ("completed", "m", "team-a/spare", 11.0)
    assert [(each.number, each.outcome, each.seconds) for each in told.attempts] == [(1, "Lost", 2.5)]
    assert told.usage is not None
    assert told.usage.cost_micros == 1500
    text = as_text(told)
    assert "secret" not in told.model_dump_json() + text
    assert "\x1b" not in text
    for each in (
        "Task team-a.t: completed (Succeeded)",
        "m, answered by team-a/spare",
        "2, 1 retried, 0 lost",
        "11 in (4 cached), 7 out",
        "0.001500 EUR",
        "attempt 1 at p-1: Lost (LeaseExpired) in 2.5 s",
    ):
        assert each in text


def test_a_report_of_a_task_that_nobody_has_looked_at() -> None:
    told = report(task())
    assert (told.status, told.attempts, told.result, told.seconds) == ("created", [], None, None)
    assert as_text(told).startswith("Task team-a.t: created\n")


def test_how_long_one_waits() -> None:
    assert [wait_seconds(each) for each in (None, "0s", "30s", "60")] == [0, 0, 30, 60]
    with pytest.raises(Invalid, match="60s"):
        wait_seconds("61s")


@pytest.mark.parametrize(
    ("accept", "text"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/plain", True),
        ("text/plain;q=0.9, */*", True),
        ("application/json, text/plain", False),
    ],
)
def test_who_reads_text(accept: str, text: bool) -> None:
    assert prefers_text(accept) is text


def test_seats_are_bounded_for_all_and_for_each() -> None:
    seats = Seats(most=2, each=1)
    with seats.taken(b"a"):
        with pytest.raises(Throttled), seats.taken(b"a"):
            pass
        with seats.taken(b"b"), pytest.raises(Unavailable), seats.taken(b"c"):
            pass
    assert seats.held == 0


@dataclass
class ApiServer:
    """One task; `events` are told to each watch in turn, one list per watch, and the last one stays open."""

    found: dict[str, Any] = field(default_factory=task)
    watches: list[list[tuple[str, dict[str, Any]]]] = field(default_factory=list)
    forbidden: bool = False
    gone_after_watch: bool = False
    too_old: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def get(self, request: web.Request) -> web.Response:
        if self.gone_after_watch and self.asked:
            return web.json_response({"message": "no t", "details": {"name": "t"}}, status=404)
        return web.json_response(self.found)

    async def watch(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query) | {"token": request.headers["Authorization"]})
        if self.forbidden:
            return web.json_response({"message": "alice cannot watch"}, status=403)
        if self.too_old and request.query["resourceVersion"] != "0":
            return web.json_response({"message": "too old resource version"}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        last = len(self.watches) <= 1
        for kind, body in self.watches.pop(0) if self.watches else ():
            line = json.dumps({"type": kind, "object": body}).encode() + b"\n"
            # In two pieces, as a large object comes.
            await response.write(line[:40])
            await response.write(line[40:])
        if last:
            try:
                await asyncio.sleep(3600)
            finally:
                self.closed.set()
        return response


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer()
    app = web.Application()
    tasks = "/apis/headrace.dev/v1alpha1/namespaces/team-a/llmtasks"
    app.router.add_get(tasks, server.watch)
    app.router.add_get(f"{tasks}/t", server.get)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    server.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    yield server
    await runner.cleanup()


@dataclass
class Made:
    following: Following
    watches: Watches
    answers: ByteBudget


@pytest.fixture
async def made(server: ApiServer) -> AsyncIterator[Made]:
    answers = ByteBudget(1 << 20, "too much")
    async with AsyncExitStack() as stack:
        kube = await stack.enter_async_context(KubeClient.connect(server.url, None, 5.0, answers))
        watches = await stack.enter_async_context(Watches.connect(server.url, None, answers))
        yield Made(Following(kube, watches, WhyService(kube, Queues(None)), 0.05), watches, answers)
        assert (watches.seats.held, answers.held_bytes) == (0, 0)


async def test_a_wait_ends_with_the_task(server: ApiServer, made: Made) -> None:
    server.watches = [[("ADDED", task()), ("MODIFIED", task(RUNNING)), ("MODIFIED", task(ENDED))]]
    told = await made.following.ended("team-a.t", "tok", 60)
    assert told.status == "completed"
    (asked,) = server.asked
    assert (asked["fieldSelector"], asked["token"]) == ("metadata.name=t", "Bearer tok")
    assert int(asked["timeoutSeconds"]) <= 60
    await asyncio.wait_for(server.closed.wait(), 5)


async def test_a_task_that_has_ended_is_not_waited_for(server: ApiServer, made: Made) -> None:
    server.found = task(ENDED)
    assert (await made.following.ended("team-a.t", "tok", 60)).status == "completed"
    assert [name async for name, *_ in made.following.happenings("team-a.t", "tok")] == ["completed"]  # type: ignore[misc]
    assert server.asked == []


async def test_the_time_ends_a_wait(server: ApiServer, made: Made) -> None:
    server.watches = [[("ADDED", task()), ("MODIFIED", task(RUNNING))]]
    assert (await made.following.ended("team-a.t", "tok", 0.3)).status == "processing"


async def test_a_watch_that_the_api_server_ends_is_opened_again(server: ApiServer, made: Made) -> None:
    too_old = {"code": 410, "message": "too old"}
    server.watches = [[("ADDED", task()), ("ERROR", too_old)], [], [("ADDED", task(ENDED))]]
    assert (await made.following.ended("team-a.t", "tok", 30)).status == "completed"
    assert len(server.asked) == 3


@pytest.mark.parametrize("event", [("DELETED", task()), ("ADDED", task(uid="another"))], ids=["deleted", "made again"])
async def test_a_task_that_goes_is_not_found(server: ApiServer, made: Made, event: tuple[str, dict[str, Any]]) -> None:
    server.watches = [[("ADDED", task()), event]]
    with pytest.raises(NotFound):
        await made.following.ended("team-a.t", "tok", 30)


async def test_a_task_that_goes_before_the_watch_has_begun_is_not_found(server: ApiServer, made: Made) -> None:
    server.gone_after_watch = True
    with pytest.raises(NotFound):
        await made.following.ended("team-a.t", "tok", 30)
    server.asked.clear()
    with pytest.raises(NotFound):
        [each async for each in made.following.happenings("team-a.t", "tok")]


async def test_what_the_api_server_remembers_of_an_earlier_task_of_that_name_is_passed_over(
    server: ApiServer, made: Made
) -> None:
    earlier = task(FAILED, uid="earlier", version="4")
    server.watches = [[("ADDED", earlier), ("DELETED", earlier), ("MODIFIED", task(ENDED, version="6"))]]
    assert (await made.following.ended("team-a.t", "tok", 30)).status == "completed"


async def test_who_may_not_watch_hears_it_before_anything_is_told(server: ApiServer, made: Made) -> None:
    server.forbidden = True
    with pytest.raises(Forbidden, match="alice"):
        await anext(made.following.happenings("team-a.t", "tok"))
    with pytest.raises(Forbidden, match="alice"):
        await made.following.ended("team-a.t", "tok", 30)


async def test_all_that_happens_is_told_once(server: ApiServer, made: Made) -> None:
    waiting = {"phase": "Queued", "reason": "Queued", "message": "queued"}
    server.watches = [
        [
            ("ADDED", task()),
            ("MODIFIED", task(waiting)),
            ("MODIFIED", task({**waiting, "observedGeneration": 2})),
            ("MODIFIED", task(RUNNING)),
            ("MODIFIED", task(ENDED)),
        ]
    ]
    told = [each async for each in made.following.happenings("team-a.t", "tok") if each is not None]
    assert [name for name, *_ in told] == ["waiting", "waiting", "running", "completed"]
    assert [data.model_dump().get("reason") for _, data, _ in told] == [None, "Queued", None, "Succeeded"]


async def test_who_comes_back_hears_what_has_happened_since(server: ApiServer, made: Made) -> None:
    running, ended = task(RUNNING, version="7"), task(ENDED, version="9")
    server.found = ended
    server.watches = [[("MODIFIED", running), ("MODIFIED", ended)]]
    told = [each async for each in made.following.happenings("team-a.t", "tok", since="5")]
    assert [(name, identifier) for name, _, identifier in told] == [("running", "7"), ("completed", "9")]  # type: ignore[misc]
    assert server.asked[0]["resourceVersion"] == "5"
    # Its end was heard.
    assert [each async for each in made.following.happenings("team-a.t", "tok", since="9")] == []
    # An id that nobody was told is none.
    for odd in ("10", "x", "-1", "9" * 20, "٩"):
        told = [each async for each in made.following.happenings("team-a.t", "tok", since=odd)]
        assert [each[0] for each in told if each is not None] == ["completed"]
    assert len(server.asked) == 1


async def test_who_comes_back_to_where_it_stands_hears_nothing_twice(server: ApiServer, made: Made) -> None:
    server.watches = [[("ADDED", task()), ("MODIFIED", task(ENDED, version="6"))]]
    told = [each async for each in made.following.happenings("team-a.t", "tok", since="5")]
    assert told[0] is None
    assert [each[0] for each in told if each is not None] == ["completed"]


@pytest.mark.parametrize("how", ["answer", "event"])
async def test_who_comes_back_too_late_hears_where_it_stands(server: ApiServer, made: Made, how: str) -> None:
    server.found = task(RUNNING, version="9")
    if how == "event":
        gone = {"code": 410, "message": "too old"}
        server.watches = [
            [("ERROR", gone)],
            [("ADDED", task(RUNNING, version="9")), ("MODIFIED", task(ENDED, version="10"))],
            [],
        ]
    else:
        server.too_old = True
        server.watches = [[("ADDED", task(RUNNING, version="9")), ("MODIFIED", task(ENDED, version="10"))]]
    told = [each async for each in made.following.happenings("team-a.t", "tok", since="5")]
    assert [each[0] for each in told if each is not None] == ["running", "completed"]
    assert [each["resourceVersion"] for each in server.asked] == ["5", "0"]


async def test_while_nothing_happens_the_connection_is_kept_alive_until_the_time_ends(
    server: ApiServer, made: Made
) -> None:
    told = [each async for each in made.following.happenings("team-a.t", "tok", 0.4)]
    assert told[0] is not None
    assert told[0][0] == "waiting"
    assert set(told[1:]) == {None}


async def test_more_than_may_be_held_is_told_and_not_held(server: ApiServer, made: Made) -> None:
    server.watches = [[("ADDED", task({"message": "x" * (1 << 20)}))]]
    with pytest.raises(FacadeError, match="too much"):
        await made.following.ended("team-a.t", "tok", 30)
