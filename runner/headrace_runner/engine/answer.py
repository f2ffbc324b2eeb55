"""An answer in parts while its tokens come: what ``text.CompletionText`` is for plain text.

Stop strings end the answer's own text; reasoning and calls may contain them.
"""

import codecs
import secrets
import string
from collections.abc import Sequence
from typing import Final

from headrace_runner.engine.answer_parts import ForcedSplitter, MarkedSplitter, Parts, Splitter
from headrace_runner.engine.call_bodies import RawCall
from headrace_runner.engine.dialects import Reading
from headrace_runner.engine.harmony import HarmonySplitter
from headrace_runner.engine.text import CompletionText
from headrace_runner.engine.tools import ToolCall

_ID_CHARS: Final = 9
_LETTERS: Final = string.ascii_letters + string.digits


class Answer(CompletionText):
    """The text of one completion without its reasoning and its calls, which stand beside it."""

    reads_marks = True

    def __init__(self, reading: Reading, stops: Sequence[str] = ()) -> None:
        super().__init__(stops)
        self._splitter = _splitter(reading)
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._told_thoughts = 0
        self._told_calls = 0
        self._ended = False

    @property
    def reasoning(self) -> str:
        """What the model thought before its answer."""
        return "".join(self._thoughts)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that are whole."""
        return tuple(self._calls)

    def push(self, piece: bytes) -> bool:
        """Add one token's bytes; True where a stop string is complete in the answer's text."""
        self._ended = self._add(self._splitter.push(self._bytes.decode(piece)))
        return self._ended

    def end(self) -> None:
        """Nothing follows: what was held back is told apart."""
        if not self._ended:
            self._ended = self._add(self._splitter.end())
        super().end()

    def take_parts(self) -> tuple[str, tuple[ToolCall, ...]]:
        """Give the reasoning and the calls that were settled since the last call."""
        thoughts, calls = "".join(self._thoughts[self._told_thoughts :]), tuple(self._calls[self._told_calls :])
        self._told_thoughts, self._told_calls = len(self._thoughts), len(self._calls)
        return thoughts, calls

    def _add(self, parts: Parts) -> bool:
        if parts.reasoning:
            self._thoughts.append(parts.reasoning)
        self._calls += [_identified(call) for call in parts.calls]
        return bool(parts.text) and super().push(parts.text.encode())


def _splitter(reading: Reading) -> Splitter:
    if reading.forced:
        return ForcedSplitter(reading.names)
    if reading.dialect.harmony:
        return HarmonySplitter(reading.names)
    return MarkedSplitter(reading.dialect, reading.names, thinking=reading.thinking)


def _identified(call: RawCall) -> ToolCall:
    """Nine letters and digits, because Mistral's templates take no other id back."""
    return ToolCall("".join(secrets.choice(_LETTERS) for _ in range(_ID_CHARS)), call.name, call.arguments)
