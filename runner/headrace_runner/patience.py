"""How long a result that waits for somebody else is kept back between two tries."""

import random
from typing import Final

_FIRST_SECONDS: Final = 0.1


def pause_seconds(tries: int, longest_seconds: float) -> float:
    """After so many tries: doubling from 0.1 s to the longest, spread over its upper half."""
    ceiling: float = min(longest_seconds, _FIRST_SECONDS * 2 ** min(tries, 10))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries, guards nothing
