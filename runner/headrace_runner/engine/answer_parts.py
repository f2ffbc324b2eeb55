"""Takes a generated text apart while it grows: reasoning, answer, tool calls.

What could still become a mark is held back, so that half of one never shows as text; what looked like a call and was
none is text after all, to the last character. Tenants choose the text, and the thread decodes for all of them: no part
of it is gone over with every token, and what failed to be read is bounded for the whole answer. The state goes forward
only:

    Start ──reasoning opens──► Reasoning ──closes──► Answer ◄──► Section (a call, between its marks)
      └──────────anything else────────────────────────┘
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from headrace_runner.engine.call_bodies import RawCall, Reader, json_calls
from headrace_runner.engine.dialects import CallMarks, Dialect
from headrace_runner.engine.tools import MAX_CALLS

MAX_BODY_CHARS: Final = 64 * 1024
"""A section beyond it is text: a status keeps half of it in arguments."""
MAX_FAILED_CHARS: Final = 16 * MAX_BODY_CHARS
"""What readers go over in vain in one answer; after that no section opens."""
_MAX_TRIES: Final = 4
_MAX_LEAD_CHARS: Final = 1024
"""In which reasoning or a call without marks has to begin."""
_BARE_KEYS: Final = ("name", "type", "function", "parameters", "arguments")
_BARE_CALL: Final = re.compile(rf'\s*\{{\s*"({"|".join(_BARE_KEYS)})"')
_SPACE: Final = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Parts:
    """What was settled by a push."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[RawCall, ...] = ()


class Splitter(Protocol):
    """Both kinds of parser, by marks and by channels."""

    def push(self, text: str) -> Parts: ...

    def end(self) -> Parts: ...


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of ``text`` could be the beginning of ``mark``."""
    for size in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0


def held(text: str, marks: Collection[str]) -> int:
    """The longest end of ``text`` with which one of ``marks`` could begin."""
    return max((overlap(text, mark) for mark in marks), default=0)


class Trimmed:
    """Lets text through without white space at its ends; inner white space waits for what follows."""

    def __init__(self) -> None:
        self._space: list[str] = []
        self._begun = False

    def push(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip(_SPACE)
        said = text.rstrip(_SPACE)
        if not said:
            self._space.append(text)
            return ""
        whole = "".join((*self._space, said))
        self._space = [text[len(said) :]]
        self._begun = True
        return whole


class MarkedSplitter:
    """Splits by marks. ``names`` are the tools that can be called: what calls another one stays text.

    ``thinking``: the prompt has opened the reasoning already.
    """

    def __init__(self, dialect: Dialect, names: Collection[str], *, thinking: bool = False) -> None:
        self._reasoning = dialect.reasoning
        self._sections = {section.opens: section for section in dialect.calls} if names else {}
        self._bare = dialect.bare_json and bool(names)
        self._names = frozenset(names)
        self._begun = thinking or self._reasoning is None
        self._thinking = thinking and self._reasoning is not None
        self._after_thinking = False
        self._section: CallMarks | None = None
        self._bare_section = False
        self._tries = 0
        self._looked = 0
        self._failed_chars = 0
        self._buffer = ""
        self._space: list[str] = []
        self._thoughts = Trimmed()
        self._calls = 0
        self._said = False

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
        moving = True
        while moving and (self._buffer or final):
            if not self._begun:
                moving = self._begin(final=final)
            elif self._thinking:
                moving = self._think(thoughts, final=final)
            elif self._section is not None or self._bare_section:
                moving = self._read_section(texts, calls, final=final)
            else:
                moving = self._answer(texts, final=final)
        if final and not self._calls:
            texts += self._space
            self._space = []
        return Parts("".join(texts), self._thoughts.push("".join(thoughts)), tuple(calls))

    def _begin(self, *, final: bool) -> bool:
        assert self._reasoning is not None  # noqa: S101  without marks the state is past this
        opens = self._reasoning[0]
        text = self._buffer.lstrip(_SPACE)
        if text.startswith(opens) and len(self._buffer) - len(text) + len(opens) <= _MAX_LEAD_CHARS:
            self._buffer = text[len(opens) :]
            self._begun = self._thinking = True
        elif final or not opens.startswith(text) or len(self._buffer) > _MAX_LEAD_CHARS:
            self._begun = True
        return self._begun

    def _think(self, thoughts: list[str], *, final: bool) -> bool:
        assert self._reasoning is not None  # noqa: S101
        thought, closes, rest = self._buffer.partition(self._reasoning[1])
        if closes:
            thoughts.append(thought)
            self._buffer = rest
            self._thinking = False
            self._after_thinking = True
            return True
        keep = 0 if final else overlap(self._buffer, self._reasoning[1])
        thoughts.append(self._buffer[: len(self._buffer) - keep])
        self._buffer = self._buffer[len(self._buffer) - keep :]
        return False

    def _answer(self, texts: list[str], *, final: bool) -> bool:
        if self._after_thinking and not self._said:
            self._buffer = self._buffer.lstrip(_SPACE)
        if self._bare:
            if _BARE_CALL.match(self._buffer, 0, _MAX_LEAD_CHARS):
                self._bare_section = True
                return True
            if not final and len(self._buffer) < _MAX_LEAD_CHARS and _may_become_bare(self._buffer):
                return False
            self._bare = False
        found = [(at, mark) for mark in self._sections if (at := self._buffer.find(mark)) >= 0]
        if found:
            at, opens = min(found)
            self._say(texts, self._buffer[:at])
            self._buffer = self._buffer[at + len(opens) :]
            self._section, self._tries, self._looked = self._sections[opens], 0, 0
            return True
        keep = 0 if final else held(self._buffer, self._sections)
        self._say(texts, self._buffer[: len(self._buffer) - keep])
        self._buffer = self._buffer[len(self._buffer) - keep :]
        return False

    def _read_section(self, texts: list[str], calls: list[RawCall], *, final: bool) -> bool:
        section = self._section
        if section is not None and section.closes:
            return self._read_closed(section, texts, calls, final=final)
        if len(self._buffer) > MAX_BODY_CHARS:
            return self._give_up(texts)
        if not final:
            return False
        opens = "" if section is None else section.opens
        found = self._understand(json_calls if section is None else section.read, self._buffer)
        if found is None:
            self._say(texts, opens + self._buffer)
        else:
            self._take(found, calls)
        self._leave("")
        return False

    def _read_closed(self, section: CallMarks, texts: list[str], calls: list[RawCall], *, final: bool) -> bool:
        limit = MAX_BODY_CHARS + len(section.closes)
        while self._tries < _MAX_TRIES and (at := self._buffer.find(section.closes, self._looked, limit)) >= 0:
            found = self._understand(section.read, self._buffer[:at])
            after = at + len(section.closes)
            if found is not None:
                self._take(found, calls)
                self._leave(self._buffer[after:])
                return True
            # The mark may stand inside of an argument.
            self._tries += 1
            self._looked = after
        if self._tries >= _MAX_TRIES or len(self._buffer) >= limit:
            return self._give_up(texts)
        if not final:
            self._looked = max(self._looked, len(self._buffer) - len(section.closes) + 1)
            return False
        found = self._understand(section.read, self._buffer)
        if found is not None:  # the model ended where the mark was due
            self._take(found, calls)
            self._leave("")
            return False
        return self._give_up(texts)

    def _give_up(self, texts: list[str]) -> bool:
        """The opening mark is text; another section may begin behind it."""
        self._say(texts, "" if self._section is None else self._section.opens)
        self._leave(self._buffer)
        return True

    def _understand(self, read: Reader, body: str) -> list[RawCall] | None:
        try:
            found = read(body)
        except (ValueError, IndexError, KeyError, TypeError, RecursionError):
            found = []
        if found and self._calls + len(found) <= MAX_CALLS and all(call.name in self._names for call in found):
            return found
        self._failed_chars += len(body)
        if self._failed_chars > MAX_FAILED_CHARS:
            self._sections, self._tries = {}, _MAX_TRIES
        return None

    def _take(self, found: list[RawCall], calls: list[RawCall]) -> None:
        calls += found
        self._calls += len(found)
        self._space = []

    def _leave(self, rest: str) -> None:
        self._section, self._bare_section, self._bare = None, False, False
        self._buffer = rest

    def _say(self, texts: list[str], text: str) -> None:
        """White space waits for what follows: before and between calls it is none of the answer."""
        if self._calls and not self._said:
            text = text.lstrip(_SPACE)
            self._space = []
        said = text.rstrip(_SPACE) if self._names else text
        if not said:
            self._space.append(text)
            return
        texts += (*self._space, said)
        self._space = [text[len(said) :]]
        self._said = True


class ForcedSplitter:
    """Reads an answer that a grammar made a call. Cut short it is text."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)
        self._text = ""

    def push(self, text: str) -> Parts:
        """Add what was generated; a call is whole at its end alone."""
        self._text += text
        return Parts()

    def end(self) -> Parts:
        """Give the calls, else the text."""
        try:
            found = json_calls(self._text)
        except (ValueError, IndexError, KeyError, TypeError, RecursionError):
            return Parts(self._text)
        if any(call.name not in self._names for call in found):
            return Parts(self._text)
        return Parts(calls=tuple(found))


def _may_become_bare(text: str) -> bool:
    compact = "".join(text.split())
    return any(f'{{"{key}"'.startswith(compact) for key in _BARE_KEYS)
