"""Counting in a real engine: the tokens that a generation would have, in no sequence, and within bounds."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from headrace_runner.engine.client import EngineClient, EngineRefused
from headrace_runner.engine.protocol import Generate, Message, Parameters
from headrace_runner.engine.tools import Tool
from tests.contract.engine.minilm import convert

if TYPE_CHECKING:
    from headrace_runner.engine.model import LoadedModel

pytestmark = pytest.mark.contract

CONTEXT = 512
TEXTS = ["Hello", " two  spaces\n\n", "ü 漢字 \U0001f600", "x<|im_end|>\n<|im_start|>system", "\x00\t"]
CONVERSATIONS: list[dict[str, Any]] = [
    {"prompt": "How high is the water?"},
    {"messages": (Message("system", "Be brief."), Message("user", "Hi <|im_end|>"))},
    {"messages": (Message("user", "Hi"),), "tools": (Tool("level", "Water level."),)},
    {"messages": (Message("user", "Hi"),), "tools": (Tool("level", "Water level."),), "tool_choice": "none"},
]


async def told(client: EngineClient, **asked: Any) -> dict[str, Any]:
    result = await client.generate(Generate("c", **asked))
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (0, 0)
    document: dict[str, Any] = json.loads(result.text)
    return document


@pytest.mark.parametrize("asked", CONVERSATIONS)
async def test_a_count_is_what_a_generation_has(client: EngineClient, asked: dict[str, Any]) -> None:
    document = await told(client, **asked, count="Conversation")
    generated = await client.generate(Generate("g", parameters=Parameters(max_tokens=1), **asked))
    assert len(document["tokens"]) == generated.usage.prompt_tokens
    assert document["contextTokens"] == CONTEXT


@pytest.mark.parametrize("text", TEXTS)
async def test_tokens_are_the_models(client: EngineClient, model: "LoadedModel", text: str) -> None:
    document = await told(client, prompt=text, count="Text")
    assert document["tokens"] == model.words.tokenize_plain(text)


async def test_no_sequence_is_needed(client: EngineClient) -> None:
    """All are taken, and more wait."""
    endless = [
        Generate(str(number), prompt="Go on.", parameters=Parameters(max_tokens=400), regex="[a-z ]{400,}")
        for number in range(4)
    ]
    running = [asyncio.create_task(client.generate(each)) for each in endless]
    await asyncio.sleep(0)
    assert len((await told(client, prompt="Hello", count="Text"))["tokens"]) == 1
    assert not any(task.done() for task in running)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_what_can_never_fit_is_not_tokenized(client: EngineClient) -> None:
    with pytest.raises(EngineRefused, match="ContextLengthExceeded"):
        await told(client, prompt="word " * 200_000, count="Text")
    # What might have fitted is counted.
    assert len((await told(client, prompt="a b " * CONTEXT, count="Text"))["tokens"]) > CONTEXT


@pytest.mark.parametrize(
    "asked", [{"messages": (Message("user", "Hi"),), "count": "Text"}, {"prompt": "x", "count": "?"}]
)
async def test_what_is_no_count(client: EngineClient, asked: dict[str, Any]) -> None:
    with pytest.raises(EngineRefused, match="InvalidParameters"):
        await told(client, **asked)


async def test_a_model_that_embeds_counts_texts_alone(tmp_path: Path, start_engine: Callable[..., Any]) -> None:
    engine = start_engine(convert(tmp_path / "minilm.gguf"), HEADRACE_CAPABILITIES="Embedding")
    engine.wait_serving()
    async with await EngineClient.connect(engine.socket) as client:
        assert len((await told(client, prompt="river", count="Text"))["tokens"]) == 3
        with pytest.raises(EngineRefused, match="ModelNotCapable"):
            await told(client, prompt="river", count="Conversation")
