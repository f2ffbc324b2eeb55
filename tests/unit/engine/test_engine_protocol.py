"""The protocol: what one side writes the other reads; what nobody should write is refused with a reason."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.dialogue_requests import TOOL_CHOICES
from headrace_runner.engine.events import decode_event
from headrace_runner.engine.frames import ProtocolError, decode_body, encode_frame
from headrace_runner.engine.protocol import (
    Abort,
    Completion,
    Delta,
    Failure,
    Generate,
    GenerationResult,
    Hello,
    Message,
    Parameters,
    Progress,
    Reason,
    Refusal,
    Timings,
    TokenLogprob,
    Usage,
)
from headrace_runner.engine.requests import MAX_SCHEMA_BYTES, decode_request
from headrace_runner.engine.state import EngineModel
from headrace_runner.engine.tools import Tool, ToolCall
from headrace_runner.engine.untrusted import MAX_COUNT

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ID = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
COUNT = st.integers(0, MAX_COUNT)
WORD = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,63}", fullmatch=True)
LINE = st.text("aZ09 .,:'äß☃", max_size=40)
PARAMETERS = st.builds(
    Parameters,
    temperature=st.none() | st.floats(0, 10),
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    top_p=st.none() | st.floats(0, 1),
    top_k=st.none() | st.integers(0, 1000),
    min_p=st.none() | st.floats(0, 1),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    stop=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), max_size=16).map(tuple),
    presence_penalty=st.none() | st.floats(-2, 2),
    frequency_penalty=st.none() | st.floats(-2, 2),
    repeat_penalty=st.none() | st.floats(0.5, 2),
    logit_bias=st.dictionaries(st.integers(0, 10**9 - 1), st.floats(-100, 100), max_size=4).map(
        lambda bias: tuple(bias.items())
    ),
    logprobs=st.none() | st.integers(0, 20),
    n=st.none() | st.integers(1, 16),
)
NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
OBJECT = st.dictionaries(TEXT, TEXT, max_size=3).map(json.dumps)
CALLS = st.lists(st.builds(ToolCall, NAME, NAME, OBJECT), max_size=3).map(tuple)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "tool"]), TEXT, CALLS, st.none() | NAME),
    min_size=1,
    max_size=3,
)
TOOLS = st.lists(
    st.builds(Tool, NAME.filter(lambda name: name not in TOOL_CHOICES), TEXT, OBJECT),
    max_size=3,
    unique_by=lambda tool: tool.name,
).map(tuple)
REQUESTS = st.one_of(
    st.builds(Abort, ID),
    st.builds(Generate, id=ID, prompt=TEXT, parameters=PARAMETERS, json_schema=st.none() | TEXT, stream=st.booleans()),
    st.builds(Generate, id=ID, messages=MESSAGES.map(tuple), parameters=PARAMETERS, tools=TOOLS),
    st.builds(Generate, id=ID, prompt=TEXT, cache_scope=st.none() | ID),
    st.builds(Generate, id=ID, prompt=TEXT, choice=st.lists(st.sampled_from(["a", "ü\n"]), min_size=1).map(tuple)),
    st.builds(Generate, id=ID, prompt=TEXT, regex=st.sampled_from(["a", "[0-9]+"]), narrow=st.booleans()),
    st.builds(Generate, id=ID, prompt=TEXT, grammar=st.just('root ::= "a"')),
)
MODEL = st.builds(
    EngineModel,
    architecture=LINE,
    context_tokens=COUNT,
    parallelism=COUNT,
    quantization=LINE,
    parameters=COUNT,
    size_bytes=COUNT,
    sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
    gpu_layers=COUNT,
    notes=st.lists(LINE, max_size=3).map(tuple),
)
LOGARITHM = st.floats(-100, 0)
LOGPROBS = st.none() | st.lists(
    st.builds(TokenLogprob, TEXT, LOGARITHM, st.lists(st.tuples(TEXT, LOGARITHM), max_size=2).map(tuple)), max_size=2
).map(tuple)
EVENTS = st.one_of(
    st.builds(Hello, MODEL),
    st.builds(Progress, ID, COUNT),
    st.builds(Delta, ID, TEXT, COUNT, COUNT),
    st.builds(Failure, ID, WORD, LINE, st.booleans()),
    st.builds(
        GenerationResult,
        id=ID,
        text=TEXT,
        finish_reason=st.sampled_from(["Stop", "Length", "Cancelled", "ToolCalls"]),
        usage=st.builds(Usage, COUNT, COUNT, COUNT),
        timings=st.builds(Timings, COUNT, COUNT, COUNT),
        enforcement=st.sampled_from([None, "Grammar"]),
        logprobs=LOGPROBS,
        alternatives=st.lists(
            st.builds(Completion, TEXT, st.sampled_from(["Stop", "Length"]), LOGPROBS), max_size=2
        ).map(tuple),
        tool_calls=CALLS,
        reasoning=TEXT,
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(REQUESTS)
def test_a_request_is_read_as_it_was_written(request: Generate | Abort) -> None:
    assert decode_request(decode_body(encode_frame(request.to_json())[4:])) == request


@given(EVENTS)
def test_an_event_is_read_as_it_was_written(event: Any) -> None:
    assert decode_event(decode_body(encode_frame(event.to_json())[4:])) == event


@given(REQUESTS, st.data())
def test_a_mutated_request_is_read_or_refused_and_nothing_else(request: Generate | Abort, data: st.DataObject) -> None:
    body = request.to_json()
    target = body["parameters"] if "parameters" in body and data.draw(st.booleans()) else body
    target[data.draw(st.sampled_from(sorted(target)) | TEXT) if target else "x"] = data.draw(JSON)
    with contextlib.suppress(Refusal, ProtocolError):
        decode_request(body)


@given(EVENTS, st.data())
def test_a_mutated_event_is_read_or_refused_and_nothing_else(event: Any, data: st.DataObject) -> None:
    body = event.to_json()
    body[data.draw(st.sampled_from(sorted(body)))] = data.draw(JSON)
    with contextlib.suppress(ProtocolError):
        decode_event(body)


def a_request(**changes: Any) -> dict[str, Any]:
    return {"type": "generate", "id": "1", "prompt": "hi", **changes}


def a_turn(**changes: Any) -> dict[str, Any]:
    call = {"id": "1", "name": "f", "arguments": "{}", **changes}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


@pytest.mark.parametrize(
    ("changes", "reason", "words"),
    [
        ({"prompt": None}, Reason.INVALID_PARAMETERS, "exactly one"),
        ({"messages": [{"role": "user", "content": "x"}]}, Reason.INVALID_PARAMETERS, "exactly one"),
        ({"prompt": None, "messages": []}, Reason.INVALID_PARAMETERS, "messages"),
        ({"prompt": None, "messages": [{"role": "u", "content": "x", "n": 1}]}, Reason.INVALID_PARAMETERS, "nothing"),
        ({"prompt": None, "messages": [{"role": "u", "content": []}]}, Reason.UNSUPPORTED_CONTENT, "images"),
        ({"prompt": None, "messages": [a_turn(id="")]}, Reason.INVALID_PARAMETERS, "an id"),
        ({"prompt": None, "messages": [a_turn(name="f g")]}, Reason.INVALID_PARAMETERS, "letters"),
        ({"prompt": None, "messages": [a_turn(arguments="[]")]}, Reason.INVALID_PARAMETERS, "JSON object"),
        ({"tools": [{"name": "f"}] * 2}, Reason.INVALID_PARAMETERS, "same name"),
        ({"tools": [{"name": "none"}]}, Reason.INVALID_PARAMETERS, "letters"),
        ({"tools": [{"name": "f", "parameters": "{"}]}, Reason.INVALID_PARAMETERS, "not JSON"),
        ({"tools": [{"name": "f", "strict": True}]}, Reason.INVALID_PARAMETERS, "nothing else"),
        ({"tools": [{"name": "f"}], "tool_choice": "g"}, Reason.INVALID_PARAMETERS, "tool_choice"),
        ({"tools": [{"name": f"f{n}"} for n in range(65)]}, Reason.INVALID_PARAMETERS, "at most 64"),
        ({"n_discard": -1}, Reason.INVALID_PARAMETERS, "unknown fields: n_discard"),
        ({"stream": 1}, Reason.INVALID_PARAMETERS, "stream"),
        ({"cache_scope": ""}, Reason.INVALID_PARAMETERS, "cache_scope: expected 1 to 253"),
        ({"cache_scope": "a" * 254}, Reason.INVALID_PARAMETERS, "cache_scope"),
        ({"cache_scope": "a\ud800"}, Reason.INVALID_PARAMETERS, "cache_scope"),
        ({"cache_scope": ["a"]}, Reason.INVALID_PARAMETERS, "cache_scope"),
        ({"parameters": {"logitBiases": {}}}, Reason.INVALID_PARAMETERS, "unknown fields: logitBiases"),
        ({"parameters": {"logitBias": [1]}}, Reason.INVALID_PARAMETERS, "logitBias"),
        ({"parameters": {"logitBias": {"-1": 1}}}, Reason.INVALID_PARAMETERS, "numbers of tokens"),
        ({"parameters": {"logitBias": {"²": 1}}}, Reason.INVALID_PARAMETERS, "numbers of tokens"),
        ({"parameters": {"logitBias": {"1": 101}}}, Reason.INVALID_PARAMETERS, "between -100.0 and 100.0"),
        ({"parameters": {"logprobs": 21}}, Reason.INVALID_PARAMETERS, "logprobs"),
        ({"parameters": {"n": 17}}, Reason.INVALID_PARAMETERS, "parameters.n"),
        ({"parameters": {"temperature": True}}, Reason.INVALID_PARAMETERS, "temperature"),
        ({"parameters": {"temperature": float("nan")}}, Reason.INVALID_PARAMETERS, "temperature"),
        ({"parameters": {"maxTokens": 0}}, Reason.INVALID_PARAMETERS, "maxTokens"),
        ({"parameters": {"maxTokens": 1.5}}, Reason.INVALID_PARAMETERS, "maxTokens"),
        ({"parameters": {"topP": 1.1}}, Reason.INVALID_PARAMETERS, "topP"),
        ({"parameters": {"stop": [""]}}, Reason.INVALID_PARAMETERS, "stop"),
        ({"parameters": {"stop": ["x"] * 17}}, Reason.INVALID_PARAMETERS, "stop"),
        ({"json_schema": {}}, Reason.INVALID_SCHEMA, "text"),
        ({"json_schema": "{}", "regex": "a"}, Reason.INVALID_PARAMETERS, "at most one"),
        ({"regex": "a" * 16_385}, Reason.INVALID_SCHEMA, "16384"),
        ({"grammar": "\ud800"}, Reason.INVALID_SCHEMA, "surrogate"),
        ({"choice": []}, Reason.INVALID_SCHEMA, "1 to 128"),
        ({"choice": ["a", 1]}, Reason.INVALID_SCHEMA, "512"),
        ({"choice": ["a"], "narrow": 1}, Reason.INVALID_PARAMETERS, "narrow"),
        ({"json_schema": "x" * (MAX_SCHEMA_BYTES + 1)}, Reason.INVALID_SCHEMA, "65536"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(changes: dict[str, Any], reason: Reason, words: str) -> None:
    with pytest.raises(Refusal) as refused:
        decode_request(a_request(**changes))
    assert refused.value.reason is reason
    assert words in refused.value.message
    assert not refused.value.retryable


@pytest.mark.parametrize("body", [{}, {"type": "generate"}, a_request(id=""), a_request(id=7), a_request(type="x")])
def test_a_request_nobody_can_be_answered_for_ends_the_connection(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode_request(body)


def test_only_an_aborted_generation_says_that_it_was_cancelled() -> None:
    result = GenerationResult("1", "so far", "Cancelled", Usage(1, 0, 2), Timings(0, 1, 2))
    body = result.to_json()
    assert body["type"] == "aborted"
    for type_, reason in (("done", "Cancelled"), ("aborted", "Stop")):
        with pytest.raises(ProtocolError):
            decode_event({**body, "type": type_, "finish_reason": reason})


def test_an_event_of_a_newer_engine_is_passed_over() -> None:
    assert decode_event({"type": "telemetry", "id": "1"}) is None
    assert decode_event({"type": "progress", "id": "1", "completion_tokens": 3, "more": 1}) == Progress("1", 3)


def test_a_lone_surrogate_reaches_no_tokenizer() -> None:
    request = decode_request(a_request(prompt="a\ud800b"))
    assert isinstance(request, Generate)
    assert request.prompt == "a?b"
