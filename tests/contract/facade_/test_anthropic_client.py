"""Anthropic's own client against the facade on a real server; behind it a service that plays scripts."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import pytest
from anthropic import Anthropic, AsyncAnthropic
from pydantic import BaseModel
from starlette.datastructures import Headers

from headrace_crds.work import Count
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Counted, Delta, Ended, Waiting
from headrace_facade.calls.failures import InvalidCall
from headrace_facade.errors import (
    BadRequest,
    FacadeError,
    Forbidden,
    Internal,
    Throttled,
    Unavailable,
)
from headrace_facade.identity.credential import credential_of
from headrace_facade.openai_dialect.errors import ModelUnknown
from tests.fake_calls.service import (
    CALL_ID,
    CALLER,
    KEY,
    TIME,
    WEATHER,
    FakeContext,
    Never,
    Step,
    ended,
    result,
    spoken,
)
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract

WITHIN_S = 10.0
HI: Any = [{"role": "user", "content": "Hi"}]
ASKED: Any = {"model": "small", "max_tokens": 64, "messages": HI}
TOOLS: Any = [
    {"name": "weather", "description": "of a city", "input_schema": {"type": "object", "properties": {"city": {}}}},
    {"name": "time", "input_schema": {"type": "object"}},
]


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


@pytest.fixture
async def address(context: FakeContext) -> AsyncIterator[str]:
    async with served(context) as address:
        yield address


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncAnthropic]:
    async with AsyncAnthropic(auth_token=KEY, base_url=address, max_retries=0, timeout=WITHIN_S) as client:
        yield client


async def test_a_message(context: FakeContext, client: AsyncAnthropic) -> None:
    answer = await client.messages.create(**ASKED)
    assert [(block.type, block.text) for block in answer.content if block.type == "text"] == [("text", "Hello")]
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "small")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.id == "msg_" + CALL_ID.removeprefix("call-")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (7, 4, 7)
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.thinking_tokens == 2
    assert context.calls.callers == [CALLER]
    assert not context.calls.asked[0].options.stream
    assert context.calls.left.is_set()


async def test_the_synchronous_client(address: str) -> None:
    def ask() -> tuple[Any, str]:
        with Anthropic(auth_token=KEY, base_url=address, max_retries=0, timeout=WITHIN_S) as client:
            whole = client.messages.create(**ASKED)
            with client.messages.stream(**ASKED) as stream:
                return whole.content[0], "".join(stream.text_stream)

    block, streamed = await asyncio.to_thread(ask)
    assert (block.text, streamed) == ("Hello", "Hello")


@pytest.mark.parametrize(("finish", "reason"), [("Length", "max_tokens"), ("Stop", "end_turn")])
async def test_why_it_stopped(context: FakeContext, client: AsyncAnthropic, finish: str, reason: str) -> None:
    context.calls.script = [ended("Hel", finish)]
    assert (await client.messages.create(**ASKED)).stop_reason == reason
    async with client.messages.stream(**ASKED) as stream:
        assert (await stream.get_final_message()).stop_reason == reason


async def test_a_streams_events(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [
        Waiting("Queued", "", 3),
        Delta(reasoning="h"),
        Delta(reasoning="m"),
        Delta(text="Hel"),
        Delta(text="lo"),
        Delta(tool_call=WEATHER),
        ended("Hello", "ToolCalls", WEATHER, TIME, reasoning="hm"),
    ]
    stream = await client.messages.create(**ASKED, tools=TOOLS, stream=True)
    kinds = [event.type async for event in stream]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    two = [block[0], block[1], block[1], block[2]]
    assert kinds == ["message_start", *two, *two, *block, *block, "message_delta", "message_stop"]


async def test_the_stream_helper_makes_the_whole_answer(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [
        Delta(reasoning="hm"),
        Delta(text="Hello"),
        Delta(tool_call=WEATHER),
        ended("Hello", "ToolCalls", WEATHER, TIME, reasoning="hm"),
    ]
    async with client.messages.stream(**ASKED, tools=TOOLS) as stream:
        streamed: dict[str, Any] = (await stream.get_final_message()).to_dict()
    whole: dict[str, Any] = (await client.messages.create(**ASKED, tools=TOOLS)).to_dict()
    kinds = [block["type"] for block in whole["content"]]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    for name in ("id", "model", "role", "stop_reason", "stop_sequence", "usage"):
        assert streamed[name] == whole[name], name
    bare = [{k: v for k, v in each.items() if v is not None} for each in streamed["content"]]
    assert bare == whole["content"]


async def test_waiting_is_a_ping(context: FakeContext, address: str) -> None:
    context.calls.script = [Waiting("Queued", "", 3), *spoken("Hello")]
    async with httpx.AsyncClient(timeout=WITHIN_S) as plain:
        answer = await plain.post(
            f"{address}/v1/messages", json={**ASKED, "stream": True}, headers={"Authorization": f"Bearer {KEY}"}
        )
    assert answer.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert names[:2] == ["message_start", "ping"]
    for name, line in zip(names, [each for each in answer.text.splitlines() if each.startswith("data: ")], strict=True):
        assert json.loads(line.removeprefix("data: "))["type"] == name


async def test_one_tool_at_a_time(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [ended("", "ToolCalls", WEATHER, TIME)]
    choice: Any = {"type": "any", "disable_parallel_tool_use": True}
    whole = await client.messages.create(**ASKED, tools=TOOLS, tool_choice=choice)
    async with client.messages.stream(**ASKED, tools=TOOLS, tool_choice=choice) as stream:
        streamed = await stream.get_final_message()
    for answer in (whole, streamed):
        assert answer.stop_reason == "tool_use"
        block: Any
        (block,) = answer.content
        assert block.type == "tool_use"
        assert (block.id, block.name, block.input) == (WEATHER.id, "weather", {"city": "Bern"})
    assert context.calls.asked[0].tool_choice == "required"


async def test_a_tools_round(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [ended("", "ToolCalls", WEATHER, reasoning="hm")]
    first = await client.messages.create(**ASKED, tools=TOOLS)
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": WEATHER.id, "content": "rain"}]}
    turns: Any = [*HI, {"role": "assistant", "content": first.content}, result]
    await client.messages.create(**{**ASKED, "messages": turns}, tools=TOOLS)
    asked = context.calls.asked[-1].messages
    assert [each.role for each in asked] == ["user", "assistant", "tool"]
    assert asked[1].tool_calls == [WEATHER]
    assert asked[2].content == "rain"


async def test_thoughts_can_be_left_out(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [ended("Hello", reasoning="hm")]
    thinking: Any = {"type": "disabled"}
    whole = await client.messages.create(**ASKED, thinking=thinking)
    async with client.messages.stream(**ASKED, thinking=thinking) as stream:
        streamed = await stream.get_final_message()
    assert [[each.type for each in answer.content] for answer in (whole, streamed)] == [["text"]] * 2


async def test_structured_output(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = spoken('{"name":"Bern",', '"people":134000}')
    answer = await client.messages.parse(**ASKED, output_format=City)
    assert answer.parsed_output == City(name="Bern", people=134000)
    output = context.calls.asked[0].output
    assert output is not None
    assert output.json_schema is not None
    assert list(json.loads(output.json_schema)["properties"]) == ["name", "people"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("error", "raised", "kind"),
    [
        (BadRequest("no"), anthropic.BadRequestError, "invalid_request_error"),
        (Forbidden("no"), anthropic.PermissionDeniedError, "permission_error"),
        (ModelUnknown("no"), anthropic.NotFoundError, "not_found_error"),
        (Throttled("no", 7), anthropic.RateLimitError, "rate_limit_error"),
        (Unavailable("no"), anthropic.InternalServerError, "overloaded_error"),
        (Internal("no"), anthropic.InternalServerError, "api_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FacadeError) else getattr(value, "__name__", value),
)
async def test_errors_have_their_status(
    context: FakeContext, client: AsyncAnthropic, error: FacadeError, raised: Any, kind: str, stream: bool
) -> None:
    cases: list[tuple[FacadeError | None, list[Step]]] = [(error, spoken("x")), (None, [error])]
    for refusal, script in cases:
        context.calls.refusal, context.calls.script = refusal, script
        with pytest.raises(raised) as caught:
            await client.messages.create(**ASKED, stream=stream)
        assert caught.value.body["error"] == {"type": kind, "message": "no"}
        assert caught.value.response.headers.get("retry-after") == error.headers.get("Retry-After")
        assert caught.value.body["request_id"] == caught.value.response.headers["x-trace-id"]


async def test_an_error_amid_a_stream(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [Delta(text="Hel"), Unavailable("gone")]
    stream = await client.messages.create(**ASKED, stream=True)
    with pytest.raises(anthropic.APIStatusError) as caught:
        _ = [event async for event in stream]
    body: Any = caught.value.body
    assert body["error"] == {"type": "overloaded_error", "message": "gone"}


async def test_a_wrong_key(address: str) -> None:
    async with AsyncAnthropic(auth_token="hr_other", base_url=address, max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(**ASKED)


class EitherHeader:
    async def authenticate(self, headers: Headers) -> Caller:
        assert credential_of(headers).text == KEY
        return CALLER


async def test_a_key_in_the_clients_own_header(context: FakeContext, address: str) -> None:
    context.callers = EitherHeader()
    async with AsyncAnthropic(api_key=KEY, base_url=address, max_retries=0, timeout=WITHIN_S) as client:
        await client.messages.create(**ASKED)
    async with httpx.AsyncClient(timeout=WITHIN_S) as plain:
        answer = await plain.post(f"{address}/v1/messages", json=ASKED, headers={"x-api-key": KEY})
    assert answer.status_code == 200
    assert context.calls.callers == [CALLER, CALLER]


async def test_what_is_refused_names_its_field(context: FakeContext, client: AsyncAnthropic) -> None:
    tool: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]: tools of type 'web_search_20250305'"):
        await client.messages.create(**ASKED, tools=[tool])
    assert context.calls.asked == []


async def test_tokens_are_counted(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [Ended(replace(result(), counted=Counted(17)))]
    tools: Any = [{"name": "weather", "input_schema": {"type": "object"}}]
    told = await client.messages.count_tokens(model="small", messages=HI, system="Be brief.", tools=tools)
    assert told.input_tokens == 17
    (asked,) = context.calls.asked
    assert asked.options.count is Count.CONVERSATION
    assert ([each.role for each in asked.messages], asked.tools[0].name) == (["system", "user"], "weather")
    context.calls.refusal = InvalidCall("ModelNotCapable: the model's provider counts no tokens beforehand")
    with pytest.raises(anthropic.BadRequestError, match="counts no tokens"):
        await client.messages.count_tokens(model="small", messages=HI)


async def test_models(client: AsyncAnthropic) -> None:
    first = await client.models.list(limit=1)
    assert (first.has_more, first.first_id, first.last_id) == (True, "small", "small")
    assert [each.id async for each in first] == ["small", "platform/large"]
    back = await client.models.list(limit=1, before_id="platform/large")
    assert ([each.id for each in back.data], back.has_more) == (["small"], False)
    found = await client.models.retrieve("small")
    assert (found.type, found.id, found.created_at.year, found.lifecycle) == ("model", "small", 2026, "active")
    with pytest.raises(anthropic.BadRequestError):
        await client.models.list(after_id="other")


async def test_closing_a_stream_hangs_up(context: FakeContext, client: AsyncAnthropic) -> None:
    context.calls.script = [Delta(text="Hel"), Never()]
    async with client.messages.stream(**ASKED) as stream:
        async for _ in stream.text_stream:
            break
        assert not context.calls.left.is_set()
    await asyncio.wait_for(context.calls.left.wait(), WITHIN_S)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_gives_up_hangs_up(context: FakeContext, client: AsyncAnthropic, stream: bool) -> None:
    context.calls.script = [Never()]
    with pytest.raises(anthropic.APITimeoutError):
        await client.messages.create(**ASKED, stream=stream, timeout=0.5)
    await asyncio.wait_for(context.calls.left.wait(), WITHIN_S)
    assert context.calls.entered.is_set()
