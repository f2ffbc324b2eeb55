"""A result that does not have the shape is asked for again: what is said to the model, what it costs. Pure but for the
validator's helpers."""

from dataclasses import replace
from typing import Final

from headrace_crds.inputs import Output
from headrace_runner.engine.protocol import Generate, GenerationResult, Message, Usage
from headrace_runner.validate import Finding, Judgement, Validator

QUOTED_CHARS: Final = 2_000
"""Of the refused text: a long one would leave no room in the context for a better one."""


async def check(validator: Validator, output: Output) -> Judgement:
    """Whether the shape can be used at all; a grammar and choices are the engine's to judge."""
    if output.json_schema is not None:
        return await validator.check_schema(output.json_schema)
    if output.regex is not None:
        return await validator.check_regex(output.regex)
    return Judgement(Finding.VALID)


async def judge(validator: Validator, output: Output, text: str) -> Judgement:
    """Whether the text has the shape. For a grammar there is no second judge."""
    if output.json_schema is not None:
        return await validator.validate(output.json_schema, text)
    if output.regex is not None:
        return await validator.match(output.regex, text)
    if output.choice is not None and text not in output.choice:
        return Judgement(Finding.INVALID, "the text is none of output.choice")
    return Judgement(Finding.VALID)


def asked_again(request: Generate, refused: GenerationResult, judgement: Judgement) -> Generate:
    """The request with the refused text and what is wrong with it; the mask is to be narrower."""
    text = refused.text
    if len(text) > QUOTED_CHARS:
        text = f"{text[:QUOTED_CHARS]} …"
    complaint = (
        f"That cannot be used: {judgement.message}. Answer the first request again, with the whole text, so that this "
        "is right."
    )
    messages = (*request.messages, Message("assistant", text), Message("user", complaint))
    return replace(request, messages=messages, narrow=True)


def with_usage_of(result: GenerationResult, before: Usage | None) -> GenerationResult:
    """The result with the tokens of the tries before it added."""
    if before is None:
        return result
    usage = Usage(
        before.prompt_tokens + result.usage.prompt_tokens,
        before.cached_tokens + result.usage.cached_tokens,
        before.completion_tokens + result.usage.completion_tokens,
        before.reasoning_tokens + result.usage.reasoning_tokens,
    )
    return replace(result, usage=usage)
