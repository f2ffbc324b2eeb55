"""Server-sent events out of bytes as they come, by the WHATWG's rules for an event stream.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import codecs
import re
from dataclasses import dataclass
from typing import Final

MAX_EVENT_CHARS: Final = 16 * 1024 * 1024
"""Of one event: an answer's longest piece is far shorter, and a line that never ends would fill the memory."""
_LINE_END: Final = re.compile("\r\n|\n|\r")  # str.splitlines would split at U+2028 as well, which JSON may contain


class StreamInvalid(ValueError):
    """No stream of events: bytes that are not UTF-8, or an event without end."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """``name`` is empty where the stream names none; ``data`` is joined by newlines where it came in several lines."""

    name: str
    data: str


class EventReader:
    """Takes bytes, however they are cut, and gives the events that are whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._line: list[str] = []
        self._held_chars = 0
        self._after_return = False
        self._begun = False
        self._name = ""
        self._data: list[str] = []

    def push(self, piece: bytes) -> list[ServerEvent]:
        """Raises StreamInvalid."""
        return self._events(self._decoded(piece, final=False))

    def end(self) -> list[ServerEvent]:
        """Nothing follows: an event that no blank line ended counts all the same. Raises StreamInvalid."""
        return self._events(self._decoded(b"", final=True) + "\n\n")

    def _decoded(self, piece: bytes, *, final: bool) -> str:
        try:
            text = self._decoder.decode(piece, final)
        except UnicodeDecodeError:
            # Without the error itself, which holds the bytes.
            raise StreamInvalid("the stream is not UTF-8") from None
        if text and not self._begun:
            self._begun = True
            return text.removeprefix("\ufeff")
        return text

    def _events(self, text: str) -> list[ServerEvent]:
        if self._after_return and text:
            text, self._after_return = text.removeprefix("\n"), False
        self._after_return = self._after_return or text.endswith("\r")
        first, *rest = _LINE_END.split(text)
        self._hold(first)
        events: list[ServerEvent] = []
        for part in rest:
            line, self._line = "".join(self._line), []
            if line:
                self._field(line)
            elif (event := self._dispatched()) is not None:
                events.append(event)
            self._hold(part)
        return events

    def _hold(self, part: str) -> None:
        self._held_chars += len(part)
        if self._held_chars > MAX_EVENT_CHARS:
            raise StreamInvalid(f"an event of more than {MAX_EVENT_CHARS} characters")
        if part:
            self._line.append(part)

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "error":
            # llama-server before 2025 wrote a failure as a field of its own: "error: {…}".
            self._name, self._data = "error", [value]

    def _dispatched(self) -> ServerEvent | None:
        name, data = self._name, self._data
        self._name, self._data, self._held_chars = "", [], 0
        return ServerEvent(name, "\n".join(data)) if data else None
