"""What the leader remembers of budgets between two rounds: who reserved, what ended, who waits for room.

Bookkeeping without I/O. Lost with the leader: the sweep finds it again.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from headrace_bus import Line, Totals
from headrace_crds.cost import Spend
from headrace_crds.task import HANDED_OUT
from headrace_operator.refs import TaskRef
from headrace_operator.views import TaskView


@dataclass(frozen=True, slots=True)
class Wait:
    """A task that found no room, and what it wants."""

    ref: TaskRef
    most: Spend


class Room:
    """What is left of one budget."""

    def __init__(self, line: Line, totals: Totals) -> None:
        self._currency = line.currency
        self._tokens = None if line.tokens is None else line.tokens - totals.tokens_spent - totals.tokens_reserved
        self._micros = None if line.micros is None else line.micros - totals.micros_spent - totals.micros_reserved

    def fits(self, most: Spend) -> bool:
        """Money bounds what costs some in this currency, and nothing else."""
        if self._tokens is not None and most.tokens > self._tokens:
            return False
        return self._micros is None or most.currency != self._currency or most.cost_micros <= self._micros

    def take(self, most: Spend) -> None:
        if self._tokens is not None:
            self._tokens -= most.tokens
        if self._micros is not None and most.currency == self._currency:
            self._micros -= most.cost_micros


@dataclass
class BudgetBook:
    """A listener of the store."""

    reserved: dict[str, int] = field(default_factory=dict)
    """By uid the attempt that has a reservation."""
    ended: dict[str, tuple[TaskRef, int, Spend]] = field(default_factory=dict)
    """Outcomes that are still to be settled: task, attempt and what it took."""
    waits: defaultdict[str, dict[str, Wait]] = field(default_factory=lambda: defaultdict(dict))
    """By namespace and uid."""
    suspects: dict[str, int] = field(default_factory=dict)
    """Reservations that the last sweep found nobody for."""
    freed: set[str] = field(default_factory=set)
    """Namespaces in which something was settled."""
    kept: set[str] = field(default_factory=set)
    """Namespaces that had budgets when the last sweep began."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def clear(self) -> None:
        """Another leader may have worked in between."""
        for each in (self.reserved, self.ended, self.waits, self.suspects, self.freed, self.kept):
            each.clear()

    def note(self, view: TaskView) -> None:
        uid = view.ref.uid
        if view.finished and view.spent is not None and self.reserved.get(uid) == view.attempt:
            self.ended[uid] = view.ref, view.attempt, view.spent
            self.changed.set()
        if view.finished or view.deleting or view.phase in HANDED_OUT:
            self.enough(view.ref)

    def drop(self, ref: TaskRef) -> None:
        self.enough(ref)

    def enough(self, ref: TaskRef) -> None:
        """It waits no more."""
        waits = self.waits.get(ref.namespace)
        if waits is not None and waits.pop(ref.uid, None) is not None and not waits:
            del self.waits[ref.namespace]

    def settled(self, namespace: str, uid: str, attempt: int) -> None:
        if self.reserved.get(uid) == attempt:
            del self.reserved[uid]
        if namespace in self.waits:
            self.freed.add(namespace)
            self.changed.set()
