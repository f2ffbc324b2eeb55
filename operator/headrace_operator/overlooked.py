"""Which of the tasks that wait outside of every line a sweep looks at: they are asked about in turns, not all at once.

Bookkeeping without I/O. Whatever such a task waits for wakes it; the sweep makes up for news that was lost.
"""

import heapq
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from headrace_operator.refs import TaskRef

MOST_PER_SWEEP: Final = 500


class Overlooked:
    """Remembers in which sweep a task was looked at last."""

    def __init__(self, most: int = MOST_PER_SWEEP) -> None:
        self._most = most
        self._sweeps = 0
        self._looked: dict[str, int] = {}

    def choose(self, waiting: Iterable[TaskRef]) -> list[TaskRef]:
        """As many as one sweep may look at, of every namespace as many, those first that were not looked at longest."""
        self._sweeps += 1
        spaces: defaultdict[str, list[tuple[int, str, TaskRef]]] = defaultdict(list)
        for ref in waiting:
            spaces[ref.namespace].append((self._looked.get(ref.uid, 0), ref.uid, ref))
        ranked = (
            (rank, looked, uid, ref)
            for line in spaces.values()
            for rank, (looked, uid, ref) in enumerate(heapq.nsmallest(self._most, line))
        )
        chosen = [ref for *_, ref in heapq.nsmallest(self._most, ranked)]
        # Who waits no more is forgotten.
        self._looked = {uid: looked for line in spaces.values() for looked, uid, _ in line if looked}
        self._looked.update((ref.uid, self._sweeps) for ref in chosen)
        return chosen
