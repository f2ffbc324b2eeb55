"""``LLMTask``: one unit of LLM work and its one outcome.

The spec is immutable but for the fields named in ``mutable``; the status carries the finality rules
that make the API server itself refuse a second outcome (docs/architecture.md).
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Self

from pydantic import Field, model_validator

from headrace_crds.base import ApiModel, Conditions, ObjectMeta, Rule, Timestamp, exactly_one_of, immutable
from headrace_crds.cache import CachePolicy
from headrace_crds.dialogue import Message, Role, Tool, ToolCall, ToolName, Tools
from headrace_crds.fallback import MODELS_LIMIT, TaskFallback
from headrace_crds.inputs import INPUT_LIMIT_BYTES, Embed, InputFrom, KeyRef, ModelRef, Output, Parameters
from headrace_crds.result import (
    INLINE_RESULT_LIMIT_BYTES,
    LARGE_RESULT_LIMIT_BYTES,
    AttemptRecord,
    Enforcement,
    Result,
    RunnerRef,
    Timings,
    Usage,
)

__all__ = [
    "ATTEMPTS_KEPT",
    "HANDED_OUT",
    "INLINE_RESULT_LIMIT_BYTES",
    "INPUT_LIMIT_BYTES",
    "LARGE_RESULT_LIMIT_BYTES",
    "AttemptRecord",
    "Enforcement",
    "InputFrom",
    "KeyRef",
    "LLMTask",
    "LLMTaskSpec",
    "LLMTaskStatus",
    "Message",
    "ModelRef",
    "Outcome",
    "Output",
    "Parameters",
    "Result",
    "Role",
    "RunnerRef",
    "TaskPhase",
    "Timings",
    "Tool",
    "ToolCall",
    "Usage",
    "Webhook",
    "derive_phase",
]

ATTEMPTS_KEPT: Final = 10
DEADLINE_LIMIT_SECONDS: Final = 31_536_000


class Outcome(StrEnum):
    COMPLETE = "Complete"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class TaskPhase(StrEnum):
    """One printable word, derived from the rest of the status by ``derive_phase`` alone."""

    SUSPENDED = "Suspended"
    WAITING = "Waiting"
    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


HANDED_OUT: Final = frozenset({TaskPhase.QUEUED, TaskPhase.RUNNING})
"""The model's queue or one of its runners has the task; the phases' plain words are in it as well."""

_ONE_INPUT: Final = "exactly one of prompt, messages, embed and inputFrom is needed: set one, remove the others"
_INPUTS: Final = ("prompt", "messages", "embed", "inputFrom")


class Webhook(ApiModel):
    """Who is told about the outcome, by a signed POST (Standard Webhooks). It holds no prompt and no result text."""

    url: Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[A-Za-z0-9.:\[\]-]+([/?][^\s#]*)?$")]
    """Where to POST. https with a public address, unless the chart's webhooks.allowedHosts names the host."""
    secret_ref: KeyRef
    """Secret of the task's namespace with the label headrace.dev/webhook: "true"; its value holds one signing key
    (whsec_…) per line, and each signs, so that keys can be rotated."""
    events: (
        Annotated[list[Outcome], Field(min_length=1, max_length=3, json_schema_extra={"x-kubernetes-list-type": "set"})]
        | None
    ) = None
    """Outcomes to tell: Complete, Failed, Cancelled; absent: all."""


class LLMTaskSpec(ApiModel):
    """What to generate, and with which model. Immutable but for priority, suspend, cancel, ttlSecondsAfterFinished."""

    mutable: ClassVar = ("priority", "suspend", "cancel", "ttl_seconds_after_finished")

    rules: ClassVar = (
        exactly_one_of(*_INPUTS, message=_ONE_INPUT),
        Rule(
            "!has(self.embed) || (!has(self.output) && !has(self.tools))",
            "embed makes vectors: it takes neither output nor tools",
            ".embed",
        ),
        Rule(
            "!has(oldSelf.cancel) || !oldSelf.cancel || (has(self.cancel) && self.cancel)",
            "cancel cannot be taken back: create another LLMTask instead",
            ".cancel",
        ),
        Rule(
            "!has(self.prompt) || size(bytes(self.prompt)) <= 262144",
            "prompt holds more than 262144 bytes in UTF-8: shorten it",
            ".prompt",
        ),
        # In characters: counting the bytes of 1,024 messages is over the API server's cost budget. Accept counts them.
        Rule(
            "!has(self.messages) || self.messages.map(m, has(m.content) ? size(m.content) : 0).sum() <= 262144",
            "messages hold more than 262144 characters together: shorten them",
            ".messages",
        ),
        Rule(
            "!has(self.toolChoice) || has(self.tools)",
            "toolChoice chooses among tools: add tools or remove it",
            ".toolChoice",
        ),
        Rule(
            "!has(self.toolChoice) || !has(self.tools) || self.toolChoice in ['auto', 'none', 'required'] || "
            "self.tools.exists(t, t.name == self.toolChoice)",
            "toolChoice is auto, none, required or the name of one of the tools",
            ".toolChoice",
        ),
        Rule(
            "!has(self.toolChoice) || !has(self.output) || self.toolChoice in ['auto', 'none']",
            "a call that is required leaves no answer for output: remove output, or set toolChoice to auto",
            ".output",
        ),
        Rule(
            "!has(self.fallback) || !has(self.fallback.models) || "
            "self.fallback.models.all(m, m.name != self.modelRef.name || has(m.__namespace__) != "
            "has(self.modelRef.__namespace__) || (has(m.__namespace__) && m.__namespace__ != "
            "self.modelRef.__namespace__))",
            "fallback.models names the model of modelRef: remove it there",
            ".fallback.models",
        ),
    )

    model_ref: ModelRef
    """The LLMModel that does the work."""
    prompt: Annotated[str, Field(min_length=1, max_length=INPUT_LIMIT_BYTES)] | None = None
    """A single instruction, put through the model's chat template as one user message."""
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    """A conversation, oldest turn first."""
    tools: Tools | None = None
    """Functions that the model may ask to be called. The calls are in result.toolCalls; a further task answers them
    with messages of role tool."""
    tool_choice: ToolName | None = None
    """auto (the model decides; the default), none, required (at least one call) or the name of the tool to call."""
    embed: Embed | None = None
    """Texts to turn into vectors, by a model with the capability Embedding. The result is a JSON document: shape,
    and data that is float32, little-endian, in base64."""
    input_from: InputFrom | None = None
    """Takes the prompt from a ConfigMap, up to 900 KiB."""
    parameters: Parameters | None = None
    """Sampling parameters; absent members take the model's defaults."""
    output: Output | None = None
    """Shape of the result; absent means text."""
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    """Order within the namespace, -100 to 100: a point is worth ten seconds of waiting. An LLMQuota may set a
    ceiling."""
    suspend: bool = False
    """Takes the task out of the queue, or off its runner without charging a retry, until it is false again."""
    cancel: bool = False
    """Ends the task as Cancelled, with the text generated so far. It cannot be taken back."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """How many failed attempts are tried again before the task is Failed."""
    queue_deadline_seconds: Annotated[int, Field(ge=1, le=DEADLINE_LIMIT_SECONDS)] | None = None
    """Fails the task as QueueDeadlineExceeded when no runner took it for so long. Time while suspended does not count.
    Absent: activeDeadlineSeconds alone bounds the wait."""
    attempt_timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300
    """How long one attempt may take from claim to result; then it is aborted, and tried again within backoffLimit."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=DEADLINE_LIMIT_SECONDS)] = 86_400
    """How long the task may take altogether before it is Failed as DeadlineExceeded. Time while suspended does not
    count."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=DEADLINE_LIMIT_SECONDS)] | None = None
    """Deletes the object so long after its end. Absent: it stays, within the operator's retention limits."""
    webhook: Webhook | None = None
    """Who is told about the outcome."""
    cache: CachePolicy = CachePolicy.INHERIT
    """Inherit: a result that the model's cache has may be given again. None: it is generated, and not kept."""
    fallback: TaskFallback | None = None
    """Where the task goes when its model cannot serve it; absent: as the model has it."""

    @classmethod
    def validations(cls) -> list[Rule]:
        """The rules, and one immutability rule for every field that is not declared mutable."""
        fixed = [field.alias or name for name, field in cls.model_fields.items() if name not in cls.mutable]
        return [*cls.rules, *immutable(fixed, remedy="create another LLMTask instead")]

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        # CEL says so at admission; said again for objects that never met an API server.
        if sum(given is not None for given in (self.prompt, self.messages, self.embed, self.input_from)) != 1:
            raise ValueError(_ONE_INPUT)
        return self


_FINAL: Final = (
    "outcome",
    "result",
    "phase",
    "completionTime",
    "reason",
    "message",
    "attempt",
    "retries",
    "losses",
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
            "!has(self.result) || (has(self.outcome) && (self.outcome == 'Complete' || "
            "(self.outcome == 'Cancelled' && has(self.result.partial) && self.result.partial)))",
            "result is set together with outcome Complete, or marked partial with outcome Cancelled",
        ),
    )

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """metadata.generation that this status was derived from."""
    conditions: Conditions = Field(default_factory=list)
    """Finished is the one to wait for; Ready mirrors success and Stalled failure for Helm, Flux and Argo CD. Notified
    tells whether the webhook was delivered; Suspended, Running and Shared appear when they apply."""
    phase: TaskPhase | None = None
    """Summary in one word, derived from the rest of the status."""
    outcome: Outcome | None = None
    """How the task ended. Set exactly once; the API server refuses to change it."""
    attempt: Annotated[int, Field(ge=1)] | None = None
    """Number of the current delivery. It only grows."""
    retries: Annotated[int, Field(ge=0)] | None = None
    """Failed attempts charged against spec.backoffLimit."""
    losses: Annotated[int, Field(ge=0)] | None = None
    """Attempts that ended with their runner, or alone with their engine; at three the task is Failed as Poison."""
    reason: Annotated[str, Field(max_length=128)] | None = None
    """Why the task waits or how it ended, in one PascalCase word."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """The reason in words, and what to do about it."""
    assigned_model: Annotated[str, Field(max_length=128)] | None = None
    """LLMModel that the current attempt is queued for, as namespace/name. Of a task that fell back also while it waits
    or is suspended; else absent then."""
    tried_models: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=MODELS_LIMIT)] | None = None
    """LLMModels that the task was moved away from, oldest first: it does not come back to them."""
    runner: RunnerRef | None = None
    """Who may commit the outcome, and who did."""
    accept_time: Timestamp | None = None
    """When the task was accepted: its deadlines count from here."""
    suspend_time: Timestamp | None = None
    """Since when the task is suspended; absent while it is not."""
    suspended_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long it was suspended before; deadlines leave it out."""
    start_time: Timestamp | None = None
    """When the task was claimed for the first time."""
    completion_time: Timestamp | None = None
    """When the outcome was set."""
    attempts: Annotated[list[AttemptRecord], Field(max_length=ATTEMPTS_KEPT)] | None = None
    """The last ten attempts, oldest first."""
    result: Result | None = None
    """What the model generated; present when outcome is Complete, in part when it was cancelled while it ran."""
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


def derive_phase(*, outcome: Outcome | None, queued: bool, running: bool, suspended: bool = False) -> TaskPhase:
    """The one place that turns facts into a phase."""
    if outcome is not None:
        return TaskPhase(outcome.value)
    if suspended:
        return TaskPhase.SUSPENDED
    if running:
        return TaskPhase.RUNNING
    return TaskPhase.QUEUED if queued else TaskPhase.WAITING
