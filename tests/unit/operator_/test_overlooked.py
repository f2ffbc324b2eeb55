"""What a sweep asks about again of those who wait: in turns, and nobody whose time is known."""

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from operator_cases import MODEL, SERVING, task_body, waiting

from headrace_bus import ModelKey
from headrace_crds.reasons import Reason
from headrace_operator import sweep
from headrace_operator.context import REPLACED_FOR_MS, Context, Memory
from headrace_operator.decide.input import MissedInput
from headrace_operator.decide.quota import Grant
from headrace_operator.decide.waiting import Waiting
from headrace_operator.decide.window import Bounds
from headrace_operator.overlooked import Overlooked
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.store import Store
from headrace_operator.views import task_view
from headrace_operator.window import Window


def refs(namespace: str, count: int) -> list[TaskRef]:
    return [TaskRef(namespace, f"t{n}", f"{namespace}-{n}", MODEL) for n in range(count)]


@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), most=st.integers(1, 12))
def test_everybody_is_looked_at_in_bounded_turns(sizes: list[int], most: int) -> None:
    waiting = [ref for number, size in enumerate(sizes) for ref in refs(f"n{number}", size)]
    overlooked, seen = Overlooked(most), set[TaskRef]()
    for _ in range(len(sizes) * max(sizes)):
        chosen = overlooked.choose(waiting)
        assert len(chosen) == len(set(chosen)) == min(most, len(waiting))
        seen.update(chosen)
    assert seen == set(waiting)


def test_a_namespace_with_many_leaves_their_share_to_the_others() -> None:
    chosen = Overlooked(10).choose([*refs("a", 1_000), *refs("b", 3), *refs("c", 100)])
    assert Counter(ref.namespace for ref in chosen) == {"a": 4, "b": 3, "c": 3}


class Bus:
    """One registered model, and nothing in its queue."""

    async def models(self) -> list[ModelKey]:
        return [ModelKey(*MODEL)]

    async def uids(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(entries={}, cursor=0)


def swept(memory: Memory, names: list[str], now: float = 0.0) -> tuple[Context, list[str]]:
    added: list[str] = []
    store, window = Store(), Window(Bounds(), lambda _: Grant(), lambda _: None)
    store.put_model(MODEL, SERVING)
    for name in names:
        body = task_body(waiting(reason="InputNotFound"))
        body["metadata"] |= {"name": name, "uid": name}
        store.put_task(task_view(body))
    ctx = SimpleNamespace(
        bus=Bus(),
        store=store,
        window=window,
        memory=memory,
        monotonic=lambda: now,
        settings=SimpleNamespace(serves=lambda _: True),
        tasks=SimpleNamespace(add=lambda ref: added.append(ref.name)),
        models=SimpleNamespace(add=lambda _: None),
    )
    return cast("Context", ctx), added


async def test_an_input_that_is_not_due_is_not_asked_about() -> None:
    memory = Memory()
    why = Waiting(Reason.INPUT_NOT_FOUND, "")
    memory.missed_inputs[TaskRef(MODEL.namespace, "later", "later", MODEL)] = MissedInput(why, 1, 1, 20.0)
    memory.missed_inputs[TaskRef(MODEL.namespace, "due", "due", MODEL)] = MissedInput(why, 1, 1, 10.0)
    ctx, added = swept(memory, ["later", "due", "unknown"], now=10.0)
    await sweep.sweep(ctx)
    assert sorted(added) == ["due", "unknown"]


async def test_one_sweep_asks_about_a_bounded_number() -> None:
    ctx, added = swept(Memory(overlooked=Overlooked(2)), ["a", "b", "c", "d"])
    await sweep.sweep(ctx)
    assert len(added) == 2
    await sweep.sweep(ctx)
    assert sorted(added) == ["a", "b", "c", "d"]


def test_a_replacement_is_remembered_as_long_as_it_explains_something() -> None:
    memory, other = Memory(), ModelRef("team-a", "other")
    memory.note_replaced(MODEL, 1_000)
    assert memory.replaced(MODEL, 1_000 + REPLACED_FOR_MS - 1)
    assert not memory.replaced(MODEL, 1_000 + REPLACED_FOR_MS)
    memory.note_replaced(other, 1_000 + REPLACED_FOR_MS)
    assert set(memory.replaced_ms) == {other}
