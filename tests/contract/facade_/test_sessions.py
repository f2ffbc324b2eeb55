"""Sessions over a real server and a real Redis with the facade's rights; calls are played."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
from redis.asyncio import Redis
from starlette.datastructures import Headers

from headrace_bus import FACADE_ACL, Bus, ModelKey, SessionLedger
from headrace_crds.model import LLMModel
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Delta
from headrace_facade.calls.failures import ContextExceeded, ModelUnavailable
from headrace_facade.errors import Unauthenticated
from headrace_facade.sessions.store import Sessions
from tests.contract.redis_server import RedisServer, redis_server
from tests.fake_calls.service import FakeContext, FakeDirectory, Gate, Never, Step, spoken
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract
NAMES = {"alice": "team-a", "bob": "team-a", "carol": "team-b"}


class Callers:
    """A bearer token is a name; its namespace is known, and another one may be named."""

    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller:
        name = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if name not in NAMES:
            raise Unauthenticated("nobody")
        return Caller(namespace or NAMES[name], name)


@dataclass
class SessionContext(FakeContext):
    sessions: Sessions = field(default_factory=lambda: Sessions(None, 24))


def small(context_tokens: int) -> LLMModel:
    source = {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}
    return LLMModel.model_validate(
        {
            "metadata": {"namespace": "team-a", "name": "small", "uid": "u"},
            "spec": {"local": {"source": source, "contextTokens": context_tokens}},
        }
    )


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.grant(ModelKey("ns", "m"), "ns/m", "secret")
        async with Redis.from_url(server.url) as client:
            await client.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
        yield server


@pytest.fixture
async def context(redis: RedisServer) -> AsyncIterator[SessionContext]:
    ledger = SessionLedger.connect(f"redis://facade:secret@127.0.0.1:{redis.port}/0", call_timeout_s=1.0)
    yield SessionContext(callers=Callers(), sessions=Sessions(ledger, 24), directory=FakeDirectory([small(4096)]))
    await ledger.aclose()


@pytest.fixture
async def http(context: SessionContext) -> AsyncIterator[httpx.AsyncClient]:
    async with served(context) as address, httpx.AsyncClient(base_url=address, headers=as_("alice")) as http:
        yield http


def as_(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


async def made(http: httpx.AsyncClient, session: str = "s", **body: str) -> str:
    answer = await http.post(f"/api/v1/sessions/{session}", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["session_id"]


async def generate(http: httpx.AsyncClient, prompt: str, session: str = "s", path: str = "", **more: object):
    body = {"model": "small", "prompt": prompt, "session_id": session, **more}
    return await http.post(f"/api/v1/generate{path}", json=body)


def sent(context: SessionContext) -> list[tuple[str, str]]:
    return [(each.role.value, each.text) for each in context.calls.asked[-1].messages]


async def test_a_chat_goes_on(http: httpx.AsyncClient, context: SessionContext) -> None:
    await made(http, system="Be brief.")
    context.calls.script = spoken("Hi", "!")
    told = (await generate(http, "Hello?")).json()
    assert told["session"] == {
        "session_id": "s",
        "version": 1,
        "appended": True,
        "problem": None,
        "overlapped": False,
        "sent": 0,
        "left_off": 0,
    }
    streamed = await generate(http, "And now?", path="/stream")
    assert '"version":2' in streamed.text
    assert sent(context) == [("system", "Be brief."), ("user", "Hello?"), ("assistant", "Hi!"), ("user", "And now?")]
    history = (await http.get("/api/v1/sessions/s")).json()
    assert [each["content"] for each in history["messages"]] == ["Hello?", "Hi!", "And now?", "Hi!"]
    assert (history["system"], history["exchanges"], history["namespace"]) == ("Be brief.", 2, "team-a")
    # A system message of a request takes the place of the session's.
    turns = [{"role": "system", "content": "Sing."}, {"role": "user", "content": "La?"}]
    await http.post("/api/v1/generate", json={"model": "small", "messages": turns, "session_id": "s"})
    assert sent(context)[0] == ("system", "Sing.")
    assert len(sent(context)) == 6
    assert (await http.get("/api/v1/sessions/s")).json()["system"] == "Sing."
    # Without its id nothing goes with a request, and nothing is appended.
    await http.post("/api/v1/generate", json={"model": "small", "prompt": "Alone?"})
    assert sent(context) == [("user", "Alone?")]
    assert (await http.get("/api/v1/sessions/s")).json()["version"] == 3


async def test_history_goes_before_a_prompt(http: httpx.AsyncClient, context: SessionContext) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    answer = await http.post("/api/v1/generate", json={"model": "small", "prompt": "c", "history": turns})
    assert answer.status_code == 200
    assert sent(context) == [("user", "a"), ("assistant", "b"), ("user", "c")]
    answer = await http.post("/api/v1/generate", json={"model": "small", "messages": turns, "history": turns})
    assert answer.json()["details"]["fields"][0]["field"] == "history"


async def test_only_an_answer_that_succeeded_is_appended(http: httpx.AsyncClient, context: SessionContext) -> None:
    await made(http)
    scripts: list[list[Step]] = [
        [ModelUnavailable("lost", 1)],
        [Delta(text="Hal"), ModelUnavailable("lost", 1)],
        [Delta(text="Hal"), Never()],
    ]
    for script in scripts[:2]:
        context.calls.script = script
        await generate(http, "Hello?")
        await generate(http, "Hello?", path="/stream")
    context.calls.script = scripts[2]
    context.calls.left.clear()
    body = {"model": "small", "prompt": "Hello?", "session_id": "s"}
    async with http.stream("POST", "/api/v1/generate/stream", json=body) as answer:
        async for _ in answer.aiter_text():
            break
    await asyncio.wait_for(context.calls.left.wait(), 10)
    history = (await http.get("/api/v1/sessions/s")).json()
    assert (history["version"], history["messages"]) == (0, [])


async def test_a_session_is_of_who_made_it(http: httpx.AsyncClient, context: SessionContext) -> None:
    await made(http)
    asked = len(context.calls.asked)
    for name, query in (("bob", {}), ("carol", {}), ("carol", {"namespace": "team-a"}), ("alice", {"namespace": "b"})):
        for method in ("GET", "DELETE"):
            answer = await http.request(method, "/api/v1/sessions/s", params=query, headers=as_(name))
            assert answer.status_code == 404, (name, query)
            assert answer.json()["error_code"] == "NOT_FOUND"
        assert (await http.get("/api/v1/sessions", params=query, headers=as_(name))).json() == {"items": []}
        body = {"model": "small", "prompt": "x", "session_id": "s", **query}
        for path in ("", "/stream"):
            assert (await http.post(f"/api/v1/generate{path}", json=body, headers=as_(name))).status_code == 404
    assert len(context.calls.asked) == asked
    # Of the same name, and another one.
    assert (await http.post("/api/v1/sessions/s", json={}, headers=as_("bob"))).status_code == 201
    assert (await http.post("/api/v1/sessions/s", json={})).status_code == 409
    assert [each["session_id"] for each in (await http.get("/api/v1/sessions")).json()["items"]] == ["s"]
    assert (await http.delete("/api/v1/sessions/s")).status_code == 204
    assert (await http.get("/api/v1/sessions/s")).status_code == 404
    assert (await http.get("/api/v1/sessions/s", headers=as_("bob"))).status_code == 200
    assert (await http.get("/api/v1/sessions", headers=as_("nobody"))).status_code == 401


async def test_ids_are_made_or_chosen(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/v1/sessions")
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/sessions/{answer.json()['session_id']}"
    assert (await http.get(answer.headers["location"])).status_code == 200
    for odd in ("x%7D:%7By", "x" * 65, "%2e%2e", "a b"):
        assert (await http.post(f"/api/v1/sessions/{odd}")).status_code == 404, odd
        assert (await http.get(f"/api/v1/sessions/{odd}")).status_code == 404, odd


async def test_what_has_no_room_in_the_context_is_left_off(http: httpx.AsyncClient, context: SessionContext) -> None:
    context.directory = FakeDirectory([small(512)])
    await made(http, system="Be brief.")
    context.calls.script = spoken("y" * 300)
    for number in range(8):
        await generate(http, f"{number} " + "x" * 300, parameters={"max_tokens": 100})
    told = (await generate(http, "And now?", parameters={"max_tokens": 100})).json()["session"]
    assert (told["sent"] + told["left_off"], told["appended"]) == (8, True)
    assert told["sent"] > 0
    assert told["left_off"] > 0
    assert sent(context)[0] == ("system", "Be brief.")
    # The newest are there, and nothing is missing between them.
    assert [text[0] for role, text in sent(context)[1:-1] if role == "user"] == [
        str(number) for number in range(8 - told["sent"], 8)
    ]


async def test_a_model_that_says_it_is_too_much_is_sent_less(http: httpx.AsyncClient, context: SessionContext) -> None:
    await made(http)
    for number in range(4):
        await generate(http, f"{number}")
    context.calls.script = [ContextExceeded("too long")]
    answer = await generate(http, "And now?")
    assert answer.json()["error_code"] == "CONTEXT_LENGTH_EXCEEDED"
    assert [len(each.messages) for each in context.calls.asked[4:]] == [9, 3, 1]
    assert (await http.get("/api/v1/sessions/s")).json()["version"] == 4


async def test_two_at_once_are_both_appended(http: httpx.AsyncClient, context: SessionContext) -> None:
    await made(http)
    answers = await asyncio.gather(*(generate(http, f"{number}") for number in range(10)))
    told = [each.json()["session"] for each in answers]
    assert sorted(each["version"] for each in told) == list(range(1, 11))
    history = (await http.get("/api/v1/sessions/s")).json()
    assert {each["content"] for each in history["messages"] if each["role"] == "user"} == {str(n) for n in range(10)}
    del context


async def test_an_answer_is_given_where_its_session_has_gone(
    http: httpx.AsyncClient, context: SessionContext, redis: RedisServer
) -> None:
    await made(http)

    async def late(prompt: str, meanwhile) -> dict:
        context.calls.entered.clear()
        gate = Gate()
        context.calls.script = [gate, *spoken("Hi")]
        asking = asyncio.create_task(generate(http, prompt))
        await asyncio.wait_for(context.calls.entered.wait(), 10)
        await meanwhile()
        gate.opened.set()
        answer = await asking
        assert (answer.status_code, answer.json()["text"]) == (200, "Hi")
        return answer.json()["session"]

    async def deleted() -> None:
        assert (await http.delete("/api/v1/sessions/s")).status_code == 204

    async def stopped() -> None:
        redis.stop()

    told = await late("x", deleted)
    assert not told["appended"]
    assert "deleted" in told["problem"]
    await made(http)
    told = await late("x", stopped)
    assert not told["appended"]
    assert "Redis" in told["problem"]
    for answer in (
        await http.get("/api/v1/sessions/s"),
        await generate(http, "x"),
        await http.post("/api/v1/sessions"),
    ):
        assert (answer.status_code, answer.json()["error_code"]) == (503, "UNAVAILABLE")


async def test_sessions_are_bounded(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(http.post("/api/v1/sessions") for _ in range(101)))
    assert sorted(each.status_code for each in answers) == [201] * 100 + [429]
    (refused,) = [each for each in answers if each.status_code == 429]
    assert refused.json()["error_code"] == "SESSION_LIMIT"
    assert len((await http.get("/api/v1/sessions")).json()["items"]) == 100
