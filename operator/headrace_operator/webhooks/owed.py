"""Who is owed a webhook, as events tell: handed to the leader's loop once per change."""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Protocol

from headrace_operator.refs import TaskRef


class Owing(Protocol):
    """What is looked at of a remembered task."""

    @property
    def ref(self) -> TaskRef: ...

    @property
    def owes(self) -> str: ...


class Owed:
    """Closed until `begin`, as whoever begins looks at everything there is."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._open = False
        self._fresh: dict[TaskRef, str] = {}

    def begin(self, known: Iterable[Owing]) -> None:
        self._open = True
        self._fresh.clear()
        for view in known:
            self.note(view)

    def note(self, view: Owing) -> None:
        if self._open and view.owes:
            self._fresh[view.ref] = view.owes
            self.changed.set()

    def take(self) -> Iterator[tuple[TaskRef, str]]:
        """What was noted since."""
        fresh, self._fresh = self._fresh, {}
        self.changed.clear()
        yield from fresh.items()
