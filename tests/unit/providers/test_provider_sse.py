"""Events come out whole however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.providers import sse
from headrace_runner.providers.sse import EventReader, ServerEvent, StreamInvalid

TEXT = st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), min_size=1)


def read(*pieces: bytes) -> list[ServerEvent]:
    reader = EventReader()
    found = [event for piece in pieces for event in reader.push(piece)]
    return found + reader.end()


@given(st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=4), st.sampled_from(["\n", "\r\n", "\r"]), st.data())
def test_cuts_change_nothing(events: list[list[str]], end: str, data: st.DataObject) -> None:
    stream = "".join("".join(f"data: {line}{end}" for line in lines) + end for lines in events).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*pieces) == [ServerEvent("", "\n".join(lines)) for lines in events]


def test_a_line_end_may_be_cut_in_two() -> None:
    stream = "\ufeffdata: é\r\ndata: b\r\n\r\ndata: c\r\n\r\n".encode()
    for cut in range(len(stream) + 1):
        assert read(stream[:cut], stream[cut:]) == [ServerEvent("", "é\nb"), ServerEvent("", "c")], cut


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (": comment\n\ndata:x\n\n", [ServerEvent("", "x")]),
        ("event: error\ndata: {}\n\ndata: y\n\n", [ServerEvent("error", "{}"), ServerEvent("", "y")]),
        ("error: {}\n\n", [ServerEvent("error", "{}")]),
        ("data: last", [ServerEvent("", "last")]),
        ("event: nothing\n\n\n\n", []),
        ("data: a\u2028b\n\n", [ServerEvent("", "a\u2028b")]),
        ("data\n\n", [ServerEvent("", "")]),
    ],
)
def test_fields(stream: str, events: list[ServerEvent]) -> None:
    assert read(stream.encode()) == events


def test_what_is_not_utf8_or_has_no_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StreamInvalid, match="UTF-8"):
        read(b"data: \xff\n\n")
    with pytest.raises(StreamInvalid, match="UTF-8"):
        read(b"data: \xc3")
    monkeypatch.setattr(sse, "MAX_EVENT_CHARS", 10)
    assert len(read(b"data: 1\n\n" * 5)) == 5
    with pytest.raises(StreamInvalid, match="more than 10"):
        read(b"data: ", b"12345", b"6")
