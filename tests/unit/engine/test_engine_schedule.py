"""What a decode step holds: generating sequences first, then prompts, within the time a step may take."""

from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.schedule import STEADY_CHUNK, TARGET_SECONDS, StepBudget, share_among_prompts

REMAINING = st.lists(st.integers(1, 2000), max_size=40)


@given(REMAINING, st.integers(1, 512))
def test_the_room_is_used_and_never_exceeded(remaining: list[int], room: int) -> None:
    chunks = share_among_prompts(remaining, room)
    assert len(chunks) == len(remaining)
    assert all(0 <= chunk <= lacking for chunk, lacking in zip(chunks, remaining, strict=True))
    assert sum(chunks) == min(room, sum(remaining))


@given(REMAINING.filter(bool), st.integers(1, 512))
def test_the_oldest_gets_half_so_that_it_ends_whatever_comes(remaining: list[int], room: int) -> None:
    assert share_among_prompts(remaining, room)[0] >= min(remaining[0], (room + 1) // 2)


def test_a_long_prompt_holds_up_no_short_one() -> None:
    assert share_among_prompts([1500, 900, 20, 30], 100) == [50, 0, 20, 30]
    assert share_among_prompts([1500, 900, 20, 30], 120) == [60, 10, 20, 30]


def test_equals_are_served_in_their_order() -> None:
    assert share_among_prompts([20, 20, 20, 20], 50) == [20, 20, 10, 0]


def steps(budget: StepBudget, seconds_per_token: float, count: int = 80, generating: int = 4) -> None:
    for _ in range(count):
        tokens = generating + budget.for_prompts(generating)
        budget.observe(tokens - generating, tokens, tokens * seconds_per_token)


@given(st.floats(1e-6, 1e-2), st.integers(0, 64))
def test_steps_come_to_fit_the_target(seconds_per_token: float, generating: int) -> None:
    budget = StepBudget(512)
    steps(budget, seconds_per_token, generating=generating)
    tokens = generating + budget.for_prompts(generating)
    # Where even the generating ones with the least for prompts take too long, nothing more is asked for.
    assert tokens * seconds_per_token <= TARGET_SECONDS or tokens == generating + 8


def test_a_machine_that_slows_down_gets_smaller_steps_and_one_that_recovers_larger_ones() -> None:
    budget = StepBudget(512)
    steps(budget, 0.001)
    fast = budget.tokens
    assert fast > STEADY_CHUNK
    steps(budget, 0.004)
    slow = budget.tokens
    assert slow < fast / 2
    steps(budget, 0.001, count=200)
    assert budget.tokens == fast


def test_one_hiccup_in_many_steps_changes_little() -> None:
    budget = StepBudget(512)
    steps(budget, 0.001)
    before = budget.tokens
    budget.observe(before, before, 30 * TARGET_SECONDS)
    assert budget.tokens == before


def test_steps_without_prompts_teach_nothing_about_them() -> None:
    budget = StepBudget(512)
    budget.observe(0, 4, 10.0)
    assert budget.tokens == STEADY_CHUNK
