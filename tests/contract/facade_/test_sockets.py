"""WebSockets and tickets: a real client over loopback, the real server code and a real Redis; calls are played."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from starlette.datastructures import Headers
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from headrace_bus import FACADE_ACL, Bus, ModelKey, TicketLedger
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Delta, Waiting
from headrace_facade.calls.failures import ModelUnavailable
from headrace_facade.errors import Forbidden, Unauthenticated, Unavailable
from headrace_facade.native.monitor_schema import Away, MonitorStatus
from headrace_facade.sockets import protocol
from headrace_facade.sockets.door import Door
from headrace_facade.sockets.origins import is_admitted
from headrace_facade.sockets.tickets import EACH_MOST, Tickets
from tests.contract.redis_server import RedisServer, redis_server
from tests.fake_calls.service import FakeContext, Gate, Never, spoken
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract
PROMPT = {"model": "small", "prompt": "the secret question"}


class Callers:
    """A bearer token is a name of namespace team-a; who is in `ended` was known before."""

    def __init__(self) -> None:
        self.ended: set[str] = set()

    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller:
        name = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if not name or name in self.ended:
            raise Unauthenticated("nobody")
        if name == "carol":
            raise Forbidden("not there")
        return Caller(namespace or "team-a", name, frozenset({"team-a/small"}) if name == "key" else None)


class Monitor:
    def __init__(self) -> None:
        self.seen: list[MonitorStatus | Exception] = []

    async def status(self, caller: Caller) -> MonitorStatus:
        found = self.seen.pop(0) if self.seen else status(caller.namespace)
        if isinstance(found, Exception):
            raise found
        return found


def status(namespace: str, *away: str) -> MonitorStatus:
    gone = [Away(what=each, message="gone") for each in away]
    return MonitorStatus(namespace=namespace, queues=[], left_off=0, models=[], gpus=[], away=gone)


@dataclass
class SocketContext(FakeContext):
    monitor: Monitor = field(default_factory=Monitor)
    tickets: Tickets = field(default_factory=lambda: Tickets(None))
    door: Door = field(default_factory=lambda: Door(Callers(), Tickets(None)))


@pytest.fixture
def context() -> SocketContext:
    callers = Callers()
    return SocketContext(callers=callers, door=Door(callers, Tickets(None)))


@pytest.fixture
async def address(context: SocketContext) -> AsyncIterator[str]:
    async with served(context) as address:
        yield address


def at(address: str, path: str = "/api/v1/generate/ws", *, who: str | None = "alice", **options: Any) -> connect:
    headers = {"Authorization": f"Bearer {who}"} if who else {}
    headers |= options.pop("headers", {})
    return connect(address.replace("http", "ws") + path, additional_headers=headers, proxy=None, **options)


async def say(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def hear(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(20):
        found: dict[str, Any] = json.loads(await socket.recv())
    return found


async def closed(socket: ClientConnection) -> int | None:
    """The code; what is still told before is passed over."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code


async def refused(opening: connect) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as told:
        async with opening:
            pass
    return told.value.response.status_code, json.loads(told.value.response.body or b"{}")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 # of what a server does there is no event
            await asyncio.sleep(0.01)


async def test_it_grows_in_events_one_generation_after_the_other(address: str, context: SocketContext) -> None:
    context.calls.script = [Waiting("Queued", "queued", 4), *spoken("Hel", "lo")]
    async with at(address, "/api/v1/generate/ws?namespace=team-b") as socket:
        assert socket.response is not None
        assert len(socket.response.headers["X-Trace-Id"]) == 32
        await say(socket, **PROMPT, type="generate", id="one", parameters={"max_tokens": 7})
        told = [await hear(socket) for _ in range(4)]
        assert [each["event"] for each in told] == ["waiting", "delta", "delta", "end"]
        assert {each["id"] for each in told} == {"one"}
        assert told[0]["data"] == {"reason": "Queued", "message": "queued", "ahead": 4}
        assert "".join(each["data"]["text"] for each in told[1:3]) == told[-1]["data"]["text"] == "Hello"
        context.calls.script = [ModelUnavailable("lost", 1)]
        turns = [{"role": "assistant", "content": "b"}]
        await say(socket, **PROMPT, history=turns)
        told = [await hear(socket)]
        assert (told[0]["event"], told[0]["data"]["error_code"], "id" in told[0]) == (
            "error",
            "MODEL_UNAVAILABLE",
            False,
        )
        assert told[0]["data"]["trace_id"] == socket.response.headers["X-Trace-Id"]
    first, second = context.calls.asked
    assert (first.parameters.max_tokens, first.options.stream) == (7, True)
    assert [each.role.value for each in second.messages] == ["assistant", "user"]
    assert [each.namespace for each in context.calls.callers] == ["team-b", "team-b"]


async def test_a_generation_is_cancelled_and_another_follows(address: str, context: SocketContext) -> None:
    context.calls.script = [Delta(text="Hel"), Never()]
    async with at(address) as socket:
        await say(socket, **PROMPT, id="one")
        assert (await hear(socket))["event"] == "delta"
        await say(socket, **PROMPT, id="two")
        told = await hear(socket)
        assert (told["data"]["error_code"], told["id"]) == ("GENERATION_UNDER_WAY", "two")
        assert not context.calls.left.is_set()
        await say(socket, type="ping", id="three")
        assert await hear(socket) == {"event": "pong", "data": {}, "id": "three"}
        await say(socket, type="cancel")
        assert await hear(socket) == {"event": "cancelled", "data": {}, "id": "one"}
        assert context.calls.left.is_set()
        context.calls.script = spoken("Hello")
        # Of what has ended there is nothing to cancel.
        await say(socket, type="cancel")
        await say(socket, **PROMPT)
        assert [(await hear(socket))["event"] for _ in range(2)] == ["delta", "end"]
    assert len(context.calls.asked) == 2


async def test_who_goes_away_hangs_up(address: str, context: SocketContext) -> None:
    for how in ("closed", "cut"):
        context.calls.script = [Delta(text="Hel"), Never()]
        context.calls.left.clear()
        async with at(address) as socket:
            await say(socket, **PROMPT)
            await hear(socket)
            if how == "cut":
                socket.transport.abort()
        await asyncio.wait_for(context.calls.left.wait(), 10)
    await until(lambda: context.door.held == 0)


def established(address: str) -> bool:
    """Whether the server itself has a connection: one that it has closed is the kernel's to bring to its end."""
    ours = f"{int(address.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return any(row[1].endswith(f":{ours}") and row[3] == "01" for row in rows)


async def test_who_reads_nothing_ends_the_generation_and_is_cut_off(
    address: str, context: SocketContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "GONE_AFTER_S", 0.2)
    context.settings = replace(context.settings, socket_send_s=0.3)
    context.calls.script = [*(Delta(text="x" * 60_000) for _ in range(2_000)), Never()]
    async with at(address, max_queue=1) as socket:
        await say(socket, **PROMPT)
        await asyncio.wait_for(context.calls.left.wait(), 20)
        await until(lambda: context.door.held == 0)
        await until(lambda: not established(address))
        assert await closed(socket) == 1006


async def test_who_answers_no_ping_is_closed(context: SocketContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(protocol.OPTIONS, "ws_ping_interval", 0.1)
    monkeypatch.setitem(protocol.OPTIONS, "ws_ping_timeout", 0.1)
    async with served(context) as address:
        host, port = address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = (
            "GET /ws/monitor HTTP/1.1",
            f"Host: {host}:{port}",
            "Authorization: Bearer alice",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        async with asyncio.timeout(20):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            told = await reader.read(-1)
        # Of opcode 9, and a close with 1011 at the end.
        assert b"\x89\x04" in told
        assert (1011).to_bytes(2, "big") + b"keepalive ping timeout" in told
        await until(lambda: context.door.held == 0)
        writer.close()


async def test_a_facade_that_is_replaced_says_so(context: SocketContext) -> None:
    context.calls.script = [Delta(text="Hel"), Never()]
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(served(context))
        async with at(address) as socket:
            await say(socket, **PROMPT)
            await hear(socket)
            closing = asyncio.create_task(stack.aclose())
            assert await closed(socket) == 1012
            await closing
    assert context.calls.left.is_set()
    assert context.door.held == 0


async def test_an_identity_is_needed(address: str, context: SocketContext) -> None:
    for path in ("/api/v1/generate/ws", "/ws/monitor"):
        for who, code in ((None, 401), ("carol", 403)):
            told, body = await refused(at(address, path, who=who))
            assert (told, body["error_code"]) == (code, "UNAUTHENTICATED" if code == 401 else "FORBIDDEN")
            assert len(body["trace_id"]) == 32
    async with at(address) as socket:
        context.callers.ended.add("alice")  # type: ignore[attr-defined]
        await say(socket, **PROMPT)
        assert (await hear(socket))["data"]["error_code"] == "UNAUTHENTICATED"
    assert context.calls.asked == []
    assert context.door.held == 0


@pytest.mark.parametrize(
    ("origin", "host", "admitted"),
    [
        (None, "x", True),
        ("http://h:8000", "h:8000", True),
        ("https://h", "h", True),
        # What browsers leave out is meant all the same.
        ("https://h", "h:443", True),
        ("https://H", "h", True),
        ("https://evil.example", "h", False),
        ("https://h.evil.example", "h", False),
        ("https://h:444", "h", False),
        ("null", "h", False),
        ("", "", False),
        ("file://", "", False),
        ("https://h:x", "h", False),
        ("https://chat.example", "h", True),
        ("https://CHAT.example/", "h", True),
        ("http://chat.example", "h", False),
    ],
)
def test_origins(origin: str | None, host: str, admitted: bool) -> None:
    assert is_admitted(origin, host, ["https://chat.example"]) is admitted


async def test_pages_of_others_open_nothing(address: str, context: SocketContext) -> None:
    told, body = await refused(at(address, headers={"Origin": "https://evil.example"}))
    assert (told, body["error_code"]) == (403, "FORBIDDEN")
    context.door = Door(context.callers, context.tickets, ["https://chat.example"])
    for origin in (address, "https://chat.example"):
        async with at(address, headers={"Origin": origin}) as socket:
            await say(socket, type="ping")
            assert (await hear(socket))["event"] == "pong"


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("no JSON", "BAD_REQUEST", ""),
        ("[" * 100_000, "BAD_REQUEST", ""),
        ("[]", "BAD_REQUEST", ""),
        ('{"type": "sing"}', "VALIDATION_FAILED", "type"),
        ('{"model": "small"}', "VALIDATION_FAILED", ""),
        ('{"model": "small", "prompt": "the secret", "colour": "red"}', "VALIDATION_FAILED", "colour"),
        ('{"model": "small", "prompt": "\\ud800"}', "VALIDATION_FAILED", "prompt"),
        ('{"model": "small", "prompt": "x", "parameters": {"temperature": 9}}', "VALIDATION_FAILED", "temperature"),
    ],
    ids=["text", "deep", "list", "type", "nothing", "unknown", "half", "parameter"],
)
async def test_what_is_wrong_is_named_and_closes_nothing(
    address: str, context: SocketContext, text: str, code: str, named: str
) -> None:
    async with at(address) as socket:
        await socket.send(text)
        told = await hear(socket)
        assert (told["event"], told["data"]["error_code"]) == ("error", code)
        assert named in json.dumps(told["data"]["details"])
        assert "secret" not in json.dumps(told)
        assert not context.calls.asked
        await say(socket, **PROMPT)
        assert (await hear(socket))["event"] == "delta"


async def test_who_says_nothing_sensible_or_too_much_is_closed(address: str, context: SocketContext) -> None:
    async with at(address) as socket:
        for _ in range(16):
            await socket.send("x")
        assert await closed(socket) == 1008
    async with at(address) as socket:
        await socket.send(b"bytes")
        assert await closed(socket) == 1003
    async with at(address) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send("x" * (256 * 1024 + 1))
        assert await closed(socket) == 1009
    async with at(address) as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send(["x" * 10_000] * 30)
        assert await closed(socket) == 1009
    for path in ("/api/v1/generate/ws", "/ws/monitor"):
        async with at(address, path) as socket:
            with contextlib.suppress(ConnectionClosed):
                for _ in range(400):
                    await say(socket, type="ping")
            assert await closed(socket) == 1008
    await until(lambda: context.door.held == 0)
    assert context.bodies.held_bytes == 0


async def test_sockets_are_bounded_for_each_and_for_all(address: str, context: SocketContext) -> None:
    context.door = Door(context.callers, context.tickets, most=3, each=2)
    async with at(address), at(address, "/ws/monitor"):
        # A flood of one identity takes no more than its share.
        for told, body in await asyncio.gather(*(refused(at(address)) for _ in range(20))):
            assert (told, body["error_code"]) == (429, "SOCKET_LIMIT")
        async with at(address, who="bob"):
            told, body = await refused(at(address, who="dave"))
            assert (told, body["error_code"]) == (503, "UNAVAILABLE")
    await until(lambda: context.door.held == 0)
    async with at(address):
        pass


async def test_a_socket_on_which_nothing_is_asked_ends_and_one_that_has_lived_long(
    address: str, context: SocketContext
) -> None:
    context.settings = replace(context.settings, socket_idle_s=0.05)
    async with at(address) as socket:
        assert await closed(socket) == 4408
    # What is generated is not idle.
    gate = Gate()
    context.calls.script = [Delta(text="x"), gate, *spoken("y")]
    async with at(address) as socket:
        await say(socket, **PROMPT)
        await hear(socket)
        await asyncio.sleep(0.2)
        gate.opened.set()
        assert [(await hear(socket))["event"] for _ in range(2)] == ["delta", "end"]
        assert await closed(socket) == 4408
    now = 0.0
    context.settings = replace(context.settings, socket_idle_s=300)
    context.door = Door(context.callers, context.tickets, clock=lambda: now)
    async with at(address) as socket:
        await say(socket, type="ping")
        await hear(socket)
        now = 3600.0
        await say(socket, **PROMPT)
        assert await closed(socket) == 4410


async def test_the_monitor_tells_state_and_what_has_changed(address: str, context: SocketContext) -> None:
    context.monitor.seen = [status("team-a"), Unavailable("away"), status("team-a", "redis")]
    async with at(address, "/ws/monitor") as socket:
        told = [await hear(socket) for _ in range(4)]
        assert [each["event"] for each in told] == ["status", "error", "changed", "status"]
        assert told[0]["data"]["namespace"] == "team-a"
        assert told[2]["data"] == {"part": "redis", "before": "ok", "now": "gone"}
        context.callers.ended.add("alice")  # type: ignore[attr-defined]
        assert await closed(socket) == 4401


@pytest.fixture
async def redis() -> AsyncIterator[RedisServer]:
    with redis_server() as server:
        async with Bus.connect(server.url) as bus:
            await bus.grant(ModelKey("ns", "m"), "ns/m", "secret")
        async with Redis.from_url(server.url) as client:
            await client.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
        yield server


@contextlib.asynccontextmanager
async def replica(redis: RedisServer) -> AsyncIterator[tuple[str, SocketContext]]:
    ledger = TicketLedger.connect(f"redis://facade:secret@127.0.0.1:{redis.port}/0", call_timeout_s=1.0)
    callers, tickets = Callers(), Tickets(ledger)
    context = SocketContext(callers=callers, tickets=tickets, door=Door(callers, tickets))
    async with served(context) as address:
        yield address, context
    await ledger.aclose()


async def ticket(address: str, who: str = "key", **body: str) -> str:
    async with httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {who}"}) as http:
        answer = await http.post("/api/v1/tickets", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["expires_in_seconds"] == 30
    return str(answer.json()["ticket"])


async def test_a_ticket_opens_one_socket_at_any_replica(redis: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    async with replica(redis) as (one, _), replica(redis) as (other, context):
        given = await ticket(one, namespace="team-b")
        async with Redis.from_url(redis.url) as client:
            (key,) = await client.keys("headrace:ticket:*")
            held = key + await client.get(key)
            assert given.encode() not in held
            assert b"team-b" in held
        async with at(other, f"/api/v1/generate/ws?ticket={given}", who=None) as socket:
            await say(socket, **PROMPT)
            assert (await hear(socket))["event"] == "delta"
        assert context.calls.callers == [Caller("team-b", "key", frozenset({"team-a/small"}))]
        for again in (one, other):
            told, body = await refused(at(again, f"/api/v1/generate/ws?ticket={given}", who=None))
            assert (told, body["error_code"]) == (401, "UNAUTHENTICATED")
        # Of many at once one is let in.
        given = await ticket(one)
        openings = [at((one, other)[n % 2], f"/ws/monitor?ticket={given}", who=None) for n in range(10)]
        results = await asyncio.gather(*openings, return_exceptions=True)
        let_in = [each for each in results if isinstance(each, ClientConnection)]
        assert len(let_in) == 1
        await let_in[0].close()
        # As a subprotocol, which no log of a proxy shows.
        given = await ticket(one)
        words = ["headrace.v1", f"headrace.ticket.{given}"]
        async with at(other, who=None, subprotocols=words) as socket:
            assert socket.subprotocol == "headrace.v1"
        for odd in ("x", "%00" * 43, "A" * 43):
            assert (await refused(at(one, f"/ws/monitor?ticket={odd}", who=None)))[0] == 401
        assert (await refused(at(one, "/ws/monitor?ticket=a&ticket=b")))[0] == 401
    logged = capsys.readouterr()
    assert "/api/v1/generate/ws" in logged.out
    assert given not in logged.out + logged.err
    assert "secret question" not in logged.out + logged.err


async def test_tickets_are_bounded_and_need_redis(redis: RedisServer) -> None:
    async with replica(redis) as (address, _):
        headers = {"Authorization": "Bearer alice"}
        async with httpx.AsyncClient(base_url=address, headers=headers) as http:
            for _ in range(EACH_MOST):
                assert (await http.post("/api/v1/tickets")).status_code == 201
            answer = await http.post("/api/v1/tickets")
            assert (answer.status_code, answer.json()["error_code"]) == (429, "SOCKET_LIMIT")
            assert (await http.post("/api/v1/tickets", headers={"Authorization": "Bearer bob"})).status_code == 201
            assert (await http.post("/api/v1/tickets", headers={"Authorization": ""})).status_code == 401
            redis.stop()
            answer = await http.post("/api/v1/tickets", headers={"Authorization": "Bearer erin"})
            assert (answer.status_code, answer.json()["error_code"]) == (503, "UNAVAILABLE")
        assert (await refused(at(address, f"/ws/monitor?ticket={'A' * 43}", who=None)))[0] == 503
