"""``LLMTask``: one unit of LLM work and its one outcome.

The spec is immutable but for ``priority``; the status carries the finality rules
that make the API server itself refuse a second outcome (docs/architecture.md).
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from headrace_crds.base import (
    DECIMAL,
    DNS_LABEL,
    SHA256,
    SIGNED_DECIMAL,
    ApiModel,
    Conditions,
    ObjectMeta,
    Rule,
    Timestamp,
    exactly_one_of,
    immutable,
)

INPUT_LIMIT_BYTES: Final = 256 * 1024
INLINE_RESULT_LIMIT_BYTES: Final = 32 * 1024
ATTEMPTS_KEPT: Final = 10


class Outcome(StrEnum):
    COMPLETE = "Complete"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class TaskPhase(StrEnum):
    """One printable word, derived from the rest of the status by ``derive_phase`` alone."""

    WAITING = "Waiting"
    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class ModelRef(ApiModel):
    """Names an LLMModel in the task's own namespace."""

    name: Annotated[str, Field(min_length=1, max_length=40, pattern=DNS_LABEL)]
    """Name of the LLMModel. It may be created later than the task."""


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Message(ApiModel):
    """One turn of a conversation."""

    role: Role
    """Who speaks: system, user or assistant."""
    content: Annotated[str, Field(max_length=INPUT_LIMIT_BYTES)]
    """What is said, as text."""


class Parameters(ApiModel):
    """How tokens are chosen. Absent members take the model's defaults."""

    rules: ClassVar = (
        Rule(
            "!has(self.temperature) || double(self.temperature) <= 2.0",
            'temperature must be between 0 and 2, as a string such as "0.7"',
            ".temperature",
        ),
        Rule(
            "!has(self.topP) || double(self.topP) <= 1.0",
            'topP must be between 0 and 1, as a string such as "0.95"',
            ".topP",
        ),
        Rule(
            "!has(self.minP) || double(self.minP) <= 1.0",
            'minP must be between 0 and 1, as a string such as "0.05"',
            ".minP",
        ),
        Rule(
            "!has(self.presencePenalty) || "
            "(double(self.presencePenalty) >= -2.0 && double(self.presencePenalty) <= 2.0)",
            "presencePenalty must be between -2 and 2",
            ".presencePenalty",
        ),
        Rule(
            "!has(self.frequencyPenalty) || "
            "(double(self.frequencyPenalty) >= -2.0 && double(self.frequencyPenalty) <= 2.0)",
            "frequencyPenalty must be between -2 and 2",
            ".frequencyPenalty",
        ),
        Rule(
            "!has(self.repeatPenalty) || (double(self.repeatPenalty) > 0.0 && double(self.repeatPenalty) <= 4.0)",
            "repeatPenalty must be above 0 and at most 4; 1 switches it off",
            ".repeatPenalty",
        ),
    )

    temperature: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Randomness from "0" (always the likeliest token) to "2", a decimal as a string."""
    max_tokens: Annotated[int, Field(ge=1, le=131072)] | None = None
    """Upper bound of generated tokens. The room left in the model's context also bounds it."""
    top_p: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Sample from the smallest set of tokens whose probability sums up to this, "0" to "1"."""
    top_k: Annotated[int, Field(ge=0, le=1000)] | None = None
    """Sample from the k likeliest tokens; 0 switches it off."""
    min_p: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """Drop tokens less likely than this share of the likeliest, "0" to "1"."""
    seed: Annotated[int, Field(ge=0, le=4294967294)] | None = None
    """Makes sampling repeatable on the same model, build and machine."""
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=8)] | None = None
    """Texts that end the generation; they are not part of the result."""
    presence_penalty: Annotated[str, Field(max_length=16, pattern=SIGNED_DECIMAL)] | None = None
    """Penalty for tokens that have appeared at all, "-2" to "2"."""
    frequency_penalty: Annotated[str, Field(max_length=16, pattern=SIGNED_DECIMAL)] | None = None
    """Penalty that grows with each appearance of a token, "-2" to "2"."""
    repeat_penalty: Annotated[str, Field(max_length=16, pattern=DECIMAL)] | None = None
    """llama.cpp's multiplicative repetition penalty; "1" switches it off."""


class Output(ApiModel):
    """Shape that the result must have."""

    rules: ClassVar = (
        exactly_one_of(
            "jsonSchema", message="output needs jsonSchema: a JSON Schema as text; leave output out for plain text"
        ),
        Rule(
            "!has(self.jsonSchema) || size(bytes(self.jsonSchema)) <= 65536",
            "jsonSchema holds more than 65536 bytes in UTF-8: shorten it",
            ".jsonSchema",
        ),
    )

    json_schema: Annotated[str, Field(min_length=2, max_length=65536)] | None = None
    """A JSON Schema as JSON *text*: the API server would reorder a structured one, and the order of properties steers
    the model. Sampling is constrained by it and the result is validated against it."""


class LLMTaskSpec(ApiModel):
    """What to generate, and with which model. Immutable but for priority."""

    mutable: ClassVar = ("priority",)

    rules: ClassVar = (
        exactly_one_of(
            "prompt", "messages", message="exactly one of prompt and messages is needed: set one, remove the other"
        ),
        Rule(
            "!has(self.prompt) || size(bytes(self.prompt)) <= 262144",
            "prompt holds more than 262144 bytes in UTF-8: shorten it",
            ".prompt",
        ),
        # In characters: counting the bytes of 1,024 messages is over the API server's cost budget. Accept counts them.
        Rule(
            "!has(self.messages) || self.messages.map(m, size(m.content)).sum() <= 262144",
            "messages hold more than 262144 characters together: shorten them",
            ".messages",
        ),
    )

    model_ref: ModelRef
    """The LLMModel that does the work."""
    prompt: Annotated[str, Field(min_length=1, max_length=INPUT_LIMIT_BYTES)] | None = None
    """A single instruction, put through the model's chat template as one user message."""
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    """A conversation, oldest turn first."""
    parameters: Parameters | None = None
    """Sampling parameters; absent members take the model's defaults."""
    output: Output | None = None
    """Shape of the result; absent means text."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Order within the namespace, -100 to 100: a point is worth ten seconds of waiting."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How many failed attempts are tried again before the task is Failed."""

    @classmethod
    def validations(cls) -> list[Rule]:
        """The rules, and one immutability rule for every field that is not declared mutable."""
        fixed = [field.alias or name for name, field in cls.model_fields.items() if name not in cls.mutable]
        return [*cls.rules, *immutable(fixed, remedy="create another LLMTask instead")]

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        # CEL says so at admission; said again for objects that never met an API server.
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("exactly one of prompt and messages is needed: set one, remove the other")
        return self


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

    text: Annotated[str, Field(max_length=INLINE_RESULT_LIMIT_BYTES)]
    """The generated text, byte for byte."""
    finish_reason: Annotated[str, Field(max_length=32)]
    """Stop (the model or a stop text ended it) or Length (maxTokens or the context ended it)."""
    size_bytes: Annotated[int, Field(ge=0)]
    """Size of the text in UTF-8."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """Digest of the text in UTF-8."""
    enforcement: Enforcement | None = None
    """How output.jsonSchema was enforced while generating; the result was validated in any case."""


class Usage(ApiModel):
    """Tokens that the task consumed."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    """Tokens of the rendered input."""
    cached_tokens: Annotated[int, Field(ge=0)] = 0
    """Prompt tokens that did not have to be evaluated again."""
    completion_tokens: Annotated[int, Field(ge=0)]
    """Tokens generated."""


class Timings(ApiModel):
    """Where the time of the final attempt went."""

    queued_millis: Annotated[int, Field(ge=0)]
    """From being queued to being claimed."""
    first_token_millis: Annotated[int, Field(ge=0)]
    """From the claim to the first generated token."""
    generation_millis: Annotated[int, Field(ge=0)]
    """From the claim to the last token."""


_FINAL: Final = (
    "outcome",
    "result",
    "phase",
    "completionTime",
    "reason",
    "message",
    "attempt",
    "retries",
    "attempts",
    "usage",
    "timings",
)


def _finality() -> Rule:
    same = " && ".join(
        f"has(self.{f}) == has(oldSelf.{f}) && (!has(self.{f}) || self.{f} == oldSelf.{f})" for f in _FINAL
    )
    return Rule(
        f"!has(oldSelf.outcome) || ({same})",
        "finished: outcome, result and all that was recorded with them are final",
    )


class LLMTaskStatus(ApiModel):
    """What became of the task. Written by the operator and, for the outcome, by the assigned model's runner."""

    rules: ClassVar = (
        _finality(),
        Rule(
            "!has(oldSelf.attempt) || (has(self.attempt) && self.attempt >= oldSelf.attempt)",
            "attempt never goes back",
        ),
        Rule(
            "!has(self.conditions) || self.conditions.all(c, !(c.type in ['Complete', 'Failed', 'Cancelled']) || "
            "((c.status == 'True') == (has(self.outcome) && self.outcome == c.type)))",
            "conditions Complete, Failed and Cancelled must agree with outcome",
        ),
        Rule("!has(self.outcome) || has(self.attempt)", "outcome needs attempt: accept the task first"),
        Rule("!has(self.outcome) || has(self.completionTime)", "outcome needs completionTime"),
        Rule(
            "!has(self.result) || (has(self.outcome) && self.outcome == 'Complete')",
            "result is set together with outcome Complete",
        ),
    )

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """metadata.generation that this status was derived from."""
    conditions: Conditions = Field(default_factory=list)
    """Finished is the one to wait for; Ready mirrors success and Stalled failure for Helm, Flux and Argo CD."""
    phase: TaskPhase | None = None
    """Summary in one word, derived from the rest of the status."""
    outcome: Outcome | None = None
    """How the task ended. Set exactly once; the API server refuses to change it."""
    attempt: Annotated[int, Field(ge=1)] | None = None
    """Number of the current delivery. It only grows."""
    retries: Annotated[int, Field(ge=0)] | None = None
    """Failed attempts charged against spec.backoffLimit."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why the task waits or how it ended, in one PascalCase word."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The reason in words, and what to do about it."""
    assigned_model: Annotated[str, Field(max_length=128)] | None = None
    """LLMModel that the current attempt is queued for, as namespace/name."""
    runner: RunnerRef | None = None
    """Who may commit the outcome, and who did."""
    start_time: Timestamp | None = None
    """When the task was claimed for the first time."""
    completion_time: Timestamp | None = None
    """When the outcome was set."""
    attempts: Annotated[list[AttemptRecord], Field(max_length=ATTEMPTS_KEPT)] | None = None
    """The last ten attempts, oldest first."""
    result: Result | None = None
    """What the model generated; present when outcome is Complete."""
    usage: Usage | None = None
    """Tokens consumed by the final attempt."""
    timings: Timings | None = None
    """Where the time of the final attempt went."""


class LLMTask(ApiModel):
    """A unit of LLM work. Once accepted it ends in exactly one outcome with one result."""

    rules: ClassVar = (Rule("!has(oldSelf.status) || has(self.status)", "status cannot be dropped"),)

    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: LLMTaskSpec
    status: LLMTaskStatus | None = None


def derive_phase(*, outcome: Outcome | None, queued: bool, running: bool) -> TaskPhase:
    """The one place that turns facts into a phase."""
    if outcome is not None:
        return TaskPhase(outcome.value)
    if running:
        return TaskPhase.RUNNING
    return TaskPhase.QUEUED if queued else TaskPhase.WAITING
