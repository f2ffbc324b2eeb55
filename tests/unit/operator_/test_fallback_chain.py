"""A chain of models followed to its end, whatever serves and however its list is edited."""

from dataclasses import replace
from typing import Final

from fallback_cases import named, target
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_cases import MODEL, World, task_body

from headrace_crds.task import LLMTask
from headrace_operator.decide.fallback import chain_of
from headrace_operator.decide.snapshots import Place
from headrace_operator.decide.task import decide
from headrace_operator.views import task_ref

NAMES = ["qwen", "gpt", "llama", "phi", "mistral", "gemma", "yi"]


AT_REST: Final = 15
"""Looks without edits and deaths: enough for every move that is left, and its hand-out."""


@settings(max_examples=200)
@given(
    listed=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True),
    edits=st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True), max_size=8),
    up=st.sets(st.sampled_from(NAMES)),
    dies=st.booleans(),
)
def test_a_chain_visits_no_model_twice_and_ends(
    listed: list[str], edits: list[list[str]], up: set[str], dies: bool
) -> None:
    """Whichever models serve, and however the named model's list is edited on the way."""
    world, visited = World(task_body()), [MODEL]
    for round_ in range(30 + AT_REST):
        names = edits[min(round_, 29) % len(edits)] if edits else listed
        of = named("CircuitOpen", fallback={"policy": "List", "models": [{"name": name} for name in names]})
        body = LLMTask.model_validate(world.body)
        ref = task_ref(world.body or {})
        chain = chain_of(body, of)
        found = [target(each, "" if each.name in up else "CircuitOpen") for each in chain.models]
        seen = replace(world.snapshot(model=of), ref=ref, named_model=of, targets=found)
        plan = decide(seen)
        world.apply(plan, dies=dies and round_ % 2 == 0 and round_ < 30)
        now = task_ref(world.body or {}).model
        if now != visited[-1]:
            assert world.held is None, "the other queue holds nothing of it"
            assert now.name in up
            assert now not in visited
            visited.append(now)
        assert world.attempt >= len(visited)
    assert len(visited) <= 1 + (5 if edits else len(listed))
    assert world.held is not None, "it is in the queue of the last"
    assert world.held.place is Place.QUEUED
