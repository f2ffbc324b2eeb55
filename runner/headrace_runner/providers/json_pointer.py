"""JSON Pointer (RFC 6901): where in an answer something stands. Pure."""

from dataclasses import dataclass
from typing import Any, Final

_INDEX_DIGITS: Final = frozenset("0123456789")


@dataclass(frozen=True, slots=True)
class Pointer:
    """A pointer as read from a spec. ``text`` is how it is written there."""

    text: str
    parts: tuple[str, ...]

    def find(self, document: Any) -> Any:
        """What stands there; None where nothing does, as for a null: no answer means anything else by it."""
        for part in self.parts:
            if isinstance(document, dict):
                document = document.get(part)
            elif isinstance(document, list):
                document = _element(document, part)
            else:
                return None
        return document


def read_pointer(text: str, name: str) -> Pointer:
    """Read a pointer; ``name`` is the field that it comes from. Raises ValueError that names it."""
    if text == "":
        return Pointer(text, ())
    if not text.startswith("/"):
        raise ValueError(f"{name}: a JSON Pointer begins with /, such as /choices/0/text")
    return Pointer(text, tuple(_unescaped(part, name) for part in text[1:].split("/")))


def _unescaped(part: str, name: str) -> str:
    if part == "-":
        raise ValueError(f"{name}: - points behind the end of an array, where nothing is: give an index")
    if part.replace("~0", "").replace("~1", "").count("~"):
        raise ValueError(f"{name}: ~ is written as ~0 in a JSON Pointer, and / within a name as ~1")
    return part.replace("~1", "/").replace("~0", "~")


def _element(array: list[Any], part: str) -> Any:
    # Digits of ASCII only, none in front: 01 is no index, and int() takes more than RFC 6901 does.
    if not part or not _INDEX_DIGITS.issuperset(part) or (len(part) > 1 and part[0] == "0") or len(part) > 9:
        return None
    index = int(part)
    return array[index] if index < len(array) else None
