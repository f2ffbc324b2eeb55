"""What GGUFs mean: parts of one model, adapters on it, and what of them cannot be."""

import contextlib
import struct
import time
import tracemalloc

import pytest
from gguf_files import ARRAY, F32, STRING, GgufFile, text
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_runner.engine.gguf import MAX_KEYS, MAX_TENSORS, Gguf, InvalidModelFile, read_gguf
from headrace_runner.engine.header import ModelHeader, adapter_header, model_header

U16, I32 = 2, 5


def part(number: int, count: int = 2, total: int = 2, **changes: object) -> Gguf:
    file = GgufFile() if number == 0 else GgufFile(values={})
    file.with_value("split.no", U16, struct.pack("<H", number)).with_value("split.count", U16, struct.pack("<H", count))
    file.with_value("split.tensors.count", I32, struct.pack("<i", total))
    file.tensors = [(f"blk.{number}.w", [32, 4], 0, 0)]
    return read_gguf(file.build(**changes))


def test_the_parts_of_a_split_are_one_model() -> None:
    header = model_header([part(0), part(1)])
    assert (header.block_count, sorted(header.tensors), header.weights_bytes) == (2, ["blk.0.w", "blk.1.w"], 1024)


def test_a_first_part_may_hold_no_tensor() -> None:
    assert model_header([part(0, total=1, tensors=[], data_bytes=0), part(1, total=1)]).weights_bytes == 512


@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        ([part(0)], "split into 2 files, 1 file is given"),
        ([part(0), part(1), part(2)], "split into 2 files, 3 files are given"),
        ([part(1), part(0)], "file 1 of 2 says that it is number 2"),
        ([part(0), part(0)], "file 2 of 2 says that it is number 1"),
        ([part(0), read_gguf(GgufFile().build())], "file 2 of 2 is not a part of the same split"),
        ([part(0, total=3), part(1)], "2 tensors together, the first says 3"),
        ([part(0, total=-1), part(1)], "the first says -1"),
        ([part(0), part(1, tensors=[("blk.0.w", [32, 4], 0, 0)])], "a tensor appears in two parts"),
        ([read_gguf(GgufFile().build())] * 2, "split into 0 files, 2 files are given"),
    ],
)
def test_what_is_no_whole_split_is_refused(parts: list[Gguf], cause: str) -> None:
    with pytest.raises(InvalidModelFile, match=cause):
        model_header(parts)


MODEL = GgufFile(tensors=[("blk.0.attn_q.weight", [32, 4], 0, 0), ("token_embd.weight", [32, 8], 0, 512)])


def model() -> ModelHeader:
    return model_header([read_gguf(MODEL.build(data_bytes=512 + 1024))])


def adapter(a: list[int], b: list[int], *, base: str = "blk.0.attn_q.weight", **values: tuple[int, bytes]) -> bytes:
    sizes = [4 * shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in (a, b)]
    padded = -(-sizes[0] // 32) * 32
    file = GgufFile(
        values={
            "general.architecture": (STRING, text("llama")),
            "general.type": (STRING, text("adapter")),
            "adapter.type": (STRING, text("lora")),
            "adapter.lora.alpha": (F32, struct.pack("<f", 8.0)),
            **{key.replace("__", "."): value for key, value in values.items()},
        },
        tensors=[(f"{base}.lora_a", a, 0, 0), (f"{base}.lora_b", b, 0, padded)],
    )
    return file.build(data_bytes=padded + -(-sizes[1] // 32) * 32)


def test_an_adapter_that_fits_is_understood() -> None:
    header = adapter_header(read_gguf(adapter([32, 2], [2, 4])), model())
    assert (header.rank, header.size_bytes) == (2, 4 * (64 + 8))
    assert adapter_header(read_gguf(adapter([2, 8], [2, 32], base="token_embd.weight")), model()).rank == 2


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (adapter([32, 2], [2, 5]), r"is for \[32, 5\], the model's is \[32, 4\]"),
        (adapter([32, 2], [3, 4]), "the ranks 2 and 3"),
        (adapter([32], [2, 4]), "no matrix"),
        (adapter([32, 2], [2, 4], base="blk.7.attn_q.weight"), "the model has no tensor 'blk.7.attn_q.weight'"),
        (adapter([32, 2], [2, 4], general__architecture=(STRING, text("qwen3"))), "'qwen3', the model's is 'llama'"),
        (adapter([32, 2], [2, 4], general__type=(STRING, text("model"))), "not a LoRA"),
        (adapter([32, 2], [2, 4], adapter__type=(STRING, text("control_vector"))), "not a LoRA"),
        (adapter([32, 2], [2, 4], adapter__lora__alpha=(STRING, text("8"))), "alpha is not a 32-bit float"),
        (adapter([32, 2], [2, 4]).replace(b"lora_", b"loha_"), "neither"),
        (adapter([32, 2], [2, 4]).replace(b"attn_q.weight.lora_b", b"attn_k.weight.lora_b"), "lacks its half .lora_b"),
        (GgufFile().build(), "not a LoRA"),
    ],
)
def test_what_is_no_adapter_of_the_model_is_refused(raw: bytes, cause: str) -> None:
    with pytest.raises(InvalidModelFile, match=cause):
        adapter_header(read_gguf(raw), model())


@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_an_adapter_with_overwritten_bytes_is_understood_or_refused(patches: list[tuple[int, bytes]]) -> None:
    raw = bytearray(adapter([32, 2], [2, 4]))
    for at, patch in patches:
        at %= len(raw)
        raw[at : at + len(patch)] = patch[: len(raw) - at]
    with contextlib.suppress(InvalidModelFile):
        assert adapter_header(read_gguf(bytes(raw)), model()).rank > 0


@pytest.mark.parametrize(
    "raw",
    [
        # The most metadata keys, the most tensors, the longest value that a file can have; long arrays.
        b"GGUF"
        + struct.pack("<IQQ", 3, 1, MAX_KEYS)
        + b"".join(text(f"key.{n}") + struct.pack("<IQ", STRING, 0) for n in range(MAX_KEYS)),
        b"GGUF"
        + struct.pack("<IQQ", 3, MAX_TENSORS, 1)
        + text("k")
        + struct.pack("<IB", 7, 1)
        + b"".join(text(f"tensor.{n}") + struct.pack("<IQIQ", 1, 8, 0, 32 * n) for n in range(MAX_TENSORS)),
        GgufFile().with_value("x", STRING, text(b"x" * 4 * 2**20)).build(),
        GgufFile().with_value("x", ARRAY, struct.pack("<IQ", 0, 64 * 2**20) + bytes(64 * 2**20)).build(),
        GgufFile().with_value("x", ARRAY, struct.pack("<IQ", STRING, 2**60) + bytes(8 * 2**20)).build(),
    ],
    ids=["keys", "tensors", "value", "numbers", "strings"],
)
def test_memory_and_time_are_bounded_by_what_is_kept_not_by_what_is_claimed(raw: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        with contextlib.suppress(InvalidModelFile):
            model_header([read_gguf(raw)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A tensor's name and place cost some 500 bytes; a file of 64 MiB costs no more.
    assert peak < 1024 * (MAX_TENSORS + 1024)
    assert time.process_time() - began < 60
