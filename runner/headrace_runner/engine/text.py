"""Assembles a completion's text from token bytes: whole characters only, ended by stop strings."""

import codecs
from collections.abc import Sequence

from headrace_runner.engine.tools import ToolCall


class CompletionText:
    """The text of one completion.

    Tokens carry bytes: a character may span tokens, and a stop string may begin in one and end in another. Bytes of an
    unfinished character at the end never become text; bytes that can be no UTF-8 become U+FFFD.
    """

    reads_marks = False
    """Whether control tokens by which an answer is read are part of what is pushed."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._parts: list[str] = []
        self._taken = 0
        # The longest end that some stop string begins with; everything before it is in _parts.
        self._tail = ""

    def push(self, piece: bytes) -> bool:
        """Add one token's bytes; True where a stop string is complete. Nothing may be pushed after that."""
        added = self._decoder.decode(piece)
        if not added:
            return False
        if not self._stops:
            self._parts.append(added)
            return False
        tail = self._tail + added
        found = [at for stop in self._stops if (at := tail.find(stop)) >= 0]
        if found:
            self._parts.append(tail[: min(found)])
            self._tail = ""
            return True
        begun = max(_overlap(tail, stop) for stop in self._stops)
        self._parts.append(tail[: len(tail) - begun])
        self._tail = tail[len(tail) - begun :]
        return False

    @property
    def reasoning(self) -> str:
        """Plain text has none."""
        return ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Plain text has none."""
        return ()

    def take_parts(self) -> tuple[str, tuple[ToolCall, ...]]:
        """Give the reasoning and the calls that were settled since the last call."""
        return "", ()

    def take(self) -> str:
        """Give what was settled since the last call: whatever follows, it stays text."""
        if self._taken == len(self._parts):
            return ""
        added = "".join(self._parts[self._taken :])
        self._taken = len(self._parts)
        return added

    def end(self) -> None:
        """Nothing follows: an end that only looked like the beginning of a stop string is text after all."""
        self._parts.append(self._tail)
        self._tail = ""

    def settled(self) -> str:
        """Give the text without an end in which a stop string may have begun: whatever follows, the text begins so."""
        return "".join(self._parts)

    def __str__(self) -> str:
        return "".join(self._parts) + self._tail


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``stop``."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
