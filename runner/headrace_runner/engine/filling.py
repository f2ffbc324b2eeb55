"""Fills the masks of all sequences while llama.cpp decodes: at the next sampling they are there already."""

import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import llguidance
import llguidance.numpy

if TYPE_CHECKING:
    from headrace_runner.engine.constraint import Constraint


class MaskFiller:
    """Constraints ask with ``wanted`` when they moved; ``prepare`` starts the work on all that asked.

    ``wanted`` and ``prepare`` belong to the decode thread. Nothing depends on ``prepare``: a constraint that was not
    prepared fills its mask itself, on the decode thread.
    """

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="masks")
        self._executor: Any = llguidance.LLExecutor()
        self._wanted: weakref.WeakSet[Constraint] = weakref.WeakSet()

    def wanted(self, constraint: "Constraint") -> None:
        """Have the mask filled at the next ``prepare``."""
        self._wanted.add(constraint)

    def prepare(self) -> None:
        """Fill on another thread. Call it right before a decode, which does not hold the GIL."""
        constraints = list(self._wanted)
        if constraints:
            self._wanted.clear()
            future = self._threads.submit(self._fill, constraints)
            for constraint in constraints:
                constraint.filling = future

    def _fill(self, constraints: "list[Constraint]") -> None:
        bits = llguidance.numpy.allocate_token_bitmask(len(constraints), self._vocab_size)
        matchers = [(constraint.matcher, row) for row, constraint in enumerate(constraints)]
        llguidance.numpy.fill_next_token_bitmask_par(self._executor, matchers, bits)
        for row, constraint in enumerate(constraints):
            constraint.filled(bits[row])


Filling = Future[None]
