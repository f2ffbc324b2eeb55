"""Completion text: however the bytes are cut into tokens, the same text comes out."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.text import CompletionText


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(raw), *(at % (len(raw) + 1) for at in cuts)})
    return [raw[left:right] for left, right in itertools.pairwise(edges)]


ALPHABET = st.text("ab€😀 \n", max_size=30)


@given(
    ALPHABET, st.lists(st.integers(0, 200), max_size=20), st.lists(st.text("ab€😀", min_size=1, max_size=4), max_size=3)
)
def test_text_ends_before_the_first_stop_however_tokens_are_cut(text: str, cuts: list[int], stops: list[str]) -> None:
    completion = CompletionText(stops)
    stopped = any(completion.push(piece) for piece in cut(text.encode(), cuts))
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert stopped == bool(ends)
    if not ends:
        assert str(completion) == text
        return
    # Which stop is complete first depends on the cuts; the text must end where one of them begins, at the
    # latest with the one that is completed first.
    first_completed = min(at + len(stop) for stop in stops if (at := text.find(stop)) >= 0)
    assert text.startswith(str(completion))
    assert not any(stop in str(completion) for stop in stops)
    assert len(str(completion)) in {at for stop in stops for at in range(len(text)) if text.startswith(stop, at)}
    assert len(str(completion)) < first_completed


def test_a_stop_string_across_three_tokens() -> None:
    completion = CompletionText(["END"])
    assert [completion.push(piece) for piece in (b"one E", b"N", b"D two")] == [False, False, True]
    assert str(completion) == "one "


def test_a_near_stop_stays_text() -> None:
    completion = CompletionText(["END"])
    assert not any(completion.push(piece) for piece in (b"E", b"N", b"d", b" EN"))
    assert str(completion) == "ENd EN"


@pytest.mark.parametrize("held", [1, 2, 3])
def test_an_unfinished_character_is_never_text(held: int) -> None:
    completion = CompletionText()
    completion.push(b"ok ")
    completion.push("😀".encode()[:held])
    assert str(completion) == "ok "


@given(
    ALPHABET, st.lists(st.integers(0, 200), max_size=20), st.lists(st.text("ab€😀", min_size=1, max_size=4), max_size=3)
)
def test_what_is_settled_begins_whatever_the_text_becomes(text: str, cuts: list[int], stops: list[str]) -> None:
    completion = CompletionText(stops)
    settled = [""]
    for piece in cut(text.encode(), cuts):
        ended = completion.push(piece)
        settled.append(completion.settled())
        if ended:
            break
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise([*settled, str(completion)]))


def test_where_a_stop_string_may_have_begun_nothing_is_settled() -> None:
    completion = CompletionText(["END", "NDX"])
    completion.push(b"a good EN")
    assert (completion.settled(), str(completion)) == ("a good ", "a good EN")
    completion.push(b"d")
    assert completion.settled() == "a good ENd"


@given(st.lists(st.binary(max_size=6), max_size=8))
def test_any_bytes_give_text_without_surrogates(pieces: list[bytes]) -> None:
    completion = CompletionText(["x"])
    for piece in pieces:
        if completion.push(piece):
            break
    str(completion).encode("utf-8")


@pytest.mark.parametrize("stops", [["b", "d"], ["d", "b"], ["bcd", "c"], ["d", "abcde", "b"]])
def test_of_several_stops_in_one_token_the_first_counts(stops: list[str]) -> None:
    completion = CompletionText(stops)
    assert completion.push(b"abcde")
    assert not any(stop in str(completion) for stop in stops)
    assert str(completion) in ("a", "")


@given(
    ALPHABET, st.lists(st.integers(0, 200), max_size=20), st.lists(st.text("ab€😀", min_size=1, max_size=4), max_size=3)
)
def test_what_is_taken_is_never_taken_back(text: str, cuts: list[int], stops: list[str]) -> None:
    completion = CompletionText(stops)
    taken = ""
    for piece in cut(text.encode(), cuts):
        stopped = completion.push(piece)
        taken += completion.take()
        assert taken == completion.settled()
        if stopped:
            break
    completion.end()
    assert taken + completion.take() == str(completion)


def test_an_end_that_only_looked_like_a_stop_string_is_text() -> None:
    completion = CompletionText(["END"])
    completion.push(b"one EN")
    assert completion.take() == "one "
    assert completion.take() == ""
    completion.end()
    assert completion.take() == "EN"
