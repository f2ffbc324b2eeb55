"""What the planner is told of a model: its backlog by age, its replicas, its bounds."""

from dataclasses import replace

import pytest

from headrace_bus import Stats
from headrace_crds.model import LLMModel
from headrace_operator.decide.snapshots import PodView
from headrace_operator.planner.facts import AGE_STARTS_SECONDS, GpuNeed, ModelFacts, Replica, ReplicaState, Scaling
from headrace_operator.planning import _backlog, _bucket, _own_words, _replica, _scaling, _slots, _stuck, _trial_ms
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
        # Of three that are told as queued Redis has one: the oldest two run and have not said it yet.
        (
            [view(9, "Running", "Running")] * 2 + [view(90), view(50), view(1)],
            replace(QUIET, leased=4, queued=1),
            ages(1),
            ages(),
        ),
        # Calls that run are no tasks.
        ([view(9)], replace(QUIET, leased=7, queued=1), ages(9), ages()),
        ([view(9, "Waiting", "CircuitOpen")], QUIET, ages(9), ages()),
        ([], replace(QUIET, queued=2, queued_calls=2, oldest_queued_ms=NOW_MS - 40_000), ages(), ages(40, 40)),
    ],
    ids=["nothing", "ages", "others", "waiting", "going", "unsaid", "leased", "paused", "calls"],
)
def test_the_backlog(views: list[TaskView], stats: Stats, tasks: tuple[int, ...], calls: tuple[int, ...]) -> None:
    backlog = _backlog(views, stats, NOW_MS)
    assert (backlog.tasks, backlog.calls) == (tasks, calls)


@pytest.mark.parametrize(
    ("pod", "busy", "expected"),
    [
        (POD, 0, Replica("p", ReplicaState.STARTING, NOW_MS - 9_000)),
        (
            replace(POD, ready=True, ready_changed_ms=NOW_MS - 3_000, node="n"),
            2,
            Replica("p", ReplicaState.SERVING, NOW_MS - 3_000, 2, "n"),
        ),
        (
            replace(POD, ready=True, ready_changed_ms=NOW_MS - 3_000, terminating=True, terminating_ms=NOW_MS - 500),
            0,
            Replica("p", ReplicaState.DRAINING, NOW_MS - 500),
        ),
    ],
    ids=["starting", "serving", "draining"],
)
def test_a_replica(pod: PodView, busy: int, expected: Replica) -> None:
    assert _replica(pod, busy) == expected


def model(spec: dict[str, object], status: dict[str, object] | None = None) -> LLMModel:
    return LLMModel.model_validate({"metadata": {"name": "m", "namespace": "ns"}, "spec": spec, "status": status})


def test_bounds_and_slots() -> None:
    assert _slots(model(LOCAL)) == 3
    assert _slots(model(REMOTE)) == 5
    assert _scaling(model(LOCAL | {"replicas": 4}), may_run=True) == Scaling(manual=4)
    assert _scaling(model(LOCAL | {"scaling": {"mode": "Manual"}}), may_run=True) == Scaling(manual=1)
    auto = model(LOCAL | {"scaling": {"maxReplicas": 9, "idleSeconds": 5, "tasksPerReplica": 2}})
    assert _scaling(auto, may_run=True) == Scaling(0, 9, 5, 2)
    least = model(LOCAL | {"scaling": {"minReplicas": 1}})
    assert _scaling(least, may_run=True) == Scaling(1, 1, 300, None)
    # For what cannot start nobody makes room.
    assert _scaling(least, may_run=False) == Scaling(0, 1, 300, None)
    assert _scaling(model(LOCAL | {"replicas": 4}), may_run=False) == Scaling(manual=0)


def test_whether_its_weights_are_good_is_work_until_somebody_knows() -> None:
    assert _trial_ms(model(LOCAL)) is None
    assert _trial_ms(model(LOCAL | {"scaling": {}})) == 0
    for type_ in ("Ready", "Stalled"):
        condition = {"type": type_, "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        assert _trial_ms(model({**LOCAL, "scaling": {}}, {"conditions": [condition]})) is None
    assert _backlog([], QUIET, NOW_MS, trial=NOW_MS - 700_000).tasks == ages(700)
    assert _backlog([view(1)], replace(QUIET, queued=1), NOW_MS, trial=NOW_MS - 700_000).tasks == ages(1)


def test_nothing_is_kept_for_pods_that_nobody_places() -> None:
    need = GpuNeed("nvidia.com/gpu", 1, frozenset({"n"}))
    waits = Replica("p", ReplicaState.STARTING, NOW_MS - 121_000)
    facts = ModelFacts("ns/m", Scaling(), 1, gpu=need, replicas=(waits,))
    assert _stuck(facts, NOW_MS)
    assert not _stuck(facts, NOW_MS - 2_000)
    assert not _stuck(replace(facts, gpu=None), NOW_MS)
    assert not _stuck(replace(facts, replicas=()), NOW_MS)
    assert not _stuck(replace(facts, replicas=(waits, replace(waits, node="n"))), NOW_MS)


def test_models_of_other_namespaces_are_not_named() -> None:
    told = "3 of 3 replicas make room for team-b/phantom (ns/mine keeps 2 nvidia.com/gpu)"
    hidden = "3 of 3 replicas make room for another namespace's model (ns/mine keeps 2 nvidia.com/gpu)"
    assert _own_words(told, ModelRef("ns", "m")) == hidden
