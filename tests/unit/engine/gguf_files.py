"""Writes small GGUF files for tests, well-formed unless told otherwise."""

import struct
from dataclasses import dataclass, field
from typing import Any

STRING, ARRAY, U32, F32 = 8, 9, 4, 6


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def string_array(values: list[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(text(value) for value in values)


@dataclass
class GgufFile:
    version: int = 3
    alignment: int = 32
    values: dict[str, tuple[int, bytes]] = field(
        default_factory=lambda: {
            "general.architecture": (STRING, text("llama")),
            "llama.block_count": (U32, struct.pack("<I", 2)),
            "llama.context_length": (U32, struct.pack("<I", 128)),
            "general.file_type": (U32, struct.pack("<I", 15)),
            "tokenizer.chat_template": (STRING, text("{{ messages }}")),
            "tokenizer.ggml.tokens": (ARRAY, string_array(["a", "b"])),
            "tokenizer.ggml.token_type": (ARRAY, struct.pack("<IQ2i", 5, 2, 1, 1)),
        }
    )
    # name, shape, type, offset
    tensors: list[tuple[str, list[int], int, int]] = field(default_factory=lambda: [("output", [32, 4], 0, 0)])
    key_count: int | None = None
    tensor_count: int | None = None
    data_bytes: int = 512

    def with_value(self, key: str, kind: int, raw: bytes) -> "GgufFile":
        self.values[key] = (kind, raw)
        return self

    def build(self, **changes: Any) -> bytes:
        for name, value in changes.items():
            setattr(self, name, value)
        key_count = len(self.values) if self.key_count is None else self.key_count
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        raw = b"GGUF" + struct.pack("<IQQ", self.version, tensor_count, key_count)
        raw += b"".join(pair(key, kind, value) for key, (kind, value) in self.values.items())
        for name, shape, kind, offset in self.tensors:
            raw += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
            raw += struct.pack("<IQ", kind, offset)
        return raw + b"\0" * (-len(raw) % self.alignment) + b"\0" * self.data_bytes
