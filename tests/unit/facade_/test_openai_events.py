"""A call's events as OpenAI's chunks and events, without a server."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_facade.calls.contract import CallResult, Choice, Delta
from headrace_facade.errors import Invalid, Throttled, Unavailable
from headrace_facade.openai_dialect import chat_request, completions, responses_request
from headrace_facade.openai_dialect.answers import Narrator
from headrace_facade.openai_dialect.chat_answer import ChatChunks
from headrace_facade.openai_dialect.completions import CompletionChunks
from headrace_facade.openai_dialect.errors import Refused, shape
from headrace_facade.openai_dialect.responses_answer import response
from headrace_facade.openai_dialect.responses_events import ResponseEvents
from tests.fake_calls.service import CALLER, TIME, WEATHER, FakeCall, result

CALL = FakeCall([])
HI = [{"role": "user", "content": "Hi"}]


def chat(**more: Any) -> ChatChunks:
    body = chat_request.ChatBody.model_validate({"model": "small", "messages": HI, "stream": True, **more})
    return ChatChunks(CALL, body, CALLER)


def body_of_response(**more: Any) -> responses_request.ResponseBody:
    return responses_request.ResponseBody.model_validate({"model": "small", "input": "Hi", "stream": True, **more})


def told(narrator: Narrator, deltas: Iterable[Delta], end: CallResult) -> list[dict[str, Any]]:
    written = "".join(
        [*narrator.opening(), *(text for delta in deltas for text in narrator.delta(delta)), *narrator.ended(end)]
    )
    lines = [line.removeprefix("data: ") for line in written.split("\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def deltas_of(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [c["delta"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]


def test_an_empty_completion_has_a_role_and_an_end() -> None:
    chunks = told(chat(), [], result(Choice("", "Stop")))
    assert deltas_of(chunks) == [{"role": "assistant", "content": "", "refusal": None}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_what_was_not_told_on_the_way_is_told_at_the_end() -> None:
    end = result(Choice("Look", "ToolCalls", [WEATHER, TIME], "Hmm"), Choice("other", "Stop"))
    chunks = told(chat(n=2), [Delta(reasoning="H"), Delta(text="Lo"), Delta(tool_call=WEATHER)], end)
    first = deltas_of(chunks)
    assert "".join(d.get("content") or "" for d in first) == "Look"
    assert "".join(d.get("reasoning_content") or "" for d in first) == "Hmm"
    calls = [call for d in first for call in d.get("tool_calls", ())]
    assert [(call["index"], call["id"]) for call in calls] == [(0, "call_1"), (1, "call_2")]
    assert "".join(d.get("content") or "" for d in deltas_of(chunks, 1)) == "other"


def test_usage_is_told_only_where_it_was_asked_for() -> None:
    end = result(Choice("x", "Stop"))
    assert all("usage" not in chunk for chunk in told(chat(), [], end))
    with_usage = told(chat(stream_options={"include_usage": True}), [], end)
    assert [chunk["usage"] is None for chunk in with_usage] == [True, True, True, False]
    assert with_usage[-1]["choices"] == []


def test_the_end_says_who_answered() -> None:
    chunks = told(chat(), [Delta(text="x")], result(Choice("x", "Stop"), model="platform/large"))
    assert (chunks[0]["model"], chunks[-1]["model"]) == ("small", "platform/large")


@given(st.lists(st.text(max_size=5), max_size=8), st.lists(st.text(max_size=5), max_size=4))
def test_pieces_make_the_whole(pieces: list[str], thoughts: list[str]) -> None:
    end = result(Choice("".join(pieces), "Stop", reasoning="".join(thoughts)))
    deltas = [*(Delta(reasoning=each) for each in thoughts), *(Delta(text=each) for each in pieces)]
    chunks = told(chat(), deltas, end)
    assert "".join(d.get("content") or "" for d in deltas_of(chunks)) == "".join(pieces)

    legacy = completions.CompletionBody.model_validate({"model": "small", "prompt": "Hi", "stream": True})
    texts = [chunk["choices"][0]["text"] for chunk in told(CompletionChunks(CALL, legacy, CALLER), deltas, end)]
    assert "".join(texts) == "".join(pieces)

    body = body_of_response()
    events = told(ResponseEvents(CALL, body, CALLER), deltas, end)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    streamed, whole = events[-1]["response"], response(CALL, end, body, CALLER)
    assert streamed["output"] == whole["output"]
    assert streamed.keys() == whole.keys()


def test_a_response_whose_thoughts_come_between() -> None:
    deltas = [Delta(text="a"), Delta(reasoning="t"), Delta(text="b"), Delta(tool_call=WEATHER), Delta(text="c")]
    end = result(Choice("abc", "Length", [WEATHER], "t"))
    events = told(ResponseEvents(CALL, body_of_response(), CALLER), deltas, end)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["message", "reasoning", "message", "function_call", "message"]
    assert len({item["id"] for item in output}) == len(output)
    assert [item["status"] for item in output] == ["completed"] * 4 + ["incomplete"]
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == [0, 1, 2, 3, 4]
    assert events[-1]["type"] == "response.incomplete"


def test_one_call_at_a_time_in_a_response() -> None:
    body = body_of_response(parallel_tool_calls=False)
    end = result(Choice("", "ToolCalls", [WEATHER, TIME]))
    events = told(ResponseEvents(CALL, body, CALLER), [Delta(tool_call=WEATHER), Delta(tool_call=TIME)], end)
    for output in (events[-1]["response"]["output"], response(CALL, end, body, CALLER)["output"]):
        assert [item["name"] for item in output] == ["weather"]


def test_a_failed_response_has_what_came_before() -> None:
    narrator = ResponseEvents(CALL, body_of_response(), CALLER)
    said = [*narrator.opening(), *narrator.delta(Delta(tool_call=WEATHER)), *narrator.failed(Unavailable("gone"))]
    failed = json.loads(said[-1].split("data: ")[1])
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "gone"}
    assert [item["type"] for item in failed["response"]["output"]] == ["function_call"]


def test_the_shape_of_errors() -> None:
    assert shape(Invalid("x", ()), "t") == (
        400,
        {"error": {"message": "x", "type": "invalid_request_error", "param": None, "code": "invalid_value"}},
    )
    status, body = shape(Refused("n", "too many"), "t")
    assert (status, body["error"]["message"], body["error"]["param"]) == (400, "n: too many", "n")
    assert shape(Throttled("slow"), "t")[0] == 429


@pytest.mark.parametrize("text", ["a\nb", "\r\n\r\n", "\u2028", "data: [DONE]\n\n"], ids=ascii)
def test_no_text_can_end_an_event(text: str) -> None:
    for chunk in chat().delta(Delta(text=text)):
        assert chunk.count("\n") == 2
        assert chunk.endswith("\n\n")
        assert "\r" not in chunk
