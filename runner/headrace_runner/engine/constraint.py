"""Where one sequence is in its grammar, and which tokens may follow: llguidance's mask, and what a token budget adds.

Three things beyond the mask of the grammar, each only where it leaves a token to draw:
- a number has no exponent and ends after as many characters as a double has digits: small models otherwise write
  threes until the budget is over, or 1e9999, which JSON allows and no reader can hold;
- near the end of the budget nothing is opened that the document does not need (budget.py);
- at its end the shortest known way to the document's end is taken (closing.py).
"""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import llguidance.numpy
import numpy as np
from numpy.typing import NDArray

from headrace_runner.engine.budget import Budget
from headrace_runner.engine.closing import LIMIT_TOKENS, shortest_end
from headrace_runner.engine.document import DocumentCursor
from headrace_runner.engine.filling import MAX_MASK_SECONDS, Filling, MaskFiller, MaskTime
from headrace_runner.engine.protocol import Enforcement, FinishReason, Reason, Refusal
from headrace_runner.engine.vocabulary import Bits, Vocabulary

# 17 digits tell any two doubles apart; with sign, point and leading zeros that makes:
MAX_NUMBER_BYTES: Final = 24
_USED_UP: Final = "too many states"
"""What llguidance says of a lexer at its bound."""
# A mask is only ever -inf or untouched; finite logits stay as the model gave them.
_MASKED: Final = np.float32(-np.inf)


@dataclass(frozen=True)
class Start:
    """``matcher`` is a copy of ``origin``; ``renewed`` gives another start in place of one whose lexer is used up."""

    origin: Any
    matcher: Any
    renewed: Callable[[Any], "Start"]


class Constraint:
    """Belongs to the decode thread, except while ``filling`` is under way.

    ``enforcement`` is what its mask promises.
    """

    def __init__(
        self, start: Start, vocabulary: Vocabulary, filler: MaskFiller, enforcement: Enforcement, *, is_json: bool
    ) -> None:
        self.matcher = start.matcher
        self._start = start
        self._consumed: list[int] = []
        self._renewed_at: int | None = None
        self.enforcement: Enforcement = enforcement
        self.filling: Filling | None = None
        self._time = MaskTime()
        self._is_over = False
        self._vocabulary = vocabulary
        self._filler = filler
        self._is_json = is_json
        self._cursor = DocumentCursor()
        self._budget: Budget | None = None
        self._way: tuple[int, ...] | None = None
        self._bits: Bits | None = None

    def begin(self, token_budget: int) -> None:
        """Have the document end within so many tokens. Without it nothing is steered."""
        self._budget = Budget.of(token_budget)
        self._filler.wanted(self)

    def prepare(self) -> None:
        """Begin to fill the masks of all constraints of this vocabulary that moved; call it right before a decode."""
        self._filler.prepare()

    def fork(self) -> "Constraint":
        """Give another constraint at the same place."""
        self._wait()
        start = replace(self._start, matcher=self.matcher.deep_copy())
        other = Constraint(start, self._vocabulary, self._filler, self.enforcement, is_json=self._is_json)
        other._consumed = self._consumed.copy()
        other._cursor = self._cursor.copy()
        other._time = self._time
        if self._budget is not None:
            other.begin(self._budget.left)
        return other

    def apply(self, logits_pointer: Any) -> bool:
        """Mask a row of logits (float32, vocabulary long) in place; False where no token may follow.

        False must end the sequence: a sampler draws the last token of a row that is all -inf. Raises Refusal with
        UnsupportedSchema where the grammar broke a limit.
        """
        self._wait()
        if self._bits is None:
            self.fill()
        self._check()
        if self._bits is None or not self._bits.any():
            return False
        mask_logits(logits_pointer, self._bits, self._vocabulary.size)
        return True

    def consume(self, token: int) -> bool:
        """Advance by a sampled token; True where the document is complete and nothing can follow."""
        began = time.thread_time()
        consumed = self.matcher.consume_token(token) or (self._renew() and self.matcher.consume_token(token))
        self._time.spend(time.thread_time() - began)
        self._time.earn()
        if not consumed:
            self._check()
            raise Refusal(Reason.INTERNAL_ERROR, "a token was drawn that the mask forbids", retryable=True)
        self._bits = None
        self._consumed.append(token)
        if self._is_json:
            self._cursor.advance(self._vocabulary.pieces[token])
        if self._budget is not None:
            self._budget.left -= 1
        if self._way:
            self._way = self._way[1:] if self._way[0] == token else None
        self._filler.wanted(self)
        return bool(self.matcher.is_stopped())

    @property
    def finish_reason(self) -> FinishReason:
        """Of a complete document: ``Length`` where the token budget, and not the model, brought it to its end."""
        return "Length" if self._is_over else "Stop"

    def is_complete(self) -> bool:
        """Tell whether what was consumed is a whole document."""
        self._wait()
        return bool(self.matcher.is_accepting())

    def fill(self) -> None:
        """Fill the grammar's mask and steer within it, maybe on another thread; nothing where the time is over."""
        if self._time.is_over:
            return
        row = llguidance.numpy.allocate_token_bitmask(1, self._vocabulary.size)
        began = time.thread_time()
        llguidance.numpy.fill_next_token_bitmask(self.matcher, row)
        if self._renew():
            llguidance.numpy.fill_next_token_bitmask(self.matcher, row)
        self._time.spend(time.thread_time() - began)
        bits: Bits = row[0]
        if not self.matcher.is_error():
            if self._is_json and not self._cursor.in_string:
                bits = _narrowed(bits, bits & ~self._vocabulary.exponent_bits)
            if self._is_json and self._cursor.number_bytes > MAX_NUMBER_BYTES:
                bits = _narrowed(bits, bits & ~self._vocabulary.number_bits)
            if self._budget is not None:
                bits = self._steered(bits, self._budget)
        self._bits = bits

    def _renew(self) -> bool:
        """Where the lexer has no more states, go on with a new one: the way to here takes few of them."""
        if not self.matcher.is_error() or _USED_UP not in self.matcher.get_error():
            return False
        if self._renewed_at == len(self._consumed):
            return False
        self._renewed_at = len(self._consumed)
        self._start = self._start.renewed(self._start.origin)
        self.matcher = self._start.matcher
        self.matcher.consume_tokens(self._consumed)
        return True

    def _steered(self, bits: Bits, budget: Budget) -> Bits:
        if self._way is not None and self._is_over:
            return self._only(self._way)
        if budget.wants_look(lost=self._way is None):
            self._look(budget)
        if self._way is None or not budget.is_cautious:
            return bits
        if budget.is_over:
            self._is_over = True
            return self._only(self._way)
        if not self._is_json:
            return bits
        if self._cursor.in_string:
            refused = self._vocabulary.quoting_bits
        elif self._way and self._vocabulary.pieces[self._way[0]][:1] in (b"}", b"]"):
            # What could close needs neither another member nor another item.
            refused = self._vocabulary.opening_bits | self._vocabulary.quoting_bits
        else:
            refused = self._vocabulary.opening_bits
        return (bits & ~refused) | self._only(self._way[:1])

    def _look(self, budget: Budget) -> None:
        cursor = self._cursor if self._is_json else None
        self._way, steps = shortest_end(self.matcher, cursor, self._vocabulary, min(budget.left, LIMIT_TOKENS))
        budget.looked(None if self._way is None else len(self._way), steps)

    def _only(self, way: tuple[int, ...]) -> Bits:
        if not way:
            return self._vocabulary.end_bits
        bits = np.zeros(self._vocabulary.words, np.int32)
        bits.view(np.uint32)[way[0] >> 5] = 1 << (way[0] & 31)
        return bits

    def _wait(self) -> None:
        if self.filling is not None:
            self.filling.result()
            self.filling = None

    def _check(self) -> None:
        if self.matcher.is_error():
            message = f"{in_a_line(self.matcher.get_error())}: simplify the schema's patterns, or split it"
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, message)
        if self._time.is_over:
            message = f"the masks of output took more than {MAX_MASK_SECONDS:g} s of CPU time"
            raise Refusal(Reason.UNSUPPORTED_SCHEMA, f"{message}: make its grammar unambiguous, or simplify it")


def mask_logits(logits_pointer: Any, bits: Bits, vocab_size: int) -> None:
    """Set the logits of tokens whose bit is clear to -inf, in place.

    ``unpackbits`` and ``copyto`` take a tenth of the time of llguidance's own numpy kernel.
    """
    logits: NDArray[np.float32] = np.ctypeslib.as_array(
        ctypes.cast(logits_pointer, ctypes.POINTER(ctypes.c_float)), shape=(vocab_size,)
    )
    allowed = np.unpackbits(bits.view(np.uint8), count=vocab_size, bitorder="little").view(np.bool_)
    np.copyto(logits, _MASKED, where=~allowed)


def in_a_line(message: str) -> str:
    """What llguidance says, without most of the grammar that it may quote after it."""
    return " ".join(message.split())[:400] or "the grammar was refused"


def _narrowed(bits: Bits, fewer: Bits) -> Bits:
    return fewer if fewer.any() else bits
