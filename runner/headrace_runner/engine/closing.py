"""A short way from any place in a document to its end: what is to be drawn when the token budget runs out.

The matcher knows what may follow, not what ends soonest. So a copy of it is walked: what is forced is taken, a closing
bracket wherever one may stand, the cheapest value where one must. Only strings that may not end yet need a search:
three ways of lengthening them are tried, and the shortest wins.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import llguidance.numpy
import numpy as np

from headrace_runner.engine.document import DocumentCursor
from headrace_runner.engine.vocabulary import Bits, Tokens, Vocabulary, all_allowed, first_allowed

LIMIT_TOKENS: Final = 1024
LIMIT_SECONDS: Final = 0.25
"""Of CPU time for all ways that are tried together: a step takes 0.1 ms, in large grammars a hundred times as long."""
_STEP_SECONDS: Final = 0.0001
_GOOD_ENOUGH_TOKENS: Final = 6
_FEW: Final = 16


def shortest_end(
    matcher: Any, cursor: DocumentCursor | None, vocabulary: Vocabulary, limit: int = LIMIT_TOKENS
) -> tuple[tuple[int, ...] | None, int]:
    """Tokens that complete the text from where ``matcher`` is, which stays there, and the usual steps in the
    time that it took; None where none were found.

    ``cursor`` is None where the text is no JSON. Not always the shortest way. Blocks for about 0.1 ms a step.
    """
    steps = _Steps()
    start = _Walk(matcher.deep_copy(), DocumentCursor() if cursor is None else cursor.copy(), vocabulary, steps)
    ended = _walked(start, limit, is_json=cursor is not None)
    return (None if ended is None else tuple(ended.path)), steps.count


def _walked(walk: "_Walk", limit: int, *, is_json: bool) -> "_Walk | None":
    """The walk at the document's end."""
    vocabulary = walk.vocabulary
    while len(walk.path) <= limit:
        if walk.matcher.is_accepting():
            return walk
        if walk.take_forced():
            continue
        if is_json and walk.cursor.in_string:
            ended = _end_string(walk, limit - len(walk.path))
            if ended is None:
                return None
            walk = ended
            continue
        bits = walk.mask()
        token = None
        if is_json:
            token = walk.least_used(all_allowed(bits, vocabulary.structural), first=True)
        if token is None:
            token = walk.least_used(all_allowed(bits, vocabulary.single_bytes))
        if token is None:
            token = first_allowed(bits, vocabulary.longest)
        if token is None or not walk.take(token):
            return None
    return None


class _Steps:
    def __init__(self) -> None:
        self._began = time.thread_time()

    @property
    def is_over(self) -> bool:
        return time.thread_time() - self._began > LIMIT_SECONDS

    @property
    def count(self) -> int:
        """Usual steps in the time that was spent."""
        return int((time.thread_time() - self._began) / _STEP_SECONDS)


class _Walk:
    def __init__(self, matcher: Any, cursor: DocumentCursor, vocabulary: Vocabulary, steps: _Steps) -> None:
        self.matcher = matcher
        self.cursor = cursor
        self.path: list[int] = []
        self.vocabulary = vocabulary
        self._steps = steps
        self._bits: Bits = llguidance.numpy.allocate_token_bitmask(1, vocabulary.size)
        self._used: Counter[int] = Counter()

    def fork(self) -> "_Walk":
        other = _Walk(self.matcher.deep_copy(), self.cursor.copy(), self.vocabulary, self._steps)
        other.path = list(self.path)
        return other

    def mask(self) -> Bits:
        llguidance.numpy.fill_next_token_bitmask(self.matcher, self._bits)
        row: Bits = self._bits[0]
        return row

    def take(self, token: int) -> bool:
        if self._steps.is_over or not self.matcher.consume_token(token):
            return False
        self.path.append(token)
        self._used[token] += 1
        self.cursor.advance(self.vocabulary.pieces[token])
        return True

    def take_forced(self) -> bool:
        return all(self.take(token) for token in forced) if (forced := self.matcher.compute_ff_tokens()) else False

    def least_used(self, tokens: Tokens, *, first: bool = False) -> int | None:
        """The first of those drawn least often: a choice that led nowhere is not made again and again."""
        if not len(tokens):
            return None
        if first and not self.cursor.number_bytes:
            return int(tokens[0])
        return int(min(tokens, key=lambda token: self._used[int(token)]))


def _end_string(start: _Walk, limit: int) -> _Walk | None:
    best: _Walk | None = None
    for lengthen in (_by_longest, _by_least_used, _by_first):
        room = limit if best is None else len(best.path) - len(start.path) - 1
        walk = start.fork()
        if _lengthened(walk, lengthen, room) and (best is None or len(walk.path) < len(best.path)):
            best = walk
        if best is not None and len(best.path) - len(start.path) <= _GOOD_ENOUGH_TOKENS:
            break
    return best


def _lengthened(walk: _Walk, lengthen: Callable[[_Walk, Bits], int | None], room: int) -> bool:
    """Walk until the string is over; False where that takes more than ``room`` tokens or cannot be."""
    end = len(walk.path) + room
    while walk.cursor.in_string:
        if len(walk.path) >= end:
            return False
        if walk.take_forced():
            continue
        bits = walk.mask()
        token = first_allowed(bits, walk.vocabulary.string_ends)
        if token is None:
            token = lengthen(walk, bits)
        if token is None or not walk.take(token):
            return False
    return True


def _by_longest(walk: _Walk, bits: Bits) -> int | None:
    """For least lengths and for names out of a list."""
    return first_allowed(bits, walk.vocabulary.longest)


def _by_least_used(walk: _Walk, bits: Bits) -> int | None:
    """For patterns that wait for a certain character, such as an at sign; few choices are a list's names."""
    if int(np.bitwise_count(bits).sum()) <= _FEW:
        return first_allowed(bits, walk.vocabulary.longest)
    return walk.least_used(all_allowed(bits, walk.vocabulary.single_bytes))


def _by_first(walk: _Walk, bits: Bits) -> int | None:
    return first_allowed(bits, walk.vocabulary.single_bytes)
