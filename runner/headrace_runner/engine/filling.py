"""Fills the masks of all sequences while llama.cpp decodes: at the next sampling they are there already."""

import os
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from headrace_runner.engine.constraint import Constraint

MAX_MASK_SECONDS: Final = 2.0
"""Of CPU time for the masks of one task, beyond what each of its tokens brings."""
SECONDS_A_TOKEN: Final = 0.001
"""Usual masks take a tenth of it, so that no document is too long; those of ambiguous grammars grow with each token."""
_MAX_THREADS: Final = 8


class MaskTime:
    """The CPU time that the grammar of one task has taken, of all its completions together; thread-safe.

    All sequences of a step wait for the slowest mask, so that one grammar may not be slow for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left_seconds = MAX_MASK_SECONDS

    def spend(self, seconds: float) -> None:
        """Count CPU time."""
        with self._lock:
            self._left_seconds -= seconds

    def earn(self) -> None:
        """Count a token that was drawn."""
        with self._lock:
            self._left_seconds += SECONDS_A_TOKEN

    @property
    def is_over(self) -> bool:
        """Tell whether no more may be spent."""
        return self._left_seconds <= 0


class MaskFiller:
    """Constraints ask with ``wanted`` when they moved; ``prepare`` starts the work on all that asked.

    ``wanted`` and ``prepare`` belong to the decode thread. Nothing depends on ``prepare``: a constraint that was not
    prepared fills its mask itself, on the decode thread.
    """

    def __init__(self) -> None:
        # Threads of ours and not llguidance's, whose CPU time nobody could tell one constraint from another by.
        self._share_count = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
        self._threads = ThreadPoolExecutor(self._share_count, thread_name_prefix="masks")
        self._wanted: weakref.WeakSet[Constraint] = weakref.WeakSet()

    def wanted(self, constraint: "Constraint") -> None:
        """Have the mask filled at the next ``prepare``."""
        self._wanted.add(constraint)

    def prepare(self) -> None:
        """Fill on other threads. Call it right before a decode, which does not hold the GIL."""
        constraints = list(self._wanted)
        self._wanted.clear()
        for first in range(min(self._share_count, len(constraints))):
            share = constraints[first :: self._share_count]
            future = self._threads.submit(_fill, share)
            for constraint in share:
                constraint.filling = future


def _fill(constraints: "list[Constraint]") -> None:
    for constraint in constraints:
        constraint.fill()


Filling = Future[None]
