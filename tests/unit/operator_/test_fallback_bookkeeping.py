"""A task that fell back has two keys for a while: which of them knows it, and what is written in which order."""

from types import SimpleNamespace
from typing import Any

import pytest
from fallback_cases import GPT, falling, named
from operator_cases import MODEL, NOW_MS, TASK, came_back, held, merged, queued, task_body, waiting

from headrace_bus import Entry, EntryState
from headrace_bus.tracing import SILENT
from headrace_operator import apply_task, observe_task, watch
from headrace_operator.budget_book import BudgetBook
from headrace_operator.context import Context, Memory
from headrace_operator.decide.plans import Move
from headrace_operator.decide.quota import Grant
from headrace_operator.decide.task import decide
from headrace_operator.metrics import FALLBACK_PAIRS_LIMIT, Metrics
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.store import Store
from headrace_operator.views import task_view

THERE = TASK._replace(model=GPT)
FELL_BACK = {**waiting(2, "FellBack"), "assignedModel": str(GPT), "triedModels": [str(MODEL)]}
WRONG = {"reason": "InvalidOutput", "message": "", "retryable": False}


class Keys(list[TaskRef]):
    def add(self, key: TaskRef) -> None:
        self.append(key)


class Desk:
    """API server, bus and store around one task; what is written is told in order."""

    def __init__(self, body: dict[str, Any] | None) -> None:
        self.body, self.calls = body, list[str]()
        self.due = Keys()
        self.entry: Entry | None = None
        self.ctx: Any = SimpleNamespace(
            bus=self,
            kube=self,
            clock=self,
            store=Store(),
            tasks=self.due,
            memory=Memory(registered={MODEL, GPT}),
            metrics=Metrics(),
            settings=SimpleNamespace(sharing_model_namespaces=(), serves=lambda _: True),
            jitter=lambda: 0.5,
            grants=SimpleNamespace(of=lambda _: Grant()),
            budgets=BudgetBook(),
            tracing=SILENT,
        )

    async def now_ms(self) -> int:
        return NOW_MS

    async def inspect(self, *_: Any) -> Entry | None:
        return self.entry

    async def get(self, *_: Any) -> dict[str, Any] | None:
        return self.body

    async def patch_status(self, *args: Any, **_: Any) -> dict[str, Any]:
        self.calls.append("status")
        assert self.body is not None
        self.body = {**self.body, "status": merged(self.body["status"], args[3])}
        self.body["metadata"] = {**self.body["metadata"], "resourceVersion": "101"}
        return self.body

    async def withdraw(self, model: Any, _: str, attempt: int, *, seen: EntryState | None) -> bool:
        self.calls.append(f"withdraw {model.name} {attempt} {seen}")
        return True

    async def remove(self, model: Any, _: str) -> None:
        self.calls.append(f"remove {model.name}")


@pytest.mark.parametrize(
    ("entry", "fallback", "calls"),
    [
        (held("Queued"), ("Unavailable",), ["withdraw qwen 1 None", "status"]),
        (came_back("Failed", **WRONG), ("InvalidOutput",), ["status", "withdraw qwen 1 Returned"]),
    ],
    ids=["nobody may begin with it", "nobody has it"],
)
async def test_the_old_queue_is_left_and_the_new_key_looked_at(
    monkeypatch: pytest.MonkeyPatch, entry: Any, fallback: tuple[str, ...], calls: list[str]
) -> None:
    async def silent(*_: Any) -> None:
        return None

    monkeypatch.setattr(apply_task.announce, "publish", silent)
    spec = {"policy": "List", "models": [{"name": "gpt"}], "when": list(fallback)}
    desk = Desk(task_body(queued(), fallback=spec))
    seen = falling(of=named("CircuitOpen"), held=entry, fallback=spec)
    plan = decide(seen)
    assert plan.move == Move(MODEL, GPT, fallback[0])
    assert await apply_task.apply(plan, seen, desk.ctx) is None
    assert desk.calls == calls
    assert desk.due == [THERE]
    assert desk.ctx.store.task(TASK.uid).ref == THERE
    assert 'headrace_operator_fallbacks_total{from="team-a/qwen"' in desk.ctx.metrics.exposition().decode()


@pytest.mark.parametrize(("reason", "woken"), [("CircuitOpen", True), ("", False)])
def test_a_model_that_goes_down_wakes_who_waits_for_the_next_try(reason: str, woken: bool) -> None:
    """When it came back the model still served, so that nobody meant to look at it again."""
    desk = Desk(None)
    desk.ctx.window = SimpleNamespace(waits=lambda _: False)
    desk.ctx.store.put_model(MODEL, named(reason))
    desk.ctx.store.put_task(task_view(task_body(queued(2, reason="RetryBackoff"))))
    Context.enqueue_tasks_of(desk.ctx, MODEL)
    assert desk.due == [TASK] * woken


def test_a_task_is_found_by_its_present_model_alone() -> None:
    store = Store()
    store.put_task(task_view(task_body(queued())))
    body = task_body(FELL_BACK)
    body["metadata"]["resourceVersion"] = "101"
    store.put_task(task_view(body))
    assert store.open_tasks_of(MODEL) == []
    assert [view.ref for view in store.open_tasks_of(GPT)] == [THERE]
    assert not store.drop_task(TASK), "an entry in the old model's keys speaks for nobody"
    assert store.drop_task(THERE)
    assert store.open_tasks_of(GPT) == []


async def test_a_look_by_the_model_that_it_left_finds_nothing_and_corrects_the_store() -> None:
    desk = Desk(task_body(FELL_BACK))
    desk.entry = Entry(TASK.uid, 1, EntryState.QUEUED, TASK.namespace, TASK.name, NOW_MS, None, None)
    snapshot = await observe_task.observe(TASK, desk.ctx)
    assert snapshot is not None
    assert snapshot.task is None
    plan = decide(snapshot)
    assert (plan.remove, plan.status) == (True, None)
    assert await apply_task.apply(plan, snapshot, desk.ctx) is None
    assert desk.calls == ["withdraw qwen 1 None", "remove qwen"]
    assert desk.due == [THERE]
    assert desk.ctx.store.task(TASK.uid).ref == THERE


def test_a_deletion_clears_both_queues() -> None:
    desk = Desk(None)
    desk.ctx.store.put_task(task_view(task_body(queued())))
    watch.task_seen("DELETED", task_body(FELL_BACK), desk.ctx)
    assert desk.ctx.store.task(TASK.uid) is None
    assert sorted(desk.due) == sorted([TASK, THERE])


@pytest.mark.parametrize("assigned", ["", "qwen", "/qwen", "team-a/", "a/b/c"])
def test_what_names_no_model_assigns_nothing(assigned: str) -> None:
    assert task_view(task_body({**queued(), "assignedModel": assigned})).ref == TASK


def test_the_metrics_labels_are_bounded() -> None:
    metrics = Metrics()
    for number in range(FALLBACK_PAIRS_LIMIT + 5):
        metrics.fell_back(Move(ModelRef("n", f"m{number}"), GPT, "Unavailable"))
    told = metrics.exposition().decode()
    assert 'fallbacks_total{from="other",reason="Unavailable",to="other"} 5.0' in told
    assert told.count("headrace_operator_fallbacks_total{") == FALLBACK_PAIRS_LIMIT + 1
