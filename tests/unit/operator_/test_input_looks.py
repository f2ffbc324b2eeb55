"""When the operator reads spec.inputFrom: for who has a seat, not before, and ever more rarely while it is missing."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from operator_cases import MODEL, TASK, queued, snapshot, task_body, waiting

from headrace_crds.quota import LLMQuotaSpec
from headrace_crds.task import LLMTask
from headrace_operator import apply_task, reconcile
from headrace_operator.context import Context, Memory
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.window import Bounds
from headrace_operator.errors import KubeUnavailable
from headrace_operator.grants import Grants
from headrace_operator.store import Store
from headrace_operator.views import task_view
from headrace_operator.window import Window

FROM = {"prompt": None, "inputFrom": {"configMapKeyRef": {"name": "book", "key": "text"}}}
BOOK = {"metadata": {"name": "book", "labels": {"headrace.dev/input": "true"}}, "data": {"text": "hi"}}


class Shelf:
    """The API server's ConfigMaps, and how often they were asked for."""

    def __init__(self) -> None:
        self.book: dict[str, Any] | None = None
        self.away = False
        self.looks = 0

    async def get(self, *_: Any) -> dict[str, Any] | None:
        self.looks += 1
        if self.away:
            raise KubeUnavailable("away")
        return self.book


class Desk:
    """One task, and what is done about it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, tasks: int = 1) -> None:
        self.shelf, self.now = Shelf(), 0.0
        store, grants = Store(), Grants(LLMQuotaSpec())
        self.window = Window(Bounds(tasks, 2**30, tasks, 2**30), grants.of, lambda _: None)
        store.listeners.append(self.window)
        self.body = task_body(waiting(), **FROM)
        self.ctx = cast(
            "Context",
            SimpleNamespace(
                kube=self.shelf,
                store=store,
                window=self.window,
                grants=grants,
                memory=Memory(),
                monotonic=lambda: self.now,
                settings=SimpleNamespace(window=Bounds()),
            ),
        )
        store.put_task(task_view(self.body))
        monkeypatch.setattr(apply_task, "apply", self._apply)

    async def _apply(self, plan: TaskPlan, *_: Any) -> None:
        self.plan = plan

    async def look(self) -> TaskPlan:
        await reconcile._apply_task(snapshot(LLMTask.model_validate(self.body)), self.ctx)
        return self.plan

    def others_take_all(self) -> None:
        other = task_body(queued())
        other["metadata"] |= {"uid": "other", "name": "other"}
        self.ctx.store.put_task(task_view(other))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


async def test_nothing_is_read_while_the_window_is_closed(desk: Desk) -> None:
    for _ in range(3):
        assert (await desk.look()).enqueue is None
    assert desk.shelf.looks == 0


async def test_nothing_is_read_for_who_has_no_seat(desk: Desk) -> None:
    desk.window.open([])
    desk.others_take_all()
    plan = await desk.look()
    assert plan.status is not None
    assert plan.status["reason"] == "QueueFull"
    assert desk.shelf.looks == 0


async def test_who_has_a_seat_is_handed_its_input(desk: Desk) -> None:
    desk.window.open([])
    desk.shelf.book = BOOK
    plan = await desk.look()
    assert plan.enqueue is not None
    assert plan.enqueue.input_text == "hi"
    assert desk.window.handed_out(MODEL) == 1


async def test_a_miss_lets_the_seat_go_and_is_not_looked_for_again_at_once(desk: Desk) -> None:
    desk.window.open([])
    for _ in range(3):
        plan = await desk.look()
        assert plan.status is not None
        assert (plan.enqueue, plan.status["reason"], plan.requeue_after_seconds) == (None, "InputNotFound", 10.0)
        assert desk.window.handed_out(MODEL) == 0
        assert not desk.window.waits(TASK.uid), "it stands in nobody's way"
    assert desk.shelf.looks == 1
    desk.now, desk.shelf.book = 10.0, BOOK
    assert (await desk.look()).enqueue is not None
    assert desk.ctx.memory.missed_inputs == {}


async def test_a_failed_look_lets_the_seat_go(desk: Desk) -> None:
    desk.window.open([])
    desk.shelf.away = True
    with pytest.raises(KubeUnavailable):
        await desk.look()
    assert desk.window.handed_out(MODEL) == 0


async def test_an_input_that_is_too_large_takes_no_seat(desk: Desk) -> None:
    desk.window.open([])
    desk.shelf.book = {**BOOK, "data": {"text": "a" * 1_000_000}}
    plan = await desk.look()
    assert plan.status is not None
    assert plan.status["reason"] == "InputTooLarge"
    assert desk.window.handed_out(MODEL) == 0
