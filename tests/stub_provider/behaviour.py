"""How a stub provider behaves: a file that a scene replaces, and that the provider reads with every request."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

MODES: Final = frozenset({"answer", "limited", "unavailable", "overloaded", "stall", "cut", "garbage"})


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`key` is the one that is good; all others are answered 401. `retry_after_seconds` goes with 429, 503 and 529.
    `times` bounds how many chats are so: those after them are answered. 0 is no bound.

    | mode        | a request with the good key                                                     |
    |-------------|---------------------------------------------------------------------------------|
    | answer      | is answered as its prompt asks                                                  |
    | limited     | 429 with Retry-After                                                            |
    | unavailable | 503 with Retry-After                                                            |
    | overloaded  | 529 with Retry-After                                                            |
    | stall       | begins and never goes on, until whoever asked hangs up                          |
    | cut         | its connection breaks in the middle of the stream                               |
    | garbage     | in the middle of the stream comes what is no JSON                               |
    """

    mode: str = "answer"
    key: str = ""
    retry_after_seconds: int = 1
    times: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(sorted(MODES))}")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises what is wrong with the file."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """At once: a reader has the former or this one."""
        beside = path.with_suffix(".next")
        beside.write_text(json.dumps(asdict(self)))
        os.replace(beside, path)
