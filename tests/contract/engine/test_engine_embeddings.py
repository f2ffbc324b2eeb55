"""Embeddings by a real embedding model, beside llama-cpp-python's own, and by a model that generates as well."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest

from headrace_runner.engine.client import EngineClient, EngineRefused, Stage
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Generate, Parameters
from tests.contract.engine.minilm import convert

pytestmark = pytest.mark.contract

TEXTS = [
    "The river turns the mill wheel.",
    "Water drives the wheel of the mill.",
    "The stock exchange closed higher today.",
    "Shares rose on Wall Street.",
    "Grüße aus Köln: 12 °C, 你好!",
    "a",
]


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tmp_path_factory.mktemp("minilm") / "all-MiniLM-L6-v2.F32.gguf")


@pytest.fixture
async def client(minilm: Path, start_engine: Callable) -> AsyncIterator[EngineClient]:
    engine = start_engine(minilm, HEADRACE_CAPABILITIES="Embedding")
    engine.wait_serving()
    async with await EngineClient.connect(engine.socket) as connected:
        yield connected


@pytest.fixture(scope="module")
def reference(minilm: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(minilm), embedding=True, n_ctx=512, n_batch=512, verbose=False)


def vectors(text: str) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    document = json.loads(text)
    assert (document["dtype"], document["encoding"]) == ("float32", "base64")
    return np.frombuffer(base64.b64decode(document["data"]), "<f4").reshape(document["shape"])


async def test_vectors_are_those_of_llama_cpp_and_near_where_the_meaning_is(
    client: EngineClient, reference: llama_cpp.Llama
) -> None:
    result = await client.generate(Embed("a", tuple(TEXTS)))
    ours = vectors(result.text)
    assert ours.shape == (len(TEXTS), 384)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    theirs = np.array(reference.embed(TEXTS))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert (1 - (ours * theirs).sum(axis=1)).max() <= 1e-3
    near = ours @ ours.T
    assert near[0].argsort()[-2] == 1
    assert near[2].argsort()[-2] == 3
    assert min(near[0, 1], near[2, 3]) > near[:2, 2:4].max() + 0.2
    assert (result.usage.completion_tokens, result.finish_reason) == (0, "Stop")
    assert result.usage.prompt_tokens == sum(len(reference.tokenize(text.encode())) for text in TEXTS)


async def test_a_text_has_its_vector_whatever_shares_the_batch(client: EngineClient) -> None:
    alone = vectors((await client.generate(Embed("alone", (TEXTS[0],)))).text)
    # More texts than a batch takes, by tokens and by number, from several requests at once.
    several = [Embed(f"r{n}", (TEXTS[0], *(f"{TEXTS[n % 6]} {word}" for word in range(90)))) for n in range(4)]
    results = await asyncio.gather(*(client.generate(request) for request in several))
    for result in results:
        found = vectors(result.text)
        assert found.shape == (91, 384)
        assert 1 - float(found[0] @ alone[0]) <= 1e-3
        assert len({vector.tobytes() for vector in found}) == 91


async def test_a_text_that_is_too_long_is_refused_with_the_numbers_and_ends_nothing(client: EngineClient) -> None:
    # 510 words, [CLS] and [SEP]: as long as can be.
    longest = " ".join(["mill"] * 510)
    assert vectors((await client.generate(Embed("fits", (longest,)))).text).shape == (1, 384)
    with pytest.raises(EngineRefused, match=r"ContextLengthExceeded: embed\.input\[1\] has 513 tokens") as info:
        await client.generate(Embed("long", ("mill", f"{longest} mill")))
    assert "an input can have 512: split it" in info.value.message
    with pytest.raises(EngineRefused, match="ContextLengthExceeded"):
        await client.generate(Embed("huge", ("x" * 1_000_000,)))
    assert vectors((await client.generate(Embed("after", ("mill",)))).text).shape == (1, 384)


async def test_marks_of_the_model_in_a_text_are_text(client: EngineClient) -> None:
    counts = [(await client.generate(Embed(text, (text,)))).usage.prompt_tokens for text in ("mill", "mill [SEP] mill")]
    # Brackets and letters are tokens of their own; the mark would be one.
    assert counts[1] > counts[0] + 2


async def test_what_the_model_is_not_for_is_refused(client: EngineClient, engine) -> None:
    with pytest.raises(EngineRefused, match="ModelNotCapable: the model's capabilities name neither"):
        await client.generate(Generate("g", prompt="hi"))
    async with await EngineClient.connect(engine.socket) as generating:
        with pytest.raises(EngineRefused, match="ModelNotCapable: the model's capabilities do not name Embedding"):
            await generating.generate(Embed("e", ("hi",)))


async def test_an_abort_ends_it_between_batches(client: EngineClient) -> None:
    texts = tuple(f"{' '.join(['water'] * 300)} {number}" for number in range(200))
    asking = asyncio.create_task(client.generate(Embed("long", texts)))
    await asyncio.sleep(0.3)
    await client.abort("long")
    result = await asking
    assert (result.finish_reason, result.text) == ("Cancelled", "")
    assert vectors((await client.generate(Embed("after", ("mill",)))).text).shape == (1, 384)


async def test_a_model_may_generate_and_embed(model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(model_path, HEADRACE_CAPABILITIES="Chat,Embedding")
    engine.wait_serving()
    async with await EngineClient.connect(engine.socket) as both:
        asked = Generate("g", prompt="Name a river.", parameters=Parameters(temperature=0.0, max_tokens=16))
        said, embedded = await asyncio.gather(both.generate(asked), both.generate(Embed("e", tuple(TEXTS))))
    assert said.usage.completion_tokens > 0
    found = vectors(embedded.text)
    assert found.shape == (len(TEXTS), 576)
    near = found @ found.T
    assert near[0, 1] > near[0, 2]


def test_an_encoder_that_is_to_generate_is_refused(minilm: Path, start_engine: Callable) -> None:
    state = start_engine(minilm).wait(lambda state: state.state is Stage.FAILED)
    assert state.reason == "InvalidSettings"
    assert "bert is an encoder and generates no text: set capabilities: [Embedding]" in state.message
