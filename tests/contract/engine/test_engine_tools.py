"""Tools with a real model: a call that is required is made, whatever the model would rather say."""

import json

import pytest

from headrace_runner.engine.client import EngineClient
from headrace_runner.engine.protocol import Delta, Generate, Message, Parameters
from headrace_runner.engine.tools import Tool

pytestmark = pytest.mark.contract

LEVEL = Tool(
    "water_level",
    "Water level at a gauge.",
    json.dumps(
        {
            "$defs": {"gauge": {"type": "string", "maxLength": 12}},
            "properties": {"gauge": {"$ref": "#/$defs/gauge"}, "days": {"enum": [1, 7]}},
            "required": ["gauge", "days"],
            "additionalProperties": False,
        }
    ),
)
CLOCK = Tool("clock", "The time of day.")
ASK = (Message("user", "What is the water level at the mill?"),)


def a_request(choice: str, **parameters: object) -> Generate:
    given = Parameters(**{"temperature": 0.0, "max_tokens": 96, **parameters})  # type: ignore[arg-type]
    return Generate("1", messages=ASK, tools=(LEVEL, CLOCK), tool_choice=choice, parameters=given)


@pytest.mark.parametrize(
    ("choice", "names"), [("water_level", {"water_level"}), ("required", {"water_level", "clock"})]
)
async def test_a_required_call_is_made(client: EngineClient, choice: str, names: set[str]) -> None:
    for seed in range(3):
        result = await client.generate(a_request(choice, temperature=1.0, seed=seed))
        assert result.finish_reason == "ToolCalls"
        assert result.text == ""
        (call,) = result.tool_calls
        assert call.name in names
        arguments = json.loads(call.arguments)
        if call.name == "water_level":
            assert set(arguments) == {"gauge", "days"}
            assert len(arguments["gauge"]) <= 12
            assert arguments["days"] in (1, 7)


async def test_a_call_cut_off_is_text(client: EngineClient) -> None:
    result = await client.generate(a_request("water_level", max_tokens=3))
    assert (result.finish_reason, result.tool_calls) == ("Length", ())
    assert result.text


async def test_tools_that_nobody_has_to_call_leave_the_answer_to_the_model(client: EngineClient) -> None:
    result = await client.generate(a_request("auto", max_tokens=48))
    assert result.text or result.tool_calls
    assert result.finish_reason in ("Stop", "Length", "ToolCalls")


async def test_results_come_back(client: EngineClient) -> None:
    first = await client.generate(a_request("water_level"))
    turns = (
        *ASK,
        Message("assistant", "", first.tool_calls),
        Message("tool", "143", tool_call_id=first.tool_calls[0].id),
    )
    request = Generate("2", messages=turns, tools=(LEVEL,), parameters=Parameters(temperature=0.0, max_tokens=32))
    assert (await client.generate(request)).usage.prompt_tokens > first.usage.prompt_tokens


async def test_a_stream_has_the_call_whole(client: EngineClient) -> None:
    deltas: list[Delta] = []
    request = Generate("1", messages=ASK, tools=(CLOCK,), tool_choice="clock", stream=True)
    result = await client.generate(request, on_delta=deltas.append)
    assert [call for delta in deltas for call in delta.tool_calls] == list(result.tool_calls)
    assert result.tool_calls[0].arguments == "{}"
    assert "".join(delta.text for delta in deltas) == ""
