"""What of a provider's own words may be repeated: one bounded sentence without anything that the request said."""

import re
from collections.abc import Iterable
from typing import Final

MAX_SENTENCE_CHARS: Final = 200
_RUN_CHARS: Final = 12
"""So long a piece of the request in the provider's sentence is no accident."""
_SPACE: Final = re.compile(r"\s+")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s")
_KEYLIKE: Final = re.compile(r"\b(?:sk|pk|rk|key|org|proj)[-_][^\s.,;:'\")]+")


def sentence(message: object, said: Iterable[str] = ()) -> str:
    """The message's first sentence, in printable characters, or nothing.

    Nothing where it repeats a piece of what the request ``said``: providers quote the input that they refuse, and no
    prompt may come into logs, events and Redis. What looks like a key is masked.
    """
    if not isinstance(message, str):
        return ""
    # A little more than is kept: the cut must not hide the end of what is compared.
    text = _SENTENCE_END.split(plain(message[: 8 * MAX_SENTENCE_CHARS]), maxsplit=1)[0][:MAX_SENTENCE_CHARS]
    if quotes(text, said):
        return ""
    return _KEYLIKE.sub("…", text).rstrip(" .")


def plain(text: str) -> str:
    """In one line and in printable characters: what is unprintable must not disguise what is compared."""
    return "".join(char for char in _SPACE.sub(" ", text).strip() if char.isprintable())


def quotes(text: str, said: Iterable[str]) -> bool:
    """Whether a ``plain`` text repeats a piece of what the request said."""
    runs = {text[at : at + _RUN_CHARS] for at in range(max(1, len(text) - _RUN_CHARS + 1))} - {""}
    for each in map(plain, said):
        if (3 < len(each) < _RUN_CHARS and each in text) or any(run in each for run in runs):
            return True
    return False
