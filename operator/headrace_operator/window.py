"""Who may be handed out: a bounded window per model and per namespace of it, and the lines of those who wait for room.

Bookkeeping without I/O or clocks, so that its bounds can be proven. It is fed with every view that the store takes;
a seat is kept until a view that is newer than the one it was given on says that the task is not handed out. Every step
costs O(log n) of what waits. Room is given to namespaces in turns, within a namespace by `created − priority · 10 s`;
a namespace at a bound of its own is passed over until it has room, a model at its bound waits for the next in turn.
A namespace's models take turns for what its quota leaves.
"""

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from headrace_bus import PRIORITY_AGE_MS
from headrace_crds.reasons import Reason
from headrace_crds.task import HANDED_OUT
from headrace_operator.decide.quota import Grant
from headrace_operator.decide.window import Bounds, Hindrance, Scope
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import TaskView

FOR_ROOM: Final = (Reason.QUEUE_FULL, Reason.QUOTA_EXCEEDED)


@dataclass(slots=True)
class _Seat:
    ref: TaskRef
    size_bytes: int
    version: int
    reserved: bool
    """Given, but the object does not say so yet."""


@dataclass(slots=True)
class _Wait:
    view: TaskView
    score: int


@dataclass(slots=True)
class _Use:
    tasks: int = 0
    bytes: int = 0

    def add(self, tasks: int, size_bytes: int) -> None:
        self.tasks += tasks
        self.bytes += size_bytes

    def fits(self, size_bytes: int, tasks_bound: int, bytes_bound: int) -> bool:
        if self.tasks >= tasks_bound:
            return False
        return self.tasks == 0 or self.bytes + size_bytes <= bytes_bound


class Window:
    """Closed until `open`: then nobody gets a seat, and views are not noted, as `open` brings them all."""

    def __init__(self, bounds: Bounds, grant: Callable[[str], Grant], wake: Callable[[TaskRef], None]) -> None:
        self._bounds = bounds
        self._grant_of = grant
        self._wake = wake
        self._clear()

    def _clear(self) -> None:
        self.is_open = False
        self._seats: dict[str, _Seat] = {}
        self._waits: dict[str, _Wait] = {}
        self._models: dict[ModelRef, _Use] = {}
        self._spaces: dict[tuple[ModelRef, str], _Use] = {}
        self._namespaces: dict[str, int] = {}
        self._lines: dict[tuple[ModelRef, str], list[tuple[int, str]]] = {}
        self._lines_of: dict[str, dict[ModelRef, None]] = {}
        """The models for which a namespace has lines; the first was given a seat there the longest ago."""
        self._turns: dict[ModelRef, dict[str, None]] = {}
        """Namespaces in whose line somebody may fit; the first one's turn it is."""

    def open(self, views: Iterable[TaskView]) -> None:
        """Begin with everything there is."""
        self._clear()
        for view in views:
            self.note(view, opening=True)
        self.is_open = True
        self._give_in_turn(self._turns)

    def close(self) -> None:
        self._clear()

    def waits(self, uid: str) -> bool:
        """Whether it stands in line, and is woken when it is its turn."""
        return uid in self._waits

    def handed_out(self, model: ModelRef) -> int:
        return self._models.get(model, _Use()).tasks

    def ask(self, view: TaskView) -> Hindrance | None:
        """A seat for this task, or why there is none: then it stands in line."""
        if not self.is_open:
            return Hindrance(Scope.TURN)
        ref = view.ref
        if ref.uid not in self._seats:
            self._line_up(view)
            self._give(ref.model, asking=ref.uid)
        return None if ref.uid in self._seats else self._hindrance(view)

    def let_go(self, ref: TaskRef) -> None:
        """It was looked at, and is not handed out for another reason. What fell back has a seat at one model alone."""
        seat = self._seats.get(ref.uid)
        if seat is not None and seat.reserved and seat.ref.model == ref.model:
            self._free(ref.uid)

    def note(self, view: TaskView, *, opening: bool = False) -> None:
        """What is known of a task. Older than what is known already: nothing."""
        if not self.is_open and not opening:
            return
        uid, seat = view.ref.uid, self._seats.get(view.ref.uid)
        # A finalizer keeps a deleted object for as long as its author likes; its entry is removed at once.
        if view.phase in HANDED_OUT and not view.finished and not view.deleting:
            if seat is not None and seat.ref.model != view.ref.model and view.version >= seat.version:
                self._free(uid)
                seat = None
            if seat is None:
                self._seat(view, reserved=False)
            else:
                seat.reserved, seat.version = False, max(seat.version, view.version)
            self._step_out(uid)
            return
        if seat is not None:
            if view.version < seat.version or (seat.reserved and view.version == seat.version):
                return
            self._free(uid)
        if view.phase == "Waiting" and view.reason in FOR_ROOM and not view.finished and not view.deleting:
            self._line_up(view)
            if not opening:
                self._give(view.ref.model)
        else:
            self._step_out(uid)

    def drop(self, ref: TaskRef) -> None:
        """The object is gone."""
        self._step_out(ref.uid)
        if ref.uid in self._seats:
            self._free(ref.uid)

    def grant_changed(self, namespace: str) -> None:
        """Another ceiling or number of tasks."""
        for model in self._lines_of.get(namespace, ()):
            line = self._lines[model, namespace]
            for _, uid in line:
                if self._in_line(uid, model):
                    self._waits[uid].score = self._score(self._waits[uid].view)
            living = {uid for _, uid in line if self._in_line(uid, model)}
            self._lines[model, namespace] = [(self._waits[uid].score, uid) for uid in living]
            heapq.heapify(self._lines[model, namespace])
        self._room_in(namespace)

    # Seats

    def _seat(self, view: TaskView, *, reserved: bool) -> None:
        ref = view.ref
        self._seats[ref.uid] = _Seat(ref, view.input_bytes, view.version, reserved)
        self._count(ref, 1, view.input_bytes)

    def _free(self, uid: str) -> None:
        seat = self._seats.pop(uid)
        self._count(seat.ref, -1, -seat.size_bytes)
        model, namespace = seat.ref.model, seat.ref.namespace
        if self._grant_of(namespace).tasks is not None:
            self._room_in(namespace)
        self._has_room(model, namespace)
        self._give(model)

    def _count(self, ref: TaskRef, tasks: int, size_bytes: int) -> None:
        self._models.setdefault(ref.model, _Use()).add(tasks, size_bytes)
        self._spaces.setdefault((ref.model, ref.namespace), _Use()).add(tasks, size_bytes)
        self._namespaces[ref.namespace] = self._namespaces.get(ref.namespace, 0) + tasks
        if not self._models[ref.model].tasks:
            del self._models[ref.model]
        if not self._spaces[ref.model, ref.namespace].tasks:
            del self._spaces[ref.model, ref.namespace]
        if not self._namespaces[ref.namespace]:
            del self._namespaces[ref.namespace]

    def _room_in(self, namespace: str) -> None:
        models = list(self._lines_of.get(namespace, ()))
        for model in models:
            self._has_room(model, namespace)
        self._give_in_turn(models)

    def _has_room(self, model: ModelRef, namespace: str) -> None:
        if (model, namespace) in self._lines:
            self._turns.setdefault(model, {}).setdefault(namespace)

    # Lines

    def _score(self, view: TaskView) -> int:
        return view.created_ms - self._grant_of(view.ref.namespace).clamped(view.priority) * PRIORITY_AGE_MS

    def _line_up(self, view: TaskView) -> None:
        place, score = (view.ref.model, view.ref.namespace), self._score(view)
        present = self._waits.get(view.ref.uid)
        if present is not None and present.view.ref.model != view.ref.model:
            self._step_out(view.ref.uid)
            present = None
        self._waits[view.ref.uid] = _Wait(view, score)
        if present is not None and present.score == score:
            return
        heapq.heappush(self._lines.setdefault(place, []), (score, view.ref.uid))
        self._lines_of.setdefault(view.ref.namespace, {}).setdefault(view.ref.model)
        self._has_room(*place)

    def _step_out(self, uid: str) -> None:
        wait = self._waits.pop(uid, None)
        if wait is not None:
            # Who stood behind it may fit where it did not.
            self._has_room(wait.view.ref.model, wait.view.ref.namespace)
            self._give(wait.view.ref.model)

    def _in_line(self, uid: str, model: ModelRef) -> bool:
        """Whether it waits for this model: who left a line is taken out of it when it comes to the front."""
        return uid in self._waits and self._waits[uid].view.ref.model == model

    def _head(self, model: ModelRef, namespace: str) -> TaskView | None:
        line = self._lines[model, namespace]
        while line:
            score, uid = line[0]
            wait = self._waits.get(uid)
            if wait is not None and wait.score == score and wait.view.ref.model == model:
                return wait.view
            heapq.heappop(line)
        del self._lines[model, namespace]
        self._lines_of[namespace].pop(model, None)
        if not self._lines_of[namespace]:
            del self._lines_of[namespace]
        return None

    def _give_in_turn(self, models: Iterable[ModelRef]) -> None:
        """One seat each, again and again, as long as there is room: no model takes all that a quota leaves."""
        takers = list(models)
        while takers:
            takers = [model for model in takers if self._give(model, most=1)]

    def _give(self, model: ModelRef, *, asking: str = "", most: int | None = None) -> int:
        """Seats to whoever is next, as long as there is room; gives how many. Who does not ask already is woken."""
        turns, given = self._turns.get(model, {}), 0
        while turns and self.is_open and given != most:
            namespace = next(iter(turns))
            view = self._head(model, namespace) if (model, namespace) in self._lines else None
            if view is None or self._hindered(view) in (Scope.QUOTA, Scope.NAMESPACE):
                del turns[namespace]
                continue
            if self._hindered(view) is not None:
                return given
            heapq.heappop(self._lines[model, namespace])
            del self._waits[view.ref.uid]
            self._seat(view, reserved=True)
            del turns[namespace]
            turns[namespace] = None
            models = self._lines_of[namespace]
            del models[model]
            models[model] = None
            given += 1
            if view.ref.uid != asking:
                self._wake(view.ref)
        if not turns:
            self._turns.pop(model, None)
        return given

    # Bounds

    def _hindered(self, view: TaskView) -> Scope | None:
        model, namespace, bounds = view.ref.model, view.ref.namespace, self._bounds
        granted = self._grant_of(namespace).tasks
        if granted is not None and self._namespaces.get(namespace, 0) >= granted:
            return Scope.QUOTA
        space = self._spaces.get((model, namespace), _Use())
        if not space.fits(view.input_bytes, bounds.namespace_tasks, bounds.namespace_bytes):
            return Scope.NAMESPACE
        whole = self._models.get(model, _Use())
        return None if whole.fits(view.input_bytes, bounds.model_tasks, bounds.model_bytes) else Scope.MODEL

    def _hindrance(self, view: TaskView) -> Hindrance:
        model, namespace = view.ref.model, view.ref.namespace
        match scope := self._hindered(view) or Scope.TURN:
            case Scope.QUOTA:
                return Hindrance(scope, self._namespaces.get(namespace, 0))
            case Scope.NAMESPACE:
                use = self._spaces.get((model, namespace), _Use())
            case _:
                use = self._models.get(model, _Use())
        return Hindrance(scope, use.tasks, use.bytes)
