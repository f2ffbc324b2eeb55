"""Requests and answers of calls. Their fields are those of tasks, where they mean the same."""

from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from headrace_crds.result import Enforcement
from headrace_facade.schema import ChatMessage, Namespace, SamplingParameters, Text, Whole

INPUTS_MOST: Final = 512
PAIRWISE_MOST: Final = 64
"""Texts of which all pairs are compared."""
Input = Annotated[Text, Field(min_length=1, max_length=65_536)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Generate(_Body):
    """One call of a model, answered while you wait. Exactly one of `prompt` and `messages` is needed."""

    model: Annotated[Text, Field(min_length=1, max_length=128, examples=["smollm2"])]
    """Name of an LLMModel in the caller's namespace, or namespace/name of one that is shared with it."""
    prompt: Annotated[Text, Field(min_length=1, examples=["Write a haiku about rivers."])] | None = None
    """A single instruction, put through the model's chat template as one user message."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=512)] | None = None
    """A conversation, oldest turn first."""
    history: Annotated[list[ChatMessage], Field(max_length=512)] | None = None
    """With prompt: what was said before it, oldest turn first."""
    session_id: Annotated[Text, Field(min_length=1, max_length=64)] | None = None
    """A session of POST /api/v1/sessions: what was said in it goes before this request, trimmed to the model's context,
    and the answer is appended if it succeeds. A leading system message takes the place of the session's."""
    parameters: SamplingParameters | None = None
    """How tokens are chosen."""
    json_schema: Text | dict[str, Any] | None = None
    """JSON Schema that the answer has to meet. A text reaches the model byte for byte; an object is written compactly
    with its keys in the order given."""
    grammar: Text | None = None
    """GBNF that the answer has to meet; for local models."""
    regex: Text | None = None
    """Regular expression that the whole answer has to meet."""
    priority: Annotated[Whole, Field(ge=-100, le=100)] = 0
    """Order among the calls of the namespace."""
    timeout_seconds: Annotated[Whole, Field(ge=1, le=3600)] = 300
    """How long the model may take once a runner has the call."""
    namespace: Namespace | None = None
    """The tenant; absent: that of the ServiceAccount or API key, else the facade's default."""
    resumable: bool = False
    """Of generate/stream: its events have ids, and for 30 s after a connection broke the generation goes on and can be
    taken up at the same replica, by the same request with the header Last-Event-ID or by
    GET /api/v1/generate/stream/{stream}."""


class CallUsage(_Answer):
    """Tokens of the attempt that answered, and their cost."""

    prompt_tokens: int
    """Of the rendered input."""
    cached_tokens: int = 0
    """Of the prompt those that did not have to be evaluated again."""
    completion_tokens: int
    """Generated."""
    reasoning_tokens: int | None = None
    """Of the completion those that the model thought with."""
    cost_micros: int | None = None
    """Millionths of `currency`; null where the model has no price."""
    currency: str | None = None
    """ISO 4217."""


class CallTimings(_Answer):
    """Where the time went."""

    queued_millis: int
    """From being queued to being claimed by a runner."""
    first_token_millis: int
    """From the claim to the first token."""
    generation_millis: int
    """From the claim to the last token."""


class GeneratedInSession(_Answer):
    """What became of the answer in its session."""

    session_id: str
    """The session."""
    version: int
    """How often something was appended to it."""
    appended: bool
    """Whether this exchange was."""
    problem: str | None = None
    """Why not."""
    overlapped: bool = False
    """Others were appended while this one was generated, which it has not seen."""
    sent: int
    """Earlier exchanges that went with the request."""
    left_off: int
    """Earlier exchanges that had no room in the model's context."""


class Generated(_Answer):
    """What the model generated."""

    call_id: str
    """Of log lines."""
    model: str
    """LLMModel that answered, as namespace/name: a fallback where that is another one than asked for."""
    text: str
    """The answer."""
    finish_reason: str
    """Stop, Length or ToolCalls."""
    reasoning: str | None = None
    """What the model thought before its answer, where it marks it."""
    usage: CallUsage
    """Tokens and cost."""
    timings: CallTimings
    """Of the attempt that answered."""
    enforcement: Enforcement | None = None
    """How the shape was enforced while generating; the answer was validated in any case."""
    repairs: int = 0
    """How often the model was asked again because the answer did not have the shape."""
    attempts: int = 1
    """How often it was handed to a runner: more than once where one was lost before the answer began."""
    session: GeneratedInSession | None = None
    """With session_id."""


class Embed(_Body):
    """Texts to turn into vectors."""

    model: Annotated[Text, Field(min_length=1, max_length=128)]
    """LLMModel with the capability Embedding."""
    input: Annotated[list[Input], Field(min_length=1, max_length=INPUTS_MOST)]
    """The texts."""
    namespace: Namespace | None = None
    """As of generate."""


class Embedded(_Answer):
    """One vector for each text, in order."""

    call_id: str
    """Of log lines."""
    model: str
    """LLMModel that answered, as namespace/name."""
    embeddings: list[list[float]]
    """The vectors."""
    dimensions: int
    """Numbers of each."""
    usage: CallUsage
    """Tokens of the texts, and their cost."""


class Compare(_Body):
    """Texts to compare by their vectors' cosine: `query` with each of `input`, or without it all pairs of `input`."""

    model: Annotated[Text, Field(min_length=1, max_length=128)]
    """LLMModel with the capability Embedding."""
    input: Annotated[list[Input], Field(min_length=1, max_length=INPUTS_MOST - 1)]
    """The texts; at most 64 where all pairs are compared."""
    query: Input | None = None
    """A text that they are compared with."""
    namespace: Namespace | None = None
    """As of generate."""


class Compared(_Answer):
    """Cosines from -1 to 1."""

    call_id: str
    """Of log lines."""
    model: str
    """LLMModel that answered, as namespace/name."""
    scores: list[float] | None = None
    """With `query`: of each text."""
    matrix: list[list[float]] | None = None
    """Without: of each pair, symmetric."""
    usage: CallUsage
    """Tokens of the texts, and their cost."""


class ModelCapability(StrEnum):
    TEXT_GENERATION = "TEXT_GENERATION"
    CHAT = "CHAT"
    STREAMING = "STREAMING"
    FUNCTION_CALLING = "FUNCTION_CALLING"
    EMBEDDING = "EMBEDDING"


class ModelView(_Answer):
    """A model that serves the caller's namespace."""

    model: str
    """What requests name it by: name in the caller's namespace, else namespace/name."""
    namespace: str
    """Where it lies."""
    name: str
    """Of the object."""
    kind: str
    """local, or the provider of a remote model."""
    capabilities: list[ModelCapability]
    """What it is for."""
    phase: str | None
    """Serving, Loading, ScaledToZero, …; null until the operator has looked at it."""
    ready: bool
    """Would serve on demand, also while scaled to zero."""
    available: bool
    """A replica serves now."""
    reason: str
    """Why not; empty where it is available."""
    message: str
    """The reason in words."""
    replicas: int
    """Asked for."""
    ready_replicas: int
    """That serve."""
    load_stage: str | None = None
    """While a replica loads."""
    context_tokens: int | None = None
    """Prompt and result together, of a local model that was loaded."""


class ModelViews(_Answer):
    items: list[ModelView]
    """The caller's own namespace's first, by name."""


class ModelName(_Body):
    """Names a model."""

    model: Annotated[Text, Field(min_length=1, max_length=128)]
    """Name in the caller's namespace, or namespace/name."""
    replicas: Annotated[Whole, Field(ge=1, le=64)] | None = None
    """Of load: how many; absent: those that it has, and one at least."""
