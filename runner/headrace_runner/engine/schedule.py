"""Which tokens a decode step holds: pure decisions, made anew before every step.

Sequences that generate come first, with one token each; nobody waits for another's prompt longer than a step. What is
left of the step's budget goes to prompts.
"""

import collections
import heapq
from collections.abc import Sequence
from typing import Final

TARGET_SECONDS: Final = 0.25
"""So long a step may take, but for one in a hundred."""
STEADY_CHUNK: Final = 64
"""What a prompt that is alone is cut into: always the same, so that the same sums are made in the same order."""
_AIM_SECONDS: Final = 0.7 * TARGET_SECONDS
_LEAST_PROMPT_TOKENS: Final = 8
_REMEMBERED_STEPS: Final = 64
_WEIGHT: Final = 0.1
"""Of the latest step in the mean of those without prompts."""


class StepBudget:
    """How many tokens a step may hold, learned from how long steps took.

    What a sequence that generates adds to a step is learned from steps without prompts, what a prompt's token adds from
    the rest of the others: it costs a fraction, because weights are read once for all of a chunk. Both differ with the
    context's length and with what else the machine does, so the budget goes by the slow ones among the latest steps
    that had prompts in them, not by the mean.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._prompt_seconds: collections.deque[float] = collections.deque(maxlen=_REMEMBERED_STEPS)
        self._generating_seconds: float | None = None
        self._largest = min(most, STEADY_CHUNK)

    @property
    def tokens(self) -> int:
        """How many tokens of prompts a step may hold in which nobody generates."""
        return self._allowed(0)

    def observe(self, prompt_tokens: int, tokens: int, seconds: float) -> None:
        """Learn from a step of ``tokens`` tokens, of which ``prompt_tokens`` were of prompts."""
        generating = tokens - prompt_tokens
        if prompt_tokens < _LEAST_PROMPT_TOKENS:
            if not prompt_tokens:
                before = seconds / generating if self._generating_seconds is None else self._generating_seconds
                self._generating_seconds = before + _WEIGHT * (seconds / generating - before)
            return
        each = seconds / tokens
        if self._generating_seconds is not None:
            # Never less than a part of the mean: a step without prompts may have been slow for another reason.
            each = max(each / 4, (seconds - generating * self._generating_seconds) / prompt_tokens)
        self._prompt_seconds.append(each)
        # Doubling at most: a short step says little about a long one.
        self._largest = min(self._most, 2 * max(prompt_tokens, min(self._largest, self._allowed(generating))))

    def for_prompts(self, generating: int) -> int:
        """Give the room for prompts beside ``generating`` sequences; never none, or prompts would starve."""
        return min(self._most - generating, max(self._allowed(generating), _LEAST_PROMPT_TOKENS))

    def _allowed(self, generating: int) -> int:
        if not self._prompt_seconds:
            return self._largest
        slow = heapq.nlargest(1 + len(self._prompt_seconds) // 10, self._prompt_seconds)[-1]
        each = slow if self._generating_seconds is None else self._generating_seconds
        left = _AIM_SECONDS - generating * each
        return max(1, min(self._largest, int(left / slow) if slow > 0 else self._most))


def share_among_prompts(remaining: Sequence[int], room: int) -> list[int]:
    """Share ``room`` tokens among prompts that lack ``remaining`` tokens each, the oldest first; gives the chunks.

    Half goes to the oldest, so that it ends whatever comes; the rest to the shortest, so that a long prompt holds up no
    short one.
    """
    chunks = [0] * len(remaining)
    if not remaining:
        return chunks
    chunks[0] = min(remaining[0], room if len(remaining) == 1 else (room + 1) // 2)
    left = room - chunks[0]
    for index in sorted(range(1, len(remaining)), key=lambda each: (remaining[each], each)):
        chunks[index] = min(remaining[index], left)
        left -= chunks[index]
    chunks[0] += min(left, remaining[0] - chunks[0])
    return chunks
