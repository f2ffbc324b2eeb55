"""A batch's file and its lines: what is wrong with the whole, what a task cannot say, and the batch's own words."""

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_crds.task import LLMTaskSpec, LLMTaskStatus
from headrace_facade.openai_batches import record
from headrace_facade.openai_batches.lines import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    LINES_MOST,
    NUMBER_MOST,
    PROBLEMS_MOST,
    Line,
    Problem,
    judge,
    raw_lines,
    spec_of,
    window_seconds,
)
from headrace_facade.openai_batches.record import Asked, Batch, RefusedLine
from headrace_facade.openai_batches.tally import Tally
from headrace_facade.openai_batches.told import batch_object, status_of
from headrace_facade.openai_dialect.errors import Refused

HI = [{"role": "user", "content": "Hi"}]
ASKED = Asked(file="f" * 24, endpoint=CHAT, window="1h", window_s=3600, created_at=1000, lines=3)


def line(custom_id: str = "a", **members: Any) -> bytes:
    whole = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": "m", "messages": HI}, **members}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def problems(content: bytes) -> list[tuple[int | None, str]]:
    return [(each.line, each.code) for each in judge(content, CHAT) if isinstance(each, Problem)]


def batch(**members: Any) -> Batch:
    return Batch("b" * 24, "uid", ASKED, {1: "a", 2: "b", 3: "c"}, **members)


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86_400), ("30m", 1800), ("90s", 90), ("7d", 604_800), ("365d", 31_536_000)]
)
def test_windows(text: str, seconds: int) -> None:
    assert window_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "24", "h", "0h", "-1h", "1.5h", "24H", "366d", "99999999d", "1h30m", " 1h", "1h\n", "١h"]
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(Refused, match="completion_window"):
        window_seconds(text)


def test_lines_are_counted_as_an_editor_does() -> None:
    assert list(raw_lines(b"a\n\n  b \r\nc")) == [(1, b"a"), (3, b"b"), (4, b"c")]
    assert list(raw_lines(b"")) == []


@given(st.lists(st.binary().filter(lambda raw: b"\n" not in raw)))
def test_every_line_that_is_not_empty_comes_once(lines: list[bytes]) -> None:
    told = [(number, raw.strip()) for number, raw in enumerate(lines, start=1) if raw.strip()]
    assert list(raw_lines(b"\n".join(lines))) == told


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        pytest.param(b"{", "invalid_json_line", id="no json"),
        pytest.param(b"[]", "invalid_json_line", id="no object"),
        pytest.param(b'"\xff"', "invalid_json_line", id="no utf-8"),
        pytest.param(b'{"a":' * 5000, "invalid_json_line", id="too deep"),
        pytest.param(line(custom_id=...), "missing_required_parameter", id="no id"),
        pytest.param(line(custom_id=7), "missing_required_parameter", id="an id that is a number"),
        pytest.param(line(custom_id="x" * 257), "missing_required_parameter", id="a long id"),
        pytest.param(line(custom_id="a\nb"), "invalid_value", id="an id with a line break"),
        pytest.param(line(method="GET"), "invalid_method", id="another method"),
        pytest.param(line(url=EMBEDDINGS), "invalid_url", id="another endpoint"),
        pytest.param(line(body=[]), "missing_required_parameter", id="no body"),
        pytest.param(line(extra=1), "unknown_parameter", id="an unknown member"),
        pytest.param(line("a"), "duplicate_custom_id", id="an id again"),
        pytest.param(line(body={"x": "y" * (1 << 20)}), "line_too_large", id="too large"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(bad: bytes, code: str) -> None:
    assert problems(b"\n".join([line("a"), b"", bad, line("z")])) == [(3, code)]


def test_too_many_lines_and_none() -> None:
    full = [line(str(number)) for number in range(LINES_MOST)]
    assert problems(b"\n".join(full)) == []
    assert problems(b"\n".join([*full, line("more")])) == [(LINES_MOST + 1, "too_many_lines")]
    assert problems(b"\n" * NUMBER_MOST + line()) == [(NUMBER_MOST + 1, "too_many_lines")]
    assert problems(b" \n\n") == [(None, "empty_file")]


def test_a_file_that_is_wrong_throughout_is_not_read_to_its_end() -> None:
    assert len(problems(b"x\n" * LINES_MOST)) == PROBLEMS_MOST


def test_a_line_has_its_body() -> None:
    (read,) = judge(line("a"), CHAT)
    assert read == Line(1, "a", {"model": "m", "messages": HI})


def test_bodies_become_specs() -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {}}}}
    body = {"model": "team/m", "messages": HI, "temperature": 0.2, "max_tokens": 9, "response_format": schema}
    spec = spec_of(CHAT, body)
    assert spec == {
        "modelRef": {"namespace": "team", "name": "m"},
        "messages": [{"role": "user", "content": "Hi"}],
        "parameters": {"temperature": "0.2", "maxTokens": 9},
        "output": {"jsonSchema": '{"type":"object","properties":{}}'},
    }
    called = spec_of(CHAT, {"model": "m", "messages": HI, "tools": [tool], "tool_choice": "required"})
    assert (called["tools"][0]["name"], called["toolChoice"]) == ("look", "required")
    assert spec_of(COMPLETIONS, {"model": "m", "prompt": "Hi"})["messages"] == [{"role": "user", "content": "Hi"}]
    assert spec_of(EMBEDDINGS, {"model": "m", "input": "Hi"})["embed"] == {"input": ["Hi"]}
    for each in (spec, called):
        LLMTaskSpec.model_validate(each)


@pytest.mark.parametrize(
    ("endpoint", "members", "param"),
    [
        (CHAT, {"n": 2}, "n"),
        (CHAT, {"stream": True}, "stream"),
        (CHAT, {"logprobs": True}, "logprobs"),
        (CHAT, {"logit_bias": {"1": 2}}, "logit_bias"),
        (CHAT, {"parallel_tool_calls": False}, "parallel_tool_calls"),
        (CHAT, {"surprise": 1}, "surprise"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": HI * 1025}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 262_145}]}, "content"),
        (CHAT, {"model": "No Name"}, "name"),
        (COMPLETIONS, {"prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 1}, "logprobs"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "base64"}, "encoding_format"),
    ],
)
def test_what_a_task_cannot_say_is_refused_by_its_name(endpoint: str, members: dict[str, Any], param: str) -> None:
    body = {"model": "m", **({"messages": HI} if endpoint == CHAT else {}), **members}
    with pytest.raises(Refused) as refused:
        spec_of(endpoint, body)
    assert refused.value.problems[0].field == param
    assert "xxx" not in refused.value.message


@given(
    custom_ids=st.dictionaries(st.integers(1, 99_999), st.text(string.printable, min_size=1)),
    refused=st.dictionaries(
        st.integers(1, 99_999), st.builds(RefusedLine, st.text(), st.text(), st.none() | st.text())
    ),
)
def test_a_record_is_read_as_it_was_written(custom_ids: dict[int, str], refused: dict[int, RefusedLine]) -> None:
    made = record.manifest("b" * 24, ASKED, custom_ids, [])
    made["metadata"]["uid"] = "uid"
    made["data"] |= record.made(refused) | record.cancelling(7) | record.ended(Tally(completed=1, last_end=5))
    read = record.read(made)
    shortened = {number: why.shortened() for number, why in refused.items()}
    ended = Tally(completed=1, last_end=5)
    assert read == Batch("b" * 24, "uid", ASKED, custom_ids, [], shortened, made=True, cancelling_at=7, ended=ended)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"request": "{"},
        {"request": "[]"},
        {"request": "{}"},
        {"request": json.dumps({**vars(ASKED), "created_at": "x"})},
        {"request": json.dumps({**vars(ASKED), "lines": -1})},
        {"request": json.dumps({**vars(ASKED), "more": 1})},
        {"request": json.dumps(vars(ASKED)), "customIds": '{"x": "a"}'},
        {"request": json.dumps(vars(ASKED)), "refused": "[1]"},
        {"request": json.dumps(vars(ASKED)), "cancelling": "soon"},
        {"request": json.dumps(vars(ASKED)), "ended": '{"x": 1}'},
        {"request": json.dumps(vars(ASKED)), "problems": "[1]"},
    ],
)
def test_what_somebody_else_has_written_is_no_record(data: dict[str, str]) -> None:
    labels = {"headrace.dev/batch": "b" * 24}
    assert record.read({"metadata": {"name": "n", "uid": "u", "labels": labels}, "data": data}) is None


@pytest.mark.parametrize(
    ("members", "tally", "now", "status", "failed"),
    [
        ({"made": True}, Tally(open=3), 1100, "in_progress", 0),
        ({"made": True}, Tally(open=1, completed=1, failed=1), 1100, "in_progress", 1),
        ({"made": True}, Tally(completed=3), 1100, "completed", 0),
        ({"made": True}, Tally(completed=2, failed=1), 1100, "completed", 1),
        ({"made": True}, Tally(completed=2, expired=1), 4700, "expired", 1),
        ({"made": True, "refused": {2: RefusedLine("c", "m")}}, Tally(completed=2), 1100, "completed", 1),
        ({"made": True}, Tally(completed=2), 1100, "completed", 1),
        ({}, Tally(), 1100, "in_progress", 0),
        ({}, Tally(completed=2), 1100, "in_progress", 0),
        ({}, Tally(completed=2), 4700, "expired", 1),
        ({"made": True}, Tally(open=1, completed=2), 4700, "in_progress", 0),
        ({"made": True, "cancelling_at": 1050}, Tally(open=1, completed=1, cancelled=1), 1100, "cancelling", 1),
        ({"made": True, "cancelling_at": 1050}, Tally(completed=1, cancelled=2), 1100, "cancelled", 2),
        ({"cancelling_at": 1050}, Tally(cancelled=1), 1100, "cancelled", 3),
        ({"problems": [Problem("empty_file", "x")]}, Tally(), 1100, "failed", 0),
    ],
)
def test_a_batchs_words(members: dict[str, Any], tally: Tally, now: int, status: str, failed: int) -> None:
    told = batch_object(batch(**members), tally, now)
    assert (told["status"], told["request_counts"]["failed"]) == (status, failed)
    assert status == status_of(batch(**members), tally, now)
    total = told["request_counts"]["total"]
    assert 0 <= told["request_counts"]["completed"] + failed <= total == (0 if status == "failed" else 3)
    ends = {name for name in ("completed_at", "failed_at", "expired_at", "cancelled_at") if told[name] is not None}
    assert ends == ({f"{status}_at"} if status not in ("in_progress", "cancelling") else set())
    assert (told["output_file_id"] is None) == (tally.completed == 0)
    assert (told["error_file_id"] is None) == (failed == 0)


def test_a_tally_counts_each_task_once() -> None:
    ended = {
        "attempt": 1,
        "completionTime": "2026-01-01T00:00:09Z",
        "usage": {"promptTokens": 2, "completionTokens": 3},
    }
    statuses: list[dict[str, Any]] = [
        {},
        {"phase": "Running", "attempt": 1},
        {**ended, "outcome": "Complete"},
        {**ended, "outcome": "Failed", "reason": "InvalidOutput"},
        {**ended, "outcome": "Failed", "reason": "QueueDeadlineExceeded"},
        {**ended, "outcome": "Cancelled"},
    ]
    tally = Tally()
    for each in statuses:
        tally = tally.with_task(LLMTaskStatus.model_validate(each))
    assert tally == Tally(2, 1, 1, 1, 1, prompt_tokens=8, completion_tokens=12, last_end=1767225609)
    assert tally.seen == len(statuses)
