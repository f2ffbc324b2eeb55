"""The channels of gpt-oss (OpenAI's Harmony format), taken apart while the text grows.

An answer is a row of messages ``<|channel|>HEADER<|message|>CONTENT``, each ended by ``<|end|>``, ``<|call|>`` or
``<|return|>`` and begun by ``<|start|>assistant``. Channel analysis is reasoning; a header ``to=functions.NAME`` is a
call; commentary without one and final are the answer.
"""

import re
from collections.abc import Collection
from typing import Final

from headrace_runner.engine.answer_parts import MAX_BODY_CHARS, Parts, Trimmed, held
from headrace_runner.engine.call_bodies import RawCall
from headrace_runner.engine.dialects import HARMONY_MARKS
from headrace_runner.engine.json_members import members
from headrace_runner.engine.tools import MAX_CALLS

_RECIPIENT: Final = re.compile(r"to=functions\.([A-Za-z0-9_-]{1,64})")
_MARK: Final = re.compile("|".join(re.escape(mark) for mark in HARMONY_MARKS))
_MAX_HEADER_CHARS: Final = 1024


class HarmonySplitter:
    """Splits by channels; a call of a tool that is not among ``names`` stays text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._buffer = ""
        self._header = ""
        self._in_header = True
        self._marked = False
        self._arguments = ""
        self._thoughts = Trimmed()
        self._calls = 0

    def push(self, text: str) -> Parts:
        """Add what was generated; give what it settles."""
        self._buffer += text
        return self._settle(final=False)

    def end(self) -> Parts:
        """Nothing follows: give the rest."""
        return self._settle(final=True)

    def _settle(self, *, final: bool) -> Parts:
        texts: list[str] = []
        thoughts: list[str] = []
        calls: list[RawCall] = []
        while found := _MARK.search(self._buffer):
            self._take(self._buffer[: found.start()], texts, thoughts)
            self._buffer = self._buffer[found.end() :]
            self._mark(found[0], texts, calls)
        keep = 0 if final else held(self._buffer, HARMONY_MARKS)
        self._take(self._buffer[: len(self._buffer) - keep], texts, thoughts)
        self._buffer = self._buffer[len(self._buffer) - keep :]
        if final:
            self._close(texts, calls)
            if self._in_header and not self._marked:
                texts.append(self._header)  # no channel at all: plain text
        return Parts("".join(texts), self._thoughts.push("".join(thoughts)), tuple(calls))

    def _mark(self, mark: str, texts: list[str], calls: list[RawCall]) -> None:
        self._marked = True
        if mark == "<|message|>":
            self._in_header = False
        elif mark == "<|constrain|>":
            self._header += " "
        elif mark == "<|channel|>":
            # The role before it and the channel after it are one header, unless content was open.
            if not self._in_header:
                self._close(texts, calls)
            self._header += " "
        else:
            self._close(texts, calls)

    def _take(self, text: str, texts: list[str], thoughts: list[str]) -> None:
        if self._in_header:
            self._header = (self._header + text)[:_MAX_HEADER_CHARS] if self._marked else self._header + text
        elif self._called() is not None:
            self._arguments += text
        elif "analysis" in self._header:
            thoughts.append(text)
        else:
            texts.append(text)

    def _called(self) -> str | None:
        found = _RECIPIENT.search(self._header)
        return found[1] if found and found[1] in self._names else None

    def _close(self, texts: list[str], calls: list[RawCall]) -> None:
        name = None if self._in_header else self._called()
        if name is not None:
            try:
                if len(self._arguments) > MAX_BODY_CHARS:
                    raise ValueError("too long")
                _, end = members(self._arguments)
                if self._arguments[end:].strip() or self._calls >= MAX_CALLS:
                    raise ValueError("more than an object")
                calls.append(RawCall(name, self._arguments.strip()))
                self._calls += 1
            except (ValueError, IndexError):
                texts.append(self._arguments)
        if self._marked and not self._in_header:
            self._header, self._in_header = "", True
        self._arguments = ""
