"""What the planner is told of a model: its backlog by age, its replicas, its bounds."""

from dataclasses import replace

import pytest

from headrace_bus import Stats
from headrace_crds.model import LLMModel
from headrace_operator.decide.snapshots import PodView, Report
from headrace_operator.planner.facts import AGE_STARTS_SECONDS, Replica, ReplicaState, Scaling
from headrace_operator.planning import _backlog, _bucket, _replica, _scaling, _slots
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.views import TaskView

NOW_MS = 1_800_000_000_000
QUIET = Stats(0, 0, 0, 0, None)
LOCAL = {"local": {"source": {"persistentVolumeClaim": {"claimName": "c", "path": "m.gguf"}}, "parallelism": 3}}
REMOTE = {"remote": {"provider": "OpenAI", "model": "m", "maxConcurrency": 5}}
POD = PodView("p", "ns", 1, "Running", created_ms=NOW_MS - 9_000)


def view(age_seconds: float, phase: str = "Queued", reason: str = "Queued", *, deleting: bool = False) -> TaskView:
    return TaskView(
        ref=TaskRef("ns", "t", "u", ModelRef("ns", "m")),
        resource_version="1",
        phase=phase,
        attempt=1,
        reason=reason,
        message="",
        finished=False,
        behind=False,
        deleting=deleting,
        created_ms=NOW_MS - int(age_seconds * 1000),
    )


def ages(*seconds: float) -> tuple[int, ...]:
    counts = [0] * len(AGE_STARTS_SECONDS)
    for each in seconds:
        counts[_bucket(int(each * 1000))] += 1
    return tuple(counts)


def test_buckets() -> None:
    assert [_bucket(ms) for ms in (-5, 0, 1_999, 2_000, 3_599_999, 3_600_000, 10**12)] == [0, 0, 0, 1, 8, 9, 9]


@pytest.mark.parametrize(
    ("views", "stats", "tasks", "calls"),
    [
        ([], QUIET, ages(), ages()),
        ([view(1), view(700)], QUIET, ages(1, 700), ages()),
        # What waits for something else is nobody's backlog.
        ([view(1, "Waiting", "BudgetExhausted"), view(1, "Suspended", "Suspended")], QUIET, ages(), ages()),
        ([view(1, "Waiting", "QueueFull"), view(1, "Queued", "WaitingForGPU")], QUIET, ages(1, 1), ages()),
        ([view(1, deleting=True), view(1, "", "")], QUIET, ages(), ages()),
        # Two run and say so; of four that are leased two have not said it yet.
        (
            [view(9, "Running", "Running")] * 2 + [view(90), view(50), view(1)],
            replace(QUIET, leased=4),
            ages(1),
            ages(),
        ),
        ([view(9)], replace(QUIET, leased=7), ages(), ages()),
        ([], replace(QUIET, queued=2, queued_calls=2, oldest_queued_ms=NOW_MS - 40_000), ages(), ages(40, 40)),
    ],
    ids=["nothing", "ages", "others", "waiting", "going", "unsaid", "leased", "calls"],
)
def test_the_backlog(views: list[TaskView], stats: Stats, tasks: tuple[int, ...], calls: tuple[int, ...]) -> None:
    backlog = _backlog(views, stats, NOW_MS)
    assert (backlog.tasks, backlog.calls) == (tasks, calls)


@pytest.mark.parametrize(
    ("pod", "told", "expected"),
    [
        (POD, None, Replica("p", ReplicaState.STARTING, NOW_MS - 9_000)),
        (
            replace(POD, ready=True, ready_changed_ms=NOW_MS - 3_000, node="n"),
            Report("Serving", busy=2),
            Replica("p", ReplicaState.SERVING, NOW_MS - 3_000, 2, "n"),
        ),
        (
            replace(POD, ready=True, ready_changed_ms=NOW_MS - 3_000, terminating=True, terminating_ms=NOW_MS - 500),
            None,
            Replica("p", ReplicaState.DRAINING, NOW_MS - 500),
        ),
    ],
    ids=["starting", "serving", "draining"],
)
def test_a_replica(pod: PodView, told: Report | None, expected: Replica) -> None:
    assert _replica(pod, told) == expected


def model(spec: dict[str, object], status: dict[str, object] | None = None) -> LLMModel:
    return LLMModel.model_validate({"metadata": {"name": "m", "namespace": "ns"}, "spec": spec, "status": status})


def test_bounds_and_slots() -> None:
    assert _slots(model(LOCAL)) == 3
    assert _slots(model(REMOTE)) == 5
    assert _scaling(model(LOCAL | {"replicas": 4}), startable=True) == Scaling(manual=4)
    assert _scaling(model(LOCAL | {"scaling": {"mode": "Manual"}}), startable=True) == Scaling(manual=1)
    auto = model(LOCAL | {"scaling": {"maxReplicas": 9, "idleSeconds": 5, "tasksPerReplica": 2}})
    # Nobody knows yet whether its weights are good.
    assert _scaling(auto, startable=True) == Scaling(1, 9, 5, 2)
    assert _scaling(auto, startable=False) == Scaling(0, 9, 5, 2)
    for type_ in ("Ready", "Stalled"):
        condition = {"type": type_, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        tried = model({**LOCAL, "scaling": {}}, {"conditions": [condition]})
        assert _scaling(tried, startable=True) == Scaling(0, 1, 300, None)
