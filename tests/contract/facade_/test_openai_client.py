"""OpenAI's own client against the facade on a real server; behind it a service that plays scripts."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from headrace_facade.calls.contract import Choice, Delta, Ended, Waiting
from headrace_facade.errors import (
    BudgetExhausted,
    FacadeError,
    Forbidden,
    Internal,
    NamespaceFull,
    Throttled,
    Unavailable,
)
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
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
    {"type": "function", "function": {"name": "time"}},
]


class City(BaseModel):
    name: str
    people: int


CITY = '{"name":"Bern","people":134000}'


@pytest.fixture
def context() -> FakeContext:
    return FakeContext()


@pytest.fixture
async def address(context: FakeContext) -> AsyncIterator[str]:
    async with served(context) as address:
        yield f"{address}/v1"


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key=KEY, base_url=address, max_retries=0, timeout=WITHIN_S) as client:
        yield client


async def test_a_completion(context: FakeContext, client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="small", messages=HI)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "Hello", "stop")
    assert choice.message.tool_calls is None
    assert (answer.object, answer.model) == ("chat.completion", "small")
    assert answer.id == "chatcmpl-" + CALL_ID.removeprefix("call-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (11, 7, 18)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 4
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 2
    assert context.calls.callers == [CALLER]
    assert not context.calls.asked[0].options.stream
    assert context.calls.left.is_set()


async def test_the_synchronous_client(address: str) -> None:
    def ask() -> tuple[str | None, list[str | None]]:
        with OpenAI(api_key=KEY, base_url=address, max_retries=0, timeout=WITHIN_S) as client:
            whole = client.chat.completions.create(model="small", messages=HI)
            stream = client.chat.completions.create(model="small", messages=HI, stream=True)
            return whole.choices[0].message.content, [each.choices[0].delta.content for each in stream]

    assert await asyncio.to_thread(ask) == ("Hello", ["", "Hello", None])


async def test_a_stream_and_its_usage(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [Waiting("Queued", "", 3), *spoken("Hel", "lo")]
    stream = await client.chat.completions.create(
        model="small", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["", "Hel", "lo", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 18
    assert context.calls.asked[0].options.stream


async def test_the_bytes_of_a_stream(context: FakeContext, address: str) -> None:
    context.calls.script = [Waiting("ModelLoading", "small loads", 3), *spoken("Hel", "lo")]
    body = {"model": "small", "messages": HI, "stream": True}
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {KEY}"}) as http:
        answer = await http.post(f"{address}/chat/completions", json=body)
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["X-Accel-Buffering"] == "no"
    waiting, *chunks, done, rest = answer.text.split("\n\n")
    assert (waiting, done, rest) == (": ModelLoading, 3 ahead", "data: [DONE]", "")
    assert all(each.startswith("data: {") and "\n" not in each for each in chunks)
    assert "usage" not in json.loads(chunks[0].removeprefix("data: "))


async def test_the_clients_helper_for_streams(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [
        Delta(reasoning="Hmm"),
        Delta(text="Look"),
        Delta(tool_call=WEATHER),
        Delta(tool_call=TIME),
        ended("Look", "ToolCalls", WEATHER, TIME, reasoning="Hmm"),
    ]
    async with client.chat.completions.stream(model="small", messages=HI, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    message = final.choices[0].message
    assert (message.content, final.choices[0].finish_reason) == ("Look", "tool_calls")
    assert [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()] == [
        ("call_1", "weather", '{"city":"Bern"}'),
        ("call_2", "time", "{}"),
    ]
    assert message.model_extra is not None
    assert message.model_extra["reasoning_content"] == "Hmm"


async def test_tools_and_the_way_back(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [ended("", "ToolCalls", WEATHER)]
    answer = await client.chat.completions.create(
        model="small",
        messages=HI,
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    message = answer.choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    assert message.tool_calls[0].type == "function"
    assert message.tool_calls[0].function.arguments == WEATHER.arguments
    asked = context.calls.asked[0]
    assert asked.tool_choice == "weather"
    assert [(tool.name, tool.description) for tool in asked.tools] == [("weather", "of a city"), ("time", None)]

    # The answer's message goes back as it came, as the client gives it and as it is dumped.
    for told in (message, message.model_dump()):
        turns: Any = [*HI, told, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
        await client.chat.completions.create(model="small", messages=turns, tools=TOOLS)
        _, called, answered = context.calls.asked[-1].messages
        assert (called.content, called.tool_calls) == (None, [WEATHER])
        assert (answered.role, answered.content, answered.tool_call_id) == ("tool", "sunny", "call_1")


@pytest.mark.parametrize("stream", [False, True])
async def test_one_tool_call_at_a_time(context: FakeContext, client: AsyncOpenAI, stream: bool) -> None:
    context.calls.script = [
        *([Delta(tool_call=WEATHER), Delta(tool_call=TIME)] if stream else ()),
        ended("", "ToolCalls", WEATHER, TIME),
    ]
    if stream:
        chunks = await client.chat.completions.create(
            model="small", messages=HI, tools=TOOLS, parallel_tool_calls=False, stream=True
        )
        names = [
            c.function.name
            for chunk in [c async for c in chunks]
            for c in chunk.choices[0].delta.tool_calls or ()
            if c.function is not None
        ]
    else:
        answer = await client.chat.completions.create(
            model="small", messages=HI, tools=TOOLS, parallel_tool_calls=False
        )
        names = [c.function.name for c in answer.choices[0].message.tool_calls or () if c.type == "function"]
    assert names == ["weather"]


async def test_structured_output_is_parsed(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [ended(CITY)]
    answer = await client.chat.completions.parse(model="small", messages=HI, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Bern", people=134000)
    output = context.calls.asked[0].output
    assert output is not None
    assert output.json_schema is not None
    schema = json.loads(output.json_schema)
    assert list(schema["properties"]) == ["name", "people"]
    assert output.max_repairs > 0


async def test_structured_output_of_a_stream_is_not_repaired(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = spoken(CITY[:9], CITY[9:])
    async with client.chat.completions.stream(model="small", messages=HI, response_format=City) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == City(name="Bern", people=134000)
    output = context.calls.asked[0].output
    assert output is not None
    assert output.max_repairs == 0


async def test_several_completions_and_their_probabilities(context: FakeContext, client: AsyncOpenAI) -> None:
    token = {"text": "é", "logprob": -0.5, "top": [["é", -0.5], ["e", -math.inf]]}
    end = Ended(result(Choice("é", "Stop", logprobs=[token]), Choice("no", "Length", logprobs=[])))
    context.calls.script = [end]
    answer = await client.chat.completions.create(model="small", messages=HI, n=2, logprobs=True, top_logprobs=2)
    assert [(c.index, c.message.content, c.finish_reason) for c in answer.choices] == [
        (0, "é", "stop"),
        (1, "no", "length"),
    ]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    (told,) = logprobs.content
    assert (told.token, told.logprob, told.bytes) == ("é", -0.5, [0xC3, 0xA9])
    assert [(top.token, top.logprob) for top in told.top_logprobs] == [("é", -0.5), ("e", -9999.0)]
    options = context.calls.asked[0].options
    assert (options.n, options.logprobs) == (2, 2)

    # Of a stream what was not told on the way comes with the end.
    # The client raises where a completion of a stream was cut.
    whole = Ended(result(Choice("é", "Stop", logprobs=[token]), Choice("no", "Stop")))
    context.calls.script = [Delta(text="é"), whole]
    async with client.chat.completions.stream(model="small", messages=HI, n=2, logprobs=True) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["é", "no"]
    streamed = final.choices[0].logprobs
    assert streamed is not None
    assert streamed.content is not None
    assert [each.token for each in streamed.content] == ["é"]


async def test_a_fallback_says_who_answered(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [Ended(result(Choice("Hi", "Stop"), model="platform/large"))]
    answer = await client.chat.completions.create(model="small", messages=HI)
    assert answer.model == "platform/large"


async def test_a_legacy_completion(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = spoken("Hel", "lo")
    answer = await client.completions.create(model="small", prompt=["Hi"], max_tokens=5, stop="\n")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        "Hello",
        "stop",
    )
    asked = context.calls.asked[0]
    assert [(turn.role, turn.content) for turn in asked.messages] == [("user", "Hi")]
    assert (asked.parameters.max_tokens, asked.parameters.stop) == (5, ["\n"])
    stream = await client.completions.create(model="small", prompt="Hi", stream=True)
    assert [chunk.choices[0].text async for chunk in stream] == ["Hel", "lo", ""]


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
async def test_embeddings(context: FakeContext, client: AsyncOpenAI, encoding: Any) -> None:
    context.calls.script = [Ended(result(embeddings=[[0.5, -1.0], [0.25, 2.0]]))]
    given = {} if encoding is None else {"encoding_format": encoding}
    answer = await client.embeddings.create(model="small", input=["one", "two"], **given)
    vectors: list[Any] = [each.embedding for each in answer.data]
    if encoding == "base64":
        assert vectors == ["AAAAPwAAgL8=", "AACAPgAAAEA="]
    else:
        assert vectors == [[0.5, -1.0], [0.25, 2.0]]
    assert [each.index for each in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 11
    assert context.calls.asked[0].embed == ["one", "two"]
    assert context.calls.asked[0].messages == []


async def test_models(client: AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert [(model.id, model.owned_by) for model in listed] == [("small", "team-a"), ("platform/large", "platform")]
    assert listed[0].created == 1767323045
    for name in ("small", "team-a/small", "platform/large"):
        assert (await client.models.retrieve(name)).id == name.removeprefix("team-a/")
    with pytest.raises(openai.NotFoundError) as told:
        await client.models.retrieve("nothing")
    assert told.value.code == "model_not_found"


async def test_a_response(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [ended("Hello", reasoning="Hmm")]
    answer = await client.responses.create(model="small", input="Hi", instructions="Be short.", max_output_tokens=9)
    assert (answer.output_text, answer.status) == ("Hello", "completed")
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.model_extra is not None
    assert answer.model_extra["store"] is False
    assert answer.usage is not None
    assert answer.usage.total_tokens == 18
    asked = context.calls.asked[0]
    assert [(turn.role, turn.content) for turn in asked.messages] == [("system", "Be short."), ("user", "Hi")]
    assert asked.parameters.max_tokens == 9


async def test_a_conversation_of_responses(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [ended("Look", "ToolCalls", WEATHER, reasoning="Hmm")]
    tools: Any = [{"type": "function", "strict": True, **TOOLS[0]["function"]}]
    first = await client.responses.create(model="small", input="Hi", tools=tools)
    for output in (list(first.output), [item.model_dump() for item in first.output]):
        turns: Any = [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            *output,
            {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        ]
        await client.responses.create(model="small", input=turns, tools=tools, store=False)
        user, called, answered = context.calls.asked[-1].messages
        assert user.content == "Hi"
        assert (called.role, called.content, called.tool_calls) == ("assistant", "Look", [WEATHER])
        assert (answered.role, answered.content, answered.tool_call_id) == ("tool", "sunny", "call_1")


async def test_a_response_is_parsed(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [ended(CITY)]
    answer = await client.responses.parse(model="small", input="Hi", text_format=City)
    assert answer.output_parsed == City(name="Bern", people=134000)


async def test_the_events_of_a_response(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [
        Waiting("Queued", ""),
        Delta(reasoning="Hmm"),
        Delta(text="Lo"),
        Delta(text="ok"),
        Delta(tool_call=WEATHER),
        ended("Look", "ToolCalls", WEATHER, reasoning="Hmm"),
    ]
    tools: Any = [{"type": "function", "strict": True, **TOOLS[0]["function"]}]
    stream = await client.responses.create(model="small", input="Hi", tools=tools, stream=True)
    events: list[Any] = [event async for event in stream]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert [event.item for event in events if event.type == "response.output_item.done"] == final.output
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1, 2]
    assert final.output_text == "Look"

    async with client.responses.stream(model="small", input="Hi", tools=tools) as helped:
        assert (await helped.get_final_response()).output_text == "Look"


async def test_a_response_that_ran_out_of_tokens(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [Delta(text="Hel"), ended("Hel", "Length")]
    whole = await client.responses.create(model="small", input="Hi")
    events: list[Any] = [e async for e in await client.responses.create(model="small", input="Hi", stream=True)]
    assert events[-1].type == "response.incomplete"
    for answer in (whole, events[-1].response):
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"


class _ContextFull(FacadeError):
    status = 400
    code = "CONTEXT_LENGTH_EXCEEDED"


class _NotSaid(FacadeError):
    status = 400
    code = "CONTENT_REFUSED"


class _TooLate(FacadeError):
    status = 504
    code = "TIMED_OUT"


FAILURES: list[tuple[FacadeError, type[openai.APIStatusError], str, str]] = [
    (ModelUnknown("m"), openai.NotFoundError, "invalid_request_error", "model_not_found"),
    (_ContextFull("m"), openai.BadRequestError, "invalid_request_error", "context_length_exceeded"),
    (_NotSaid("m"), openai.BadRequestError, "invalid_request_error", "content_filter"),
    (Forbidden("m"), openai.PermissionDeniedError, "permission_error", "forbidden"),
    (Throttled("m", 7), openai.RateLimitError, "rate_limit_error", "rate_limit_exceeded"),
    (NamespaceFull("m", 7), openai.RateLimitError, "rate_limit_error", "rate_limit_exceeded"),
    (BudgetExhausted("m", 7), openai.RateLimitError, "insufficient_quota", "insufficient_quota"),
    (Unavailable("m", 7), openai.InternalServerError, "server_error", "unavailable"),
    (_TooLate("m"), openai.InternalServerError, "server_error", "timed_out"),
    (Internal("m"), openai.InternalServerError, "server_error", "internal"),
]


@pytest.mark.parametrize("late", [False, True], ids=["entering", "running"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("error", "kind", "type_", "code"), FAILURES, ids=[f[0].code for f in FAILURES])
async def test_a_failure_before_the_answer_is_its_status(
    context: FakeContext,
    client: AsyncOpenAI,
    error: FacadeError,
    kind: type[openai.APIStatusError],
    type_: str,
    code: str,
    stream: bool,
    late: bool,
) -> None:
    context.calls.refusal = None if late else error
    context.calls.script = [error]
    with pytest.raises(kind) as told:
        await client.chat.completions.create(model="small", messages=HI, stream=stream)
    assert (told.value.status_code, told.value.type, told.value.code) == (error.status, type_, code)
    assert told.value.response.headers.get("Retry-After") == error.headers.get("Retry-After")
    assert told.value.response.headers["X-Trace-Id"]


async def test_a_wrong_key(address: str) -> None:
    async with AsyncOpenAI(api_key="hr_other", base_url=address, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as told:
            await client.chat.completions.create(model="small", messages=HI)
    assert told.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"extra_body": {"frobnicate": 1}}, "frobnicate", "unknown_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"extra_body": {"temperature": "hot"}}, "temperature", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "invalid_value"),
    ],
)
async def test_a_parameter_that_is_refused(
    context: FakeContext, client: AsyncOpenAI, given: dict[str, Any], param: str, code: str
) -> None:
    asked: dict[str, Any] = {"model": "small", "messages": HI, **given}
    with pytest.raises(openai.BadRequestError) as told:
        await client.chat.completions.create(**asked)
    assert (told.value.param, told.value.code) == (param, code)
    assert context.calls.asked == []


async def test_another_path(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as told:
        await client.moderations.create(input="x")
    assert told.value.code == "unknown_url"


@pytest.mark.parametrize(
    ("first", "error"),
    [(Delta(text="Hel"), Unavailable("gone")), (Waiting("Queued", ""), Throttled("slow"))],
    ids=["after text", "after waiting"],
)
async def test_a_failure_on_the_way_ends_the_stream_with_an_error(
    context: FakeContext, client: AsyncOpenAI, first: Step, error: FacadeError
) -> None:
    context.calls.script = [first, error]
    stream = await client.chat.completions.create(model="small", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match=error.message) as told:
        [chunk async for chunk in stream]
    assert told.value.code in ("unavailable", "rate_limit_exceeded")
    events: list[Any] = [e async for e in await client.responses.create(model="small", input="Hi", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error.message == error.message


async def test_a_defect_on_the_way_says_nothing_of_itself(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [Delta(text="Hel"), RuntimeError("a secret")]
    stream = await client.chat.completions.create(model="small", messages=HI, stream=True)
    with pytest.raises(openai.APIError, match="report it with the trace id") as told:
        [chunk async for chunk in stream]
    assert "secret" not in str(told.value.body)


async def test_closing_a_stream_hangs_up(context: FakeContext, client: AsyncOpenAI) -> None:
    context.calls.script = [Delta(text="Hel"), Never()]
    stream = await client.chat.completions.create(model="small", messages=HI, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    assert not context.calls.left.is_set()
    await stream.close()
    await asyncio.wait_for(context.calls.left.wait(), WITHIN_S)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_client_that_gives_up_hangs_up(context: FakeContext, client: AsyncOpenAI, stream: bool) -> None:
    context.calls.script = [Never()]
    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model="small", messages=HI, stream=stream, timeout=0.5)
    await asyncio.wait_for(context.calls.left.wait(), WITHIN_S)
    assert context.calls.entered.is_set()
    await counted(context, "/v1/chat/completions", 499)


async def counted(context: FakeContext, route: str, status: int) -> None:
    """Waits: the answer is counted when it is over."""
    labels = {"method": "POST", "route": route, "status": str(status)}
    deadline = time.monotonic() + WITHIN_S
    while context.metrics.registry.get_sample_value("headrace_facade_requests_total", labels) != 1:
        assert time.monotonic() < deadline
        await asyncio.sleep(0)
