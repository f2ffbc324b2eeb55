"""Calls over the whole way: HTTP client, facade, real Redis with the facade's rights, real runner and engine."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import openai
import pytest
import yaml
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic import BaseModel
from redis.asyncio import Redis
from starlette.datastructures import Headers
from websockets.asyncio.client import ClientConnection, connect

from headrace_bus import FACADE_ACL, Bus, BusReader, CallBus, EntryState, ModelKey, SessionLedger
from headrace_crds import LLMModel
from headrace_crds.inputs import Output, Parameters
from headrace_crds.task import Role
from headrace_crds.work import CallOptions, Count, WorkMessage
from headrace_facade.bounds import Bounds
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import CallRequest, Delta, Ended, Waiting
from headrace_facade.calls.failures import ModelNotReady, ModelUnavailable
from headrace_facade.calls.hub import Hub
from headrace_facade.calls.service import Calls
from headrace_facade.queues import Queues
from headrace_facade.rates import Rates
from headrace_facade.sessions.store import Sessions
from headrace_facade.sockets.door import Door
from headrace_facade.sockets.tickets import Tickets
from tests.contract.redis_server import RedisServer, redis_server
from tests.contract.runner_.pod_world import ENDLESS, Engine, Runner, until
from tests.fake_calls.service import CALLER, KEY, FakeCallers, FakeContext, FakeDirectory
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract

MODEL = ModelKey("team-a", "smol")
USER = Role.USER
LONG = CallRequest(
    "smol",
    [WorkMessage(role=USER, content="Count from 1 to 400.")],
    parameters=Parameters(max_tokens=300, temperature="0"),
)
FOREVER = CallRequest(
    "smol",
    [WorkMessage(role=USER, content="Go on.")],
    parameters=Parameters.model_validate(ENDLESS["parameters"]),
    output=Output.model_validate(ENDLESS["output"]),
)
STREAMED = CallOptions(stream=True)


class Directory(FakeDirectory):
    def any_model(self, key: ModelKey) -> LLMModel | None:
        return self.model(CALLER, str(key))

    def may_call(self, caller: Caller, model: LLMModel) -> bool:
        return True

    def quota(self, namespace: str) -> None:
        return None


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="hr-call-") as folder:
        engine = Engine(Path(folder), Path(os.environ["HEADRACE_TEST_MODEL"]))
        yield engine
        engine.end()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@dataclass
class World:
    """What is behind the facade; ``runner`` starts one, and nothing else may be started twice."""

    redis: RedisServer
    engine: Engine
    folder: Path
    bus: Bus
    runners: list[Runner] = field(default_factory=list)

    async def runner(self) -> Runner:
        await until(self.engine.serving)
        folder = self.folder / f"runner-{len(self.runners)}"
        folder.mkdir()
        kubeconfig = folder / "kubeconfig"
        # A call has no object: nobody may need an API server.
        nowhere = {"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": nowhere}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        }
        kubeconfig.write_text(yaml.safe_dump(config))
        runner = Runner(folder, self.redis, self.engine, MODEL, kubeconfig, f"pod-{len(self.runners)}")
        self.runners.append(runner)
        await until(runner.ready)
        return runner

    async def reaps(self) -> None:
        """As the operator does, every second."""
        while True:
            await self.bus.reap(MODEL)
            await asyncio.sleep(0.2)


@pytest.fixture
async def world(redis: RedisServer, engine: Engine, tmp_path: Path) -> AsyncIterator[World]:
    async with Bus.connect(redis.url) as bus:
        world = World(redis, engine, tmp_path, bus)
        await bus.grant(MODEL, "nobody", "loads the scripts")
        reaping = asyncio.create_task(world.reaps())
        yield world
        reaping.cancel()
        for runner in world.runners:
            runner.end()
            print(runner.log.read_text())


@asynccontextmanager
async def calling(redis: RedisServer, *, hold_seconds: float = 60) -> AsyncIterator[Calls]:
    async with Redis.from_url(redis.url) as client:
        await client.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
    as_facade = {"username": "facade", "password": "secret"}
    model = LLMModel.model_validate(
        {
            "metadata": {
                "namespace": "team-a",
                "name": "smol",
                "creationTimestamp": "2026-01-02T03:04:05Z",
                "uid": "u",
            },
            "spec": {"local": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}}},
        }
    )
    async with (
        CallBus.connect(redis.url, **as_facade) as bus,
        BusReader.connect(redis.url, **as_facade) as reader,
    ):
        hub = Hub(bus, "facade-1")
        calls = Calls(
            hub,
            Directory([model]),
            Rates(None, 0, 0),
            Queues(reader),
            bounds=Bounds(),
            hold_seconds=hold_seconds,
            calls_limit=64,
        )
        tasks = [asyncio.create_task(each) for each in (hub.read(), hub.renew())]
        yield calls
        await calls.aclose()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert hub.calls == 0


@pytest.fixture
async def calls(redis: RedisServer, world: World) -> AsyncIterator[Calls]:
    async with calling(redis) as calls:
        yield calls


@pytest.fixture
async def client(calls: Calls) -> AsyncIterator[AsyncOpenAI]:
    context = FakeContext(calls=calls, directory=calls._directory)
    async with (
        served(context) as address,
        AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client,
    ):
        yield client


async def leased(calls: Calls, uid: str) -> bool:
    (state,) = await calls.hub.bus.waiting(MODEL, calls.hub.reader, [uid], lease_ms=10_000)
    return state is EntryState.LEASED


async def nothing_queued(calls: Calls) -> bool:
    return (await calls._queues.stats(MODEL)).queued == 0


class Person(BaseModel):
    name: str
    age: int


async def test_an_openai_client_gets_its_answers(world: World, client: AsyncOpenAI) -> None:
    await world.runner()
    asked = {
        "model": "smol",
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0,
        "max_tokens": 24,
    }
    whole = await client.chat.completions.create(**asked)
    assert whole.choices[0].message.content
    assert whole.usage is not None
    assert 0 < whole.usage.completion_tokens <= 24
    pieces = []
    async for chunk in await client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ):
        pieces.append(chunk)
    assert (
        "".join(each.choices[0].delta.content or "" for each in pieces if each.choices)
        == whole.choices[0].message.content
    )
    assert len(pieces) > 3
    assert pieces[-1].usage is not None
    parsed = await client.chat.completions.parse(
        model="smol",
        messages=[{"role": "user", "content": "Name and age of Ada, who is 36?"}],
        response_format=Person,
        max_tokens=64,
    )
    assert isinstance(parsed.choices[0].message.parsed, Person)
    both = await client.chat.completions.create(**asked | {"temperature": 1}, n=2, logprobs=True, top_logprobs=2)
    assert len(both.choices) == 2
    assert both.choices[1].logprobs is not None
    assert both.choices[1].logprobs.content
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(**asked | {"max_tokens": 24}, response_format={"type": "grammar"})  # type: ignore[arg-type]
    assert refused.value.param
    with pytest.raises(openai.BadRequestError) as too_long:
        await client.chat.completions.create(model="smol", messages=[{"role": "user", "content": "word " * 20_000}])
    assert too_long.value.code == "context_length_exceeded"


async def test_who_leaves_ends_the_generation(world: World, calls: Calls) -> None:
    runner = await world.runner()
    async with calls.call(CALLER, FOREVER) as call:
        await until(lambda: leased(calls, call.id))
    await until(runner.idle, 10)
    assert runner.logged("call dropped")
    async with calls.call(CALLER, replace(FOREVER, options=STREAMED)) as call:
        async for event in call.events():
            if isinstance(event, Delta):
                break
    await until(runner.idle, 10)
    assert len(runner.logged("call dropped")) == 2


async def test_a_client_that_disconnects_ends_the_generation(world: World, client: AsyncOpenAI) -> None:
    runner = await world.runner()
    stream = await client.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "Count to a thousand."}],
        stream=True,
        max_tokens=7000,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "n",
                "strict": True,
                "schema": {"type": "array", "items": {"type": "integer"}, "minItems": 3000},
            },
        },
    )
    await anext(aiter(stream))
    await stream.close()
    await until(runner.idle, 10)
    assert runner.logged("call dropped")


async def test_a_killed_runner_costs_an_attempt_while_nothing_was_seen(world: World, calls: Calls) -> None:
    first = await world.runner()
    async with calls.call(CALLER, LONG) as call:
        answer = asyncio.create_task(call.result())
        await until(lambda: leased(calls, call.id))
        first.process.send_signal(signal.SIGKILL)
        await world.runner()
        result = await answer
    assert result.attempts == 2
    assert result.choices[0].text


async def test_a_runner_that_stops_gives_the_call_to_another(world: World, calls: Calls) -> None:
    first = await world.runner()
    async with calls.call(CALLER, LONG) as call:
        answer = asyncio.create_task(call.result())
        await until(lambda: leased(calls, call.id))
        first.process.send_signal(signal.SIGTERM)
        await world.runner()
        result = await answer
    assert result.attempts in (1, 2)
    assert result.choices[0].text


async def test_a_killed_runner_ends_a_stream_that_has_begun_with_an_error(world: World, calls: Calls) -> None:
    runner = await world.runner()
    async with calls.call(CALLER, replace(FOREVER, options=STREAMED)) as call:

        async def killed_at_first_text() -> None:
            async for event in call.events():
                if isinstance(event, Delta) and runner.process.poll() is None:
                    runner.process.send_signal(signal.SIGKILL)
                    runner.process.wait()

        with pytest.raises(ModelUnavailable, match="LeaseExpired"):
            await killed_at_first_text()


async def test_a_lost_engine_is_asked_again_while_nothing_was_seen(world: World, calls: Calls) -> None:
    await world.runner()
    async with calls.call(CALLER, LONG) as call:
        answer = asyncio.create_task(call.result())
        await until(lambda: leased(calls, call.id))
        await asyncio.sleep(0.2)
        world.engine.kill_child()
        result = await answer
    assert result.choices[0].text


async def test_an_emptied_redis_loses_no_call(world: World, calls: Calls) -> None:
    async with calls.call(CALLER, LONG) as call:
        answer = asyncio.create_task(call.result())
        async with Redis.from_url(world.redis.url) as client:
            await client.flushall()
        await world.bus.grant(MODEL, "nobody", "loads the scripts")
        await world.runner()
        result = await answer
    assert result.attempts == 2


async def test_a_model_without_a_runner_is_waited_for_so_long(world: World, redis: RedisServer) -> None:
    async with calling(redis, hold_seconds=2) as calls:
        with pytest.raises(ModelNotReady, match="2 s"):
            async with calls.call(CALLER, LONG) as call:
                await call.result()
        await until(lambda: nothing_queued(calls))


async def test_who_waits_is_told_why(world: World, calls: Calls) -> None:
    found = []
    async with calls.call(CALLER, LONG) as call:
        async for event in call.events():
            found.append(event)
            if len(found) == 1:
                await world.runner()
    assert isinstance(found[0], Waiting)
    assert found[0].ahead == 0
    assert isinstance(found[-1], Ended)


@dataclass
class SocketContext(FakeContext):
    sessions: Sessions = field(default_factory=lambda: Sessions(None, 24))
    door: Door = field(default_factory=lambda: Door(FakeCallers(), Tickets(None)))


class AnyNamespace(FakeCallers):
    async def authenticate(self, headers: Headers, *, namespace: str | None = None) -> Caller:
        return await super().authenticate(headers)


async def test_a_chat_goes_on_over_a_websocket(world: World, calls: Calls, redis: RedisServer) -> None:
    await world.runner()
    ledger = SessionLedger.connect(redis.url.replace("redis://", "redis://facade:secret@"), call_timeout_s=5.0)
    sessions = Sessions(ledger, 24)
    await sessions.create(CALLER, "s", "Be brief.")
    callers = AnyNamespace()
    door = Door(callers, Tickets(None))
    context = SocketContext(calls=calls, directory=calls._directory, sessions=sessions, callers=callers, door=door)
    headers = {"Authorization": f"Bearer {KEY}"}

    async def heard(socket: ClientConnection, *names: str) -> dict[str, Any]:
        """The first event of these names."""
        async with asyncio.timeout(60):
            while True:
                told: dict[str, Any] = json.loads(await socket.recv())
                if told["event"] in names:
                    return told["data"]
                assert told["event"] in ("waiting", "delta"), told

    async with (
        served(context) as address,
        connect(
            f"{address.replace('http', 'ws')}/api/v1/generate/ws", additional_headers=headers, proxy=None
        ) as socket,
    ):
        usage = []
        for prompt in ("Say hello.", "Say it again."):
            asked = {"model": "smol", "prompt": prompt, "session_id": "s", "parameters": {"max_tokens": 16}}
            await socket.send(json.dumps(asked))
            told = await heard(socket, "end")
            usage.append(told["usage"])
        assert (told["session"]["version"], told["session"]["sent"], told["session"]["appended"]) == (2, 1, True)
        # What was said before was in the prompt.
        assert usage[1]["prompt_tokens"] > usage[0]["prompt_tokens"] + usage[0]["completion_tokens"]
        forever = {"temperature": 0, "max_tokens": 1500, "stop": []}
        await socket.send(json.dumps({"model": "smol", "prompt": "Go on.", "session_id": "s", "parameters": forever}))
        await heard(socket, "delta")
        await socket.send(json.dumps({"type": "cancel"}))
        await heard(socket, "cancelled")
        await until(lambda: nothing_held(world, calls))
        await socket.send(json.dumps(asked | {"prompt": "And now?"}))
        assert (await heard(socket, "end"))["session"]["version"] == 3
    history = await sessions.history(CALLER, "s")
    users = [each.content for each in history.messages if each.role == "user"]
    assert users == ["Say hello.", "Say it again.", "And now?"]
    await ledger.aclose()


async def nothing_held(world: World, calls: Calls) -> bool:
    """No runner has a call, and none waits."""
    stats = await calls._queues.stats(MODEL)
    return (stats.queued, stats.leased) == (0, 0)


async def test_a_count_is_what_an_answer_weighs(world: World, calls: Calls, client: AsyncOpenAI) -> None:
    """Asked of the model's own runner, over the same way as the answer."""
    await world.runner()
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
    answer = await client.chat.completions.create(model="smol", messages=messages, max_tokens=1)  # type: ignore[arg-type]
    assert answer.usage is not None
    told = await client.post("/tokenize", body={"model": "smol", "messages": messages}, cast_to=dict[str, object])
    assert told["count"] == answer.usage.prompt_tokens
    text = await client.post("/tokenize", body={"model": "smol", "prompt": "Say hello."}, cast_to=dict[str, object])
    assert (text["count"], len(cast("list[int]", text["tokens"]))) == (3, 3)
    root = str(client.base_url).removesuffix("/v1/")
    async with AsyncAnthropic(api_key=KEY, base_url=root, max_retries=0) as anthropic:
        counted = await anthropic.messages.count_tokens(
            model="smol", system="Be brief.", messages=[{"role": "user", "content": "Say hello."}]
        )
    assert counted.input_tokens == answer.usage.prompt_tokens
    assert await nothing_queued(calls)


async def test_a_cold_model_counts_nothing_and_is_waited_for(redis: RedisServer, world: World) -> None:
    count = replace(LONG, options=CallOptions(count=Count.CONVERSATION))
    async with calling(redis, hold_seconds=1) as calls, calls.call(CALLER, count) as call:
        with pytest.raises(ModelNotReady):
            await call.result()
