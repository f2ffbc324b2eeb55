"""Streams that are taken up again after their connection broke; a real server over loopback, calls that are played."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from starlette.datastructures import Headers

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Delta, Waiting
from headrace_facade.calls.failures import ModelNotReady, ModelUnavailable
from headrace_facade.native.resuming import BUFFER_BYTES, Resumables
from tests.fake_calls.service import FakeContext, Gate, Never, spoken
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract
PATH = "/api/v1/generate/stream"
BODY = {"model": "small", "prompt": "Hello?", "resumable": True}


class Callers:
    """A bearer token is a name."""

    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller:
        return Caller(namespace or "team-a", headers["Authorization"].removeprefix("Bearer "))


@dataclass
class ResumableContext(FakeContext):
    resumables: Resumables = field(default_factory=lambda: Resumables(grace_s=20))


@pytest.fixture
async def context() -> AsyncIterator[ResumableContext]:
    context = ResumableContext(callers=Callers())
    yield context
    await context.resumables.aclose()
    assert context.resumables.held == 0


@pytest.fixture
async def http(context: ResumableContext) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": "Bearer alice"}
    async with served(context) as address, httpx.AsyncClient(base_url=address, headers=headers, timeout=20) as http:
        yield http


def events(text: str) -> list[tuple[str, str]]:
    """Id and name of each."""
    found = [dict(line.split(": ", 1) for line in each.split("\n")) for each in text.split("\n\n") if each]
    return [(each["id"], each["event"]) for each in found]


async def broken_off(http: httpx.AsyncClient, after: int) -> list[tuple[str, str]]:
    """So many events of a stream, whose connection breaks then."""
    text = ""
    async with http.stream("POST", PATH, json=BODY) as answer:
        async for piece in answer.aiter_text():
            text += piece
            if text.count("\n\n") >= after:
                break
    return events(text)


async def test_a_stream_goes_on_where_it_broke_off(http: httpx.AsyncClient, context: ResumableContext) -> None:
    gate = Gate()
    context.calls.script = [Waiting("Queued", "q", 1), Delta(text="Hel"), gate, *spoken("lo", "!")]
    told = await broken_off(http, 2)
    stream, _, number = told[-1][0].partition(":")
    assert ([name for _, name in told], number) == (["waiting", "delta"], "2")
    gate.opened.set()
    expected = [(f"{stream}:{n}", name) for n, name in ((3, "delta"), (4, "delta"), (5, "end"))]
    again = await http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": told[-1][0]})
    assert events(again.text) == expected
    # As fetch-event-source asks: the same request once more. It begins nothing.
    again = await http.post(PATH, json=BODY, headers={"Last-Event-ID": told[-1][0]})
    assert events(again.text) == expected
    assert len(events((await http.get(f"{PATH}/{stream}")).text)) == 5
    assert len(context.calls.asked) == 1
    assert (await http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": f"{stream}:5"})).status_code == 204
    answer = await http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": f"{stream}:6"})
    assert (answer.status_code, answer.json()["error_code"]) == (410, "EVENTS_GONE")
    answer = await http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": f"{'0' * 32}:1"})
    assert answer.json()["details"]["fields"][0]["field"] == "Last-Event-ID"


async def test_who_comes_back_while_it_goes_on_follows_it(http: httpx.AsyncClient, context: ResumableContext) -> None:
    gate = Gate()
    context.calls.script = [Delta(text="Hel"), gate, *spoken("lo")]
    told = await broken_off(http, 1)
    stream = told[0][0].partition(":")[0]
    following = asyncio.create_task(http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": told[0][0]}))
    while stream not in context.resumables._readers:  # noqa: ASYNC110 # of a reader there is no event
        await asyncio.sleep(0)
    gate.opened.set()
    assert [name for _, name in events((await following).text)] == ["delta", "end"]


async def test_a_stream_is_of_who_began_it(http: httpx.AsyncClient, context: ResumableContext) -> None:
    context.calls.script = spoken("x")
    ((identifier, _), *_) = await broken_off(http, 1)
    stream = identifier.partition(":")[0]
    for headers, query in (({"Authorization": "Bearer bob"}, {}), ({}, {"namespace": "team-b"})):
        answer = await http.get(f"{PATH}/{stream}", headers=headers, params=query)
        assert (answer.status_code, answer.json()["error_code"]) == (404, "NOT_FOUND")
        posted = {**BODY, **query}
        answer = await http.post(PATH, json=posted, headers={"Last-Event-ID": identifier, **headers})
        assert answer.status_code == 404
    assert (await http.get(f"{PATH}/{'0' * 32}")).status_code == 404


async def test_without_a_reader_it_ends_after_the_grace(http: httpx.AsyncClient, context: ResumableContext) -> None:
    context.resumables = Resumables(grace_s=0.1)
    context.calls.script = [Delta(text="Hel"), Never()]
    ((identifier, _),) = await broken_off(http, 1)
    await asyncio.wait_for(context.calls.left.wait(), 10)
    assert (await http.get(f"{PATH}/{identifier.partition(':')[0]}")).status_code == 404
    # Where nobody asked for it a stream ends with its client.
    context.resumables = Resumables()
    context.calls.left.clear()
    async with http.stream("POST", PATH, json={**BODY, "resumable": False}) as answer:
        async for _ in answer.aiter_text():
            break
    await asyncio.wait_for(context.calls.left.wait(), 10)
    assert context.resumables.held == 0


async def test_failures_are_told_as_ever(http: httpx.AsyncClient, context: ResumableContext) -> None:
    context.calls.script = [ModelNotReady("no runner", 10)]
    answer = await http.post(PATH, json=BODY)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    context.calls.script = [Delta(text="Hel"), ModelUnavailable("lost", 1)]
    answer = await http.post(PATH, json=BODY)
    assert [name for _, name in events(answer.text)] == ["delta", "error"]
    context.calls.script = [RuntimeError("the secret")]
    answer = await http.post(PATH, json=BODY)
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL")
    assert "secret" not in answer.text


async def test_what_is_kept_is_bounded(http: httpx.AsyncClient, context: ResumableContext) -> None:
    gate = Gate()
    many = BUFFER_BYTES // 10_000 + 10
    context.calls.script = [Delta(text="first"), gate, *(Delta(text="x" * 10_000) for _ in range(many)), *spoken("y")]
    told = await broken_off(http, 1)
    stream = told[0][0].partition(":")[0]
    gate.opened.set()
    recording, task = context.resumables._held[stream]
    await asyncio.wait_for(asyncio.shield(task), 10)
    assert BUFFER_BYTES - 20_000 < sum(map(len, recording._events)) <= BUFFER_BYTES
    answer = await http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": told[0][0]})
    assert (answer.status_code, answer.json()["error_code"]) == (410, "EVENTS_GONE")
    late = f"{stream}:{many - 2}"
    assert len(events((await http.get(f"{PATH}/{stream}", headers={"Last-Event-ID": late})).text)) == 5


async def test_streams_are_bounded_for_each_and_for_all(http: httpx.AsyncClient, context: ResumableContext) -> None:
    context.resumables = Resumables(grace_s=20, most=2, each=1)
    context.calls.script = spoken("x")
    bob, carol = ({"Authorization": f"Bearer {name}"} for name in ("bob", "carol"))
    assert (await http.post(PATH, json=BODY)).status_code == 200
    assert (await http.post(PATH, json=BODY)).json()["error_code"] == "TOO_MANY_CALLS"
    assert (await http.post(PATH, json=BODY, headers=bob)).status_code == 200
    assert (await http.post(PATH, json=BODY, headers=carol)).status_code == 503
    await context.resumables.aclose()
    assert (await http.post(PATH, json=BODY, headers=carol)).status_code == 200
