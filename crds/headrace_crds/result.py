"""What comes out of a task: the attempts, the result, what they took."""

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import CURRENCY, SHA256, ApiModel, Timestamp, exactly_one_of
from headrace_crds.dialogue import MAX_TOOL_CALLS, ToolCall
from headrace_crds.inputs import KeyRef

INLINE_RESULT_LIMIT_BYTES: Final = 32 * 1024
LARGE_RESULT_LIMIT_BYTES: Final = 900 * 1024
REASONING_LIMIT_CHARS: Final = 16 * 1024


class RunnerRef(ApiModel):
    """Who may commit this task's outcome."""

    service_account: Annotated[str, Field(max_length=253)] | None = None
    """ServiceAccount of the assigned model's runner, as namespace/name; set by the operator, checked at admission."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """Pod that runs or ran the latest attempt."""


class AttemptRecord(ApiModel):
    """How one delivery of the task went."""

    number: Annotated[int, Field(ge=1)]
    """status.attempt of that delivery."""
    model: Annotated[str, Field(max_length=128)] | None = None
    """LLMModel it was assigned to, as namespace/name."""
    pod: Annotated[str, Field(max_length=253)] | None = None
    """Runner pod that claimed it; absent when none did."""
    start_time: Timestamp | None = None
    """When it was claimed."""
    completion_time: Timestamp | None = None
    """When it ended."""
    outcome: Annotated[str, Field(max_length=32)]
    """Complete, Failed, Lost (its runner vanished) or Released (given back, not charged)."""
    reason: Annotated[str, Field(max_length=128)]
    """One PascalCase word that says why it ended."""
    message: Annotated[str, Field(max_length=512)] = ""
    """The reason in words."""


class Enforcement(StrEnum):
    GRAMMAR = "Grammar"
    PROVIDER = "Provider"
    VALIDATED_ONLY = "ValidatedOnly"


class Result(ApiModel):
    """What the model generated."""

    rules: ClassVar = (exactly_one_of("text", "configMapRef", message="result needs text or configMapRef"),)

    text: Annotated[str, Field(max_length=INLINE_RESULT_LIMIT_BYTES)] | None = None
    """The generated text, byte for byte, up to 32 KiB."""
    config_map_ref: KeyRef | None = None
    """ConfigMap of the task's namespace, owned by the task, that holds a text of up to 900 KiB."""
    partial: bool | None = None
    """True: the task was cancelled, and this is what had been generated until then."""
    finish_reason: Annotated[str, Field(max_length=32)]
    """Stop (the model or a stop text ended it), ToolCalls (it ended with calls of tools), Length (maxTokens or the
    context ended it) or Cancelled."""
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOL_CALLS)] | None = None
    """Calls of spec.tools that the model asks for, in its order; their arguments fit the tools' parameters. At most
    32 KiB together."""
    reasoning: Annotated[str, Field(max_length=REASONING_LIMIT_CHARS)] | None = None
    """What the model thought before its answer, where it marks it; beyond 16 KiB its end is cut, which the last line
    says."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of the text in UTF-8."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Digest of the text in UTF-8."""
    enforcement: Enforcement | None = None
    """How output was enforced while generating: Grammar (no token that breaks the shape could be drawn), Provider (the
    remote model's API enforced it) or ValidatedOnly (less than the whole shape was enforced). The result was validated
    in any case."""
    repairs: Annotated[int, Field(ge=1)] | None = None
    """How often the model was asked again because the result did not have the shape; absent: it had it at once."""


class Usage(ApiModel):
    """Tokens that the final attempt consumed, in all its tries, and their cost by the model's price. What earlier
    attempts consumed counts in the namespace's budgets and in the runners' metrics."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    """Tokens of the rendered input."""
    cached_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens that did not have to be evaluated again."""
    completion_tokens: Annotated[int, Field(ge=0)]
    """Tokens generated."""
    reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    """Of completionTokens those that the model thought with, which are no part of the text; absent where there were
    none, or the provider does not tell."""
    cache_hit: bool | None = None
    """True: the result was kept from an earlier request, so that no tokens were consumed and nothing is billed."""
    cost_micros: Annotated[int, Field(ge=0)] | None = None
    """What they cost in millionths of the currency, by the price that the LLMModel had when the attempt was handed out;
    absent where it had none."""
    currency: Annotated[str, Field(max_length=3, pattern=CURRENCY)] | None = None
    """ISO 4217, of costMicros."""


class Timings(ApiModel):
    """Where the time of the final attempt went."""

    queued_millis: Annotated[int, Field(ge=0)]
    """From being queued to being claimed."""
    first_token_millis: Annotated[int, Field(ge=0)]
    """From the claim to the first generated token."""
    generation_millis: Annotated[int, Field(ge=0)]
    """From the claim to the last token."""
