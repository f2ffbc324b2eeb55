"""Provider Anthropic through the real SDK, against an API that refuses what the real one refuses."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from anthropic_stub import KEY, MODEL, Script, Stub, anthropic_stub, redacted, text, thinking, tool_use

from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult, Message, Parameters, Usage
from headrace_runner.engine.tools import Tool, ToolCall
from headrace_runner.providers.anthropic_api import create
from headrace_runner.providers.protocol import Budget, Counting, Fault, Provider, ProviderError, Setting

PERSON = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'
WEATHER = Tool("weather", "The weather.", '{"type": "object", "properties": {"city": {"type": "string"}}}')


class Told:
    """What a provider tells: deltas and budgets; and the key that it is given."""

    def __init__(self) -> None:
        self.deltas: list[Delta] = []
        self.budgets: list[Budget] = []
        self.key = KEY


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with anthropic_stub() as stub:
        yield stub


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(trust_env=False, timeout=10) as client:
        yield client


def provider(stub: Stub, told: Told, http: httpx2.AsyncClient, model: str = MODEL, **extra: Any) -> Provider:
    remote = Remote.model_validate(
        {
            "provider": "Anthropic",
            "model": model,
            "baseURL": stub.url,
            "credentials": {"secretKeyRef": {"name": "k", "key": "key"}},
        }
    )
    return create(Setting(remote, http, lambda: told.key, told.budgets.append, extra or None))


@pytest.fixture
def model(stub: Stub, told: Told, http: httpx2.AsyncClient) -> Provider:
    return provider(stub, told, http)


def ask(*messages: Message, **given: Any) -> Generate:
    return Generate("ns/task/1", messages=messages or (Message("user", "Who wrote the Iliad?"),), **given)


async def generate(model: Provider, told: Told, request: Generate) -> GenerationResult:
    return await model.generate(request, told.deltas.append)


async def failure(model: Provider, request: Generate | None = None) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        await model.generate(request or ask(), lambda _: None)
    return raised.value


async def test_a_text_grows_and_is_counted(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts.append(Script(usage={"cache_read_input_tokens": 7, "cache_creation_input_tokens": 3}))
    result = await generate(model, told, ask(parameters=Parameters(max_tokens=50, temperature=0.5, top_p=0.9, top_k=4)))
    assert (result.text, result.finish_reason, result.enforcement) == ("Hello there.", "Stop", None)
    assert result.usage == Usage(prompt_tokens=35, cached_tokens=7, completion_tokens=15)
    assert [delta.text for delta in told.deltas] == ["Hello", " there."]
    sent = stub.bodies[0]
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["top_k"]) == (50, 0.5, 0.9, 4)
    assert sent["stream"] is True


async def test_a_conversation_has_the_order_that_the_api_wants(stub: Stub, told: Told, model: Provider) -> None:
    calls = (ToolCall("a.1", "weather", '{"city": "Oslo"}'), ToolCall("a:2", "weather", "{}"))
    await generate(
        model,
        told,
        ask(
            Message("system", "Be brief."),
            Message("user", "Hi."),
            Message("user", "The weather?"),
            Message("assistant", "", calls),
            Message("tool", "rain", tool_call_id="a.1"),
            Message("tool", "", tool_call_id="a:2"),
            Message("user", "And?"),
            Message("system", "In English."),
            tools=(WEATHER,),
        ),
    )
    sent = stub.bodies[0]
    assert sent["system"] == "Be brief.\n\nIn English."
    kinds = [(turn["role"], [block["type"] for block in turn["content"]]) for turn in sent["messages"]]
    assert kinds == [
        ("user", ["text", "text"]),
        ("assistant", ["tool_use", "tool_use"]),
        ("user", ["tool_result", "tool_result", "text"]),
    ]
    assert sent["messages"][1]["content"][0]["input"] == {"city": "Oslo"}


async def test_calls_and_thoughts_are_read(stub: Stub, told: Told, model: Provider) -> None:
    blocks = [
        thinking("Let me", " see."),
        redacted(),
        text("I look."),
        tool_use("toolu_1", "weather", '{"ci', 'ty":"Oslo"}'),
    ]
    details = {"output_tokens_details": {"thinking_tokens": 6}}
    stub.scripts.append(Script([*blocks, tool_use("toolu_2", "weather")], "tool_use", details))
    result = await generate(model, told, ask(tools=(WEATHER,), tool_choice="required"))
    assert (result.text, result.reasoning, result.finish_reason) == ("I look.", "Let me see.", "ToolCalls")
    assert result.tool_calls == (
        ToolCall("toolu_1", "weather", '{"city":"Oslo"}'),
        ToolCall("toolu_2", "weather", "{}"),
    )
    assert result.usage.reasoning_tokens == 6
    assert [call for delta in told.deltas for call in delta.tool_calls] == list(result.tool_calls)
    assert "".join(delta.reasoning for delta in told.deltas) == "Let me see."
    assert stub.bodies[0]["tool_choice"] == {"type": "any"}


async def test_a_call_that_was_cut_off_is_left_out(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts.append(Script([tool_use("t1", "weather", "{}"), tool_use("t2", "weather", '{"ci')], "max_tokens"))
    result = await generate(model, told, ask(tools=(WEATHER,)))
    assert (result.finish_reason, [call.id for call in result.tool_calls]) == ("Length", ["t1"])


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [("stop_sequence", "Stop"), ("max_tokens", "Length"), ("model_context_window_exceeded", "Length")],
)
async def test_why_a_message_ended(stub: Stub, told: Told, model: Provider, stop_reason: str, finish: str) -> None:
    stub.scripts.append(Script(stop_reason=stop_reason))
    assert (await generate(model, told, ask())).finish_reason == finish


async def test_a_schema_that_the_api_knows_is_enforced_by_it(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts.append(Script([text('{"name": "Homer"}')]))
    result = await generate(model, told, ask(json_schema=PERSON, parameters=Parameters(stop=("}",))))
    assert (result.text, result.enforcement) == ('{"name": "Homer"}', "Provider")
    assert stub.bodies[0]["output_config"]["format"]["schema"]["additionalProperties"] is False
    assert "stop_sequences" not in stub.bodies[0]


async def test_a_schema_that_is_known_in_part_is_told_too(stub: Stub, told: Told, http: httpx2.AsyncClient) -> None:
    schema = '{"type": "object", "properties": {"age": {"type": "integer", "minimum": 3}}, "required": ["age"]}'
    model = provider(stub, told, http, output_config={"effort": "low"})
    result = await generate(model, told, ask(json_schema=schema))
    assert result.enforcement == "ValidatedOnly"
    assert stub.bodies[0]["output_config"]["effort"] == "low"
    assert schema in stub.bodies[0]["system"]


async def test_a_schema_that_it_does_not_know_becomes_a_forced_call(stub: Stub, told: Told, model: Provider) -> None:
    schema = '{"type": "object", "additionalProperties": {"type": "number"}}'
    stub.scripts.append(Script([text("Here:"), tool_use("t", "give_result", '{"a"', ": 1}")], "tool_use"))
    result = await generate(model, told, ask(json_schema=schema))
    assert (result.text, result.finish_reason, result.enforcement) == ('{"a": 1}', "Stop", "ValidatedOnly")
    assert result.tool_calls == ()
    assert "".join(delta.text for delta in told.deltas) == result.text
    assert stub.bodies[0]["tools"][0]["input_schema"] == json.loads(schema)


async def test_a_model_that_thinks_is_asked_in_words(stub: Stub, told: Told, http: httpx2.AsyncClient) -> None:
    model = provider(stub, told, http, thinking={"type": "adaptive"})
    schema = '{"type": "object", "additionalProperties": {"type": "number"}}'
    assert (await generate(model, told, ask(json_schema=schema))).enforcement == "ValidatedOnly"
    assert schema in stub.bodies[0]["system"]
    assert "tools" not in stub.bodies[0]


async def test_choices_and_expressions_are_asked_for_in_words(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts.append(Script([text("red\n")]))
    result = await generate(model, told, ask(choice=("red", "blue")))
    assert (result.text, result.enforcement) == ("red", "ValidatedOnly")
    assert '["red", "blue"]' in stub.bodies[0]["system"]
    assert (await generate(model, told, ask(regex="[a-z]+"))).enforcement == "ValidatedOnly"
    assert "[a-z]+" in stub.bodies[1]["system"]


async def test_the_key_is_read_for_every_call(stub: Stub, told: Told, model: Provider) -> None:
    await generate(model, told, ask())
    told.key = "sk-ant-api03-other"
    error = await failure(model)
    assert (error.fault, error.reason) == (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED)
    assert told.key not in str(error)
    told.key = ""
    assert (await failure(model)).reason is Reason.CREDENTIALS_NOT_FOUND
    assert stub.keys == [KEY, "sk-ant-api03-other"]


LIMITED = {
    "date": "Mon, 30 Nov 2026 12:00:00 GMT",
    "anthropic-ratelimit-requests-remaining": "12",
    "anthropic-ratelimit-requests-reset": "2026-11-30T12:00:01Z",
    "anthropic-ratelimit-input-tokens-remaining": "0",
    "anthropic-ratelimit-input-tokens-reset": "2026-11-30T12:00:30Z",
}


async def test_what_is_left_is_told_of_every_response(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts += [Script(headers=LIMITED), Script(status=429, headers=LIMITED | {"retry-after": "17"})]
    await generate(model, told, ask())
    error = await failure(model)
    assert told.budgets == [Budget(12, 0, 30.0)] * 2
    assert (error.fault, error.reason, error.retry_after_seconds) == (Fault.RATE_LIMITED, Reason.RATE_LIMITED, 17.0)


@pytest.mark.parametrize(
    ("script", "fault", "reason"),
    [
        (Script(status=529), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (Script(error="overloaded_error"), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (Script(error="api_error"), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (Script(status=500), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (Script(status=504), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (Script(cut=True), Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE),
        (Script(silent_end=True), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (Script(stop_reason="pause_turn"), Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID),
        (Script(stop_reason="refusal"), Fault.TERMINAL, Reason.CONTENT_REFUSED),
        (Script(status=403), Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (Script(status=413), Fault.TERMINAL, Reason.INPUT_TOO_LARGE),
        (Script([tool_use("no id!", "weather", "{}")], "tool_use"), Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID),
        (Script(raw=b"event: message_start\ndata: {half\n\n"), Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID),
        (
            Script(raw=b'event: message_start\ndata: {"type": "message_start"}\n\n'),
            Fault.TRANSIENT,
            Reason.PROVIDER_ANSWER_INVALID,
        ),
        (Script(raw=b"<html>"), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (
            Script(status=400, message="Your credit balance is too low to access the Anthropic API."),
            Fault.UNAVAILABLE,
            Reason.PROVIDER_QUOTA_EXHAUSTED,
        ),
        (
            Script(status=400, message="prompt is too long: 208310 tokens > 200000 maximum"),
            Fault.TERMINAL,
            Reason.CONTEXT_LENGTH_EXCEEDED,
        ),
    ],
)
async def test_what_an_error_means(stub: Stub, model: Provider, script: Script, fault: Fault, reason: Reason) -> None:
    stub.scripts.append(script)
    error = await failure(model)
    assert (error.fault, error.reason) == (fault, reason)
    assert "Iliad" not in str(error)


async def test_a_refused_answer_is_charged(stub: Stub, model: Provider) -> None:
    stub.scripts.append(Script(stop_reason="refusal"))
    assert (await failure(model)).usage == Usage(25, 0, 15)


async def test_a_refused_request_says_why_and_nothing_of_the_prompt(stub: Stub, model: Provider) -> None:
    stub.scripts.append(Script(status=400, message="messages.0: Who wrote the Iliad? cannot be read"))
    assert "Iliad" not in (await failure(model)).message
    stub.scripts.append(Script(status=400, message="thinking: budget_tokens is too small. More words."))
    assert (await failure(model)).message.endswith("thinking: budget_tokens is too small")


async def test_the_real_api_s_refusals_are_met(
    stub: Stub, told: Told, http: httpx2.AsyncClient, model: Provider
) -> None:
    orphan = ask(Message("user", "Hi."), Message("tool", "x", tool_call_id="t9"), tools=(WEATHER,))
    for request in (orphan, ask(Message("assistant", "Hi."))):
        error = await failure(model, request)
        assert (error.fault, error.reason) == (Fault.TERMINAL, Reason.INVALID_PARAMETERS)
    other = await failure(provider(stub, told, http, "claude-none"))
    assert (other.fault, other.reason) == (Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND)


async def test_health_asks_for_the_model(stub: Stub, told: Told, http: httpx2.AsyncClient, model: Provider) -> None:
    await model.check_health()
    with pytest.raises(ProviderError) as raised:
        await provider(stub, told, http, "claude-none").check_health()
    assert raised.value.reason is Reason.REMOTE_MODEL_NOT_FOUND
    assert stub.bodies == []


async def test_embeddings_are_not_its_affair(model: Provider) -> None:
    with pytest.raises(ProviderError) as raised:
        await model.embed(Embed("e", ("text",)))
    assert (raised.value.fault, raised.value.reason) == (Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE)


async def test_a_cancelled_call_hangs_up(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts.append(Script([text(*["word " * 2000] * 4000)]))
    grown = asyncio.Event()
    task = asyncio.create_task(model.generate(ask(), lambda _: grown.set()))
    await asyncio.wait_for(grown.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(stub.hung_up.wait(), 10)


async def test_an_answer_that_has_ended_is_not_waited_for(stub: Stub, told: Told, model: Provider) -> None:
    stub.scripts.append(Script(lingers=True))
    async with asyncio.timeout(8):  # the client itself would wait for ten seconds
        assert (await generate(model, told, ask())).text == "Hello there."
        await stub.hung_up.wait()


async def test_connections_are_used_again(stub: Stub, told: Told, model: Provider) -> None:
    for _ in range(3):
        await generate(model, told, ask())
    assert len(stub.ports) == 1


async def test_no_prompt_and_no_key_are_logged(told: Told, model: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await generate(model, told, ask())
    assert "Iliad" not in caplog.text
    assert KEY not in caplog.text


async def test_nobody_there_is_the_network_s_fault(told: Told, http: httpx2.AsyncClient) -> None:
    async with anthropic_stub() as gone:
        pass
    error = await failure(provider(gone, told, http))
    assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)


async def test_tokens_are_counted_as_the_api_counts_them(stub: Stub, model: Provider) -> None:
    assert isinstance(model, Counting)
    turns = (Message("system", "Be brief."), Message("user", "Hi"))
    request = ask(*turns, tools=(WEATHER,), parameters=Parameters(max_tokens=1, temperature=0.5), count="Conversation")
    result = await model.count(request)
    assert json.loads(result.text) == {"count": len("Be brief.Hi")}
    assert result.usage == Usage(0, 0, 0)
    assert stub.bodies[0]["tools"][0]["name"] == "weather"
    stub.tokens = "many"
    with pytest.raises(ProviderError) as broken:
        await model.count(request)
    assert (broken.value.fault, broken.value.reason) == (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
    stub.good_keys.clear()
    with pytest.raises(ProviderError) as refused:
        await model.count(request)
    assert (refused.value.fault, refused.value.reason) == (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED)
