"""Which finished tasks go: TTL, caps, webhooks that are owed."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import MODEL, NOW_MS, finished, queued, task_body

from headrace_operator.decide.retention import KEPT_FOR_WEBHOOK_MS, Because, Caps, due
from headrace_operator.refs import TaskRef
from headrace_operator.views import task_view

HOUR_MS = 3_600_000
ANY = Caps(0, 0)


@dataclass(frozen=True)
class Task:
    ref: TaskRef
    completed_ms: int
    ttl_seconds: int | None = None
    owes: str = ""


def task(uid: str, ago_ms: int, *, namespace: str = "a", ttl_seconds: int | None = None, owes: str = "") -> Task:
    return Task(TaskRef(namespace, uid, uid, MODEL), NOW_MS - ago_ms, ttl_seconds, owes)


def gone(*tasks: Task, caps: Caps = ANY) -> dict[str, Because]:
    """In the order of deletion."""
    return {each.task.ref.uid: each.because for each in due(tasks, caps, now_ms=NOW_MS)}


@pytest.mark.parametrize(
    ("ttl_seconds", "ago_ms", "goes"),
    [(None, 10**12, False), (60, 59_999, False), (60, 60_000, True), (0, 0, True), (0, -1, False)],
)
def test_the_ttl_counts_from_the_end(ttl_seconds: int | None, ago_ms: int, goes: bool) -> None:
    assert bool(gone(task("x", ago_ms, ttl_seconds=ttl_seconds))) == goes


def test_the_oldest_beyond_a_namespaces_share_go_first() -> None:
    tasks = [task(f"a{n}", n) for n in range(5)] + [task("b0", 100, namespace="b")]
    assert gone(*tasks, caps=Caps(3, 0)) == {"a4": Because.PER_NAMESPACE, "a3": Because.PER_NAMESPACE}


def test_then_the_oldest_beyond_the_clusters() -> None:
    tasks = [task(f"a{n}", n) for n in range(4)] + [task(f"b{n}", 100 + n, namespace="b") for n in range(2)]
    assert gone(*tasks, caps=Caps(3, 4)) == {"b1": Because.PER_CLUSTER, "a3": Because.PER_NAMESPACE}


def test_what_goes_by_its_ttl_makes_room() -> None:
    tasks = [task("new", 1_000, ttl_seconds=1), task("old", HOUR_MS), task("older", 2 * HOUR_MS)]
    assert gone(*tasks, caps=Caps(2, 2)) == {"new": Because.TTL}


def test_an_end_that_cannot_be_read_counts_as_the_oldest() -> None:
    unreadable = Task(TaskRef("a", "x", "x", MODEL), 0)
    assert list(gone(task("old", HOUR_MS), unreadable, caps=Caps(1, 0))) == ["x"]


def test_a_webhook_that_is_owed_keeps_its_task_for_a_day() -> None:
    owing = task("owing", KEPT_FOR_WEBHOOK_MS - 1, ttl_seconds=0, owes="hooks.example")
    assert gone(owing, task("told", 1_000), caps=Caps(1, 1)) == {"told": Because.PER_NAMESPACE}
    late = task("late", KEPT_FOR_WEBHOOK_MS, ttl_seconds=0, owes="hooks.example")
    assert gone(late) == {"late": Because.TTL}


@given(
    ages=st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from("abc"), st.sampled_from([None, 10**6]), st.booleans()),
        max_size=40,
    ),
    per_namespace=st.integers(1, 10),
    per_cluster=st.integers(1, 20),
)
def test_the_caps_hold_and_no_more_is_taken(
    ages: list[tuple[int, str, int | None, bool]], per_namespace: int, per_cluster: int
) -> None:
    tasks = [
        task(
            f"t{n}", hours * HOUR_MS, namespace=namespace, ttl_seconds=10**6 if ttl else None, owes="x" if owes else ""
        )
        for n, (hours, namespace, ttl, owes) in enumerate(ages)
    ]
    caps = Caps(per_namespace, per_cluster)
    found = gone(*tasks, caps=caps)
    kept = [each for each in tasks if each.ref.uid not in found]
    owed = [each for each in kept if each.owes and NOW_MS - each.completed_ms < KEPT_FOR_WEBHOOK_MS]
    assert len(kept) <= max(per_cluster, len(owed))
    for namespace in "abc":
        mine = [each for each in kept if each.ref.namespace == namespace]
        assert len(mine) <= max(per_namespace, sum(each.ref.namespace == namespace for each in owed))
    if found and Because.TTL not in found.values():
        assert len(kept) >= min(per_cluster, len(tasks), per_namespace)
    assert gone(*kept, caps=caps) == {}, "done once is done"


def test_a_view_knows_when_its_task_ended_and_how_long_it_is_kept() -> None:
    ended = task_view(task_body(finished(), ttlSecondsAfterFinished=60))
    assert (ended.completed_ms, ended.ttl_seconds) == (NOW_MS, 60)
    still_open = task_view(task_body(queued(), ttlSecondsAfterFinished=60))
    assert (still_open.completed_ms, still_open.ttl_seconds) == (0, None)
