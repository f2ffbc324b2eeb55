"""What a generation asks of Anthropic's API, and what is refused before it is asked."""

from typing import Any

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.engine.protocol import Generate, Message, Parameters
from headrace_runner.engine.tools import Tool, ToolCall
from headrace_runner.providers.anthropic_api import check_extra
from headrace_runner.providers.anthropic_request import DEFAULT_MAX_TOKENS, SAMPLING_VERSION, Asked, asked
from headrace_runner.providers.protocol import Fault, ProviderError

HI = Message("user", "Hi.")


def ask(*messages: Message, extra: dict[str, Any] | None = None, **given: Any) -> Asked:
    return asked(Generate("id", messages=messages or (HI,), **given), "claude", extra or {})


def refusal(*messages: Message, **given: Any) -> ProviderError:
    with pytest.raises(ProviderError) as raised:
        ask(*messages, **given)
    assert raised.value.fault is Fault.TERMINAL
    return raised.value


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"seed": 0}, "seed"),
        ({"min_p": 0.1}, "minP"),
        ({"presence_penalty": 0.5}, "presencePenalty"),
        ({"frequency_penalty": -0.5}, "frequencyPenalty"),
        ({"repeat_penalty": 1.1}, "repeatPenalty"),
        ({"logprobs": 0}, "logprobs"),
        ({"n": 2}, "n"),
        ({"logit_bias": ((1, 2.0),)}, "logitBias"),
        ({"temperature": 1.1}, "temperature"),
    ],
)
def test_what_the_api_has_not_is_refused_by_name(given: dict[str, Any], name: str) -> None:
    error = refusal(parameters=Parameters(**given))
    assert error.reason is Reason.INVALID_PARAMETERS
    assert error.message.split(":")[0].removeprefix("spec.parameters.") == name


def test_values_that_change_nothing_are_not_in_the_way() -> None:
    neutral = Parameters(min_p=0.0, presence_penalty=0, frequency_penalty=0.0, repeat_penalty=1.0, n=1, top_k=0)
    assert ask(parameters=neutral).body.keys() == {"model", "max_tokens", "messages", "stream"}


def test_a_bound_is_always_asked_for() -> None:
    assert ask().body["max_tokens"] == DEFAULT_MAX_TOKENS
    assert ask(parameters=Parameters(max_tokens=7, stop=("x",))).body["stop_sequences"] == ["x"]


def test_sampling_needs_the_api_s_last_version_that_knows_it() -> None:
    assert ask(parameters=Parameters(temperature=0.0)).headers == {"anthropic-version": SAMPLING_VERSION}
    assert ask(parameters=Parameters(max_tokens=1)).headers == {}


def test_a_prompt_is_one_user_message() -> None:
    body = asked(Generate("id", prompt="Hi."), "claude", {}).body
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi."}]}]
    assert "system" not in body


def test_nothing_to_say_is_refused() -> None:
    assert "spec.messages" in refusal(Message("user", " \n"), Message("system", "Be brief.")).message


def test_ids_that_the_api_takes_are_kept() -> None:
    call = ToolCall("toolu_1", "t", "{}")
    body = ask(HI, Message("assistant", "", (call,)), Message("tool", "1", tool_call_id="toolu_1")).body
    assert body["messages"][1]["content"][0]["id"] == body["messages"][2]["content"][0]["tool_use_id"] == "toolu_1"


def test_ids_that_it_does_not_take_are_replaced_and_stay_apart() -> None:
    calls = (ToolCall("a.b", "t", "{}"), ToolCall("a:b", "t", "{}"))
    answers = (Message("tool", "1", tool_call_id="a:b"), Message("tool", "2", tool_call_id="a.b"))
    body = ask(HI, Message("assistant", "", calls), *answers).body
    assert [block["id"] for block in body["messages"][1]["content"]] == ["call_0", "call_1"]
    assert [block["tool_use_id"] for block in body["messages"][2]["content"]] == ["call_1", "call_0"]


def test_arguments_that_are_no_object_are_refused_with_their_place() -> None:
    error = refusal(HI, Message("assistant", "", (ToolCall("a", "t", "[1]"),)))
    assert "spec.messages[1].toolCalls[0].arguments" in error.message


@pytest.mark.parametrize(
    ("wanted", "choice"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ("t", {"type": "tool", "name": "t"}),
    ],
)
def test_which_tool_is_called(wanted: str, choice: dict[str, str]) -> None:
    body = ask(tools=(Tool("t", "", '{"properties": {}}'),), tool_choice=wanted).body
    assert body["tool_choice"] == choice
    assert body["tools"] == [{"name": "t", "input_schema": {"type": "object", "properties": {}}}]


def test_a_grammar_is_refused_since_nobody_would_judge_the_result() -> None:
    assert refusal(grammar='root ::= "a"').reason is Reason.UNSUPPORTED_SCHEMA


def test_a_schema_beside_tools_is_told_in_words_where_it_cannot_be_enforced() -> None:
    free = '{"type": "object"}'
    call = ask(json_schema=free, tools=(Tool("t"),))
    assert [tool["name"] for tool in call.body["tools"]] == ["t"]
    assert free in call.body["system"]
    rooted = ask(json_schema='{"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}')
    assert "tools" not in rooted.body
    assert rooted.enforcement == "ValidatedOnly"


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"metadata": {"user_id": "u"}, "service_tier": "auto", "inference_geo": "us"},
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "low"}},
    ],
)
def test_members_that_may_be_given(extra: dict[str, Any]) -> None:
    check_extra(extra)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"tools": []}, "'tools'"),
        ({"max_tokens": 1}, "'max_tokens'"),
        ({"output_config": {"format": {}}}, "output_config.format"),
        ({"metadata": {"name": "n"}}, "metadata.name"),
    ],
)
def test_others_are_refused_with_those_that_may(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=r"allowed are metadata\.user_id, output_config\.effort") as raised:
        check_extra(extra)
    assert named in str(raised.value)


@pytest.mark.parametrize("extra", [{"metadata": "u"}, {"thinking": {"type": "yes"}}, {"thinking": True}])
def test_members_without_a_meaning_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="has to be"):
        check_extra(extra)


def test_answers_of_calls_come_first_in_their_turn() -> None:
    calls = Message("assistant", "", (ToolCall("a", "t", "{}"),))
    body = ask(HI, calls, Message("user", "Wait."), Message("tool", "1", tool_call_id="a")).body
    assert [block["type"] for block in body["messages"][2]["content"]] == ["tool_result", "text"]
