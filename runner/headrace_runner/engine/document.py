"""Where in a JSON text the next byte falls: inside a string, inside a number, or between. It judges nothing.

It follows text that a grammar admits, so a look at quotes and backslashes is enough.
"""

from dataclasses import dataclass
from typing import Final

_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_NUMBER_BYTES: Final = frozenset(b"0123456789+-.eE")
_NUMBER_STARTS: Final = frozenset(b"0123456789-")


@dataclass(slots=True)
class DocumentCursor:
    """A place in a document. ``number_bytes`` counts the bytes of a number that has not ended, else 0."""

    in_string: bool = False
    number_bytes: int = 0
    _escaped: bool = False

    def advance(self, piece: bytes) -> None:
        """Go on by a token's bytes."""
        for byte in piece:
            if self.in_string:
                if self._escaped:
                    self._escaped = False
                elif byte == _BACKSLASH:
                    self._escaped = True
                elif byte == _QUOTE:
                    self.in_string = False
            elif byte == _QUOTE:
                self.in_string, self.number_bytes = True, 0
            elif byte in (_NUMBER_BYTES if self.number_bytes else _NUMBER_STARTS):
                self.number_bytes += 1
            else:
                self.number_bytes = 0

    def copy(self) -> "DocumentCursor":
        """Give another cursor at the same place."""
        return DocumentCursor(self.in_string, self.number_bytes, self._escaped)
