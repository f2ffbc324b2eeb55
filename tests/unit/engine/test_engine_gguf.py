"""The GGUF pre-check: a good header is understood, every other byte string is refused in bounded time."""

import contextlib
import struct
import time

import pytest
from gguf_files import ARRAY, STRING, U32, GgufFile, pair, string_array, text
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_runner.engine.gguf import MAX_TEMPLATE_BYTES, InvalidModelFile, read_gguf
from headrace_runner.engine.header import ModelHeader, model_header

U64_MAX = 2**64 - 1


def read_header(raw: bytes) -> ModelHeader:
    return model_header([read_gguf(raw)])


def test_a_good_header_is_understood() -> None:
    header = read_header(GgufFile().build())
    assert (header.architecture, header.quantization, header.block_count) == ("llama", "Q4_K_M", 2)
    assert (header.context_length, header.chat_template) == (128, "{{ messages }}")
    assert (header.vocabulary, header.weights_bytes, header.causal, header.pooling) == (2, 512, True, None)


def numbers(values: list[int]) -> bytes:
    return struct.pack(f"<IQ{len(values)}i", 5, len(values), *values)


def nested_arrays(depth: int) -> bytes:
    """An array of an array of …: a reader that follows recurses."""
    return struct.pack("<IQ", ARRAY, 1) * depth + struct.pack("<IQI", U32, 1, 7)


def u32(value: int) -> tuple[int, bytes]:
    return U32, struct.pack("<I", value)


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "beyond the file"),
        (b"GGML" + b"\0" * 100, "magic"),
        (GgufFile().build(version=1), "version 1"),
        (GgufFile().build(version=3 << 24), "big-endian"),
        (GgufFile().build(tensor_count=U64_MAX), "tensors"),
        (GgufFile().build(key_count=U64_MAX), "metadata keys"),
        (GgufFile().build(key_count=0), "metadata keys"),
        (GgufFile().with_value("x", STRING, struct.pack("<Q", U64_MAX)).build(), "claims 18446744073709551615 bytes"),
        (GgufFile().with_value("x", 77, b"").build(), "unknown type 77"),
        (GgufFile().with_value("x", ARRAY, struct.pack("<IQ", ARRAY, 3)).build(), "unsupported type 9"),
        (GgufFile().with_value("x", ARRAY, struct.pack("<IQ", U32, 2**62)).build(), "beyond the file"),
        (GgufFile().with_value("x", ARRAY, struct.pack("<IQ", STRING, 2**40)).build(), "claims 1099511627776 strings"),
        (GgufFile().with_value("x", ARRAY, struct.pack("<IQQ", STRING, 1, U64_MAX)).build(), "beyond the file"),
        (GgufFile().with_value("llama.block_count", *u32(513)).build(), "block_count is 513"),
        (GgufFile().with_value("llama.block_count", STRING, text("2")).build(), "unsigned 32-bit"),
        (GgufFile().with_value("general.architecture", *u32(1)).build(), "architecture is missing"),
        (GgufFile().with_value("general.architecture", STRING, text(b"\xff")).build(), "not UTF-8"),
        (
            GgufFile().with_value("tokenizer.chat_template", STRING, text("x" * (MAX_TEMPLATE_BYTES + 1))).build(),
            "at most 262144",
        ),
        (GgufFile().with_value("tokenizer.ggml.tokens", ARRAY, string_array(["a"])).build(), "2 entries for 1 tokens"),
        (GgufFile().with_value("split.count", *u32(2)).build(), "split.count is not an unsigned 16-bit"),
        (GgufFile().with_value("split.count", 2, b"\x02\x00").build(), "split into 2 files, 1 file is given"),
        (GgufFile().with_value("general.alignment", *u32(24)).build(), "alignment is 24"),
        (GgufFile().with_value("general.alignment", *u32(0)).build(), "alignment is 0"),
        (GgufFile().build(tensors=[("t", [], 0, 0)]), "0 dimensions"),
        (GgufFile().build(tensors=[("t", [1] * 5, 0, 0)]), "5 dimensions"),
        (GgufFile().build(tensors=[("t", [2**32, 2**32], 0, 0)]), "impossible shape"),
        (GgufFile().build(tensors=[("t", [32, 0], 0, 0)]), "impossible shape"),
        (GgufFile().build(tensors=[("t", [32], 4, 0)]), "unknown type 4"),
        (GgufFile().build(tensors=[("t", [33], 2, 0)]), "whole blocks of 32"),
        (GgufFile().build(tensors=[("t", [32], 0, 7)]), "aligned"),
        (GgufFile().build(tensors=[("t", [32], 0, 2**63)]), "begins at 9223372036854775808 instead of 0"),
        (GgufFile().build(tensors=[("a", [128], 0, 0), ("b", [128], 0, 256)]), "overlaps the one before it"),
        (GgufFile().build(tensors=[("a", [128], 0, 0), ("b", [128], 0, 0)]), "overlaps the one before it"),
        (GgufFile().build(tensors=[("a", [32], 0, 0), ("b", [64], 0, 256)]), "leaves a gap before it"),
        (GgufFile().build(tensors=[("t", [2**47], 0, 0)]), "beyond the file"),
        (GgufFile().build(tensors=[("t", [2**24, 2**24], 0, 0)]), "impossible shape"),
        (GgufFile().build(tensors=[("t", [2**63 + 32], 0, 0)]), "impossible shape"),
        (GgufFile().build(tensors=[]), "512 bytes follow"),
        (GgufFile().build(tensors=[], data_bytes=0), "no tensors"),
        (GgufFile().build(tensor_count=2**63), "9223372036854775808 tensors"),
        (GgufFile().build(data_bytes=513), "1 bytes follow the last tensor"),
        (GgufFile().with_value("x", 7, b"\x02").build(), "neither true nor false"),
        (GgufFile().with_value("x", ARRAY, nested_arrays(1000)).build(), "unsupported type 9"),
        (GgufFile().with_value("llama.attention.head_count_kv", ARRAY, numbers([4])).build(), "each of 2 layers"),
        (GgufFile().with_value("llama.attention.head_count_kv", ARRAY, numbers([4, -4])).build(), "each of 2 layers"),
        (GgufFile().with_value("llama.attention.head_count", STRING, text("9")).build(), "unsigned 32-bit"),
        (GgufFile().with_value("llama.expert_used_count", *u32(3)).build(), "3 experts are used of 0"),
        (GgufFile().with_value("general.type", STRING, text("adapter")).build(), "holds 'adapter'"),
        (GgufFile().build(tensors=[("t", [32], 0, 0)] * 2), "appears twice"),
        (GgufFile().build(tensors=[("t" * 64, [32], 0, 0)]), "at most 63"),
        (GgufFile().build(tensors=[("", [32], 0, 0)]), "empty"),
        (GgufFile().build(data_bytes=511), "truncated"),
    ],
)
def test_a_broken_header_is_refused_with_its_cause(raw: bytes, cause: str) -> None:
    with pytest.raises(InvalidModelFile, match=cause):
        read_header(raw)


def test_a_key_that_appears_twice_is_refused() -> None:
    file = GgufFile().build()
    twice = pair("llama.block_count", *u32(1))
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(GgufFile().values) + 1)
    with pytest.raises(InvalidModelFile, match="appears twice"):
        read_header(head + twice + file[24:])


@given(st.binary(max_size=300))
def test_any_bytes_after_the_magic_are_refused(tail: bytes) -> None:
    with pytest.raises(InvalidModelFile):
        read_header(b"GGUF" + tail)


@given(st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
@settings(max_examples=400, derandomize=True, deadline=None)
def test_a_file_with_overwritten_bytes_is_understood_or_refused(patches: list[tuple[int, bytes]]) -> None:
    raw = bytearray(GgufFile().build())
    for at, patch in patches:
        at %= len(raw)
        raw[at : at + len(patch)] = patch[: len(raw) - at]
    with contextlib.suppress(InvalidModelFile):
        read_header(bytes(raw))


@given(st.integers(0, 1200))
def test_a_cut_file_is_refused(length: int) -> None:
    raw = GgufFile().build()
    with pytest.raises(InvalidModelFile):
        read_header(raw[: min(length, len(raw) - 1)])


@given(st.sampled_from([0, 4, 8, 16, 24, 32, 40, 52, 60, 80]), st.sampled_from([2**31, 2**32 - 1, 2**63, U64_MAX, 0]))
def test_extreme_numbers_anywhere_in_the_header_are_understood_or_refused(at: int, number: int) -> None:
    raw = GgufFile().build()
    with contextlib.suppress(InvalidModelFile):
        read_header(raw[:at] + struct.pack("<Q", number) + raw[at + 8 :])


def test_the_largest_claims_are_judged_in_bounded_time() -> None:
    # Eight million empty strings: the most that is walked.
    raw = GgufFile().with_value("x", ARRAY, struct.pack("<IQ", STRING, 7_999_990) + bytes(8 * 7_999_990)).build()
    began = time.process_time()
    read_header(raw)
    assert time.process_time() - began < 20
