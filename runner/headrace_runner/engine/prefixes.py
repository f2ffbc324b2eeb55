"""Which beginnings of prompts are kept in the KV cache, so that they are decoded once.

Pure: it knows token lists and sequence ids and says what to copy; the decode loop copies. A beginning is worth keeping
when two prompts had it: keeping each prompt would fill the cache with what nobody asks for again, and cells that hold
nothing of use slow every step down.

Prompts are compared within one *scope* only. How much of a prompt was found, and how soon its first token came, is told
to who sent it: over all prompts it would tell anybody what others have asked, one guess at a time.
"""

import collections
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAST_TOKENS: Final = 32
"""Shorter beginnings are decoded again: that costs less than looking after them."""
_REMEMBERED_PROMPTS: Final = 64
Tokens = NDArray[np.int32]
Scope = Hashable
"""Whose prompts may know of each other."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """A kept beginning, in the cells of the sequence ``seq_id``, for prompts of one scope."""

    seq_id: int
    scope: Scope
    tokens: Tokens


class PrefixStore:
    """The kept beginnings, least recently used first, in at most ``most_cells`` cells.

    They lie in sequences of their own (``seq_ids``), or in those that others left to them.
    """

    def __init__(self, seq_ids: Iterable[int], most_cells: int) -> None:
        self._own = frozenset(seq_ids)
        self._free = sorted(self._own)
        self._most_cells = most_cells
        self._kept: collections.OrderedDict[int, Prefix] = collections.OrderedDict()
        self._latest: collections.deque[tuple[Scope, Tokens]] = collections.deque(maxlen=_REMEMBERED_PROMPTS)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def cells(self) -> int:
        """How many cells the kept ones have, at most: what they share among each other counts for each."""
        return sum(len(prefix.tokens) for prefix in self._kept.values())

    @property
    def seq_ids(self) -> tuple[int, ...]:
        """The sequences that hold kept beginnings."""
        return tuple(self._kept)

    def find(self, scope: Scope, tokens: Tokens) -> tuple[int, int] | None:
        """Give sequence and length of the scope's longest kept beginning of ``tokens``, and note that it was of use."""
        best = max(
            ((common_length(prefix.tokens, tokens), prefix.seq_id) for prefix in self._of(scope)), default=(0, -1)
        )
        if best[0] < LEAST_TOKENS:
            return None
        self._kept.move_to_end(best[1])
        return best[1], best[0]

    def note(self, scope: Scope, tokens: Tokens) -> int:
        """Remember a prompt; gives how many tokens it shares with an earlier one of its scope, 0 where too few."""
        # The last token is decoded for each: its logits begin the text.
        shared = max((common_length(earlier, tokens) for whose, earlier in self._latest if whose == scope), default=0)
        self._latest.append((scope, tokens))
        shared = min(shared, len(tokens) - 1)
        return shared if shared >= LEAST_TOKENS else 0

    def keep(self, scope: Scope, tokens: Tokens) -> tuple[int | None, list[int]]:
        """Make room for a beginning: gives the sequence to copy it to and the sequences to remove before.

        None where it is larger than all the room, or where the scope has one nearly as long already.
        """
        if len(tokens) > self._most_cells or self._has_nearly(scope, tokens):
            return None, []
        evicted = []
        while self._kept and (not self._free or self.cells + len(tokens) > self._most_cells):
            evicted.append(self._evict())
        if not self._free:
            return None, evicted
        seq_id = self._free.pop()
        self._kept[seq_id] = Prefix(seq_id, scope, tokens)
        return seq_id, evicted

    def inherit(self, scope: Scope, seq_id: int, tokens: Tokens) -> bool:
        """Keep a beginning where it is, in a sequence that nobody else needs; False where it is of no use."""
        if self._has_nearly(scope, tokens):
            return False
        self._kept[seq_id] = Prefix(seq_id, scope, tokens)
        return True

    def hand_over(self, seq_id: int) -> None:
        """Forget a kept one, whose sequence has another owner from here on."""
        del self._kept[seq_id]

    def length(self, seq_id: int) -> int:
        """How long a kept one is."""
        return len(self._kept[seq_id].tokens)

    def evict(self, besides: int | None = None) -> int | None:
        """Drop the least recently used one, never ``besides``; gives its sequence, None where there is none."""
        oldest = next((seq_id for seq_id in self._kept if seq_id != besides), None)
        return None if oldest is None else self._evict(oldest)

    def _evict(self, seq_id: int | None = None) -> int:
        dropped = next(iter(self._kept)) if seq_id is None else seq_id
        del self._kept[dropped]
        if dropped in self._own:
            self._free.append(dropped)
        return dropped

    def _has_nearly(self, scope: Scope, tokens: Tokens) -> bool:
        longest = max((common_length(prefix.tokens, tokens) for prefix in self._of(scope)), default=0)
        return len(tokens) < longest + LEAST_TOKENS

    def _of(self, scope: Scope) -> Iterator[Prefix]:
        return (prefix for prefix in self._kept.values() if prefix.scope == scope)


def common_length(one: Tokens, other: Tokens) -> int:
    """How many tokens two prompts have in common at their beginnings."""
    length = min(len(one), len(other))
    # Most prompts differ early: looking at all of both would be wasted.
    if length > LEAST_TOKENS and one[LEAST_TOKENS - 1] != other[LEAST_TOKENS - 1]:
        length = LEAST_TOKENS
    differs = one[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def why_not(*, recurrent: bool, hybrid: bool, sliding_window: int) -> str | None:
    """The reason why prefixes of a model cannot be shared; None where they can."""
    if recurrent or hybrid:
        return "its state holds all tokens before in one, which cannot be cut at a prefix"
    if sliding_window:
        return f"it forgets what lies {sliding_window} tokens back, so that a prefix may be gone when it is wanted"
    return None
