"""Calls over the whole way, as test_calls has them, with a collector beside it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from openai import AsyncOpenAI

from headrace_bus import tracing
from headrace_bus.tracing import Tracing
from tests.contract.facade_.test_calls import World, calling, engine, redis, world
from tests.contract.runner_.pod_world import until
from tests.fake_calls.service import KEY, FakeContext
from tests.fake_calls.serving import served
from tests.stub_collector.collector import Collector, Told, collecting

pytestmark = pytest.mark.contract

__all__ = ["engine", "redis", "world"]

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CANARY = "canary-in-the-prompt"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}}, "required": ["name"]}

MANY = {"type": "array", "items": {"type": "integer"}, "minItems": 3000}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Of the runner as well, which has this process's environment."""
    with collecting() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield made


@pytest.fixture
async def recorded(collector: Collector) -> AsyncIterator[Tracing]:
    async with tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}, "headrace-facade", "facade-0") as made:
        yield made


@pytest.fixture
async def client(recorded: Tracing, world: World) -> AsyncIterator[AsyncOpenAI]:
    async with calling(world.redis) as calls:
        context = replace(FakeContext(calls=calls, directory=calls._directory), tracing=recorded)
        async with (
            served(context) as address,
            AsyncOpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0, timeout=60) as client,
        ):
            yield client


async def told(collector: Collector, trace_id: str, *names: str) -> dict[str, Told]:
    """The trace's spans by their names, which are different ones, once these are among them."""

    async def there() -> list[Told]:
        spans = [span for span in collector.spans() if span.trace_id == trace_id]
        return spans if {*names} <= {span.name for span in spans} else []

    spans = await until(there)
    assert len({span.name for span in spans}) == len(spans), [span.name for span in spans]
    return {span.name: span for span in spans}


async def test_a_call_is_one_trace_from_its_request_to_its_answer(
    world: World, client: AsyncOpenAI, collector: Collector
) -> None:
    runner = await world.runner()
    answer = await client.chat.completions.with_raw_response.create(
        model="smol",
        messages=[{"role": "user", "content": CANARY}],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}},
        temperature=0,
        max_tokens=64,
        extra_headers={"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": f"x={CANARY}", "baggage": f"x={CANARY}"},
    )
    completion = answer.parse()
    assert answer.headers["X-Trace-Id"] == TRACE
    request, attempt = "POST /v1/chat/completions", "chat team-a/smol"
    spans = await told(collector, TRACE, request, attempt)
    ids = {span.span_id: name for name, span in spans.items()}
    assert {name: ids.get(span.parent, span.parent) for name, span in spans.items()} == {
        request: SPAN,
        "enqueue": request,
        "queue": "enqueue",
        attempt: "enqueue",
        "check": attempt,
        "engine request": attempt,
        "validate": attempt,
        "answer": attempt,
    }
    assert {spans[name].service for name in (request, "enqueue")} == {"headrace-facade"}
    assert {spans[name].service for name in ("queue", attempt, "engine request", "answer")} == {"headrace-runner"}
    assert not any(span.failed or span.events for span in spans.values())
    assert completion.usage is not None
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "llama.cpp",
        "gen_ai.request.model": "team-a/smol",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.stream": False,
        "gen_ai.output.type": "json",
        "gen_ai.usage.input_tokens": completion.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": completion.usage.completion_tokens,
        "gen_ai.response.finish_reasons": ["stop"],
        "headrace.kind": "Call",
    }
    assert spans[attempt].attributes | wanted == spans[attempt].attributes
    assert spans["validate"].attributes == {"headrace.finding": "Valid"}
    assert spans[request].start_ns <= spans["enqueue"].start_ns <= spans[attempt].start_ns
    assert spans["queue"].end_ns == spans[attempt].start_ns
    for private in (CANARY, KEY, completion.choices[0].message.content or "the answer"):
        assert not collector.says(private), private
    assert CANARY not in runner.log.read_text()
    assert [line["trace_id"] for line in runner.logged("call finished")] == [TRACE]


async def test_a_stream_is_a_trace_that_begins_here(world: World, client: AsyncOpenAI, collector: Collector) -> None:
    await world.runner()
    asked = {"model": "smol", "messages": [{"role": "user", "content": CANARY}], "max_tokens": 16}
    async with client.chat.completions.with_streaming_response.create(**asked, stream=True) as answer:
        trace_id = answer.headers["X-Trace-Id"]
        async for _ in answer.iter_lines():
            pass
    request, attempt = "POST /v1/chat/completions", "chat team-a/smol"
    spans = await told(collector, trace_id, request, attempt)
    assert spans[request].parent == ""
    assert spans[attempt].attributes["gen_ai.request.stream"] is True
    assert spans[request].end_ns >= spans["engine request"].end_ns, "as long as the client is told something"
    assert not collector.says(CANARY)


async def test_who_leaves_is_seen_in_the_trace(world: World, client: AsyncOpenAI, collector: Collector) -> None:
    await world.runner()
    stream = await client.chat.completions.create(
        model="smol",
        messages=[{"role": "user", "content": "Count to a thousand."}],
        stream=True,
        max_tokens=7000,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": MANY}},
    )
    await anext(aiter(stream))
    trace_id = stream.response.headers["X-Trace-Id"]
    await stream.close()
    spans = await told(collector, trace_id, "chat team-a/smol")
    attempt = spans["chat team-a/smol"]
    assert (attempt.failed, attempt.attributes["error.type"]) == (True, "dropped")
    assert "answer" not in spans


async def test_a_call_is_answered_while_the_collector_hangs(
    world: World, client: AsyncOpenAI, collector: Collector
) -> None:
    collector.hold = True
    runner = await world.runner()
    asked = {"model": "smol", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8}
    for _ in range(3):
        assert (await client.chat.completions.create(**asked)).choices

    async def held() -> bool:
        return collector.held >= 2

    await until(held)
    assert (await client.chat.completions.create(**asked)).choices
    assert collector.bodies == []
    assert len(runner.logged("call finished")) == 4
    assert runner.process.poll() is None
