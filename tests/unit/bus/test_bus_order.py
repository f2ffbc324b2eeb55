from hypothesis import given
from hypothesis import strategies as st

from headrace_bus import PRIORITY_AGE_MS, STARVATION_BOUND_MS
from headrace_bus.order import PRIORITY_MAX, PRIORITY_MIN, score

created = st.integers(min_value=0, max_value=2**45)
priority = st.integers(min_value=PRIORITY_MIN, max_value=PRIORITY_MAX)


def test_the_numbers_the_documentation_states() -> None:
    assert (PRIORITY_AGE_MS, STARVATION_BOUND_MS) == (10_000, 2_000_000)


@given(created, priority, priority)
def test_no_priority_beats_the_starvation_bound(created_ms: int, mine: int, later: int) -> None:
    assert score(created_ms, mine) <= score(created_ms + STARVATION_BOUND_MS, later)


@given(created, st.integers(min_value=PRIORITY_MIN, max_value=PRIORITY_MAX - 1))
def test_a_point_of_priority_is_worth_its_age(created_ms: int, at: int) -> None:
    assert score(created_ms, at + 1) == score(created_ms, at) - PRIORITY_AGE_MS
    assert score(created_ms + PRIORITY_AGE_MS, at + 1) == score(created_ms, at)


@given(created, priority)
def test_a_double_holds_every_score(created_ms: int, at: int) -> None:
    assert int(float(score(created_ms, at))) == score(created_ms, at)
