"""The window's books: bounds that hold whatever happens in whatever order, and whose turn it is."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from window_desk import BOUNDS, MODEL, OTHER, Desk, a_view, later

from headrace_operator.decide.quota import Grant
from headrace_operator.decide.window import Bounds, Scope
from headrace_operator.refs import ModelRef
from headrace_operator.views import TaskView


def test_who_comes_first_is_served_until_the_bound() -> None:
    desk = Desk()
    out = [desk.hand_out(a_view(number)) for number in range(3)]
    hindrance = desk.window.ask(a_view(3))
    assert hindrance is not None
    assert (hindrance.scope, hindrance.tasks) == (Scope.NAMESPACE, 3)
    assert desk.window.waits("uid-3")
    assert desk.woken == []
    desk.finish(out[0])
    assert desk.woken == ["uid-3"]
    assert desk.window.ask(a_view(3)) is None


def test_a_deleted_task_whose_finalizer_stays_holds_no_seat() -> None:
    desk = Desk()
    out = [desk.hand_out(a_view(number)) for number in range(3)]
    assert desk.window.ask(a_view(3)) is not None
    gone = later(out[0], "Running", deleting=True)
    desk.window.note(gone)
    assert desk.woken == ["uid-3"]
    desk.window.note(later(gone, "Running", deleting=True))
    assert desk.window.handed_out(MODEL) == 3
    desk.window.open([gone, *out[1:]])
    assert desk.window.handed_out(MODEL) == 2


def test_a_full_namespace_does_not_block_another() -> None:
    desk = Desk()
    for number in range(3):
        desk.hand_out(a_view(number))
    for number in range(3, 50):
        desk.refuse(a_view(number))
    desk.hand_out(a_view(50, "b"))
    hindrance = desk.window.ask(a_view(51, "b"))
    assert hindrance is not None
    assert hindrance.scope is Scope.MODEL


def test_namespaces_take_turns_and_within_one_priority_counts_as_age() -> None:
    desk = Desk(Bounds(1, 10**9, 5, 10**9))
    out = desk.hand_out(a_view(0))
    waiting = {
        view.ref.uid: desk.refuse(view)
        for view in (
            a_view(1),
            a_view(2),
            a_view(11, priority=1),
            a_view(13, priority=1),
            a_view(5, "b"),
            a_view(6, "b", priority=-1),
            a_view(7, "c"),
        )
    }
    order = []
    while waiting:
        desk.finish(out)
        (uid,) = desk.woken
        desk.woken.clear()
        order.append(uid)
        out = desk.hand_out(waiting.pop(uid))
    assert order == ["uid-1", "uid-5", "uid-7", "uid-11", "uid-6", "uid-2", "uid-13"]


def test_bytes_are_bounded_and_the_large_is_not_overtaken_within_its_namespace() -> None:
    desk = Desk()
    out = desk.hand_out(a_view(0, input_bytes=500))
    desk.refuse(a_view(1, input_bytes=200))
    hindrance = desk.window.ask(a_view(2, input_bytes=50))
    assert hindrance is not None
    assert hindrance.scope is Scope.TURN
    desk.hand_out(a_view(3, "b", input_bytes=500))
    desk.finish(out)
    assert desk.woken == ["uid-1", "uid-2"]


def test_what_is_larger_than_the_bound_is_served_alone() -> None:
    desk = Desk()
    out = desk.hand_out(a_view(0, input_bytes=5_000))
    desk.refuse(a_view(1, input_bytes=1))
    desk.finish(out)
    assert desk.woken == ["uid-1"]


def test_a_seat_survives_old_news_and_ends_with_newer() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    first = a_view(0)
    assert desk.window.ask(first) is None
    desk.window.note(first)
    assert desk.window.ask(a_view(1)) is not None, "an event of before the hand-out"
    queued = later(later(first, "Waiting"), "Queued")
    desk.window.note(queued)
    desk.window.note(later(first, "Waiting", "QueueFull"))
    assert desk.woken == []
    assert not desk.window.waits("uid-0")
    desk.window.note(later(queued, "Waiting", "ModelNotFound"))
    assert desk.woken == ["uid-1"]


def test_a_seat_that_is_not_used_goes_to_the_next() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    assert desk.window.ask(a_view(0)) is None
    desk.refuse(a_view(1))
    desk.window.let_go(a_view(0).ref)
    assert desk.woken == ["uid-1"]
    desk.window.let_go(a_view(9).ref)
    queued = desk.hand_out(a_view(1))
    desk.refuse(a_view(2))
    desk.window.let_go(queued.ref)
    assert desk.woken == ["uid-1"], "what the object says is kept"


def test_who_leaves_the_line_lets_those_behind_in() -> None:
    desk = Desk()
    desk.hand_out(a_view(0, input_bytes=500))
    large = desk.refuse(a_view(1, input_bytes=200))
    desk.refuse(a_view(2, input_bytes=50))
    desk.window.note(later(large, "Cancelled", finished=True))
    assert desk.woken == ["uid-2"]
    desk.window.drop(a_view(7).ref)


def test_a_restart_counts_what_is_handed_out_and_lines_up_who_waits() -> None:
    desk = Desk()
    desk.window.close()
    out = [later(a_view(number), "Running") for number in range(4)]
    waiting = [later(a_view(number), "Waiting", "QueueFull") for number in (9, 8)]
    hindrance = desk.window.ask(a_view(20))
    assert hindrance is not None
    desk.window.open([*waiting, *out, later(a_view(30), "Waiting", "ModelNotFound")])
    assert desk.window.handed_out(MODEL) == 4, "nothing is taken back from who has it"
    assert desk.woken == []
    desk.finish(out[0])
    assert desk.woken == []
    desk.finish(out[1])
    assert desk.woken == ["uid-8"]


def test_a_quota_counts_over_all_models_and_its_end_lets_in() -> None:
    desk = Desk(a=Grant(tasks=2))
    first, _ = desk.hand_out(a_view(0)), desk.hand_out(a_view(1, model=OTHER))
    hindrance = desk.window.ask(a_view(2, model=OTHER))
    assert hindrance is not None
    assert (hindrance.scope, hindrance.tasks) == (Scope.QUOTA, 2)
    desk.hand_out(a_view(3, "b"))
    desk.finish(first)
    assert desk.woken == ["uid-2"]
    desk.refuse(a_view(4))
    desk.refuse(a_view(5, model=OTHER))
    desk.grants = {"a": Grant(tasks=3)}
    desk.window.grant_changed("a")
    assert len(desk.woken) == 2
    desk.grants = {}
    desk.window.grant_changed("a")
    assert set(desk.woken) == {"uid-2", "uid-4", "uid-5"}


def test_a_lower_ceiling_reorders_who_waits() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    out = desk.hand_out(a_view(0))
    desk.refuse(a_view(2, priority=100))
    desk.refuse(a_view(1))
    desk.grants = {"a": Grant(priority_ceiling=0)}
    desk.window.grant_changed("a")
    desk.finish(out)
    assert desk.woken == ["uid-1"]


def test_an_edited_priority_moves_the_task_in_its_line() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    out = desk.hand_out(a_view(0))
    desk.refuse(a_view(1))
    second = desk.refuse(a_view(2))
    desk.window.note(later(second, "Waiting", "QueueFull", priority=5))
    desk.finish(out)
    assert desk.woken == ["uid-2"]


@pytest.mark.parametrize("phase", ["Suspended", "Waiting"])
def test_what_waits_for_something_else_stands_in_no_line(phase: str) -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9))
    desk.hand_out(a_view(0))
    waits = desk.refuse(a_view(1))
    desk.window.note(later(waits, phase, "ModelNotFound"))
    assert not desk.window.waits("uid-1")


STEPS = st.lists(
    st.tuples(st.sampled_from(["come", "write", "finish", "delete", "edit", "stale", "restart"]), st.integers(0, 40)),
    max_size=120,
)
SPACES = ("a", "b", "c")


@settings(max_examples=300)
@given(steps=STEPS, sizes=st.lists(st.integers(0, 400), min_size=41, max_size=41))
def test_bounds_hold_and_room_is_used_in_whatever_order_things_happen(
    steps: list[tuple[str, int]], sizes: list[int]
) -> None:
    desk = Desk(c=Grant(tasks=2))
    objects: dict[int, TaskView] = {}
    seated: set[str] = set()

    def reconcile(number: int) -> None:
        """What the operator does with a task that is open and not handed out."""
        view = objects[number]
        desk.window.note(view)
        hindrance = desk.window.ask(view)
        if hindrance is None:
            seated.add(view.ref.uid)
        else:
            seated.discard(view.ref.uid)
            reason = "QuotaExceeded" if hindrance.scope is Scope.QUOTA else "QueueFull"
            if (view.phase, view.reason) != ("Waiting", reason):
                objects[number] = later(view, "Waiting", reason)
                desk.window.note(objects[number])

    for step, number in steps:
        view = objects.get(number)
        uid = f"uid-{number}"
        match step:
            case "come" if view is None:
                namespace, model = SPACES[number % 3], (MODEL, OTHER)[number % 2]
                objects[number] = a_view(number, namespace, model=model, input_bytes=sizes[number], priority=number % 5)
                reconcile(number)
            case "write" if view is not None and uid in seated and view.phase != "Queued":
                seated.discard(uid)
                objects[number] = later(view, "Queued")
                desk.window.note(objects[number])
            case "finish" if view is not None and view.phase == "Queued":
                desk.window.note(later(view, "Complete", finished=True))
                del objects[number]
            case "delete" if view is not None:
                seated.discard(uid)
                desk.window.drop(view.ref)
                del objects[number]
            case "edit" if view is not None and view.phase != "Queued":
                seated.discard(uid)
                objects[number] = later(view, view.phase, view.reason, priority=(view.priority + 7) % 20)
                reconcile(number)
            case "stale" if view is not None and int(view.resource_version) > 1:
                older = str(int(view.resource_version) - 1)
                if view.phase == "Queued":
                    desk.window.note(replace(view, resource_version=older, phase="Waiting", reason="QueueFull"))
            case "restart":
                seated.clear()
                desk.woken.clear()
                desk.window.open(list(objects.values()))
                for each in [n for n, o in objects.items() if o.phase == ""]:
                    reconcile(each)
        for woken in desk.woken:
            if int(woken[4:]) in objects and objects[int(woken[4:])].phase != "Queued":
                reconcile(int(woken[4:]))
        desk.woken.clear()
        assert_bounds(desk, objects, seated)


def assert_bounds(desk: Desk, objects: dict[int, TaskView], seated: set[str]) -> None:
    out = [view for view in objects.values() if view.phase == "Queued" or view.ref.uid in seated]
    for model in (MODEL, OTHER):
        of_model = [view for view in out if view.ref.model == model]
        assert len(of_model) <= BOUNDS.model_tasks
        assert sum(view.input_bytes for view in of_model) <= BOUNDS.model_bytes
        for namespace in SPACES:
            here = [view for view in of_model if view.ref.namespace == namespace]
            assert len(here) <= BOUNDS.namespace_tasks
            assert sum(view.input_bytes for view in here) <= BOUNDS.namespace_bytes
            waits = [v for v in objects.values() if desk.window.waits(v.ref.uid) and v.ref[3] == model]
            head = min(
                (v for v in waits if v.ref.namespace == namespace),
                key=lambda v: v.created_ms - v.priority * 10_000,
                default=None,
            )
            if head is None:
                continue
            full = len(here) >= BOUNDS.namespace_tasks or len(of_model) >= BOUNDS.model_tasks
            heavy = sum(v.input_bytes for v in here) + head.input_bytes > BOUNDS.namespace_bytes
            # A model that waits for room for one namespace's head keeps it free for that.
            heads_too_heavy = any(
                sum(v.input_bytes for v in of_model) + v.input_bytes > BOUNDS.model_bytes for v in waits
            )
            quota = namespace == "c" and sum(view.ref.namespace == "c" for view in out) >= 2
            assert full or heavy or heads_too_heavy or quota, f"{head.ref.name} waits though there is room"
    assert sum(view.ref.namespace == "c" for view in out) <= 2


def seats_in_turn(desk: Desk, models: list[ModelRef], frees: int) -> list[ModelRef]:
    """A namespace at its quota, with tasks of every model in line: who gets the seats that are freed one by one."""
    out = [desk.hand_out(a_view(number, model=models[0])) for number in range(desk.grants["a"].tasks or 0)]
    numbers = range(100, 100 + (frees + 1) * len(models))
    waiting = {view.ref.uid: desk.refuse(view) for view in (a_view(n, model=models[n % len(models)]) for n in numbers)}
    served = []
    for _ in range(frees):
        desk.finish(out.pop(0))
        (uid,) = desk.woken
        desk.woken.clear()
        served.append(waiting[uid].ref.model)
        out.append(desk.hand_out(waiting.pop(uid)))
    return served


@settings(max_examples=30)
@given(names=st.lists(st.sampled_from("abcdef"), min_size=1, unique=True), quota=st.integers(1, 9))
def test_a_quota_that_frees_seats_starves_no_model(names: list[str], quota: int) -> None:
    desk = Desk(Bounds(100, 10**9, 100, 10**9), a=Grant(tasks=quota))
    models = [ModelRef("models", name) for name in names]
    served = seats_in_turn(desk, models, 3 * len(models))
    for start in range(2 * len(models) + 1):
        assert set(served[start : start + len(models)]) == set(models)


def test_a_raised_quota_is_shared_out_between_the_models() -> None:
    desk = Desk(Bounds(100, 10**9, 100, 10**9), a=Grant(tasks=0))
    for number in range(8):
        desk.refuse(a_view(number, model=MODEL if number < 4 else OTHER))
    desk.grants = {"a": Grant(tasks=4)}
    desk.window.grant_changed("a")
    assert sorted(desk.woken) == ["uid-0", "uid-1", "uid-4", "uid-5"]


def test_a_seat_that_one_model_has_no_room_for_goes_to_the_next() -> None:
    desk = Desk(Bounds(1, 10**9, 1, 10**9), a=Grant(tasks=2))
    third = ModelRef("models", "third")
    desk.hand_out(a_view(0, model=MODEL))
    out = desk.hand_out(a_view(1, model=OTHER))
    desk.refuse(a_view(2, model=MODEL))
    desk.refuse(a_view(3, model=third))
    desk.finish(out)
    assert desk.woken == ["uid-3"]
