"""Weights in several files and adapters on them, with a real model: they change what they should and nothing else."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_runner.engine.client import EngineClient, Stage
from headrace_runner.engine.protocol import Generate, Parameters
from tests.contract.engine.gguf_surgery import lora, split

pytestmark = pytest.mark.contract

QUERY = "blk.{}.attn_q.weight"
SHAPES = {QUERY.format(layer): (576, 576) for layer in range(30)}
REQUEST = Generate(id="a", prompt="Name three rivers.", parameters=Parameters(temperature=0.0, max_tokens=24))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(paths: list[Path], **more: str) -> str:
    return json.dumps([{"path": str(path), "sha256": digest(path), **more} for path in paths])


async def said(engine) -> str:
    engine.wait_serving()
    async with await EngineClient.connect(engine.socket) as client:
        return (await client.generate(REQUEST)).text


async def test_a_split_model_says_what_the_whole_one_says(
    engine, model_path: Path, tmp_path: Path, start_engine: Callable
) -> None:
    parts = split(model_path, tmp_path)
    cut = start_engine(parts[0], HEADRACE_MODEL_PARTS=files(parts), HEADRACE_MODELS_DIR=str(tmp_path))
    assert await said(cut) == await said(engine)
    state = cut.state()
    assert state.engine is not None
    assert state.engine.size_bytes == sum(part.stat().st_size for part in parts)


@pytest.mark.parametrize(
    ("order", "broken", "reason", "words"),
    [
        ([0, 2, 1], None, "InvalidModelFile", "file 2 of 3 says that it is number 3"),
        ([0, 1], None, "InvalidModelFile", "split into 3 files, 2 files are given"),
        ([0, 1, 2], 2, "ChecksumMismatch", "'part-00003-of-00003.gguf' has sha256"),
    ],
)
def test_parts_that_are_not_those_meant_are_refused(
    model_path: Path,
    tmp_path: Path,
    start_engine: Callable,
    order: list[int],
    broken: int | None,
    reason: str,
    words: str,
) -> None:
    parts = split(model_path, tmp_path)
    given = files([parts[index] for index in order])
    if broken is not None:
        raw = parts[broken].read_bytes()
        parts[broken].write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    engine = start_engine(parts[0], HEADRACE_MODEL_PARTS=given, HEADRACE_MODELS_DIR=str(tmp_path))
    state = engine.wait(lambda state: state.state is Stage.FAILED)
    assert state.reason == reason
    assert words in state.message


async def test_an_adapter_changes_the_text_as_strongly_as_its_scale_says(
    engine, model_path: Path, tmp_path: Path, start_engine: Callable
) -> None:
    adapter = lora(tmp_path / "lora.gguf", SHAPES, size=0.2)

    def adapted(scale: str):
        return start_engine(
            model_path, HEADRACE_ADAPTERS=files([adapter], scale=scale), HEADRACE_MODELS_DIR=str(tmp_path)
        )

    plain = await said(engine)
    full, none = adapted("1"), adapted("0")
    assert await said(full) != plain
    assert await said(none) == plain
    state = full.state()
    assert state.engine is not None
    assert state.engine.adapters == 1


def test_an_adapter_of_another_model_is_refused(model_path: Path, tmp_path: Path, start_engine: Callable) -> None:
    adapter = lora(tmp_path / "lora.gguf", {QUERY.format(0): (576, 512)})
    engine = start_engine(model_path, HEADRACE_ADAPTERS=files([adapter]), HEADRACE_MODELS_DIR=str(tmp_path))
    state = engine.wait(lambda state: state.state is Stage.FAILED)
    assert state.reason == "InvalidModelFile"
    assert "'lora.gguf' cannot be loaded" in state.message
    assert "is for [576, 512], the model's is [576, 576]" in state.message


async def test_a_quantized_context_takes_less_memory_and_serves(model_path: Path, start_engine: Callable) -> None:
    kinds = {"HEADRACE_KV_TYPE_K": "Q8_0", "HEADRACE_KV_TYPE_V": "Q8_0", "HEADRACE_CONTEXT_TOKENS": "4096"}
    small = start_engine(model_path, HEADRACE_FLASH_ATTENTION="Enabled", HEADRACE_MEMORY_MAP="false", **kinds)
    large = start_engine(model_path, HEADRACE_CONTEXT_TOKENS="4096", HEADRACE_MEMORY_MAP="false")
    assert await said(small)
    taken = [started.wait_serving().engine for started in (small, large)]
    assert taken[0] is not None
    assert taken[1] is not None
    # 8,192 tokens of 23,040 bytes in F16, of which Q8_0 takes 34 in 64.
    saved = 8192 * 23040 * 30 // 64
    assert abs(taken[1].memory_bytes - taken[0].memory_bytes - saved) < 0.1 * saved
    assert abs(taken[0].planned_bytes / taken[0].memory_bytes - 1) < 0.1
