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


class StepBudget:
    """How many tokens a step may hold, learned from how long steps took.

    The time per token differs with the context's length and with what else the machine does, so the budget goes by the
    slow ones among the latest steps that had prompts in them, not by the mean.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seconds_per_token: collections.deque[float] = collections.deque(maxlen=_REMEMBERED_STEPS)
        self.tokens = min(most, STEADY_CHUNK)

    def observe(self, prompt_tokens: int, tokens: int, seconds: float) -> None:
        """Learn from a step of ``tokens`` tokens, of which ``prompt_tokens`` were of prompts."""
        if prompt_tokens < _LEAST_PROMPT_TOKENS:
            return
        self._seconds_per_token.append(seconds / tokens)
        slow = heapq.nlargest(1 + len(self._seconds_per_token) // 10, self._seconds_per_token)[-1]
        allowed = int(_AIM_SECONDS / slow) if slow > 0 else self._most
        # Doubling at most: a short step says little about a long one.
        self.tokens = max(1, min(self._most, allowed, 2 * max(self.tokens, tokens)))

    def for_prompts(self, generating: int) -> int:
        """Give the room for prompts beside ``generating`` sequences; never none, or prompts would starve."""
        return min(self._most - generating, max(self.tokens - generating, _LEAST_PROMPT_TOKENS))


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
