"""Requests and responses, in the words that HTTP clients bring along; the words of the objects are `headrace_crds`'.

Only what an object cannot express is refused here. Everything else is judged once, by the API server.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from headrace_crds.why import About


def _encodable(text: str) -> str:
    """JSON can escape what UTF-8 cannot hold; the API server would silently replace it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair: send whole characters") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A JSON number. The object holds it as a decimal string, rounded to six decimals."""
Whole = Annotated[int, Field(strict=True)]
Namespace = Annotated[str, Field(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", examples=["default"])]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ChatMessage(_Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    content: Text
    """What is said, as text."""


class SamplingParameters(_Body):
    """How tokens are chosen. Absent members take the model's defaults."""

    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    """Randomness; 0 takes the likeliest token always."""
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    """Upper bound of generated tokens."""
    top_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Sample from the smallest set of tokens whose probability sums up to this."""
    top_k: Annotated[Whole, Field(ge=0)] | None = None
    """Sample from the k likeliest tokens; 0 switches it off."""
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Drop tokens less likely than this share of the likeliest."""
    seed: Annotated[Whole, Field(ge=0)] | None = None
    """Makes sampling repeatable on the same model, build and machine."""
    stop: Text | list[Text] | None = None
    """A text, or up to eight, that ends the generation; it is not part of the result."""
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    """Penalty for tokens that have appeared at all."""
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] | None = None
    """Penalty that grows with each appearance of a token."""
    repeat_penalty: Annotated[Number, Field(gt=0, le=4)] | None = None
    """llama.cpp's multiplicative repetition penalty; 1 switches it off."""


class SecretKey(_Body):
    """One entry of a Secret in the task's namespace that is labelled headrace.dev/webhook: "true"."""

    name: Text
    """Name of the Secret."""
    key: Text
    """Key of its data: whsec_… keys, one per line."""


class CreateTask(_Body):
    """Work for a model. Exactly one of `prompt` and `messages` is needed."""

    model: Annotated[Text, Field(examples=["smollm2"])]
    """Name of the LLMModel in the task's namespace, or namespace/name of one that is shared with it. It may be created
    later than the task."""
    prompt: Annotated[Text, Field(examples=["Write a haiku about rivers."])] | None = None
    """A single instruction, put through the model's chat template as one user message."""
    messages: list[ChatMessage] | None = None
    """A conversation, oldest turn first."""
    parameters: SamplingParameters | None = None
    """How tokens are chosen."""
    json_schema: Text | dict[str, Any] | None = None
    """JSON Schema that the result has to meet. A text reaches the model byte for byte; an object is written compactly
    with its keys in the order given. The order of properties steers the model."""
    priority: Whole | None = None
    """-100 to 100, 0 when absent: order within the namespace; a point is worth ten seconds of waiting."""
    namespace: Namespace | None = None
    """Namespace of the task; absent: the facade's default. Your token needs the right to create LLMTasks there."""
    name: Annotated[Text, Field(examples=["summary-17"])] | None = None
    """Name of the task, unique in its namespace; absent: the server makes one. With a name, sending a request twice
    makes one task: the second answer is a 409."""
    idempotency_key: Annotated[Text, Field(max_length=255)] | None = None
    """As the header Idempotency-Key: of all requests with this key in a namespace one makes a task, and the others are
    answered with it; with another body 409. As long as the task exists."""
    timeout_seconds: Whole | None = None
    """How long the task may take altogether before it fails as DeadlineExceeded; absent: 86400."""
    queue_deadline_seconds: Whole | None = None
    """How long it may wait for a runner before it fails as QueueDeadlineExceeded; absent: timeout_seconds alone
    bounds the wait."""
    attempt_timeout_seconds: Whole | None = None
    """How long one attempt may take before it is aborted and tried again; absent: 300."""
    ttl_seconds: Whole | None = None
    """How long the task is kept after its end. Absent: the facade's default, an hour unless it is set up otherwise.
    null: until somebody deletes it, within the operator's retention."""
    suspend: bool | None = None
    """true: the task waits for POST /api/v1/tasks/{id}/resume."""
    webhook_url: Text | None = None
    """Who is told about the outcome, by a signed POST without prompt and result. Needs webhook_secret."""
    webhook_secret: SecretKey | None = None
    """The keys that sign it."""
    metadata: Annotated[dict[Text, Text], Field(max_length=32)] | None = None
    """Your own words about the task, given back with it; 16 KiB of texts. They are annotations of the object under
    metadata.headrace.dev/ and no place for secrets."""


class TaskStatus(StrEnum):
    """created (no queue has it: nobody looked at it yet, or it waits or is suspended; `reason` says which), queued,
    processing (an attempt runs), then exactly one of completed, failed and cancelled. A task whose model or runner goes
    away steps back."""

    CREATED = "created"
    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ResultPlace(_Answer):
    """One key of a ConfigMap in the task's namespace."""

    name: str
    """Name of the ConfigMap; it is deleted with the task."""
    key: str
    """Key of its data."""


class TaskResult(_Answer):
    """What the model generated."""

    text: str | None = None
    """The text, byte for byte. null: `text_missing` says why."""
    text_missing: str | None = None
    """Why a text above 32 KiB is not in this answer, and what to do about it."""
    config_map: ResultPlace | None = None
    """Where a text above 32 KiB lies."""
    partial: bool = False
    """The task was cancelled while it ran: this is what was generated until then."""
    finish_reason: str
    """Stop (the model or a stop text ended it) or Length (max_tokens or the context ended it)."""
    size_bytes: int
    """Size of the text in UTF-8."""
    sha256: str
    """Digest of the text in UTF-8."""
    enforcement: str | None = None
    """How json_schema was enforced while generating; the result was validated in any case."""


class TaskUsage(_Answer):
    """Tokens that the final attempt consumed, and their cost."""

    prompt_tokens: int
    """Tokens of the rendered input."""
    cached_tokens: int
    """Prompt tokens that did not have to be evaluated again."""
    completion_tokens: int
    """Tokens generated."""
    reasoning_tokens: int | None = None
    """Of completion_tokens those that the model thought with, where the provider tells."""
    cache_hit: bool | None = None
    """The result was kept from an earlier request: no tokens were consumed."""
    cost_micros: int | None = None
    """What they cost in millionths of the currency; null where the model has no price."""
    currency: str | None = None
    """ISO 4217, of cost_micros."""


class TaskTimings(_Answer):
    """Where the time of the final attempt went, in milliseconds."""

    queued_ms: int
    """From being queued to being claimed."""
    first_token_ms: int
    """From the claim to the first token."""
    generation_ms: int
    """From the claim to the last token."""


class TaskSummary(_Answer):
    """A task without its result."""

    task_id: Annotated[str, Field(examples=["default.summary-17"])]
    """`<namespace>.<name>`: one segment of a URL, and found without a search, as a namespace's name has no dot."""
    namespace: str
    """Namespace of the LLMTask object."""
    name: str
    """Name of the LLMTask object."""
    model: str
    """LLMModel that was asked for; namespace/name where it was named so."""
    status: TaskStatus
    """Where it stands."""
    reason: str | None = None
    """Why it stands there, in one PascalCase word; absent until it was looked at."""
    message: str | None = None
    """The reason in words, and what to do about it."""
    priority: int
    """Order within the namespace."""
    attempt: int | None = None
    """Deliveries to a runner so far, this one included."""
    retries: int
    """Failed attempts that were tried again."""
    created_at: str | None
    """RFC 3339, UTC."""
    started_at: str | None = None
    """When a runner took it for the first time."""
    completed_at: str | None = None
    """When it ended."""


class Task(TaskSummary):
    """A task."""

    metadata: dict[str, str] = Field(default_factory=dict)
    """The caller's own words, as they were sent."""
    result: TaskResult | None = None
    """Present when status is completed; in part when it was cancelled while it ran."""
    usage: TaskUsage | None = None
    """Present when an attempt consumed tokens."""
    timings: TaskTimings | None = None
    """Present when a task has ended in a runner."""


class TaskList(_Answer):
    """One chunk of a namespace's tasks."""

    items: list[TaskSummary]
    """By name. Results are left out: ask for the single task."""
    continue_: Annotated[str | None, Field(alias="continue")] = None
    """Give it back as `continue` for the next chunk, within five minutes; null on the last one. A chunk of large
    tasks holds fewer than `limit`."""
    remaining: int | None = None
    """How many tasks follow, where the API server knows."""


class WhyLink(_Answer):
    """One part of a task's way to a runner."""

    about: About
    """task, quota (the namespace's LLMQuota), window (the model's queue), model or placement (its pods)."""
    name: str
    """namespace/name of what is told about."""
    reason: str
    """One PascalCase word."""
    message: str
    """The reason in words."""
    remedy: str
    """What to do about it; empty where nothing is to be done."""
    holds: bool | None
    """Whether this keeps the task from running; null where that cannot be told, for example for want of a right."""


class Why(_Answer):
    """Why a task is where it is, from its object to the pods of its model."""

    task_id: str
    """The task."""
    status: TaskStatus
    """Where it stands."""
    reason: str
    """Why, in one PascalCase word."""
    message: str
    """The reason in words."""
    since: str | None
    """Since when, as far as the object tells; of a waiting task since it was accepted."""
    chain: list[WhyLink]
    """task → quota → window → model → placement; the task alone where nothing beyond it matters."""
    position: int | None
    """Place in the model's queue, 1 is next; an estimate, as others may arrive with a higher priority."""
    ahead: int | None
    """Deliveries that come first."""
    estimated_start_seconds: float | None
    """Mean service time × `ahead` / slots of the runners that serve; an estimate."""
    unknown: dict[str, str]
    """Why `position` or `estimated_start_seconds` is null."""


class Health(_Answer):
    """What a probe wants to know."""

    status: Literal["ok"] = "ok"
    """Anything else is an error."""


class Readiness(Health):
    """Whether requests can be served."""

    redis: Annotated[str, Field(examples=["ok"])]
    """ok; or why queues cannot be looked at: tasks are taken all the same."""
    models: Annotated[str, Field(examples=["ok"])]
    """ok; or why models are not known, or how old what is known of them is: tasks are taken all the same."""


class ProblemField(_Answer):
    """One field that cannot stay as it is."""

    field: str
    """In the request's words, such as parameters.top_p; empty for the request as a whole."""
    message: str
    """What is wrong and how to put it right."""


class ProblemDetails(_Answer):
    """What can be said beyond the message; members depend on error_code."""

    fields: list[ProblemField] | None = None
    """With VALIDATION_FAILED."""
    retry_after_seconds: int | None = None
    """With THROTTLED, QUOTA_EXCEEDED, BUDGET_EXHAUSTED, NAMESPACE_QUEUE_FULL, QUEUE_FULL and UNAVAILABLE, as the header
    Retry-After."""


class Problem(_Answer):
    """Every error has this shape."""

    error_code: Annotated[str, Field(examples=["VALIDATION_FAILED"])]
    """A constant to program against."""
    message: str
    """What happened and what to do, for people."""
    trace_id: str
    """As the header X-Trace-Id, and in the facade's log."""
    details: ProblemDetails
    """More, where there is more to say."""
