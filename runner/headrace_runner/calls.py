"""What a generation says beside its text, judged and bounded for the task's status: tool calls and reasoning.

A call's arguments are validated against the tool's own schema, whatever the engine's mask enforced.
"""

from collections.abc import Sequence
from typing import Final

from headrace_crds.dialogue import ARGUMENTS_LIMIT_BYTES, Tool, ToolCall
from headrace_crds.result import REASONING_LIMIT_CHARS
from headrace_crds.work import Work
from headrace_runner.engine.protocol import GenerationResult
from headrace_runner.engine.tools import NO_PARAMETERS
from headrace_runner.validate import Finding, Judgement, Share, Validator

_SCHEMA: Final = "output.jsonSchema"
TOOLS_CPU_SECONDS: Final = 10.0
"""For all that is judged by the schemas of one attempt's tools: twice what a single question may use."""
_VALID: Final = Judgement(Finding.VALID)


async def check_tools(validator: Validator, tools: Sequence[Tool], share: Share) -> Judgement:
    """Whether every tool's schema can be judged by. Raises ValidationUnavailable."""
    for tool in tools:
        if tool.parameters is not None:
            judgement = await validator.check_schema(tool.parameters, share)
            if judgement.finding is not Finding.VALID:
                return _of_tool(judgement, tool.name)
    return _VALID


async def judge_calls(validator: Validator, work: Work, generation: GenerationResult, share: Share) -> Judgement:
    """Whether the calls are ones that the task allows. Raises ValidationUnavailable."""
    tools = {tool.name: tool for tool in work.tools}
    wanted = work.tool_choice
    if not generation.tool_calls:
        required = bool(tools) and wanted not in ("auto", "none")
        if required and generation.finish_reason == "Stop":
            return Judgement(Finding.INVALID, f"toolChoice is {wanted}, and the model called nothing")
        return _VALID
    for call in generation.tool_calls:
        tool = tools.get(call.name)
        if tool is None or wanted == "none" or (wanted in tools and call.name != wanted):
            return Judgement(Finding.INVALID, f"the model called {call.name}, which toolChoice does not allow")
        judgement = await validator.validate(tool.parameters or NO_PARAMETERS, call.arguments, share)
        if judgement.finding is not Finding.VALID:
            return _of_tool(judgement, tool.name)
    return _VALID


def kept_calls(generation: GenerationResult) -> list[ToolCall] | None:
    """The calls for the status; None where there are none. Raises ValueError where they are too large for it."""
    if not generation.tool_calls:
        return None
    size_bytes = sum(len(call.arguments.encode()) for call in generation.tool_calls)
    if size_bytes > ARGUMENTS_LIMIT_BYTES:
        raise ValueError(f"the tool calls' arguments have {size_bytes} bytes, {ARGUMENTS_LIMIT_BYTES} are kept")
    return [ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in generation.tool_calls]


def kept_reasoning(reasoning: str) -> str | None:
    """The reasoning for the status, its end cut where it is too long; None where there is none."""
    if len(reasoning) <= REASONING_LIMIT_CHARS:
        return reasoning or None
    mark = f"\n[… cut: {len(reasoning)} characters in all]"
    return reasoning[: REASONING_LIMIT_CHARS - len(mark)] + mark


def _of_tool(judgement: Judgement, name: str) -> Judgement:
    # The validator's words are those of its first use.
    message = judgement.message.replace(_SCHEMA, f"the parameters of tool {name}")
    return Judgement(judgement.finding, message.replace("the document does", "the arguments do"))
