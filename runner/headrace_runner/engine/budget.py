"""When a document must be steered to its end so that it is complete within its tokens. Pure.

    tokens left:   many ──────────────── caution ──────────── the way's length ── 0
    the model is:  free          opens nothing that is         led along the way
                                 not on the way to the end

How long the way is can only be found by walking it (closing.py), so it is looked at seldom while there is room, and
after every token when there is not. A walk of many steps is made less often: the sequences beside it wait for it.
"""

from dataclasses import dataclass
from typing import Final

_CAUTION_TOKENS: Final = 256
_LEAST_CAUTION_TOKENS: Final = 16
_RESERVE_TOKENS: Final = 8
"""What a single token may add to the way where nothing is opened: a character in two tokens, a number begun."""
_SELDOM: Final = 64
_STEPS_A_TOKEN: Final = 64
"""So many steps of a walk may be spent for each token drawn."""


@dataclass(slots=True)
class Budget:
    """Tokens that a document may still take. ``way`` is the length of the known way to its end, None for unknown."""

    total: int
    left: int
    way: int | None = None
    _look_at: int | None = None
    _interval: int = 1

    @classmethod
    def of(cls, tokens: int) -> "Budget":
        return cls(tokens, tokens)

    @property
    def slack(self) -> int:
        return self.left - (self.way or 0)

    @property
    def caution(self) -> int:
        return max(_LEAST_CAUTION_TOKENS, min(_CAUTION_TOKENS, self.total // 8))

    @property
    def is_cautious(self) -> bool:
        return self.way is not None and self.slack <= self.caution

    @property
    def is_over(self) -> bool:
        """The model's freedom is: from here on the known way is taken."""
        return self.way is not None and self.slack <= _RESERVE_TOKENS + 2 * (self._interval - 1)

    def wants_look(self, *, lost: bool = False) -> bool:
        """``lost``: the way that was known is not the way from here."""
        return self._look_at is None or self.left <= self._look_at or (lost and self.is_over)

    def looked(self, way: int | None, steps: int = 0) -> None:
        """Remember how long the way is, and plan the next look: nearer the end, more often."""
        self.way, self._interval = way, min(_SELDOM, max(1, steps // _STEPS_A_TOKEN))
        if way is None:
            # In vain: what is not found in the time allowed is not looked for with every line.
            self._look_at = self.left - max(_SELDOM, self.total // 8)
        else:
            self._look_at = self.left - max(self._interval, min(_SELDOM, (self.slack - self.caution) // 4))
