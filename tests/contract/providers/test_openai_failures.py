"""Provider OpenAI through the real SDK: everything that goes wrong, and what the runner hears of it."""

import asyncio
import logging

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Usage
from headrace_runner.providers.protocol import Budget, Fault, ProviderError
from tests.stub_openai.calling import EMBEDDING_MODEL, World, asking, openai_world
from tests.stub_openai.replies import Reply, answering, chunk, raw, refusing, sse, streaming, text_chunks, usage_chunk

HALF = sse([chunk({"content": "Hel"})], done=False)


async def failing(world: World, *replies: Reply) -> ProviderError:
    world.stub.replies += replies
    with pytest.raises(ProviderError) as caught:
        await world.generate()
    return caught.value


@pytest.mark.parametrize(
    ("reply", "fault", "reason", "seconds"),
    [
        (refusing(429, "Slow.", code="rate_limit_exceeded", headers={"retry-after": "7"}), "RateLimited", None, 7.0),
        (refusing(429, "Slow.", headers={"retry-after-ms": "1500", "retry-after": "2"}), "RateLimited", None, 1.5),
        (
            refusing(
                429,
                "Slow.",
                headers={
                    "x-ratelimit-remaining-tokens": "0",
                    "x-ratelimit-reset-tokens": "6m0s",
                    "x-ratelimit-remaining-requests": "5",
                    "x-ratelimit-reset-requests": "20ms",
                },
            ),
            "RateLimited",
            None,
            360.0,
        ),
        (refusing(429, "Slow."), "RateLimited", None, None),
        (refusing(429, "No.", type="insufficient_quota", code="insufficient_quota"), "Unavailable", "Quota", None),
        (refusing(503, "Slow Down", headers={"retry-after": "3"}), "Overloaded", "ProviderOverloaded", 3.0),
        (refusing(500, "Oops.", type="server_error"), "Transient", "ProviderFailed", None),
        (answering("no object", 502), "Transient", "ProviderFailed", None),
        (refusing(408, "Late."), "Transient", "ProviderFailed", None),
        (refusing(400, "Too long.", code="context_length_exceeded"), "Terminal", "ContextLengthExceeded", None),
        (refusing(400, "Filtered.", code="content_filter"), "Terminal", "ContentRefused", None),
        (refusing(403, "No.", code="unsupported_country_region_territory"), "Unavailable", "Credentials", None),
    ],
)
async def test_a_refusal_says_what_it_means(
    reply: Reply, fault: str, reason: str | None, seconds: float | None
) -> None:
    async with openai_world() as world:
        error = await failing(world, reply)
        assert error.fault == fault
        assert (reason or "RateLimited") in error.reason
        assert error.retry_after_seconds == seconds
        assert len(world.stub.bodies) == 1, "the runner tries again, not the SDK"


async def test_a_revoked_key_and_an_unknown_model_stop_the_model() -> None:
    async with openai_world() as world:
        world.key[0] = "sk-proj-revoked"
        error = await failing(world)
        assert (error.fault, error.reason) == (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED)
        assert "revoked" not in str(error)
    async with openai_world("gpt-none") as world:
        error = await failing(world)
        assert (error.fault, error.reason) == (Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND)


async def test_a_refusals_budget_is_told() -> None:
    async with openai_world() as world:
        await failing(world, refusing(429, "Slow.", headers={"x-ratelimit-remaining-requests": "0"}))
        assert world.budgets == [Budget(requests=0)]


async def test_no_prompt_is_repeated() -> None:
    async with openai_world() as world:
        error = await failing(world, refusing(400, "Invalid value: 'hello to everybody'.", param="messages"))
        assert error.message == "the provider refuses the request (messages)"
        error = await failing(world, refusing(400, "Only 1 is supported. More.", param="n"))
        assert error.message == "the provider refuses the request (parameters.n); it says: Only 1 is supported"


@pytest.mark.parametrize(
    "reply",
    [
        raw(HALF, cut=True),
        raw(HALF),
        raw(sse([chunk({"content": "Hel"}), usage_chunk()])),
    ],
    ids=["connection", "clean-end", "no-finish-reason"],
)
async def test_a_stream_that_is_cut_is_no_answer(reply: Reply) -> None:
    async with openai_world() as world:
        error = await failing(world, reply)
        assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
        assert [delta.text for delta in world.deltas] == ["Hel"]


@pytest.mark.parametrize(
    ("body", "fault", "reason"),
    [
        ({"message": "boom", "type": "server_error", "code": None}, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        ({"message": "slow", "type": "tokens", "code": "rate_limit_exceeded"}, Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        ({"message": "x", "code": "insufficient_quota"}, Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
    ],
)
async def test_an_error_within_the_stream_counts(body: dict[str, object], fault: Fault, reason: Reason) -> None:
    async with openai_world() as world:
        error = await failing(world, raw(HALF, sse([{"error": body}], done=False)))
        assert (error.fault, error.reason) == (fault, reason)


@pytest.mark.parametrize(
    "reply",
    [
        raw(HALF, b"data: \xff\xfe\n\n"),
        raw(HALF, b"data: {nonsense\n\n"),
        raw(HALF, b"data: [1]\n\n"),
        raw(sse([chunk({"content": 5})])),
        raw(sse([chunk({"content": "x"}, index=3)])),
        raw(sse([chunk(finish="whatever")])),
        raw(sse([chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, finish="tool_calls")])),
        raw(b"<html>a proxy</html>", content_type="text/html"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_said_to_be_one(reply: Reply) -> None:
    async with openai_world() as world:
        error = await failing(world, reply)
        assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)


@pytest.mark.parametrize(
    "chunks", [[chunk({"refusal": "I cannot"}), chunk(finish="stop")], text_chunks("I", finish="content_filter")]
)
async def test_refused_content_ends_the_task_and_is_charged(chunks: list[dict[str, object]]) -> None:
    async with openai_world() as world:
        error = await failing(world, streaming(*chunks))
        assert (error.fault, error.reason) == (Fault.TERMINAL, Reason.CONTENT_REFUSED)
        assert error.usage == Usage(11, 4, 7, 2)
        assert "cannot" not in str(error)


async def test_nobody_listens() -> None:
    async with openai_world() as world:
        world.provider._client.base_url = "http://127.0.0.1:1/v1"  # type: ignore[attr-defined]
        error = await failing(world)
        assert (error.fault, error.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)


async def test_cancelling_ends_the_call_and_what_was_said_is_kept() -> None:
    hang, told = asyncio.Event(), asyncio.Event()
    async with openai_world() as world:
        world.stub.replies.append(raw(HALF, hang=hang))

        def on_delta(delta: object) -> None:
            told.set()

        call = asyncio.create_task(world.provider.generate(asking(), on_delta))  # type: ignore[arg-type]
        await told.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        hang.set()
        # The connection is gone, and the next call has one of its own.
        assert (await world.generate()).text == "Hello world"


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": "AAA"}],
        [{"index": 1, "embedding": [1.0]}],
        [{"index": 0, "embedding": []}],
        [{"index": 0, "embedding": ["a"]}],
        [{"index": 0, "embedding": "AADAfw=="}],
        [{"index": 0}],
    ],
    ids=["none", "half", "index", "empty", "words", "nan", "missing"],
)
async def test_vectors_that_make_no_sense_are_none(data: list[object]) -> None:
    async with openai_world(EMBEDDING_MODEL) as world:
        world.stub.replies.append(answering({"data": data}))
        with pytest.raises(ProviderError) as caught:
            await world.provider.embed(Embed("uid/1", ("text",)))
        assert caught.value.reason == Reason.PROVIDER_ANSWER_INVALID


async def test_the_sdk_logs_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with openai_world() as world:
            await world.generate()
            assert not logging.getLogger("openai").isEnabledFor(logging.INFO)
    assert "everybody" not in caplog.text
