"""A bounded look at a GGUF header before llama.cpp reads it: the container's format, not what it means.

A GGUF is hostile input: llama.cpp's reader and loaders have had integer overflows and out-of-bounds writes (e.g.
CVE-2026-27940). This reader is pure Python, allocates nothing in proportion to what the file *claims*, and refuses
counts, lengths, offsets and types that llama.cpp would have to trust. It judges shape, not weights; ``header`` says
what the values mean.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MAX_KEYS: Final = 16_384
MAX_TENSORS: Final = 65_536
MAX_NAME_BYTES: Final = 256
MAX_TENSOR_NAME_BYTES: Final = 63  # GGML_MAX_NAME with its terminator
MAX_VALUE_BYTES: Final = 4 * 1024 * 1024
MAX_ELEMENTS: Final = 8_000_000  # of all string arrays together; the largest vocabularies have 0.3 million
MAX_TEMPLATE_BYTES: Final = 256 * 1024
MAX_NUMBERS: Final = 512  # LLAMA_MAX_LAYERS: an array with a number per layer is kept
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
_BOOL: Final = 7
_INTEGERS: Final = frozenset({0, 1, 2, 3, 4, 5, _BOOL, 10, 11})
_KEPT_STRINGS: Final = frozenset({"general.architecture", "general.type", "adapter.type", "tokenizer.chat_template"})
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


class InvalidModelFile(Exception):
    """The file is not a GGUF that this engine would hand to llama.cpp; the message is the cause."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's place: ``shape`` has the row's length first, ``offset`` is in bytes from the data's beginning."""

    name: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Gguf:
    """A well-formed file's header.

    ``kinds`` are the types of all values, as the format counts them. ``strings`` are the few that are kept, ``lengths``
    those of all arrays, ``numbers`` the content of short integer arrays. ``spans`` tell where each key with its
    value begins and ends in the file, in bytes.
    """

    kinds: Mapping[str, int]
    scalars: Mapping[str, Any]
    strings: Mapping[str, str]
    lengths: Mapping[str, int]
    numbers: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Tensor]
    version: int
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict, repr=False)


def read_gguf(data: bytes | mmap.mmap) -> Gguf:
    """Check a whole GGUF file given as a buffer. Raises InvalidModelFile with the first thing found wrong.

    Reads only the header (some MiB, mostly the vocabulary); of tensors it checks that each has its place in the file,
    right behind the one before it, and that nothing follows the last.
    """
    return _Reader(data).read()


class _Reader:
    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0
        self._elements_left = MAX_ELEMENTS
        self._kinds: dict[str, int] = {}
        self._scalars: dict[str, Any] = {}
        self._strings: dict[str, str] = {}
        self._lengths: dict[str, int] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}
        self._spans: dict[str, tuple[int, int]] = {}

    def read(self) -> Gguf:
        if self._take(4) != b"GGUF":
            raise InvalidModelFile("it does not start with the magic GGUF")
        version = self._number(_U32)
        if version not in (2, 3):
            hint = " (big-endian?)" if version >= 1 << 16 else ""
            raise InvalidModelFile(f"GGUF version {version}{hint} is not 2 or 3")
        tensor_count, key_count = self._number(_U64), self._number(_U64)
        if tensor_count > MAX_TENSORS:
            raise InvalidModelFile(f"{tensor_count} tensors, at most {MAX_TENSORS} are allowed")
        if not 0 < key_count <= MAX_KEYS:
            raise InvalidModelFile(f"{key_count} metadata keys, expected 1 to {MAX_KEYS}")
        self._read_values(key_count)
        tensors = self._read_tensors(tensor_count, self._alignment())
        return Gguf(
            self._kinds, self._scalars, self._strings, self._lengths, self._numbers, tensors, version, self._spans
        )

    def _read_values(self, key_count: int) -> None:
        for _ in range(key_count):
            begins = self._at
            key = self._name(MAX_NAME_BYTES)
            if key in self._kinds:
                raise InvalidModelFile(f"the metadata key {key!r} appears twice")
            self._kinds[key] = kind = self._number(_U32)
            self._read_value(key, kind)
            self._spans[key] = (begins, self._at)

    def _read_value(self, key: str, kind: int) -> None:
        if kind == _STRING:
            limit = MAX_TEMPLATE_BYTES if key.startswith("tokenizer.chat_template") else MAX_VALUE_BYTES
            if key in _KEPT_STRINGS:
                self._strings[key] = self._string(key, limit)
            else:
                # Not kept, so that a file of many large strings costs no memory.
                self._skip(key, self._length(key, limit))
        elif kind == _ARRAY:
            self._read_array(key)
        elif kind in _SCALARS:
            value = self._number(_SCALARS[kind])
            if kind == _BOOL and value > 1:
                raise InvalidModelFile(f"{key!r} is neither true nor false")
            self._scalars[key] = value
        else:
            raise InvalidModelFile(f"{key!r} has the unknown type {kind}")

    def _read_array(self, key: str) -> None:
        kind, count = self._number(_U32), self._number(_U64)
        self._lengths[key] = count
        if kind == _STRING:
            self._skip_strings(key, count)
        elif kind in _SCALARS:
            begin = self._at
            self._skip(key, count * _SCALARS[kind].size)
            if kind in _INTEGERS and count <= MAX_NUMBERS:
                self._numbers[key] = tuple(n for (n,) in _SCALARS[kind].iter_unpack(self._data[begin : self._at]))
        else:
            # Arrays of arrays among them: ggml knows none, and nesting is how a reader is made to recurse.
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

    def _alignment(self) -> int:
        kind = self._kinds.get("general.alignment", _UINT32)
        alignment = self._scalars.get("general.alignment", 32)
        if kind != _UINT32 or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            raise InvalidModelFile(
                f"general.alignment is {alignment}, expected a power of two from 8 to {MAX_ALIGNMENT}"
            )
        return int(alignment)

    def _read_tensors(self, count: int, alignment: int) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        expected = end = 0
        for _ in range(count):
            tensor = self._tensor()
            if tensor.name in tensors:
                raise InvalidModelFile(f"the tensor {tensor.name!r} appears twice")
            if tensor.offset % alignment:
                raise InvalidModelFile(f"the tensor {tensor.name!r} is not aligned to {alignment} bytes")
            if tensor.offset != expected:
                fault = "overlaps the one before it" if tensor.offset < expected else "leaves a gap before it"
                message = f"the tensor {tensor.name!r} begins at {tensor.offset} instead of {expected}: it {fault}"
                raise InvalidModelFile(message)
            tensors[tensor.name] = tensor
            end = tensor.offset + tensor.size_bytes
            expected = _padded(end, alignment)
        begin = _padded(self._at, alignment)
        if count and begin + end > self._size:
            missing = begin + end - self._size
            message = f"the tensor {tensor.name!r} ends {missing} bytes beyond the file; is it truncated?"
            raise InvalidModelFile(message)
        if self._size > begin + expected:
            raise InvalidModelFile(f"{self._size - begin - expected} bytes follow the last tensor")
        return tensors

    def _tensor(self) -> Tensor:
        name = self._name(MAX_TENSOR_NAME_BYTES)
        dimensions = self._number(_U32)
        if not 0 < dimensions <= 4:
            raise InvalidModelFile(f"the tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number(_U64) for _ in range(dimensions))
        kind, offset = self._number(_U32), self._number(_U64)
        if kind not in _TENSOR_TYPES:
            raise InvalidModelFile(f"the tensor {name!r} has the unknown type {kind}")
        block_elements, block_bytes = _TENSOR_TYPES[kind]
        elements = 1
        for length in shape:
            elements *= length
            if not 0 < elements < 1 << 48:
                raise InvalidModelFile(f"the tensor {name!r} has the impossible shape {list(shape)}")
        if shape[0] % block_elements:
            raise InvalidModelFile(f"the rows of tensor {name!r} are not whole blocks of {block_elements}")
        return Tensor(name, shape, offset, elements // block_elements * block_bytes)

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


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
