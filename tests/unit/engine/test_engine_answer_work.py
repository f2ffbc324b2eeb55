"""What a tenant makes a model write costs the decoding thread work by its length, counted in characters."""

import contextlib
from collections.abc import Callable
from typing import SupportsIndex

import pytest

from headrace_runner.engine.answer_parts import MAX_BODY_CHARS, MAX_FAILED_CHARS, MarkedSplitter
from headrace_runner.engine.call_bodies import RawCall, deepseek, tool_call_tag
from headrace_runner.engine.dialects import DEEPSEEK, HERMES, LLAMA, MISTRAL, CallMarks, Dialect
from headrace_runner.engine.harmony import HarmonySplitter

NAMES = ("level",)
CALL = '<tool_call>{"name": "level"}</tool_call>'


class Counted(str):
    """A text that counts the characters that are looked at, also in what is taken from it."""

    looked = 0

    def find(self, mark: str, start: int = 0) -> int:  # type: ignore[override]
        at = super().find(mark, start)
        Counted.looked += (len(self) if at < 0 else at + len(mark)) - start
        return at

    def partition(self, mark: str) -> "tuple[Counted, Counted, Counted]":
        before, found, after = super().partition(mark)
        Counted.looked += len(before) + len(found)
        return Counted(before), Counted(found), Counted(after)

    def strip(self, chars: str | None = None) -> "Counted":
        return Counted(super().strip(chars))

    def removeprefix(self, prefix: str, /) -> "Counted":
        return Counted(super().removeprefix(prefix))

    def __getitem__(self, key: SupportsIndex | slice) -> "Counted":
        return Counted(super().__getitem__(key))


HOSTILE: dict[str, tuple[Callable[[str], list[RawCall]], Callable[[int], str]]] = {
    "a fence never closed": (
        deepseek,
        lambda n: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>level\n```json" + "\n" * n + "<｜tool▁call▁end｜>",
    ),
    "a fence of white space": (
        deepseek,
        lambda n: "<｜tool▁call▁begin｜>f<｜tool▁sep｜>level\n```json" + "\n" * n + "x```<｜tool▁call▁end｜>",
    ),
    "calls never closed": (deepseek, lambda n: "<｜tool▁call▁begin｜>" * n),
    "parameters never closed": (tool_call_tag, lambda n: "<function=f>" + "<parameter=a>" * n + "</function>"),
    "parameters closed": (tool_call_tag, lambda n: "<function=f>" + "<parameter=>1</parameter>" * n + "</function>"),
    "parameters without a name": (
        tool_call_tag,
        lambda n: "<function=f>" + "<parameter=</parameter>" * n + "</function>",
    ),
}


def looked_at(read: Callable[[str], list[RawCall]], text: str) -> int:
    Counted.looked = 0
    with contextlib.suppress(ValueError):
        read(Counted(text))
    return Counted.looked


@pytest.mark.parametrize(("read", "hostile"), HOSTILE.values(), ids=HOSTILE)
def test_a_reader_looks_a_fixed_number_of_times_at_each_character(
    read: Callable[[str], list[RawCall]], hostile: Callable[[int], str]
) -> None:
    once, twice = looked_at(read, hostile(200)), looked_at(read, hostile(400))
    # Less would mean that something reads past the counter.
    assert once >= len(hostile(200)) // 2
    assert twice <= 2.1 * once
    assert twice <= 8 * len(hostile(400))


def test_a_closed_parameter_and_a_fence_are_read_as_before() -> None:
    (call,) = tool_call_tag(
        "<function=level>\n<parameter=a>\n\nx \n</parameter><parameter=b>[1]</parameter></function>"
    )
    assert call == RawCall("level", '{"a": "\\nx ", "b": [1]}')
    (call,) = deepseek("<｜tool▁call▁begin｜>function<｜tool▁sep｜>level\n```\n{}\n```\n<｜tool▁call▁end｜>")
    assert call == RawCall("level", "{}")


class Reading:
    """A dialect whose reader counts what it is given."""

    def __init__(self, marks: CallMarks) -> None:
        self.tries = self.chars = 0
        self._read = marks.read
        self.dialect = Dialect("counted", (CallMarks(marks.opens, marks.closes, self.read),))

    def read(self, body: str) -> list[RawCall]:
        self.tries += 1
        self.chars += len(body)
        return self._read(body)


def said(splitter: MarkedSplitter | HarmonySplitter, text: str, size: int = 4096) -> tuple[str, int]:
    parts = [splitter.push(text[at : at + size]) for at in range(0, len(text), size)]
    parts.append(splitter.end())
    return "".join(part.text for part in parts), sum(len(part.calls) for part in parts)


def test_a_section_is_tried_a_few_times() -> None:
    reading = Reading(HERMES[0])
    text = "<tool_call>{" + "</tool_call>" * 1_000
    assert said(MarkedSplitter(reading.dialect, NAMES), text) == (text, 0)
    assert 1 <= reading.tries <= 4


@pytest.mark.parametrize("tail", ["", "</tool_call>" * 4])
def test_sections_in_sections_are_bounded_together(tail: str) -> None:
    looked = []
    for sections in (4_000, 8_000, 16_000):
        reading = Reading(HERMES[0])
        text = ("<tool_call><function=f>" * 30 + "</function>" + tail) * (sections // 30)
        assert said(MarkedSplitter(reading.dialect, NAMES), text) == (text, 0)
        assert reading.chars <= MAX_FAILED_CHARS + 2 * MAX_BODY_CHARS
        looked.append(reading.chars)
    assert looked[0] > 0


@pytest.mark.parametrize("marks", [HERMES[0], DEEPSEEK[0], MISTRAL[0], LLAMA[0]], ids=lambda marks: marks.opens)
@pytest.mark.parametrize("size", [7, 1 << 20])
def test_a_section_beyond_its_bound_is_text_and_the_next_one_is_read(marks: CallMarks, size: int) -> None:
    reading = Reading(marks)
    long = marks.opens + '{"name": "level", "arguments": {"a": "' + "x" * MAX_BODY_CHARS + '"}}' + marks.closes
    assert said(MarkedSplitter(reading.dialect, NAMES), long, size) == (long, 0)
    assert reading.tries == 0


def test_a_call_behind_a_section_beyond_its_bound_is_a_call() -> None:
    long = "<tool_call>" + "x" * 2 * MAX_BODY_CHARS + "</tool_call>"
    assert said(MarkedSplitter(Dialect("h", HERMES), NAMES), long + CALL) == (long, 1)


def test_arguments_of_a_channel_are_bounded() -> None:
    arguments = '{"a": "' + "x" * MAX_BODY_CHARS + '"}'
    text = f"<|channel|>commentary to=functions.level<|message|>{arguments}<|call|>"
    assert said(HarmonySplitter(NAMES), text) == (arguments, 0)


@pytest.mark.parametrize("size", [1, 100_000])
def test_white_space_without_end_holds_nothing_back_for_ever(size: int) -> None:
    space = "\n" * 3_000
    think = MarkedSplitter(Dialect("h", HERMES, ("<think>", "</think>")), NAMES)
    assert said(think, f"{space}<think>a", size) == (f"{space}<think>a", 0)
    bare = MarkedSplitter(Dialect("l", LLAMA, bare_json=True), NAMES)
    assert said(bare, f'{space}{{"name": "level"}}', size) == (f'{space}{{"name": "level"}}', 0)
