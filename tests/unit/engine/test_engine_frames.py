"""Frames: whatever bytes arrive, the answer is an object, an orderly end, or a ProtocolError."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.frames import (
    MAX_FRAME_BYTES,
    FrameTooLarge,
    ProtocolError,
    decode_body,
    encode_frame,
    read_frame,
)


def feed(raw: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    return reader


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers() | st.booleans() | st.none()))
def test_a_frame_survives_the_way(body: dict[str, object]) -> None:
    async def travel() -> dict[str, object] | None:
        return await read_frame(feed(encode_frame(body)))

    assert asyncio.run(travel()) == body


@given(st.binary(max_size=200))
def test_any_bytes_end_orderly_or_as_protocol_error(raw: bytes) -> None:
    async def read_all() -> None:
        reader = feed(raw)
        while await read_frame(reader) is not None:
            pass

    try:
        asyncio.run(read_all())
    except ProtocolError:
        return
    assert raw == b"" or raw[:4] <= struct.pack(">I", len(raw))


async def test_an_announced_gibibyte_is_refused_before_a_byte_of_it_is_read() -> None:
    reader = feed(struct.pack(">I", 1 << 30) + b"x")
    with pytest.raises(FrameTooLarge, match="1073741824 bytes exceeds the limit"):
        await read_frame(reader)
    assert await reader.read() == b"x"


def test_a_frame_too_large_to_be_read_is_not_sent() -> None:
    encode_frame({"text": "x" * (MAX_FRAME_BYTES - 20)})
    with pytest.raises(FrameTooLarge):
        encode_frame({"text": "x" * MAX_FRAME_BYTES})


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"null", b'{"a": NaN}', b'{"a": Infinity}', b"\xff", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 5000],
    ids=lambda raw: repr(raw[:12]),
)
def test_what_is_not_a_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_body(raw)
