"""What runner and engine say to each other: requests, events, and the reasons of a refusal.

======== ============ =========================================================================================
sent by  ``type``     fields
======== ============ =========================================================================================
runner   ``generate`` ``id``, one of ``prompt`` | ``messages``, ``parameters``, ``stream``, at most one of
                      ``json_schema`` (JSON *text*), ``grammar`` (GBNF), ``regex``, ``choice`` (texts); ``narrow``,
                      ``tools``, ``tool_choice``, ``cache_scope``
runner   ``generate`` with ``count``: answered by ``done`` with a document of tokens, see ``counting``
runner   ``embed``    ``id``, ``input`` (texts): answered by ``done`` with a document of vectors
runner   ``abort``    ``id``
engine   ``hello``    ``state`` (always ``Serving``), ``engine`` (EngineModel); first frame of a connection
engine   ``progress`` ``id``, ``completion_tokens``; at most every 500 ms a generation
engine   ``delta``    ``id``, ``text``, ``completion_tokens``, ``index``; only with ``stream``, at most one a step
engine   ``done``     ``id``, ``text``, ``finish_reason``, ``usage``, ``timings``, ``enforcement``, ``logprobs``,
                      ``alternatives``, ``tool_calls``, ``reasoning``
engine   ``aborted``  as ``done``, with ``finish_reason`` ``Cancelled``: the answer to ``abort``
engine   ``error``    ``id`` (empty: about the connection, which then ends), ``reason``, ``message``, ``retryable``
======== ============ =========================================================================================

Requests are read strictly: an unknown field is refused, never passed on (CVE-2026-21869 was an unknown field). Events
are read leniently, so that a newer engine can say more. Ids are unique per connection among running generations.
"""

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.state import EngineModel
from headrace_runner.engine.tools import Tool, ToolCall


class Reason(enum.StrEnum):
    """Why the engine refused or ended a generation. The comment says whether trying again elsewhere can help."""

    CONTEXT_LENGTH_EXCEEDED = "ContextLengthExceeded"  # no: the message has the numbers
    INVALID_SCHEMA = "InvalidSchema"  # no: not JSON, not an object, too large
    UNSUPPORTED_SCHEMA = "UnsupportedSchema"  # no: neither mask nor limits admit it; the message says what to do
    INVALID_PARAMETERS = "InvalidParameters"  # no
    UNSUPPORTED_CONTENT = "UnsupportedContent"  # no: images, audio
    MODEL_NOT_CAPABLE = "ModelNotCapable"  # no: capabilities of the model
    CHAT_TEMPLATE_FAILED = "ChatTemplateFailed"  # no: the model's template refused or broke its bounds
    ENGINE_OVERLOADED = "EngineOverloaded"  # yes: more requests than sequences and waiting places
    DECODE_FAILED = "DecodeFailed"  # yes: llama.cpp refused a batch
    INTERNAL_ERROR = "InternalError"  # yes: a defect of ours, with its traceback in the engine's log
    ENGINE_STOPPING = "EngineStopping"  # yes
    PROTOCOL_ERROR = "ProtocolError"  # no: a broken frame; the connection ends


class Refusal(Exception):
    """A request that ends without a text. ``reason`` is a Reason; ``retryable`` tells whether another try can help."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation; ``role`` is handed to the chat template as it is.

    ``tool_calls`` are what the assistant asked for in this turn, ``tool_call_id`` the call that this message answers.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """Sampling parameters; None means the engine's default.

    ``temperature`` 0 is greedy (default 0.8). ``top_k`` 0 switches it off (default 40), ``top_p`` 0.95, ``min_p`` 0.05.
    ``max_tokens`` None is the room left in the context. ``seed`` None is a random one. The penalties look at the last
    64 *generated* tokens, never at the prompt. ``logit_bias`` has pairs of token and what is added to its logit before
    anything else. ``logprobs`` asks for the natural logarithms of the chosen token's probability and of that many
    others' (0 to 20), of the model's own distribution: before bias, penalties, masks and temperature. ``n`` completions
    of one prompt (default 1) are drawn with the seeds ``seed``, ``seed`` + 1, …; the prompt is decoded once.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    n: int | None = None


Counted = Literal["Conversation", "Text"]


@dataclass(frozen=True, slots=True)
class Generate:
    """Ask for one completion.

    Exactly one of ``prompt`` and ``messages``. A prompt is *one user message* wherever the model has a chat template,
    because people who send a prompt to an instruct model expect an answer; only a model without one completes it raw.
    At most one of ``json_schema`` (JSON text, so that the order of its properties survives), ``grammar`` (GBNF),
    ``regex`` and ``choice``; with any of them ``stop`` has no effect: the grammar alone decides where the text ends.
    ``narrow`` asks for a mask that never admits what the schema refuses, at the price of documents that it admits:
    for another try after a document that was refused. With ``stream`` the text comes in Delta events as well.
    ``tool_choice`` is ``auto``, ``none``, ``required`` or a tool's name. Requests share beginnings of prompts with
    those of the same ``cache_scope`` only, because ``cached_tokens`` tells that somebody had them; without, with none.
    With ``count`` nothing is generated, and the tokens are told: of the prompt as it would be, or of ``prompt`` as the
    text that it is. ``whole`` is never sent to an engine: a provider may answer in one piece, as nobody sees the text
    grow and it is short.
    """

    id: str
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    parameters: Parameters = field(default_factory=Parameters)
    json_schema: str | None = None
    grammar: str | None = None
    regex: str | None = None
    choice: tuple[str, ...] = ()
    narrow: bool = False
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    cache_scope: str | None = None
    whole: bool = False
    count: Counted | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        body: dict[str, Any] = {"type": "generate", "id": self.id, "json_schema": self.json_schema}
        if self.tools:
            body |= {"tools": [asdict(tool) for tool in self.tools], "tool_choice": self.tool_choice}
        if self.prompt is not None:
            body["prompt"] = self.prompt
        else:
            body["messages"] = [asdict(message) for message in self.messages]
        for name in ("grammar", "regex", "choice", "narrow", "stream", "cache_scope", "count"):
            if value := getattr(self, name):
                body[name] = value
        given = asdict(self.parameters)
        body["parameters"] = {
            wire: given[name] for wire, name in PARAMETER_NAMES.items() if given[name] not in (None, ())
        }
        if self.parameters.logit_bias:
            body["parameters"]["logitBias"] = {str(token): bias for token, bias in self.parameters.logit_bias}
        return body


@dataclass(frozen=True, slots=True)
class Abort:
    """End the generation ``id`` and answer with what there is of it.

    Unknown ids are ignored, since it may have ended on its own meanwhile.
    """

    id: str

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        return {"type": "abort", "id": self.id}


FinishReason = Literal["Stop", "Length", "Cancelled", "ToolCalls"]
Enforcement = Literal["Grammar", "Provider", "ValidatedOnly"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens: ``cached_tokens`` of the prompt were not computed again, ``completion_tokens`` are of all completions;
    ``reasoning_tokens`` of them are no part of the text, which only providers tell.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds: waiting for a free sequence; from there to the first token; from there to the end."""

    queued_ms: int
    first_token_ms: int
    generation_ms: int


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of a connection."""

    engine: EngineModel

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        return {"type": "hello", "state": "Serving", "engine": asdict(self.engine)}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation is."""

    id: str
    completion_tokens: int

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        return {"type": "progress", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Delta:
    """Text that was added to completion ``index``; ``completion_tokens`` is how many it has by then.

    ``reasoning`` was added to what precedes the answer; ``tool_calls`` are whole.
    The deltas of a completion are together its text, or a beginning of it where the generation fails. None of them has
    a character that a stop string would take back.
    """

    id: str
    text: str
    completion_tokens: int
    index: int = 0
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        return {"type": "delta", **asdict(self)}


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A chosen token with the natural logarithm of its probability, and the likeliest ones as (text, logarithm).

    ``text`` is at most 64 characters; bytes that are no whole character are U+FFFD.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """One of the further completions of a request with ``n``; None as ``logprobs`` where none were asked for."""

    text: str
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished generation.

    ``finish_reason`` is ``Length`` where ``max_tokens`` or the context ended it: with an ``enforcement`` the
    text is then a document cut off, unless ``complete`` says that it was brought to its end within the tokens; with
    ``Stop`` it is a complete one. ``enforcement`` is ``Grammar`` where the mask admits nothing that the request's shape
    refuses, ``ValidatedOnly`` where it may. ``Cancelled``: an abort ended it, and ``text`` is what any end of it would
    begin with, empty before the first token. ``ToolCalls``: it ended by itself, with ``tool_calls``; what was said
    beside them is in ``text``. ``reasoning`` is what came before the answer, in marks of the model's own.
    ``alternatives`` are the second and further completions of a request with ``n``.
    """

    id: str
    text: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    enforcement: Enforcement | None = None
    complete: bool = False
    logprobs: tuple[TokenLogprob, ...] | None = None
    alternatives: tuple[Completion, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        # A kind of its own: a runner that does not know it passes over it, as over every kind that it does not know.
        return {"type": "aborted" if self.finish_reason == "Cancelled" else "done", **asdict(self)}


@dataclass(frozen=True, slots=True)
class Failure:
    """A generation, or with an empty ``id`` the connection, that ended without a text.

    ``reason`` is a word of Reason; a plain string here, so that a newer engine's word reaches the task's status.
    """

    id: str
    reason: str
    message: str
    retryable: bool = False

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        return {"type": "error", **asdict(self)}


Request = Generate | Embed | Abort
Event = Hello | Progress | Delta | GenerationResult | Failure

PARAMETER_NAMES: Final[Mapping[str, str]] = {
    "temperature": "temperature",
    "maxTokens": "max_tokens",
    "topP": "top_p",
    "topK": "top_k",
    "minP": "min_p",
    "seed": "seed",
    "stop": "stop",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
    "repeatPenalty": "repeat_penalty",
    "logprobs": "logprobs",
    "n": "n",
}
"""The members that mean the same on both sides; ``logitBias`` is an object by token on the wire."""
