"""A bounded look at a GGUF header before llama.cpp reads it.

A GGUF is hostile input: llama.cpp's reader and loaders have had integer overflows and out-of-bounds writes (e.g.
CVE-2026-27940). This reader is pure Python, allocates nothing in proportion to what the file *claims*, and refuses
counts, lengths, offsets and types that llama.cpp would have to trust. It judges shape, not weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from dataclasses import dataclass
from typing import Any, Final

MAX_KEYS: Final = 16_384
MAX_TENSORS: Final = 65_536
MAX_NAME_BYTES: Final = 256
MAX_TENSOR_NAME_BYTES: Final = 63  # GGML_MAX_NAME with its terminator
MAX_VALUE_BYTES: Final = 4 * 1024 * 1024
MAX_ELEMENTS: Final = 8_000_000  # of all string arrays together; the largest vocabularies have 0.3 million
MAX_TEMPLATE_BYTES: Final = 256 * 1024
MAX_BLOCKS: Final = 512  # LLAMA_MAX_LAYERS
MAX_ALIGNMENT: Final = 1 << 20

_STRING, _ARRAY = 8, 9
_SCALARS: Final[dict[int, struct.Struct]] = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B",
        1: "b",
        2: "H",
        3: "h",
        4: "I",
        5: "i",
        6: "f",
        7: "B",
        10: "Q",
        11: "q",
        12: "d",
    }.items()
}
_UINT32: Final = 4
_KEPT_STRINGS: Final = frozenset({"general.architecture", "tokenizer.chat_template"})
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

# ggml type → (elements in a block, bytes of a block), as ggml 0.25 has them. A type beyond is refused: the library
# built into this image could not read it either.
_TENSOR_TYPES: Final[dict[int, tuple[int, int]]] = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18)},
}

# llama.h's llama_ftype: what general.file_type counts through.
_FILE_TYPES: Final[dict[int, str]] = {
    **{0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S"},
    **{12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K"},
    **{19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL"},
    **{26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16"},
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0"},
}


class InvalidModelFile(Exception):
    """The file is not a GGUF that this engine would hand to llama.cpp; the message is the cause."""


@dataclass(frozen=True, slots=True)
class ModelHeader:
    """What the header says. ``context_length`` is what the model was trained for (0: not stated)."""

    architecture: str
    quantization: str
    block_count: int
    context_length: int
    chat_template: str | None


def read_header(data: bytes | mmap.mmap) -> ModelHeader:
    """Check a whole GGUF file given as a buffer. Raises InvalidModelFile with the first thing found wrong.

    Reads only the header (some MiB, mostly the vocabulary); tensor data is checked by offset and size.
    """
    return _Reader(data).header()


class _Reader:
    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0
        self._elements_left = MAX_ELEMENTS
        self._array_lengths: dict[str, int] = {}

    def header(self) -> ModelHeader:
        if self._take(4) != b"GGUF":
            raise InvalidModelFile("it does not start with the magic GGUF")
        version = self._number(_U32)
        if version not in (2, 3):
            hint = " (big-endian?)" if version >= 1 << 16 else ""
            raise InvalidModelFile(f"GGUF version {version}{hint} is not 2 or 3")
        tensor_count, key_count = self._number(_U64), self._number(_U64)
        if not 0 < tensor_count <= MAX_TENSORS:
            raise InvalidModelFile(f"{tensor_count} tensors, expected 1 to {MAX_TENSORS}")
        if not 0 < key_count <= MAX_KEYS:
            raise InvalidModelFile(f"{key_count} metadata keys, expected 1 to {MAX_KEYS}")
        values = self._values(key_count)
        header = self._describe(values)
        self._check_vocabulary()
        self._check_tensors(tensor_count, _alignment(values))
        return header

    def _values(self, key_count: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for _ in range(key_count):
            key = self._name(MAX_NAME_BYTES)
            if key in values:
                raise InvalidModelFile(f"the metadata key {key!r} appears twice")
            values[key] = self._value(key, self._number(_U32))
        return values

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            limit = MAX_TEMPLATE_BYTES if key.startswith("tokenizer.chat_template") else MAX_VALUE_BYTES
            if key in _KEPT_STRINGS:
                return self._string(key, limit)
            # Not kept, so that a file of many large strings costs no memory.
            self._skip(key, self._length(key, limit))
            return None
        if kind == _ARRAY:
            self._skip_array(key)
            return None
        if kind not in _SCALARS:
            raise InvalidModelFile(f"{key!r} has the unknown type {kind}")
        value = self._number(_SCALARS[kind])
        # The type matters to llama.cpp, so an integer of another width is not taken for one.
        return (kind, value)

    def _skip_array(self, key: str) -> None:
        kind, count = self._number(_U32), self._number(_U64)
        self._array_lengths[key] = count
        if kind in _SCALARS:
            self._skip(key, count * _SCALARS[kind].size)
        elif kind == _STRING:
            self._skip_strings(key, count)
        else:
            raise InvalidModelFile(f"{key!r} is an array of the unsupported type {kind}")

    def _skip_strings(self, key: str, count: int) -> None:
        if count > self._elements_left:
            raise InvalidModelFile(f"{key!r} claims {count} strings, over {MAX_ELEMENTS} in the file")
        self._elements_left -= count
        # The one hot loop: a vocabulary has some 100,000 entries, so it runs on local names.
        at, last, data, unpack = self._at, self._size - 8, self._data, _U64.unpack_from
        for _ in range(count):
            if at > last:
                raise InvalidModelFile(f"{key!r} ends beyond the file")
            at += 8 + unpack(data, at)[0]
        if at > self._size:
            raise InvalidModelFile(f"{key!r} ends beyond the file")
        self._at = at

    def _describe(self, values: dict[str, Any]) -> ModelHeader:
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not 0 < len(architecture) <= 64:
            raise InvalidModelFile("general.architecture is missing")
        block_count = _unsigned(values, f"{architecture}.block_count", 0)
        if not 0 < block_count <= MAX_BLOCKS:
            raise InvalidModelFile(f"{architecture}.block_count is {block_count}, expected 1 to {MAX_BLOCKS}")
        split = values.get("split.count")
        if split is not None and (not isinstance(split, tuple) or split[1] > 1):
            raise InvalidModelFile("it is one part of a split GGUF; give a single file")
        template = values.get("tokenizer.chat_template")
        if template is not None and not isinstance(template, str):
            raise InvalidModelFile("tokenizer.chat_template is not a string")
        file_type = _unsigned(values, "general.file_type", 1024)
        return ModelHeader(
            architecture=architecture,
            quantization=_FILE_TYPES.get(file_type, "Unknown"),
            block_count=block_count,
            context_length=_unsigned(values, f"{architecture}.context_length", 0),
            chat_template=template,
        )

    def _check_vocabulary(self) -> None:
        tokens = self._array_lengths.get("tokenizer.ggml.tokens")
        for beside in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            length = self._array_lengths.get(beside)
            # llama.cpp indexes both by token without looking at their lengths in every loader.
            if length is not None and length != tokens:
                raise InvalidModelFile(f"{beside} has {length} entries for {tokens} tokens")

    def _check_tensors(self, count: int, alignment: int) -> None:
        names: set[str] = set()
        ends = []
        for _ in range(count):
            name = self._name(MAX_TENSOR_NAME_BYTES)
            if name in names:
                raise InvalidModelFile(f"the tensor {name!r} appears twice")
            names.add(name)
            offset, size_bytes = self._tensor(name)
            if offset % alignment:
                raise InvalidModelFile(f"the tensor {name!r} is not aligned to {alignment} bytes")
            ends.append((offset + size_bytes, name))
        data_at = -(-self._at // alignment) * alignment
        end, name = max(ends)
        if data_at + end > self._size:
            missing = data_at + end - self._size
            raise InvalidModelFile(f"the tensor {name!r} ends {missing} bytes beyond the file; is it truncated?")

    def _tensor(self, name: str) -> tuple[int, int]:
        dimensions = self._number(_U32)
        if not 0 < dimensions <= 4:
            raise InvalidModelFile(f"the tensor {name!r} has {dimensions} dimensions")
        shape = [self._number(_U64) for _ in range(dimensions)]
        kind, offset = self._number(_U32), self._number(_U64)
        if kind not in _TENSOR_TYPES:
            raise InvalidModelFile(f"the tensor {name!r} has the unknown type {kind}")
        block_elements, block_bytes = _TENSOR_TYPES[kind]
        elements = 1
        for length in shape:
            elements *= length
            if not 0 < elements < 1 << 48:
                raise InvalidModelFile(f"the tensor {name!r} has the impossible shape {shape}")
        if shape[0] % block_elements:
            raise InvalidModelFile(f"the rows of tensor {name!r} are not whole blocks of {block_elements}")
        return offset, elements // block_elements * block_bytes

    def _name(self, limit: int) -> str:
        name = self._string("a name", limit)
        if not name or "\0" in name:
            raise InvalidModelFile("a name is empty or contains a zero byte")
        return name

    def _length(self, what: str, limit: int) -> int:
        length = int(self._number(_U64))
        if length > limit:
            raise InvalidModelFile(f"{what!r} claims {length} bytes, at most {limit} are allowed")
        return length

    def _string(self, what: str, limit: int) -> str:
        try:
            return self._take(self._length(what, limit)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidModelFile(f"{what!r} is not UTF-8") from error

    def _number(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _take(self, count: int) -> bytes:
        start = self._at
        self._skip("the header", count)
        return self._data[start : self._at]

    def _skip(self, what: str, count: int) -> None:
        if count > self._size - self._at:
            raise InvalidModelFile(f"{what!r} ends beyond the file")
        self._at += count


def _alignment(values: dict[str, Any]) -> int:
    alignment = _unsigned(values, "general.alignment", 32)
    if not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise InvalidModelFile(f"general.alignment is {alignment}, expected a power of two from 8 to {MAX_ALIGNMENT}")
    return alignment


def _unsigned(values: dict[str, Any], key: str, default: int) -> int:
    if key not in values:
        return default
    value = values[key]
    if not isinstance(value, tuple) or value[0] != _UINT32:
        raise InvalidModelFile(f"{key} is not an unsigned 32-bit integer")
    return int(value[1])
