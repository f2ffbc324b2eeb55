"""Frames on the engine's socket: four bytes of length, big-endian, then one JSON object in UTF-8.

Either side may be hostile to the other (the engine parses other people's model files; the runner carries a token), so
both read through here: the announced length is checked before a byte of the body is read.
"""

import asyncio
import json
import struct
from typing import Any, Final, NoReturn

MAX_FRAME_BYTES: Final = 8 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")


class ProtocolError(Exception):
    """The peer sent something that is not the protocol; the connection cannot be used further."""


class FrameTooLarge(ProtocolError):
    """A frame beyond MAX_FRAME_BYTES, announced by the peer or about to be sent by us."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"a frame of {size_bytes} bytes exceeds the limit of {MAX_FRAME_BYTES} bytes")
        self.size_bytes = size_bytes


def encode_frame(body: dict[str, Any]) -> bytes:
    """Give length and body. Raises FrameTooLarge, and ValueError for NaN, infinity and lone surrogates."""
    raw = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")
    if len(raw) > MAX_FRAME_BYTES:
        raise FrameTooLarge(len(raw))
    return _LENGTH.pack(len(raw)) + raw


def decode_body(raw: bytes) -> dict[str, Any]:
    """Decode a frame's body. Raises ProtocolError for whatever is not one JSON object."""
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # ValueError covers UnicodeDecodeError, JSONDecodeError and integers with thousands of digits.
        raise ProtocolError(f"a frame is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ProtocolError("a frame is not a JSON object")
    return body


async def read_frame(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Read one frame; None at an orderly end. Raises ProtocolError, also for an end inside a frame."""
    try:
        head = await reader.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise ProtocolError("the connection ended inside a frame") from error
    (size_bytes,) = _LENGTH.unpack(head)
    if size_bytes > MAX_FRAME_BYTES:
        raise FrameTooLarge(size_bytes)
    try:
        raw = await reader.readexactly(size_bytes)
    except asyncio.IncompleteReadError as error:
        raise ProtocolError("the connection ended inside a frame") from error
    return decode_body(raw)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
