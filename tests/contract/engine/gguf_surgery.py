"""Cuts a real GGUF into parts, and makes a LoRA for one: what `gguf-split` and the converters of llama.cpp do."""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY, U16, U32, I32, F32, BOOL = 8, 9, 2, 4, 5, 6, 7
ALIGNMENT = 32


class RawTensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    kind: int
    data: bytes


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def padded(raw: bytes) -> bytes:
    return raw + b"\0" * (-len(raw) % ALIGNMENT)


def write(path: Path, values: list[bytes], tensors: list[RawTensor], count: int | None = None) -> Path:
    """A GGUF; ``values`` may be several in one, then ``count`` says how many there are."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values) if count is None else count) + b"".join(values)
    offset, data = 0, []
    for tensor in tensors:
        head += text(tensor.name) + struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += struct.pack("<IQ", tensor.kind, offset)
        data.append(padded(tensor.data))
        offset += len(data[-1])
    path.write_bytes(padded(head) + b"".join(data))
    return path


def floats(name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> RawTensor:
    """A tensor in F32; numpy's last axis is GGUF's first."""
    return RawTensor(name, array.shape[::-1], 0, array.astype("<f4").tobytes())


def read(path: Path) -> tuple[bytes, int, list[RawTensor]]:
    """The metadata as it stands in the file, how many values it has, and the tensors."""
    data = path.read_bytes()
    tensor_count, key_count = struct.unpack_from("<QQ", data, 8)
    at = 24

    def number(form: str) -> int:
        nonlocal at
        (found,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return int(found)

    def skip(kind: int) -> None:
        nonlocal at
        if kind == STRING:
            length = number("Q")
            at += length
        elif kind == ARRAY:
            inner, count = number("I"), number("Q")
            if inner == STRING:
                for _ in range(count):
                    skip(STRING)
            else:
                at += SIZES[inner] * count
        else:
            at += SIZES[kind]

    for _ in range(key_count):
        skip(STRING)
        skip(number("I"))
    values = data[24:at]
    places = []
    for _ in range(tensor_count):
        length = number("Q")
        name = data[at : at + length].decode()
        at += length
        shape = tuple(number("Q") for _ in range(number("I")))
        places.append((name, shape, number("I"), number("Q")))
    begin = -(-at // ALIGNMENT) * ALIGNMENT
    ends = [offset for _, _, _, offset in places[1:]] + [len(data) - begin]
    return (
        values,
        key_count,
        [
            RawTensor(name, shape, kind, data[begin + offset : begin + end])
            for (name, shape, kind, offset), end in zip(places, ends, strict=True)
        ],
    )


def split(model: Path, folder: Path, parts: int = 3) -> list[Path]:
    """The model in so many files, metadata in the first alone."""
    values, key_count, tensors = read(model)
    share = -(-len(tensors) // parts)
    paths = []
    for number in range(parts):
        own = [
            value("split.no", U16, struct.pack("<H", number)),
            value("split.count", U16, struct.pack("<H", parts)),
            value("split.tensors.count", I32, struct.pack("<i", len(tensors))),
        ]
        # What follows the last tensor of a part is padding: the file has none beyond.
        path = folder / f"part-{number + 1:05}-of-{parts:05}.gguf"
        first = number == 0
        held = tensors[number * share : (number + 1) * share]
        paths.append(write(path, ([values] if first else []) + own, held, 3 + (key_count if first else 0)))
    return paths


def lora(path: Path, shapes: dict[str, tuple[int, int]], *, rank: int = 2, seed: int = 0, size: float = 0.05) -> Path:
    """A LoRA of random numbers on the tensors of ``shapes`` (row length, rows)."""
    random = np.random.default_rng(seed)
    tensors = []
    for name, (columns, rows) in shapes.items():
        tensors.append(floats(f"{name}.lora_a", random.normal(0, size, (rank, columns)).astype(np.float32)))
        tensors.append(floats(f"{name}.lora_b", random.normal(0, size, (rows, rank)).astype(np.float32)))
    values = [
        value("general.architecture", STRING, text("llama")),
        value("general.type", STRING, text("adapter")),
        value("adapter.type", STRING, text("lora")),
        value("adapter.lora.alpha", F32, struct.pack("<f", float(rank))),
    ]
    return write(path, values, tensors)
