"""The ledger of KV cells: which sequence holds how many, and which of them several sequences share.

Pure. llama.cpp tells no number of free cells, so the decode loop asks this ledger before it decodes, and has it checked
against what llama.cpp does tell: the first and last position of each sequence.

Cells hang together as a tree. A sequence is a path from the root to its leaf, and what two sequences share is the part
of the path that they have in common, so that a shared cell is counted once::

    ●── 470 ──●── 20 ── sequence 0
              ├── 31 ── sequence 1
              └──  0 ── prefix 16
"""

from collections.abc import Callable, Iterable


class LedgerMismatch(Exception):
    """llama.cpp holds other positions of a sequence than the ledger says: a defect, and no text can be trusted."""


class _Segment:
    """Cells that the same sequences hold. ``holders`` counts the segments and sequences that hang on it."""

    __slots__ = ("cells", "holders", "parent")

    def __init__(self, parent: "_Segment | None", cells: int, holders: int) -> None:
        self.parent = parent
        self.cells = cells
        self.holders = holders


class Ledger:
    """Counts the cells of one KV cache. Sequence ids are llama.cpp's; one without cells need not be known."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._leaves: dict[int, _Segment] = {}
        self._lengths: dict[int, int] = {}

    @property
    def free(self) -> int:
        """How many tokens can still be decoded."""
        return self.total - self.used

    def length(self, seq_id: int) -> int:
        """How many tokens the sequence has in the cache, shared ones included."""
        return self._lengths.get(seq_id, 0)

    def extend(self, seq_id: int, count: int) -> None:
        """Note that ``count`` tokens of the sequence were decoded. Raises ValueError where they cannot have been."""
        if count > self.free:
            raise ValueError(f"sequence {seq_id}: {count} cells, {self.free} are free")
        if seq_id not in self._leaves:
            self._leaves[seq_id], self._lengths[seq_id] = _Segment(None, 0, 1), 0
        # A leaf belongs to one sequence alone.
        self._leaves[seq_id].cells += count
        self._lengths[seq_id] += count
        self.used += count

    def share(self, source: int, target: int, count: int) -> None:
        """Let ``target``, which holds nothing, hold the first ``count`` cells of ``source`` as well."""
        if target in self._leaves or not 0 < count <= self.length(source):
            raise ValueError(f"sequence {target} cannot take {count} cells of sequence {source}")
        segment, beyond = self._leaves[source], self._lengths[source] - count
        while segment.parent is not None and segment.cells <= beyond:
            beyond -= segment.cells
            segment = segment.parent
        if beyond or segment is self._leaves[source]:
            # The upper part becomes a segment of its own; whoever hangs on the lower one goes on to.
            upper = _Segment(segment.parent, segment.cells - beyond, 1)
            segment.parent, segment.cells = upper, beyond
            segment = upper
        segment.holders += 1
        self._leaves[target], self._lengths[target] = _Segment(segment, 0, 1), count

    def truncate(self, seq_id: int, count: int) -> None:
        """Forget what a sequence has beyond its first ``count`` cells, none of which it may share."""
        beyond = self.length(seq_id) - count
        if count <= 0 or not 0 <= beyond <= self._leaves[seq_id].cells:
            raise ValueError(f"sequence {seq_id} cannot be cut to {count} of its {self.length(seq_id)} cells")
        self._leaves[seq_id].cells -= beyond
        self._lengths[seq_id] -= beyond
        self.used -= beyond

    def release(self, seq_id: int) -> int:
        """Forget a sequence; gives how many cells that freed. Unknown ids free none."""
        segment: _Segment | None = self._leaves.pop(seq_id, None)
        self._lengths.pop(seq_id, None)
        freed = 0
        while segment is not None:
            segment.holders -= 1
            if segment.holders:
                break
            freed += segment.cells
            segment = segment.parent
        self.used -= freed
        return freed

    def check(self, seq_ids: Iterable[int], positions: Callable[[int], tuple[int, int]]) -> None:
        """Compare sequences with llama.cpp's view of them.

        ``positions`` gives the first and last position of a sequence, -1 and -1 of an empty one. Raises LedgerMismatch.
        """
        for seq_id in seq_ids:
            length = self.length(seq_id)
            expected = (0, length - 1) if length else (-1, -1)
            if (found := positions(seq_id)) != expected:
                raise LedgerMismatch(f"sequence {seq_id} spans {found}, the ledger says {expected}")
