"""Which beginnings are kept: those that two prompts had, the least recently used go first."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.prefixes import LEAST_TOKENS, PrefixStore, Tokens, common_length, why_not


def tokens(*runs: tuple[int, int]) -> Tokens:
    """Runs of a token: (token, how often)."""
    return np.concatenate([np.full(count, token, np.int32) for token, count in runs])


SYSTEM = (1, 100)
OURS, THEIRS = "ours", "theirs"
RELATED = st.builds(lambda common, own: tokens((7, common), (8, own)), st.integers(30, 200), st.integers(1, 40))
PROMPTS = st.lists(st.integers(0, 1), max_size=80).map(lambda tail: np.array([7] * 10 + tail, np.int32))


@given(PROMPTS, PROMPTS)
def test_the_common_length_is_that_of_the_equal_beginning(one: Tokens, other: Tokens) -> None:
    length = common_length(one, other)
    assert (one[:length] == other[:length]).all()
    assert length == min(len(one), len(other)) or one[length] != other[length]


def test_a_prompt_alone_is_not_kept_and_the_second_one_tells_what_they_share() -> None:
    store = PrefixStore(range(4), 1000)
    assert store.note(OURS, tokens(SYSTEM, (2, 20))) == 0
    assert store.note(OURS, tokens(SYSTEM, (3, 20))) == 100
    assert store.note(OURS, tokens((9, 50))) == 0
    assert store.note(OURS, tokens((1, LEAST_TOKENS - 1), (4, 9))) == 0


def test_the_last_token_is_never_shared() -> None:
    store = PrefixStore(range(4), 1000)
    store.note(OURS, tokens(SYSTEM))
    assert store.note(OURS, tokens(SYSTEM)) == 99


def test_what_is_kept_is_found() -> None:
    store = PrefixStore(range(8, 12), 1000)
    seq_id, evicted = store.keep(OURS, tokens(SYSTEM))
    assert evicted == []
    assert store.find(OURS, tokens(SYSTEM, (2, 20))) == (seq_id, 100)
    assert store.find(OURS, tokens((1, 60), (2, 20))) == (seq_id, 60)
    assert store.find(OURS, tokens((1, LEAST_TOKENS - 1), (2, 20))) is None


def test_the_longest_is_found_and_one_hardly_longer_is_not_kept() -> None:
    store = PrefixStore(range(4), 1000)
    short, _ = store.keep(OURS, tokens(SYSTEM))
    assert store.keep(OURS, tokens(SYSTEM, (2, LEAST_TOKENS - 1))) == (None, [])
    long, _ = store.keep(OURS, tokens(SYSTEM, (2, LEAST_TOKENS)))
    assert store.find(OURS, tokens(SYSTEM, (2, 50))) == (long, 100 + LEAST_TOKENS)
    assert store.find(OURS, tokens(SYSTEM, (3, 50))) == (short, 100)


@pytest.mark.parametrize(("places", "cells"), [(2, 1000), (9, 200)])
def test_the_least_recently_used_goes_first(places: int, cells: int) -> None:
    store = PrefixStore(range(places), cells)
    first, _ = store.keep(OURS, tokens((1, 100)))
    second, _ = store.keep(OURS, tokens((2, 100)))
    assert store.find(OURS, tokens((1, 100), (5, 1))) == (first, 100)
    third, evicted = store.keep(OURS, tokens((3, 100)))
    assert evicted == [second]
    assert store.find(OURS, tokens((2, 100), (5, 1))) is None
    assert set(store.seq_ids) == {first, third}
    assert store.cells == 200


def test_more_than_all_the_room_is_not_kept_and_evicts_nobody() -> None:
    store = PrefixStore(range(4), 100)
    store.keep(OURS, tokens((1, 60)))
    assert store.keep(OURS, tokens((2, 101))) == (None, [])
    assert len(store) == 1


def test_without_places_nothing_is_kept() -> None:
    assert PrefixStore((), 1000).keep(OURS, tokens(SYSTEM)) == (None, [])


def test_a_sequence_that_ends_may_leave_its_beginning_behind() -> None:
    store = PrefixStore((), 1000)
    assert store.inherit(OURS, 5, tokens(SYSTEM))
    assert store.find(OURS, tokens(SYSTEM, (2, 20))) == (5, 100)
    assert not store.inherit(OURS, 6, tokens(SYSTEM, (2, 5)))
    store.hand_over(5)
    assert store.find(OURS, tokens(SYSTEM, (2, 20))) is None
    assert store.inherit(OURS, 6, tokens(SYSTEM))
    assert store.evict() == 6
    # A place that was another's is no place of the store's own.
    assert store.keep(OURS, tokens(SYSTEM)) == (None, [])


def test_one_that_is_in_use_is_not_evicted() -> None:
    store = PrefixStore(range(4), 1000)
    first, _ = store.keep(OURS, tokens((1, 100)))
    second, _ = store.keep(OURS, tokens((2, 100)))
    assert store.evict(besides=first) == second
    assert store.evict(besides=first) is None
    assert store.evict() == first
    assert store.evict() is None


def test_equal_prompts_of_two_scopes_know_nothing_of_each_other() -> None:
    store = PrefixStore(range(4), 1000)
    prompt = tokens(SYSTEM, (2, 20))
    assert store.note(OURS, prompt) == 0
    assert store.note(THEIRS, prompt) == 0
    ours, _ = store.keep(OURS, prompt)
    assert store.find(THEIRS, prompt) is None
    theirs, evicted = store.keep(THEIRS, prompt)
    assert evicted == []
    assert store.inherit("a third", 9, prompt)
    found = [store.find(scope, prompt) for scope in (OURS, THEIRS, "a third")]
    assert found == [(ours, 120), (theirs, 120), (9, 120)]
    assert len({ours, theirs, 9}) == 3


@given(st.lists(st.tuples(st.sampled_from([OURS, THEIRS]), RELATED), max_size=30))
def test_what_a_scope_is_told_does_not_depend_on_the_prompts_of_another(asked: list[tuple[str, Tokens]]) -> None:
    """With room for all of them: what is evicted depends on the load of all."""

    def told(prompts: list[tuple[str, Tokens]]) -> list[tuple[int, int]]:
        store, answers = PrefixStore(range(100), 100_000), []
        for scope, prompt in prompts:
            found, shared = store.find(scope, prompt), store.note(scope, prompt)
            if shared:
                store.keep(scope, prompt[:shared])
            if scope == OURS:
                answers.append((found[1] if found else 0, shared))
        return answers

    assert told(asked) == told([each for each in asked if each[0] == OURS])


@pytest.mark.parametrize(
    ("recurrent", "hybrid", "window", "words"),
    [(True, False, 0, "state"), (False, True, 0, "state"), (False, False, 4096, "4096 tokens back")],
)
def test_an_architecture_that_cannot_says_why(recurrent: bool, hybrid: bool, window: int, words: str) -> None:
    assert words in (why_not(recurrent=recurrent, hybrid=hybrid, sliding_window=window) or "")
    assert why_not(recurrent=False, hybrid=False, sliding_window=0) is None
