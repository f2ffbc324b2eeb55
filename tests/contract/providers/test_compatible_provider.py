"""Provider OpenAICompatible against servers that differ from OpenAI's in one way each."""

import asyncio
import base64
import json
import struct

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Parameters, Usage
from headrace_runner.engine.tools import Tool
from headrace_runner.providers.protocol import Fault, ProviderError
from tests.stub_openai.calling import World, asking, compatible_world
from tests.stub_openai.replies import Reply, answering, chunk, raw, refusing, sse, streaming, text_chunks
from tests.stub_openai.server import KEY, vector

SCHEMA = '{"type": "object", "properties": {"name": {"type": "string", "minLength": 2}}}'
HELLO = text_chunks("Grüß", " Gott")


async def failing(world: World, *replies: Reply) -> ProviderError:
    world.stub.replies += replies
    with pytest.raises(ProviderError) as caught:
        await world.generate()
    return caught.value


async def test_parameters_go_under_the_names_that_these_servers_know() -> None:
    parameters = Parameters(max_tokens=9, top_k=5, min_p=0.1, repeat_penalty=1.1, stop=tuple("abcdef"))
    async with compatible_world() as world:
        await world.generate(asking(parameters=parameters))
        sent = {name: value for name, value in world.body.items() if name not in ("messages", "model")}
        assert sent == {
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 9,
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "repeat_penalty": 1.1,
            "stop": list("abcdef"),
        }


async def test_the_specs_members_are_defaults_and_say_which_name_is_meant() -> None:
    extra = {"top_k": 20, "repetition_penalty": 1.05, "chat_template_kwargs": {"enable_thinking": False}}
    async with compatible_world(extra_body=extra) as world:
        await world.generate()
        assert {name: world.body[name] for name in extra} == extra
        await world.generate(asking(parameters=Parameters(top_k=5, repeat_penalty=1.2)))
        assert (world.body["top_k"], world.body["repetition_penalty"]) == (5, 1.2)
        assert "repeat_penalty" not in world.body
    with pytest.raises(ValueError, match="extraBody: remove 'messages'"):
        async with compatible_world(extra_body={"messages": []}):
            pass


async def test_a_key_is_sent_where_there_is_one() -> None:
    async with compatible_world() as world:
        await world.generate()
        world.key[0] = ""
        await world.generate()
        assert world.stub.authorizations == [f"Bearer {KEY}", None]


async def test_a_schema_is_sent_and_told_and_nothing_is_claimed() -> None:
    async with compatible_world() as world:
        result = await world.generate(asking(json_schema=SCHEMA))
        assert result.enforcement == "ValidatedOnly"
        assert world.body["response_format"]["json_schema"]["schema"] == json.loads(SCHEMA)
        assert SCHEMA in world.body["messages"][0]["content"]


@pytest.mark.parametrize(
    "reply",
    [
        refusing(400, "'response_format.type' must be one of text, json_object", param="response_format"),
        answering({"detail": [{"loc": ["body", "response_format", "type"], "msg": "Input should be 'text'"}]}, 422),
        answering({"object": "error", "message": "response_format is unknown", "code": 400}, 400),
    ],
)
async def test_a_server_without_schemas_is_asked_in_words(reply: Reply) -> None:
    async with compatible_world() as world:
        world.stub.replies.append(reply)
        assert (await world.generate(asking(json_schema=SCHEMA))).text == "Hello world"
        assert ["response_format" in body for body in world.stub.bodies] == [True, False]
        assert SCHEMA in world.body["messages"][0]["content"]


async def test_a_server_that_does_not_know_stream_options_is_asked_without_from_then_on() -> None:
    async with compatible_world() as world:
        detail = [
            {"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}
        ]
        world.stub.replies += [answering({"detail": detail}, 422), raw(sse(HELLO))]
        result = await world.generate()
        assert (result.text, result.usage) == ("Grüß Gott", Usage(0, 0, 2))
        await world.generate()
        assert ["stream_options" in body for body in world.stub.bodies] == [True, False, False]


@pytest.mark.parametrize(
    "stream",
    [
        sse(HELLO, done=False),
        sse(HELLO, end="\r\n"),
        sse(HELLO, end="\r"),
        b"\xef\xbb\xbf: a comment\n\nid: 1\nretry: 5\nevent: message\n\n" + sse(HELLO),
        sse(HELLO)[: -len("\n\ndata: [DONE]\n\n")],
        sse(HELLO).replace(b'"choices": [', b'"choices":\ndata: ['),
        sse(HELLO[:-1]),
        sse([chunk(finish="eos_token"), *HELLO]),
    ],
    ids=["no-done", "crlf", "cr", "comments", "no-blank-line", "several-lines", "no-finish-reason", "early-finish"],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_streams_of_all_kinds_are_read(stream: bytes, size: int) -> None:
    async with compatible_world() as world:
        world.stub.replies.append(raw(*(stream[at : at + size] for at in range(0, len(stream), size))))
        result = await world.generate()
        assert (result.text, result.finish_reason) == ("Grüß Gott", "Stop")
        assert result.usage == Usage(0, 0, 2), "without a count of theirs the pieces are counted"


async def test_a_connection_is_used_again_and_one_that_stays_open_is_not_waited_for() -> None:
    hang = asyncio.Event()
    async with compatible_world() as world:
        for _ in range(3):
            await world.generate()
        assert len(world.stub.peers) == 1
        world.stub.replies.append(raw(sse(HELLO), hang=hang))
        assert (await world.generate()).text == "Grüß Gott"
        hang.set()


async def test_an_answer_that_is_not_streamed_is_read_all_the_same() -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning": "Hm."}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}], "usage": {"prompt_tokens": 3}}
    async with compatible_world() as world:
        world.stub.replies.append(answering(body))
        result = await world.generate()
        assert (result.text, result.reasoning, result.finish_reason) == ("Hi", "Hm.", "Length")
        assert result.usage == Usage(3, 0, 0)


async def test_calls_without_ids_and_indexes_are_told_apart() -> None:
    def call(name: str | None, arguments: object, **more: object) -> dict[str, object]:
        return chunk({"tool_calls": [{"function": {"name": name, "arguments": arguments}, **more}]})

    async with compatible_world() as world:
        world.stub.replies += [
            streaming(call("a", {"x": 1}), call("b", '{"y"'), call(None, ": 2}"), chunk(finish="tool_calls")),
            streaming(call("a", "", index=0, id="1"), call("b", "", index=0, id="2"), chunk(finish="tool_calls")),
            streaming(call("a", "{}", index=0, id="1"), call("b", '{"y', index=1, id="2"), chunk(finish="length")),
        ]
        request = asking(tools=(Tool("a"), Tool("b")))
        first = await world.generate(request)
        assert [(each.name, each.arguments) for each in first.tool_calls] == [("a", '{"x": 1}'), ("b", '{"y": 2}')]
        assert len({each.id for each in first.tool_calls if each.id.startswith("call_")}) == 2
        second = await world.generate(request)
        assert [(each.id, each.arguments) for each in second.tool_calls] == [("1", "{}"), ("2", "{}")]
        third = await world.generate(request)
        assert [each.name for each in third.tool_calls] == ["a"], "what the bound on tokens cut off is no call"
        assert third.finish_reason == "Length"


@pytest.mark.parametrize(
    ("reply", "fault", "reason"),
    [
        (
            answering({"error": {"code": 400, "message": "x", "type": "exceed_context_size_error"}}, 400),
            Fault.TERMINAL,
            Reason.CONTEXT_LENGTH_EXCEEDED,
        ),
        (
            answering({"object": "error", "message": "This model's maximum context length is 4096 tokens."}, 400),
            Fault.TERMINAL,
            Reason.CONTEXT_LENGTH_EXCEEDED,
        ),
        (
            answering({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503),
            Fault.OVERLOADED,
            Reason.PROVIDER_OVERLOADED,
        ),
        (answering({"error": 'model "x" not found'}, 404), Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (answering({"error": {"code": 402}}, 402), Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        (
            answering({"error": {"code": 403, "message": "Your input was flagged"}}, 403),
            Fault.TERMINAL,
            Reason.CONTENT_REFUSED,
        ),
        (answering({"error": {"message": "Failed to parse grammar"}}, 400), Fault.TERMINAL, Reason.UNSUPPORTED_SCHEMA),
        (raw(b"<html>", content_type="text/html"), Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID),
        (raw(b"{nonsense", content_type="application/json"), Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID),
        (raw(b""), Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE),
        (raw(sse(HELLO[:2], done=False), cut=True), Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE),
        (raw(sse(HELLO[:2], done=False)), Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE),
        (raw(sse(HELLO[:2], done=False) + b'data: {"cho'), Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE),
        (raw(sse(HELLO[:2], done=False) + b"data: \xc3"), Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE),
        (raw(b"data: \xc3\x28\n\n"), Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID),
        (raw(sse([{"error": {"code": 429, "message": "slow"}}])), Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (raw(sse([{"error": "boom"}])), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (raw(sse([{"object": "error", "code": 400, "message": "no"}])), Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (raw(b'error: {"code": 500, "message": "x"}\n\n'), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (raw(b'event: error\ndata: {"code": 503}\n\n'), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (raw(sse([chunk(finish="error")])), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (answering({"error": {"message": "no", "code": 400}}), Fault.TERMINAL, Reason.INVALID_PARAMETERS),
    ],
)
async def test_a_failure_says_what_it_means(reply: Reply, fault: Fault, reason: Reason) -> None:
    async with compatible_world() as world:
        error = await failing(world, reply)
        assert (error.fault, error.reason) == (fault, reason)
        assert len(world.stub.bodies) == 1


async def test_a_redirect_is_not_followed() -> None:
    async with compatible_world() as world:
        error = await failing(world, answering({}, 307, {"Location": f"{world.stub.url}/elsewhere"}))
        assert error.fault == Fault.UNAVAILABLE
        assert "baseURL" in error.message


async def test_a_server_without_base64_gives_lists() -> None:
    async with compatible_world("e5") as world:
        refused = refusing(400, "encoding_format base64 is not supported")
        world.stub.replies += [refused, answering({"data": [{"embedding": list(vector("a"))}]})]
        result = await world.provider.embed(Embed("uid/1", ("a",)))
        assert struct.unpack("<3f", base64.b64decode(json.loads(result.text)["data"])) == vector("a")
        await world.provider.embed(Embed("uid/1", ("a",)))
        assert ["encoding_format" in body for body in world.stub.bodies] == [True, False, False]


@pytest.mark.parametrize("status", [200, 404, 405])
async def test_a_server_is_healthy_without_a_list_of_models(status: int) -> None:
    async with compatible_world() as world:
        world.stub.replies.append(answering({}, status))
        await world.provider.check_health()
        assert world.stub.replies == []


@pytest.mark.parametrize(("status", "reason"), [(401, Reason.CREDENTIALS_REFUSED), (503, Reason.PROVIDER_OVERLOADED)])
async def test_a_server_that_refuses_is_not_healthy(status: int, reason: Reason) -> None:
    async with compatible_world() as world:
        world.stub.replies.append(answering({}, status))
        with pytest.raises(ProviderError) as caught:
            await world.provider.check_health()
        assert caught.value.reason == reason
