"""When a document is steered: seldom looked at while there is room, led when there is none."""

from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.budget import Budget
from headrace_runner.engine.document import DocumentCursor


@given(st.integers(1, 5000), st.integers(0, 3000), st.integers(0, 5000))
def test_a_way_that_does_not_grow_is_begun_in_time(total: int, way: int, steps: int) -> None:
    budget = Budget.of(total)
    looks = 0
    while not budget.is_over:
        if budget.wants_look(lost=True):
            budget.looked(way, steps)
            looks += 1
            continue
        budget.left -= 1
    assert budget.left >= min(way, total)
    assert looks <= 1 + total // 64 + 4 * 64 + budget.caution


def test_a_way_that_is_unknown_steers_nothing_and_is_looked_for_again() -> None:
    budget = Budget.of(200)
    budget.looked(None)
    assert not budget.wants_look()
    budget.left = 100
    assert budget.wants_look()
    assert not budget.is_cautious


def test_near_the_end_every_token_is_looked_at() -> None:
    budget = Budget.of(2048)
    budget.left = 300
    budget.looked(100)
    assert budget.is_cautious
    budget.left -= 1
    assert budget.wants_look()


@given(st.lists(st.sampled_from([b'"', b"\\", b"a", b"1", b"-", b"{", b",", b'x"', b"0.3"]), max_size=30))
def test_a_cursor_knows_what_bytes_fall_into_however_they_are_cut(pieces: list[bytes]) -> None:
    whole, cut = DocumentCursor(), DocumentCursor()
    whole.advance(b"".join(pieces))
    for piece in pieces:
        cut = cut.copy()
        cut.advance(piece)
    assert whole == cut


def test_a_cursor_follows_strings_and_numbers() -> None:
    cursor = DocumentCursor()
    cursor.advance(b'{"a\\"1')
    assert (cursor.in_string, cursor.number_bytes) == (True, 0)
    cursor.advance(b'":-1.5e')
    assert (cursor.in_string, cursor.number_bytes) == (False, 5)
    cursor.advance(b"3,")
    assert cursor.number_bytes == 0
