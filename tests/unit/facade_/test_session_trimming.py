"""How much of a session a model is sent."""

import pytest

from headrace_crds.task import Role
from headrace_crds.work import WorkMessage
from headrace_facade.sessions.exchanges import TOKENS_PER_BYTE, Exchange, fitting, tokens_per_byte


def said(text: str, role: Role = Role.USER) -> WorkMessage:
    return WorkMessage(role=role, content=text)


def exchange(
    size: int = 300, *, model: str = "ns/m", tokens: int = 0, prompt_bytes: int = 0, name: str = ""
) -> Exchange:
    return Exchange((said(name + "x" * (size // 2)),), "y" * (size // 2), model, tokens, prompt_bytes)


def many(count: int, **facts: int) -> list[Exchange]:
    return [exchange(**facts, name=f"{number} ") for number in range(count)]


def fitted(exchanges: list[Exchange], context: int | None, *, answer: int = 100, new: int = 30) -> list[Exchange]:
    return fitting(exchanges, [said("n" * new)], model="ns/m", context_tokens=context, answer_tokens=answer)


def test_all_of_it_goes_where_there_is_room_or_nobody_knows() -> None:
    exchanges = many(10)
    assert fitted(exchanges, 1_000_000) == exchanges
    assert fitted(exchanges, None) == exchanges
    assert fitted([], 100) == []


def test_the_oldest_go_first() -> None:
    exchanges = many(10)
    # Of 1,000 tokens 950 are taken, 100 for the answer and 18 for what is new: seven of 117 each.
    assert fitted(exchanges, 1000) == exchanges[-7:]
    assert fitted(exchanges, 1000, answer=820) == []
    assert fitted(exchanges, 100, answer=200) == []


def test_nothing_older_goes_beyond_what_had_no_room() -> None:
    exchanges = [exchange(30), exchange(30_000), exchange(30)]
    assert fitted(exchanges, 1000) == exchanges[2:]


def test_tokens_are_those_that_the_last_answer_counted() -> None:
    # Six bytes a token: twice as many fit, about.
    exchanges = many(20, tokens=100, prompt_bytes=600)
    assert len(fitted(exchanges, 1000)) > 10
    assert tokens_per_byte(exchanges, "ns/m") == pytest.approx(1 / 6)
    assert tokens_per_byte(exchanges, "ns/other") == TOKENS_PER_BYTE
    # A token for each byte at most, and eight bytes for one.
    assert tokens_per_byte([exchange(tokens=10_000, prompt_bytes=10)], "ns/m") == 1
    assert tokens_per_byte([exchange(tokens=1, prompt_bytes=10_000)], "ns/m") == 1 / 8
    assert tokens_per_byte(many(2), "ns/m") == TOKENS_PER_BYTE


def test_what_is_kept_is_what_is_read() -> None:
    kept = Exchange((said("a"), said("b", Role.ASSISTANT)), "c", "ns/m", 7, 9)
    assert Exchange.load(kept.dump()) == kept
    assert [(each.role, each.text) for each in kept.messages] == [
        (Role.USER, "a"),
        (Role.ASSISTANT, "b"),
        (Role.ASSISTANT, "c"),
    ]


@pytest.mark.parametrize(
    "document",
    [{}, {"said": [["tool", "x"]]}, {"said": 3}, {**exchange().dump(), "promptTokens": "many"}],
    ids=["nothing", "role", "said", "tokens"],
)
def test_what_is_no_exchange_is_told_apart(document: dict) -> None:
    with pytest.raises(ValueError):
        Exchange.load(document)
