"""Which finished tasks go: TTL, caps, webhooks that are owed."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_cases import MODEL, NOW_MS, finished, queued, task_body

from headrace_operator.decide.retention import KEPT_FOR_WEBHOOK_MS, YOUNG_MS, Because, Caps, due, fair_share
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


def test_then_those_beyond_the_clusters() -> None:
    tasks = [task(f"a{n}", n) for n in range(4)] + [task(f"b{n}", 100 + n, namespace="b") for n in range(2)]
    assert gone(*tasks, caps=Caps(3, 4)) == {"a3": Because.PER_NAMESPACE, "a2": Because.PER_CLUSTER}


def test_what_goes_by_its_ttl_makes_room() -> None:
    tasks = [task("new", 1_000, ttl_seconds=1), task("old", HOUR_MS), task("older", 2 * HOUR_MS)]
    assert gone(*tasks, caps=Caps(2, 2)) == {"new": Because.TTL}


def test_an_end_that_cannot_be_read_counts_as_the_oldest() -> None:
    unreadable = Task(TaskRef("a", "x", "x", MODEL), 0)
    assert list(gone(task("old", HOUR_MS), unreadable, caps=Caps(1, 0))) == ["x"]


def test_a_webhook_that_is_owed_keeps_its_task_until_it_was_given_up() -> None:
    owing = task("owing", KEPT_FOR_WEBHOOK_MS - 1, ttl_seconds=0, owes="hooks.example")
    assert gone(owing, task("told", 1_000), caps=Caps(1, 2)) == {}
    assert gone(owing, task("told", HOUR_MS), caps=Caps(1, 1)) == {"told": Because.PER_CLUSTER}
    assert KEPT_FOR_WEBHOOK_MS == 26 * HOUR_MS, "longer than it is tried"
    late = task("late", KEPT_FOR_WEBHOOK_MS, ttl_seconds=0, owes="hooks.example")
    assert gone(late) == {"late": Because.TTL}


def test_what_one_namespace_owes_costs_no_other_its_results() -> None:
    owing = [task(f"a{n}", HOUR_MS + n, namespace="a", owes="hooks.example") for n in range(8)]
    fresh = [task(f"b{n}", 2 * HOUR_MS + n, namespace="b") for n in range(3)]
    assert gone(*owing, *fresh, caps=Caps(100, 8)) == dict.fromkeys(["a7", "a6", "a5"], Because.PER_CLUSTER)


def test_what_a_namespace_owes_is_bounded_there_and_costs_none_of_its_told_ones() -> None:
    owing = [task(f"o{n}", HOUR_MS + n, owes="hooks.example") for n in range(5)]
    told = [task(f"t{n}", 2 * HOUR_MS + n) for n in range(3)]
    found = due([*owing, *told], Caps(3, 0), now_ms=NOW_MS)
    assert [(each.task.ref.uid, each.because, each.owed) for each in found] == [
        ("o4", Because.PER_NAMESPACE, True),
        ("o3", Because.PER_NAMESPACE, True),
    ]


def test_the_cluster_takes_from_who_holds_most_and_told_ones_first() -> None:
    large = [task(f"a{n}", HOUR_MS + n, namespace="a", owes="x" if n == 5 else "") for n in range(6)]
    small = [task(f"b{n}", 9 * HOUR_MS + n, namespace="b") for n in range(2)]
    assert list(gone(*large, *small, caps=Caps(0, 6))) == ["a4", "a3"]


def test_a_young_result_goes_only_where_no_older_one_is_above_the_fair_share() -> None:
    young = [task(f"a{n}", n, namespace="a") for n in range(6)]
    older = [task(f"b{n}", HOUR_MS + n, namespace="b") for n in range(5)]
    assert list(gone(*young, *older, caps=Caps(0, 8))) == ["b4", "a5", "a4"]
    assert list(gone(*young, *older, caps=Caps(0, 7))) == ["b4", "b3", "a5", "a4"]
    owing = task("owing", HOUR_MS, namespace="a", owes="hooks.example")
    assert list(gone(*young, owing, caps=Caps(0, 6))) == ["owing"]
    assert list(gone(*young, older[0], caps=Caps(0, 4))) == ["a5", "a4", "a3"]


@pytest.mark.parametrize(
    ("held", "most", "share"), [([], 5, 0), ([3, 3], 6, 3), ([1, 9], 6, 5), ([4, 4, 4], 10, 3), ([1, 2, 30, 30], 13, 5)]
)
def test_the_fair_share_is_what_small_ones_leave(held: list[int], most: int, share: int) -> None:
    assert fair_share(held, most) == share


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
    found = due(tasks, caps, now_ms=NOW_MS)
    taken = {each.task.ref.uid for each in found}
    kept = [each for each in tasks if each.ref.uid not in taken]
    assert len(kept) <= per_cluster
    for namespace in "abc":
        mine = [each for each in kept if each.ref.namespace == namespace]
        lost = [each for each in found if each.task.ref.namespace == namespace]
        if any(each.because is Because.PER_CLUSTER for each in lost):
            assert len(kept) == per_cluster
            assert len(mine) >= per_cluster // 3, "none below its fair share"
        for owed in (False, True):
            group = [e for e in mine if (e.owes != "" and NOW_MS - e.completed_ms < KEPT_FOR_WEBHOOK_MS) is owed]
            assert len(group) <= per_namespace
            oldest_kept = min((each.completed_ms for each in group), default=None)
            told = [each.task.completed_ms for each in lost if each.owed is owed and each.because is not Because.TTL]
            if oldest_kept is not None and NOW_MS - oldest_kept >= YOUNG_MS:
                assert max(told, default=0) <= oldest_kept
    assert gone(*kept, caps=caps) == {}, "done once is done"


def test_a_view_knows_when_its_task_ended_and_how_long_it_is_kept() -> None:
    ended = task_view(task_body(finished(), ttlSecondsAfterFinished=60))
    assert (ended.completed_ms, ended.ttl_seconds) == (NOW_MS, 60)
    still_open = task_view(task_body(queued(), ttlSecondsAfterFinished=60))
    assert (still_open.completed_ms, still_open.ttl_seconds) == (0, None)
