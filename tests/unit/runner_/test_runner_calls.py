"""Tool calls and reasoning on their way into the status: judged by the tool's schema, bounded, never silently lost."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from headrace_crds.dialogue import ARGUMENTS_LIMIT_BYTES, Tool
from headrace_crds.result import REASONING_LIMIT_CHARS
from headrace_crds.task import Outcome
from headrace_crds.task import Timings as TaskTimings
from headrace_crds.work import Work
from headrace_runner.calls import TOOLS_CPU_SECONDS, check_tools, judge_calls, kept_reasoning
from headrace_runner.engine.protocol import GenerationResult, Timings, Usage
from headrace_runner.engine.tools import ToolCall
from headrace_runner.validate import Finding, Share, Validator
from headrace_runner.verdict import of_generation

LEVEL = Tool(name="level", parameters='{"properties": {"gauge": {"type": "string"}}, "required": ["gauge"]}')
CLOCK = Tool(name="clock")
TOOK = TaskTimings(queued_millis=0, first_token_millis=1, generation_millis=2)


def called(*calls: ToolCall, text: str = "", reasoning: str = "") -> GenerationResult:
    result = GenerationResult("1", text, "ToolCalls" if calls else "Stop", Usage(1, 0, 3), Timings(0, 1, 2))
    return replace(result, tool_calls=calls, reasoning=reasoning)


def call(name: str = "level", arguments: str = '{"gauge": "mill"}') -> ToolCall:
    return ToolCall("abcdefgh1", name, arguments)


@pytest.fixture
async def validator() -> AsyncIterator[Validator]:
    async with Validator() as made:
        yield made


@pytest.fixture
def asked(work: Work) -> Work:
    return work.model_copy(update={"tools": [LEVEL, CLOCK]})


@pytest.mark.parametrize(
    ("choice", "generation", "says"),
    [
        ("auto", called(text="hi"), ""),
        ("auto", called(call(), call("clock", "{}")), ""),
        ("required", called(call()), ""),
        ("level", called(call()), ""),
        ("none", called(text="hi"), ""),
        ("required", called(text="hi"), "called nothing"),
        ("clock", called(call()), "does not allow"),
        ("none", called(call()), "does not allow"),
        ("auto", called(call("rm")), "does not allow"),
        ("auto", called(call(arguments="{}")), "parameters of tool level"),
        ("auto", called(call(arguments='{"gauge": 3}')), "at $.gauge"),
        ("auto", called(call(arguments="{")), "JSON"),
        ("auto", called(call("clock", '{"zone": "UTC"}')), "tool clock"),
    ],
)
async def test_calls_are_judged_by_the_task(
    validator: Validator, asked: Work, choice: str, generation: GenerationResult, says: str
) -> None:
    work = asked.model_copy(update={"tool_choice": choice})
    judgement = await judge_calls(validator, work, generation, Share(TOOLS_CPU_SECONDS))
    assert (judgement.finding is Finding.VALID) == (not says)
    assert says in judgement.message
    verdict = of_generation(generation, work, judgement, TOOK)
    assert verdict.outcome is (Outcome.FAILED if says else Outcome.COMPLETE)


async def test_a_schema_that_cannot_be_judged_by_is_told_before_the_engine_is_asked(validator: Validator) -> None:
    assert (await check_tools(validator, [LEVEL, CLOCK], Share(TOOLS_CPU_SECONDS))).finding is Finding.VALID
    judgement = await check_tools(validator, [CLOCK, Tool(name="f", parameters='{"type": "wish"}')], Share(1))
    assert judgement.finding is Finding.BAD_SCHEMA
    assert "tool f" in judgement.message


async def test_the_tools_of_a_task_share_their_cpu_time(validator: Validator, asked: Work) -> None:
    patterns = {f"^[a-z{n}]{{900}}{n}$": {} for n in range(100)}
    tools = [Tool(name=f"f{n}", parameters=json.dumps({"patternProperties": patterns})) for n in range(40)]
    generous = Share(TOOLS_CPU_SECONDS)
    assert (await check_tools(validator, tools, generous)).finding is Finding.VALID
    # Some kernels count CPU time in ticks of 10 ms: one tool alone may have used none.
    used_seconds = generous.cpu_seconds - generous.left_seconds
    assert used_seconds > 0
    share = Share(used_seconds / 4)
    judgement = await check_tools(validator, tools, share)
    assert judgement.finding is Finding.UNSUPPORTED
    assert "for all tools together" in judgement.message
    assert "f0" not in judgement.message
    # What checking has used up, judging does not get again.
    work = asked.model_copy(update={"tools": tools})
    judgement = await judge_calls(validator, work, called(call("f0", "{}")), share)
    assert judgement.finding is Finding.UNSUPPORTED
    assert (await check_tools(validator, [LEVEL], Share(TOOLS_CPU_SECONDS))).finding is Finding.VALID


def test_calls_and_reasoning_are_in_the_result(asked: Work) -> None:
    verdict = of_generation(called(call(), text="I look.", reasoning="Hm."), asked, None, TOOK)
    assert verdict.result is not None
    result = verdict.result.dump()
    assert result["toolCalls"] == [{"id": "abcdefgh1", "name": "level", "arguments": '{"gauge": "mill"}'}]
    assert (result["text"], result["reasoning"], result["finishReason"]) == ("I look.", "Hm.", "ToolCalls")


def test_a_large_text_takes_its_reasoning_along(asked: Work) -> None:
    verdict = of_generation(called(call(), text="x" * 40_000, reasoning="Hm."), asked, None, TOOK)
    assert verdict.large is not None
    assert verdict.large.tool_calls is not None
    assert verdict.large.reasoning == "Hm."


def test_calls_that_no_object_holds_fail_the_task(asked: Work) -> None:
    big = '{"gauge": "' + "x" * ARGUMENTS_LIMIT_BYTES + '"}'
    verdict = of_generation(called(call(arguments=big)), asked, None, TOOK)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "ResultTooLarge")


def test_a_required_call_cut_off_is_no_success(asked: Work) -> None:
    cut = replace(called(text='{"name": "lev'), finish_reason="Length")
    verdict = of_generation(cut, asked.model_copy(update={"tool_choice": "required"}), None, TOOK)
    assert (verdict.outcome, verdict.reason) == (Outcome.FAILED, "OutputTruncated")


def test_long_reasoning_is_cut_and_says_so() -> None:
    assert kept_reasoning("") is None
    assert kept_reasoning("x" * REASONING_LIMIT_CHARS) == "x" * REASONING_LIMIT_CHARS
    cut = kept_reasoning("x" * (REASONING_LIMIT_CHARS + 1)) or ""
    assert len(cut) == REASONING_LIMIT_CHARS
    assert cut.endswith(f"\n[… cut: {REASONING_LIMIT_CHARS + 1} characters in all]")
