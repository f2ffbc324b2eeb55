"""What the engine container says, bounded before it goes into a report, a status or a log.

Everything here raises ValueError for what cannot be made harmless.
"""

import os
import re
import stat
from pathlib import Path
from typing import Final

UNREADABLE: Final = "EngineStateUnreadable"
MESSAGE_CHARS: Final = 512
WORD_CHARS: Final = 64
MAX_FILE_BYTES: Final = 64 * 1024
# Below int64, so that sums of some fit it too, and exact in a double, which is what Redis' Lua and JavaScript have.
MAX_COUNT: Final = (1 << 53) - 1
_REASON: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}", re.ASCII)
# C0 and C1, line and paragraph separators, and what reorders or hides text on a terminal.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+")


def reason_word(value: object) -> str:
    """A reason as conditions take it; anything else reads as EngineStateUnreadable."""
    return value if isinstance(value, str) and _REASON.fullmatch(value) else UNREADABLE


def sentence(value: object) -> str:
    """Text for people: at most 512 characters on one line."""
    return _CONTROLS.sub(" ", text(value)[: 4 * MESSAGE_CHARS])[:MESSAGE_CHARS]


def word(value: object) -> str:
    """A name: at most 64 characters on one line."""
    return sentence(value)[:WORD_CHARS]


def text(value: object) -> str:
    """A string that can be encoded: lone surrogates are refused."""
    if not isinstance(value, str):
        raise ValueError("expected a string")
    value.encode("utf-8")
    return value


def count(value: object) -> int:
    """A number of things or milliseconds."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise ValueError(f"expected an integer between 0 and {MAX_COUNT}")
    return value


def read_small_file(path: Path | str) -> bytes:
    """A regular file's content; a link is not followed and a pipe not waited for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    return raw
