"""Chunks become a result; its times count from the request on."""

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Delta, Parameters, Timings, Usage
from headrace_runner.providers.chat_answer import ChatAnswer, read_usage
from headrace_runner.providers.protocol import Fault, ProviderError
from tests.stub_openai.calling import asking
from tests.stub_openai.replies import chunk


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_the_first_piece_has_its_time() -> None:
    answer = ChatAnswer(asking(), None, lambda _: None, Clock())
    for piece in (chunk({"role": "assistant"}), chunk({"content": "a"}), chunk({"content": "b"}), chunk(finish="stop")):
        answer.push(piece)
    assert answer.result().timings == Timings(queued_ms=0, first_token_ms=1000, generation_ms=2000)


def test_text_that_came_is_told_even_where_the_answer_is_cut() -> None:
    deltas: list[Delta] = []
    answer = ChatAnswer(asking(), None, deltas.append)
    answer.push(chunk({"content": "half"}))
    with pytest.raises(ProviderError) as caught:
        answer.result()
    assert (caught.value.fault, caught.value.reason) == (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
    assert [delta.text for delta in deltas] == ["half"]


def test_fewer_completions_than_asked_for_are_refused() -> None:
    answer = ChatAnswer(asking(parameters=Parameters(n=2)), None, lambda _: None)
    answer.push(chunk({"content": "one"}, finish="stop"))
    with pytest.raises(ProviderError, match=r"parameters\.n"):
        answer.result()


@pytest.mark.parametrize(
    ("given", "usage"),
    [
        ({}, Usage(0, 0, 0)),
        ({"prompt_tokens": 5, "completion_tokens": 3}, Usage(5, 0, 3)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}, Usage(5, 5, 0)),
        ({"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}, Usage(0, 0, 3, 2)),
        ({"prompt_tokens": -1, "completion_tokens": "3", "prompt_tokens_details": None}, Usage(0, 0, 0)),
        ({"prompt_tokens": True, "completion_tokens": 1.5}, Usage(0, 0, 0)),
    ],
)
def test_a_count_is_believed_where_it_is_one(given: dict[str, object], usage: Usage) -> None:
    assert read_usage(given) == usage
