"""What a plan becomes: which writes, in which order, and when the task is looked at again."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from operator_cases import LOADING, MODEL, NOW_MS, TASK, came_back, held, merged, queued, snapshot, task_body

from headrace_bus import BusUnavailable, EnqueueOutcome, EntryState, Envelope
from headrace_bus.tracing import SILENT
from headrace_crds.outcome import timestamp
from headrace_crds.quota import LLMQuotaSpec
from headrace_crds.task import LLMTask
from headrace_operator import apply_task
from headrace_operator.allowance import Allowance
from headrace_operator.context import Memory
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.task import decide
from headrace_operator.grants import Grants
from headrace_operator.store import Store


@dataclass
class Bench:
    """One task, an API server and a bus that note what they are told."""

    body: dict[str, Any]
    explanations: int = 1_000
    queue_is_away: bool = False
    parked_meanwhile: bool = False
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ctx: Any = SimpleNamespace(
            bus=self,
            kube=self,
            memory=Memory(registered={MODEL}),
            grants=Grants(LLMQuotaSpec()),
            store=Store(),
            explanations=Allowance(self.explanations, lambda: 0.0),
            tracing=SILENT,
        )

    async def patch_status(self, _: Any, __: str, ___: str, patch: Any, **____: Any) -> dict[str, Any]:
        self.calls.append("status")
        self.body = {**self.body, "status": merged(self.body.get("status"), patch)}
        return self.body

    async def enqueue(self, *_: Any, **__: Any) -> EnqueueOutcome:
        self.calls.append("enqueue")
        if self.queue_is_away:
            raise BusUnavailable("away")
        return EnqueueOutcome.DUPLICATE

    async def withdraw(self, _: Any, uid: str, attempt: int, *, seen: EntryState | None) -> bool:
        self.calls.append(f"withdraw {attempt} {seen}")
        return not self.parked_meanwhile

    async def move(self, _: Any, envelope: Envelope) -> bool:
        self.calls.append(f"move {envelope.attempt} {envelope.priority}")
        return True

    async def remove(self, *_: Any) -> bool:
        self.calls.append("remove")
        return True

    async def apply(self, plan: TaskPlan, **seen: Any) -> float | None:
        return await apply_task.apply(plan, snapshot(LLMTask.model_validate(self.body), **seen), self.ctx)


@pytest.mark.parametrize(("ends_in", "again"), [(20, 20.0), (500, 30.0)])
async def test_an_explanation_that_has_to_wait_keeps_the_deadline(ends_in: int, again: float) -> None:
    accepted = timestamp(NOW_MS - 60_000 - 1_000)
    bench = Bench(task_body({**queued(), "acceptTime": accepted}, activeDeadlineSeconds=60 + ends_in), explanations=1)
    assert bench.ctx.explanations.take(MODEL)
    plan = decide(snapshot(LLMTask.model_validate(bench.body), model=LOADING, held=held("Queued")))
    assert plan.explains_only
    assert await bench.apply(plan, model=LOADING, held=held("Queued")) == again
    assert bench.calls == []
    plan = TaskPlan("as above", status=plan.status, explains_only=True, remove=True)
    assert await bench.apply(plan, held=held("Queued")) == again
    assert bench.calls == ["withdraw 1 None"]
    assert TASK not in bench.ctx.memory.refused_attempts


def edited() -> tuple[dict[str, Any], TaskPlan]:
    body = task_body(queued(), generation=2, priority=9)
    plan = decide(snapshot(LLMTask.model_validate(body), held=held("Queued")))
    assert plan.details == "moved in the queue"
    return body, plan


async def test_an_edited_priority_is_offered_before_it_is_said_to_be_seen() -> None:
    body, plan = edited()
    bench = Bench(body, queue_is_away=True)
    with pytest.raises(BusUnavailable):
        await bench.apply(plan, held=held("Queued"))
    assert bench.calls == ["enqueue"]
    bench.queue_is_away = False
    await bench.apply(plan, held=held("Queued"))
    assert bench.calls == ["enqueue", "enqueue", "status"]


async def test_a_copy_that_would_not_be_taken_today_goes_to_its_new_place_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise ValueError("the model has other defaults since")

    monkeypatch.setattr(apply_task, "resolve", refuses)
    body, plan = edited()
    bench = Bench(body)
    await bench.apply(plan, held=held("Queued"))
    assert bench.calls == ["move 1 9", "status"]
    assert bench.body["status"]["observedGeneration"] == 2
    assert "outcome" not in bench.body["status"]


async def test_a_holder_that_parks_meanwhile_keeps_its_result() -> None:
    bench = Bench(task_body(queued(2), cancel=True), parked_meanwhile=True)
    leased = held("Leased", 2)
    plan = decide(snapshot(LLMTask.model_validate(bench.body), held=leased, cancel_asked_ms=NOW_MS - 10_000))
    assert plan.take_back is not None
    assert await bench.apply(plan, held=leased) == 0.0
    assert bench.calls == ["withdraw 2 Leased"]


@pytest.mark.parametrize(
    ("body", "place", "calls"),
    [
        pytest.param(task_body(queued(2)), None, ["remove"], id="what does not read as an entry"),
        pytest.param(task_body(queued(2)), held("Queued", 1), ["withdraw 1 None"], id="a living task's entry"),
        pytest.param(task_body(queued(2)), held("Leased", 2), ["withdraw 2 Leased"], id="from its holder"),
        pytest.param(task_body(queued(2)), came_back("Failed", 2), ["withdraw 2 Returned"], id="what came back"),
        pytest.param(
            None, held("Leased", 2), ["withdraw 2 Leased", "remove"], id="a deleted task, with all that is left"
        ),
    ],
)
@pytest.mark.parametrize("changed", [False, True])
async def test_what_became_of_an_entry_since_it_was_looked_at_is_not_removed(
    body: Any, place: Any, calls: list[str], changed: bool
) -> None:
    bench = Bench(body or task_body(), parked_meanwhile=changed)
    seen = replace(snapshot(LLMTask.model_validate(body) if body is not None else None), held=place)
    again = await apply_task.apply(TaskPlan("gone", remove=True), seen, bench.ctx)
    refused = changed and place is not None
    assert bench.calls == (calls[:1] if refused else calls)
    assert (again == 0.0) is refused, "looked at again at once"
