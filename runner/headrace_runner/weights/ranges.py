"""Which bytes of a file are there, and which are to be asked for. Pure."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator

Span = tuple[int, int]
"""First byte and the one behind the last."""


class Spans:
    """Disjoint spans in order; those that touch are one."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    @property
    def covered_bytes(self) -> int:
        return sum(end - start for start, end in self._spans)

    def add(self, start: int, end: int) -> None:
        """Raises ValueError for what is no span."""
        if not 0 <= start <= end:
            raise ValueError("not a span")
        if start == end:
            return
        first = bisect_left(self._spans, start, key=lambda span: span[1])
        last = first
        while last < len(self._spans) and self._spans[last][0] <= end:
            start, end = min(start, self._spans[last][0]), max(end, self._spans[last][1])
            last += 1
        self._spans[first:last] = [(start, end)]

    def missing(self, size: int, most: int) -> list[Span]:
        """What lacks of `size` bytes, in pieces of at most `most`."""
        gaps, at = [], 0
        for start, end in [*self._spans, (size, size)]:
            gaps += [(begin, min(begin + most, start, size)) for begin in range(at, min(start, size), most)]
            at = max(at, end)
        return gaps
