"""Reasoning, answer and calls of every family, however the text was cut on its way."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_runner.engine.answer import Answer
from headrace_runner.engine.answer_parts import ForcedSplitter, MarkedSplitter, Splitter
from headrace_runner.engine.dialects import (
    COMMAND,
    DEEPSEEK,
    FUNCTION,
    GRANITE,
    HERMES,
    LLAMA,
    MISTRAL,
    PHI,
    Dialect,
    Reading,
    recognise,
)
from headrace_runner.engine.harmony import HarmonySplitter
from headrace_runner.engine.tools import MAX_CALLS

NAMES = ("level", "flow")
THINK = ("<think>", "</think>")
HERMES_THINK = Dialect("h", HERMES, THINK)
LLAMA_BARE = Dialect("l", LLAMA, bare_json=True)
Read = tuple[str, str, list[tuple[str, str]]]


def splitter(dialect: Dialect | None, *, thinking: bool = False) -> Splitter:
    return HarmonySplitter(NAMES) if dialect is None else MarkedSplitter(dialect, NAMES, thinking=thinking)


def read(parser: Splitter, *chunks: str) -> Read:
    text = reasoning = ""
    calls: list[tuple[str, str]] = []
    for parts in [*(parser.push(chunk) for chunk in chunks), parser.end()]:
        text += parts.text
        reasoning += parts.reasoning
        calls += [(call.name, call.arguments) for call in parts.calls]
    return text, reasoning, calls


LEVEL = ("level", '{"gauge": "mill"}')
FLOW = ("flow", '{"from": 1.50, "to": "a\\u00e4"}')
CALL = '{"name": "level", "arguments": {"gauge": "mill"}}'
DEEP_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>level\n```json\n" + LEVEL[1] + "\n```<｜tool▁call▁end｜>"

UNKNOWN = '<tool_call>{"name": "rm"}</tool_call>'
NO_OBJECT = '<tool_call>{"name": "level", "arguments": [1]}</tool_call>'
AS_TEXT = '<tool_call>{"name": "level", "arguments": "{\\"gauge\\": \\"mill\\"}"}</tool_call>'
MISTRAL_TWO = f"[TOOL_CALLS]level[ARGS]{LEVEL[1]}[TOOL_CALLS]flow[CALL_ID]a1[ARGS]{FLOW[1]}"
DEEP_V3 = (
    f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>level<｜tool▁sep｜>{LEVEL[1]}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
COMMANDED = (
    '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "level", "parameters": {"gauge": "mill"}}]<|END_ACTION|>'
)
CHANNELS = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>42 <|"
TAGS = (
    "<tool_call>\n<function=level>\n<parameter=gauge>\nmill\n</parameter>\n<parameter=n>\n3\n</parameter>\n"
    "</function>\n</tool_call>"
)
DEEP_TWO = f"<｜tool▁calls▁begin｜>{DEEP_CALL}\n{DEEP_CALL}<｜tool▁calls▁end｜>"
CASES: list[tuple[str, Dialect | None, str, Read]] = [
    ("plain", HERMES_THINK, " Hello <b> there.\n", (" Hello <b> there.\n", "", [])),
    ("hermes", HERMES_THINK, f"<tool_call>\n{CALL}\n</tool_call>", ("", "", [LEVEL])),
    (
        "hermes, two and a preamble",
        HERMES_THINK,
        f'I look.\n<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "flow", "arguments": {FLOW[1]}}}</tool_call>\n',
        ("I look.", "", [LEVEL, FLOW]),
    ),
    ("after reasoning", HERMES_THINK, f"<think>\nHm.\n</think>\n\n<tool_call>{CALL}</tool_call>", ("", "Hm.", [LEVEL])),
    ("reasoning and answer", HERMES_THINK, "\n<think>\na\n\nb\n</think>\n\n42\n", ("42\n", "a\n\nb", [])),
    ("reasoning without an end", HERMES_THINK, "<think>a </thin", ("", "a </thin", [])),
    ("a mark in the middle is text", HERMES_THINK, "a <think>b</think>", ("a <think>b</think>", "", [])),
    (
        "an argument with the closing mark",
        HERMES_THINK,
        '<tool_call>{"name": "level", "arguments": {"gauge": "</tool_call>"}}</tool_call>x',
        ("x", "", [("level", '{"gauge": "</tool_call>"}')]),
    ),
    ("no closing mark", HERMES_THINK, f"<tool_call>\n{CALL}", ("", "", [LEVEL])),
    ("no JSON", HERMES_THINK, "<tool_call>level()</tool_call>", ("<tool_call>level()</tool_call>", "", [])),
    ("unknown tool", HERMES_THINK, UNKNOWN, (UNKNOWN, "", [])),
    ("no object", HERMES_THINK, NO_OBJECT, (NO_OBJECT, "", [])),
    ("arguments as text", HERMES_THINK, AS_TEXT, ("", "", [LEVEL])),
    (
        "OpenAI's form",
        HERMES_THINK,
        '<tool_call>{"type": "function", "function": ' + CALL + "}</tool_call>",
        ("", "", [LEVEL]),
    ),
    (
        "Qwen 3 Coder",
        HERMES_THINK,
        TAGS,
        ("", "", [("level", '{"gauge": "mill", "n": 3}')]),
    ),
    ("Llama bare", LLAMA_BARE, '{"name": "level", "parameters": {"gauge": "mill"}}', ("", "", [LEVEL])),
    ("Llama bare, two", LLAMA_BARE, f'{CALL}; {{"name": "flow", "parameters": {FLOW[1]}}}', ("", "", [LEVEL, FLOW])),
    ("Llama tag", LLAMA_BARE, f"<|python_tag|>{CALL}", ("", "", [LEVEL])),
    ("Llama document", LLAMA_BARE, '{"gauge": 3}', ('{"gauge": 3}', "", [])),
    ("Llama document with a name", LLAMA_BARE, '{"name": "Ada", "age": 36}', ('{"name": "Ada", "age": 36}', "", [])),
    ("Llama text", LLAMA_BARE, 'So {"name": "level"}', ('So {"name": "level"}', "", [])),
    ("Functionary", Dialect("f", FUNCTION), f"<function=level>{LEVEL[1]}</function>", ("", "", [LEVEL])),
    ("Mistral", Dialect("m", MISTRAL), f"[TOOL_CALLS] [{CALL}]", ("", "", [LEVEL])),
    ("Mistral 2025", Dialect("m", MISTRAL), MISTRAL_TWO, ("", "", [LEVEL, FLOW])),
    ("Mistral text", Dialect("m", MISTRAL), "[TOOL] no [TOOL_CALL", ("[TOOL] no [TOOL_CALL", "", [])),
    ("DeepSeek R1", Dialect("d", DEEPSEEK, THINK), f"<think>x</think>{DEEP_TWO}", ("", "x", [LEVEL, LEVEL])),
    ("DeepSeek V3.1", Dialect("d", DEEPSEEK), DEEP_V3, ("", "", [LEVEL])),
    ("Phi", Dialect("p", PHI), f"<|tool_call|>[{CALL}]<|/tool_call|>", ("", "", [LEVEL])),
    ("Granite", Dialect("g", GRANITE), f"<|tool_call|>[{CALL}]", ("", "", [LEVEL])),
    ("Command", Dialect("c", COMMAND), COMMANDED, ("", "", [LEVEL])),
    (
        "gpt-oss",
        None,
        "<|channel|>analysis<|message|>Hm <b.<|end|><|start|>assistant<|channel|>commentary to=functions.level "
        f"<|constrain|>json<|message|>{LEVEL[1]}<|call|>",
        ("", "Hm <b.", [LEVEL]),
    ),
    ("gpt-oss answers", None, CHANNELS, ("42 <|", "a", [])),
    (
        "gpt-oss header first",
        None,
        f" to=functions.level<|channel|>commentary json<|message|>{LEVEL[1]}",
        ("", "", [LEVEL]),
    ),
    ("gpt-oss, unknown tool", None, "<|channel|>commentary to=functions.rm<|message|>{}<|call|>", ("{}", "", [])),
    ("gpt-oss, broken", None, "<|channel|>commentary to=functions.level<|message|>{<|call|>", ("{", "", [])),
    ("gpt-oss without channels", None, "plain", ("plain", "", [])),
]


@pytest.mark.parametrize(("dialect", "raw", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_whole_and_letter_by_letter(dialect: Dialect | None, raw: str, expected: Read) -> None:
    assert read(splitter(dialect), raw) == expected
    assert read(splitter(dialect), *raw) == expected


@given(st.sampled_from(CASES), st.lists(st.integers(1, 12), min_size=1))
def test_cuts_change_nothing_and_no_mark_shows(case: tuple[str, Dialect | None, str, Read], sizes: list[int]) -> None:
    _, dialect, raw, expected = case
    chunks, at = [], 0
    while at < len(raw):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(raw[at : at + size])
        at += size
    assert read(splitter(dialect), *chunks) == expected


@given(st.text('<>{}[]"tool_cal/namevufw:, |', max_size=60))
def test_whatever_is_generated_nothing_of_a_text_is_lost(raw: str) -> None:
    parser = MarkedSplitter(Dialect("h", HERMES), NAMES)
    text, reasoning, calls = read(parser, *raw)
    assert reasoning == ""
    if not calls:
        assert text == raw


def test_settled_text_never_ends_in_half_a_mark() -> None:
    parser = MarkedSplitter(HERMES_THINK, NAMES)
    settled = "".join(parser.push(letter).text for letter in f"Well. <tool_call>{CALL}</tool_call>")
    assert settled == "Well."


def test_a_prompt_may_have_opened_the_reasoning() -> None:
    assert read(splitter(HERMES_THINK, thinking=True), "Hm.\n</thi", "nk>\n42") == ("42", "Hm.", [])


def test_without_tools_nothing_is_a_call() -> None:
    raw = f"<tool_call>{CALL}</tool_call> "
    assert read(MarkedSplitter(HERMES_THINK, ()), *raw) == (raw, "", [])


def test_too_many_calls_are_text() -> None:
    raw = f"<tool_call>{CALL}</tool_call>" * (MAX_CALLS + 1)
    text, _, calls = read(splitter(HERMES_THINK), raw)
    assert len(calls) == MAX_CALLS
    assert text == f"<tool_call>{CALL}</tool_call>"


def test_a_text_full_of_closing_marks_is_given_up_soon() -> None:
    raw = '<tool_call>{"a": "' + "</tool_call>" * 20_000
    text, _, calls = read(splitter(HERMES_THINK), raw)
    assert (text, calls) == (raw, [])


def test_deep_nesting_is_text() -> None:
    raw = '<tool_call>{"name": "level", "arguments": ' + '{"a":' * 100_000 + "</tool_call>"
    assert read(splitter(HERMES_THINK), raw) == (raw, "", [])


@pytest.mark.parametrize(
    ("template", "name", "reasoning"),
    [
        (None, "Generic", None),
        ("{{ messages }}", "Generic", None),
        ("<tool_call> <think>", "Hermes", "<think>"),
        ("[TOOL_CALLS] [THINK]", "Mistral", "[THINK]"),
        ("<｜tool▁calls▁begin｜> </think>", "DeepSeek", "<think>"),
        ("<|python_tag|>", "Llama", None),
        ("Environment: ipython", "Llama", None),
        ("<|tool|> <|tool_call|> <|/tool_call|>", "Phi", None),
        ("<|tool_call|>", "Granite", None),
        ("<function=", "Functionary", None),
        ("<|START_ACTION|> <|START_THINKING|>", "Command", "<|START_THINKING|>"),
        ("<|channel|>analysis<|message|>", "Harmony", None),
    ],
)
def test_a_template_shows_its_family(template: str | None, name: str, reasoning: str | None) -> None:
    dialect = recognise(template)
    assert dialect.name == name
    assert (dialect.reasoning or (None,))[0] == reasoning
    assert json.dumps(dialect.marks)


def test_an_answer_is_text_beside_reasoning_and_calls() -> None:
    answer = Answer(Reading(HERMES_THINK, NAMES), stops=("STOP",))
    raw = f"<think>STOP, ü</think>Well, ü. <tool_call>{CALL}</tool_call>"
    assert not any(answer.push(bytes([byte])) for byte in raw.encode())
    answer.end()
    assert (str(answer), answer.settled(), answer.reasoning) == ("Well, ü.", "Well, ü.", "STOP, ü")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [LEVEL]
    assert all(len(call.id) == 9 and call.id.isalnum() for call in answer.tool_calls)
    assert answer.take() == "Well, ü."
    assert answer.take_parts() == (answer.reasoning, answer.tool_calls)
    assert answer.take_parts() == ("", ())


def test_a_stop_string_ends_the_answer_and_nothing_comes_after_it() -> None:
    answer = Answer(Reading(HERMES_THINK, NAMES), stops=("STOP",))
    assert answer.push(f"<think>a</think>One STOP two <tool_call>{CALL}".encode())
    answer.end()
    assert (str(answer), answer.tool_calls) == ("One ", ())


def test_a_forced_call_is_read_as_one_or_stays_text() -> None:
    reading = Reading(HERMES_THINK, NAMES, forced=True)
    assert read(ForcedSplitter(NAMES), *CALL) == ("", "", [LEVEL])
    assert read(ForcedSplitter(NAMES), '{"name": "lev') == ('{"name": "lev', "", [])
    answer = Answer(reading)
    answer.push(CALL.encode())
    answer.end()
    assert len(answer.tool_calls) == 1
