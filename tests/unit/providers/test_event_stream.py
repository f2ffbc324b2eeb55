"""Streams: the same events however the bytes are cut, and an end to what has none."""

import itertools
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace_runner.providers.event_stream import MAX_EVENT_CHARS, json_lines, lines, server_sent_data

Reader = Callable[[AsyncIterator[bytes]], AsyncIterator[str]]


async def cut(data: bytes, places: list[int]) -> AsyncIterator[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    for begin, end in itertools.pairwise(bounds):
        yield data[begin:end]


async def read(reader: Reader, data: bytes, places: list[int] | None = None) -> list[str]:
    return [each async for each in reader(cut(data, places or []))]


PLACES = st.lists(st.integers(0, 1 << 16), max_size=6)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")), max_size=5), ENDS, PLACES)
@example(["ä", "b"], "\r\n", [1, 3])
async def test_lines_do_not_depend_on_how_the_bytes_are_cut(texts: list[str], end: str, places: list[int]) -> None:
    # A byte order mark at the very beginning is none of the text.
    data = b"\xef\xbb\xbf" + "".join(text + end for text in texts).encode()
    assert await read(lines, data, places) == texts


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_lines_come_byte_by_byte(end: str) -> None:
    data = "".join(text + end for text in ("é", "", "b")).encode()
    assert await read(lines, data, list(range(len(data)))) == ["é", "", "b"]


@given(PLACES, ENDS)
async def test_events_have_data_of_several_lines_comments_and_other_fields(places: list[int], end: str) -> None:
    source = [
        "event: x",
        "data: {",
        "data:  1}",
        ":comment",
        "id: 5",
        "",
        "",
        ": nothing",
        "",
        "data",
        "",
        "data:[DONE]",
    ]
    assert await read(server_sent_data, end.join(source).encode(), places) == ["{\n 1}", "", "[DONE]"]


async def test_json_lines_pass_over_empty_ones_and_separators() -> None:
    assert await read(json_lines, b'{"a":1}\n\n\x1e{"b":2}\r\n {"c":3}') == ['{"a":1}', '{"b":2}', '{"c":3}']


@pytest.mark.parametrize("reader", [server_sent_data, json_lines])
@pytest.mark.parametrize("data", [b"data: \xff\n\n", b"data: caf\xc3"], ids=["wrong", "cut"])
async def test_bytes_that_are_no_utf8_end_the_stream(reader: Reader, data: bytes) -> None:
    with pytest.raises(ValueError):
        await read(reader, data)


@pytest.mark.parametrize("reader", [server_sent_data, json_lines])
async def test_a_line_without_an_end_is_refused_before_it_fills_the_memory(reader: Reader) -> None:
    given_bytes = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal given_bytes
        while True:
            given_bytes += 65536
            yield b"x" * 65536

    with pytest.raises(ValueError, match="more than"):
        await anext(reader(endless()))
    assert given_bytes <= MAX_EVENT_CHARS + 65536


async def test_an_event_of_many_lines_is_bounded_as_well() -> None:
    with pytest.raises(ValueError, match="more than"):
        await read(server_sent_data, (b"data: " + b"x" * 65536 + b"\n") * 20)
