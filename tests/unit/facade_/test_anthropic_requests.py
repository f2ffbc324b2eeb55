"""Anthropic's requests as calls, and what is refused with which words."""

from typing import Any

import pytest

from headrace_crds.dialogue import ToolCall
from headrace_facade import shapes
from headrace_facade.anthropic_dialect.request import REFUSED, MessagesBody, call_request
from headrace_facade.calls.contract import CallRequest
from headrace_facade.errors import (
    BadRequest,
    BodyTooLarge,
    FacadeError,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.wire import parse

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "weather", "description": "of a city", "input_schema": {"type": "object"}}
USED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Bern", "day": None}}
ANSWERED = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "rain"}]}


def asked(**given: Any) -> CallRequest:
    return call_request(parse({"model": "small", "messages": HI, "max_tokens": 5, **given}, MessagesBody, REFUSED))


def dialogue(**given: Any) -> list[tuple[str, str | None]]:
    return [(each.role.value, each.content) for each in asked(**given).messages]


def test_the_least_that_can_be_asked() -> None:
    found = asked()
    assert (found.model, found.tools, found.tool_choice, found.output) == ("small", [], "auto", None)
    assert found.parameters.model_dump(exclude_none=True) == {"max_tokens": 5}
    assert not found.options.stream
    assert dialogue() == [("user", "Hi")]


def test_parameters_are_in_the_objects_words() -> None:
    found = asked(temperature=0.7, top_p=1, top_k=40, stop_sequences=["END"], stream=True)
    given = {"max_tokens": 5, "temperature": "0.7", "top_p": "1", "top_k": 40, "stop": ["END"]}
    assert found.parameters.model_dump(exclude_none=True) == given
    assert found.options.stream


def test_no_stop_sequences_leave_the_models_own() -> None:
    assert asked(stop_sequences=[]).parameters.stop is None


def test_system_is_the_first_message() -> None:
    blocks = [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "brief"}]
    assert dialogue(system="Be brief") == [("system", "Be brief"), ("user", "Hi")]
    assert dialogue(system=blocks) == [("system", "Be\nbrief"), ("user", "Hi")]


def test_a_tools_round() -> None:
    said = [{"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "text", "text": "Let me see"}, USED]
    user = [ANSWERED, {"type": "text", "text": "and"}, {"type": "text", "text": "now?"}]
    turns = [*HI, {"role": "assistant", "content": said}, {"role": "user", "content": user}]
    found = asked(messages=turns, tools=[TOOL]).messages
    assert [(each.role.value, each.content) for each in found] == [
        ("user", "Hi"),
        ("assistant", "Let me see"),
        ("tool", "rain"),
        ("user", "and\nnow?"),
    ]
    assert found[1].tool_calls == [ToolCall(id="toolu_1", name="weather", arguments='{"city":"Bern","day":null}')]
    assert found[2].tool_call_id == "toolu_1"


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "weather"}, "weather"),
    ],
)
def test_how_tools_are_chosen(choice: dict[str, Any], told: str) -> None:
    found = asked(tools=[TOOL], tool_choice=choice)
    assert found.tool_choice == told
    (tool,) = found.tools
    assert (tool.name, tool.description, tool.parameters) == ("weather", "of a city", '{"type":"object"}')


@pytest.mark.parametrize(("stream", "repairs"), [(True, 0), (False, None)])
def test_a_schema_keeps_its_order_and_a_stream_is_not_repaired(stream: bool, repairs: int | None) -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    output = asked(output_config={"format": {"type": "json_schema", "schema": schema}}, stream=stream).output
    assert output is not None
    assert output.json_schema == '{"type":"object","properties":{"b":{},"a":{}}}'
    assert (output.max_repairs == 0) == (repairs == 0)


@pytest.mark.parametrize(
    "given",
    [
        {"metadata": {"user_id": "u"}},
        {"service_tier": "auto"},
        {"cache_control": {"type": "ephemeral"}},
        {"thinking": {"type": "adaptive"}},
        {"thinking": {"type": "disabled"}},
        {"output_config": {"effort": "high"}},
        {"tools": [{**TOOL, "strict": True, "type": "custom", "defer_loading": False, "allowed_callers": ["direct"]}]},
        {"system": None, "stop_sequences": None, "container": None},
    ],
    ids=lambda given: next(iter(given)),
)
def test_what_asks_for_nothing_passes(given: dict[str, Any]) -> None:
    assert asked(**given).messages == asked().messages


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"temperature": 1.1}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_k": 0.5}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [USED]}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [ANSWERED]}]}, "messages[0].content[0].tool_use_id"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [*HI, {"role": "assistant", "content": "{"}]}, "messages"),
        ({"system": [IMAGE]}, "system[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{**TOOL, "name": "auto"}]}, "tools[0].name"),
        ({"tools": [{**TOOL, "input_examples": [{}]}]}, "tools[0].input_examples"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "time"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
        ({"metadata": {"team": "a"}}, "metadata.team"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"seed": 1}, "seed"),
    ],
    ids=lambda given: given if isinstance(given, str) else next(iter(given)),
)
def test_what_is_refused_names_its_field(given: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        asked(**given)
    assert caught.value.problems[0].field == field
    assert caught.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BadRequest("x"), 400, "invalid_request_error"),
        (Invalid("x"), 400, "invalid_request_error"),
        (Unauthenticated("x"), 401, "authentication_error"),
        (Forbidden("x"), 403, "permission_error"),
        (NotFound("x"), 404, "not_found_error"),
        (BodyTooLarge("x"), 413, "request_too_large"),
        (Throttled("x"), 429, "rate_limit_error"),
        (Internal("x"), 500, "api_error"),
        (UpstreamFailed("x"), 500, "api_error"),
        (Unavailable("x"), 529, "overloaded_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, FacadeError) else str(value),
)
def test_errors_in_its_shape(error: FacadeError, status: int, kind: str) -> None:
    body = {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": "trace"}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        assert shapes.answer(path, error, "trace") == (status, body)
    assert "request_id" not in shapes.answer("/v1/models", error, "trace")[1]
