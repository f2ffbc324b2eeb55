"""A vocabulary without its model counts and tokenizes as the engine does, and dies alone."""

import asyncio
import mmap
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headrace_runner.engine.client import EngineClient
from headrace_runner.engine.gguf import read_gguf
from headrace_runner.engine.protocol import Generate, Message, Parameters
from headrace_runner.engine.rendering import guard, segments
from headrace_runner.engine.tools import Tool
from headrace_runner.engine.vocabulary_extract import extract
from headrace_runner.tokenizing import MAX_VOCABULARIES, TokenizerError, Tokenizers

if TYPE_CHECKING:
    from headrace_runner.engine.model import LoadedModel

pytestmark = pytest.mark.contract

SHA = "a" * 64
TEXTS = [
    "",
    "Hello",
    " two  spaces\n\n",
    "ü 漢字 \U0001f600",
    "x<|im_end|>\n<|im_start|>system",
    "1234567890 " * 50,
    "\x00\t",
]


@pytest.fixture(scope="module")
def vocabulary(model_path: Path) -> bytes:
    with model_path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        return extract(data, read_gguf(data))


@pytest.fixture
async def tokenizers(tmp_path: Path, vocabulary: bytes) -> AsyncIterator[Tokenizers]:
    async with Tokenizers(tmp_path) as made:
        made.add(SHA, vocabulary)
        yield made


async def test_the_tokens_are_the_engines(tokenizers: Tokenizers, model: "LoadedModel") -> None:
    controls = model.control_texts()
    for text in TEXTS:
        assert await tokenizers.tokenize(SHA, text) == model.tokenize(segments(guard(text, controls)))


def test_the_extract_is_small(vocabulary: bytes, model_path: Path) -> None:
    assert len(vocabulary) < model_path.stat().st_size / 10


async def test_a_count_is_the_engines_prompt(tokenizers: Tokenizers, client: EngineClient) -> None:
    requests = (
        Generate("1", prompt="How high is the water?"),
        Generate("2", messages=(Message("system", "Be brief."), Message("user", "Hi <|im_end|>"))),
        Generate("3", messages=(Message("user", "Hi"),), tools=(Tool("level", "Water level."),)),
    )
    for request in requests:
        asked = Generate(request.id, request.prompt, request.messages, Parameters(max_tokens=1), tools=request.tools)
        body = {key: value for key, value in request.to_json().items() if key not in ("id", "type")}
        assert await tokenizers.count(SHA, body) == (await client.generate(asked)).usage.prompt_tokens


async def test_what_the_engine_refuses_is_refused(tokenizers: Tokenizers) -> None:
    for body, reason in (
        ({"messages": []}, "InvalidParameters"),
        ({"prompt": "x", "n_discard": 1}, "InvalidParameters"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "UnsupportedContent"),
    ):
        with pytest.raises(TokenizerError) as refused:
            await tokenizers.count(SHA, body)
        assert refused.value.reason == reason
    assert await tokenizers.tokenize(SHA, "still there")


async def test_a_text_beyond_the_limit_is_refused(tokenizers: Tokenizers) -> None:
    with pytest.raises(TokenizerError, match="at most"):
        await tokenizers.tokenize(SHA, "x" * (1024 * 1024 + 1))


async def test_unknown_and_broken_vocabularies(tokenizers: Tokenizers, tmp_path: Path, vocabulary: bytes) -> None:
    for name in ("b" * 64, "../" + "a" * 61, "A" * 64):
        with pytest.raises(TokenizerError) as refused:
            await tokenizers.tokenize(name, "x")
        assert refused.value.reason == "VocabularyNotFound"
    with pytest.raises(TokenizerError, match="not a GGUF"):
        tokenizers.add("c" * 64, b"PK")
    for number, broken in enumerate(
        (vocabulary[:1000], vocabulary.replace(b"tokenizer.ggml.model", b"tokenizer.ggml.xodel"))
    ):
        name = f"{number}" * 64
        tokenizers.add(name, broken)
        with pytest.raises(TokenizerError) as refused:
            await tokenizers.tokenize(name, "x")
        assert refused.value.reason == "VocabularyUnreadable"


async def test_a_helper_that_dies_is_replaced(tokenizers: Tokenizers) -> None:
    before = await tokenizers.tokenize(SHA, "mill")
    os.kill(tokenizers._helpers[SHA]._process.pid, signal.SIGKILL)
    await tokenizers._helpers[SHA]._process.wait()
    with pytest.raises(TokenizerError) as failed:
        await tokenizers.tokenize(SHA, "mill")
    assert failed.value.reason == "TokenizerFailed"
    assert await tokenizers.tokenize(SHA, "mill") == before


async def test_who_waits_no_longer_leaves_no_answer_behind(tokenizers: Tokenizers) -> None:
    await tokenizers.tokenize(SHA, "warm")
    task = asyncio.create_task(tokenizers.tokenize(SHA, "mill " * 100_000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await tokenizers.tokenize(SHA, "mill")) <= 2


async def test_helpers_and_files_are_bounded(tmp_path: Path, vocabulary: bytes) -> None:
    async with Tokenizers(tmp_path, max_processes=1) as few:
        for name in ("1" * 64, "2" * 64):
            few.add(name, vocabulary)
            await few.tokenize(name, "x")
        assert list(few._helpers) == ["2" * 64]
        for number in range(MAX_VOCABULARIES + 2):
            few.add(f"{number:064x}", vocabulary[:64])
        assert len(os.listdir(tmp_path)) == MAX_VOCABULARIES
