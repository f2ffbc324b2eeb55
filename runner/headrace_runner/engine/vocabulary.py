"""A model's tokens as bytes, and which of them end, open or lengthen a JSON document. Read-only after it is built."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.int32]
Tokens = NDArray[np.intp]

_CLOSERS: Final = frozenset(b"}]")
# What comes next where a document could not end, cheapest first: a shorter way to the end beats a likelier one.
_STEPS: Final = (
    *(b",", b":", b"null", b"0", b"true", b"false", b'""', b"[]", b"{}", b'"', b"n", b"t", b"f", b"[", b"{"),
    *(b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9", b"-", b".", b"e", b"E", b"+"),
)
_NUMBER: Final = frozenset(b"0123456789+-.eE")


class Vocabulary:
    """``pieces`` has the bytes of every token; a special one, which text cannot produce, begins with 0xFF."""

    def __init__(self, tokenizer: Any, pieces: Sequence[bytes], end_tokens: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.pieces = pieces
        self.size = len(pieces)
        self.words = (self.size + 31) // 32
        self.end_bits = self._bits(end_tokens)
        plain = [(token, piece) for token, piece in enumerate(pieces) if piece and piece[0] != 0xFF]
        by_piece = {piece: token for token, piece in reversed(plain)}
        closing = sorted((p for _, p in plain if _CLOSERS.issuperset(p)), key=lambda p: (-len(p), p))
        self.structural = _tokens(by_piece[p] for p in [*dict.fromkeys(closing), *(s for s in _STEPS if s in by_piece)])
        quoted = [p for _, p in plain if p[:1] == b'"' and _CLOSERS.issuperset(p[1:])]
        self.string_ends = _tokens(by_piece[p] for p in sorted(dict.fromkeys(quoted), key=lambda p: (-len(p), p)))
        single = sorted((p for p in by_piece if len(p) == 1), key=lambda p: (p.isalnum(), p))
        self.single_bytes = _tokens(by_piece[p] for p in single)
        self.longest = _tokens(token for token, _ in sorted(plain, key=lambda each: (-len(each[1]), each[1])))
        self.number_bits = self._bits([token for token, piece in plain if piece[0] in _NUMBER])
        self.exponent_bits = self._bits(
            [token for token, piece in plain if _NUMBER.issuperset(piece) and set(piece) & set(b"eE")]
        )
        self.opening_bits = self._bits([token for token, piece in plain if any(byte in b"{[," for byte in piece)])
        self.quoting_bits = self._bits([token for token, piece in plain if ord('"') in piece])

    def _bits(self, tokens: Sequence[int]) -> Bits:
        flags = np.zeros(self.words * 32, np.bool_)
        flags[list(tokens)] = True
        bits: Bits = np.packbits(flags, bitorder="little").view(np.int32)
        return bits


def first_allowed(bits: Bits, tokens: Tokens) -> int | None:
    """The first of ``tokens`` whose bit is set."""
    found = all_allowed(bits, tokens)
    return int(found[0]) if len(found) else None


def all_allowed(bits: Bits, tokens: Tokens) -> Tokens:
    """Those of ``tokens`` whose bit is set, in their order."""
    found: Tokens = tokens[(bits[tokens >> 5] >> (tokens & 31)) & 1 != 0]
    return found


def _tokens(tokens: Any) -> Tokens:
    return np.fromiter(tokens, np.intp)
