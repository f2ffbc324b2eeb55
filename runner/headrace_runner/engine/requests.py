"""The engine's strict reading of requests: types, bounds, unknown fields, before anything reaches a sampler.

The runner never needs this module; it writes requests with ``protocol.Generate.to_json``.
"""

from collections.abc import Mapping
from typing import Any, Final

from headrace_runner.engine.dialogue_requests import clean, invalid, read_messages, read_tools
from headrace_runner.engine.embedding_request import read_embed
from headrace_runner.engine.frames import ProtocolError
from headrace_runner.engine.protocol import (
    PARAMETER_NAMES,
    Abort,
    Counted,
    Generate,
    Parameters,
    Reason,
    Refusal,
    Request,
)

MAX_ID_CHARS: Final = 256
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_CHOICES: Final = 128
MAX_CHOICE_CHARS: Final = 512
MAX_BIASED_TOKENS: Final = 1024
MAX_BIAS: Final = 100.0
MAX_SCOPE_CHARS: Final = 253
"""A DNS name has no more; a namespace's has 63."""
_SHAPES: Final = ("json_schema", "grammar", "regex", "choice")
_GENERATE_FIELDS: Final = frozenset(
    {
        "type",
        "id",
        "prompt",
        "messages",
        "parameters",
        *_SHAPES,
        "narrow",
        "stream",
        "tools",
        "tool_choice",
        "cache_scope",
        "count",
    }
)
_SHAPE_BYTES: Final[Mapping[str, int]] = {
    "json_schema": MAX_SCHEMA_BYTES,
    "grammar": MAX_SCHEMA_BYTES,
    "regex": 16 * 1024,
}
_REAL_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "temperature": (0.0, 10.0),
    "topP": (0.0, 1.0),
    "minP": (0.0, 1.0),
    "presencePenalty": (-2.0, 2.0),
    "frequencyPenalty": (-2.0, 2.0),
    "repeatPenalty": (0.01, 10.0),
}
_INTEGER_BOUNDS: Final[Mapping[str, tuple[int, int]]] = {
    "maxTokens": (1, 2**31 - 1),
    "topK": (0, 2**31 - 1),
    "seed": (-(2**63), 2**63 - 1),
    "logprobs": (0, 20),
    "n": (1, 16),
}


def decode_request(body: Mapping[str, Any]) -> Request:
    """Read a request.

    Raises ProtocolError where kind or id cannot be told, so that nobody could be answered, and Refusal
    (InvalidParameters, InvalidSchema) where the sender of ``id`` can.
    """
    kind, request_id = body.get("type"), body.get("id")
    if not isinstance(request_id, str) or not 0 < len(request_id) <= MAX_ID_CHARS:
        raise ProtocolError(f"a request needs an id of 1 to {MAX_ID_CHARS} characters")
    match kind:
        case "abort":
            return Abort(request_id)
        case "embed":
            try:
                return read_embed(request_id, body)
            except ValueError as error:
                raise invalid(str(error)) from error
        case "generate":
            _refuse_unknown(body, _GENERATE_FIELDS)
            return _read_generate(request_id, body)
    raise ProtocolError(f"unknown request type {str(kind)[:64]!r}")


def _read_generate(request_id: str, body: Mapping[str, Any]) -> Generate:
    prompt, messages = body.get("prompt"), body.get("messages")
    if (prompt is None) == (messages is None):
        raise invalid("exactly one of prompt and messages is needed")
    if prompt is not None and not isinstance(prompt, str):
        raise invalid("prompt: expected a string")
    stream = body.get("stream", False)
    if not isinstance(stream, bool):
        raise invalid("stream: expected true or false")
    tools, tool_choice = read_tools(body.get("tools", []), body.get("tool_choice", "auto"))
    return Generate(
        id=request_id,
        prompt=None if prompt is None else clean(prompt),
        messages=() if messages is None else read_messages(messages),
        parameters=_read_parameters(body.get("parameters")),
        **_read_shape(body),
        stream=stream,
        tools=tools,
        tool_choice=tool_choice,
        cache_scope=_read_scope(body.get("cache_scope")),
        count=_read_count(body.get("count"), prompt),
    )


def _read_count(value: object, prompt: str | None) -> Counted | None:
    if value is None or value == "Conversation":
        return None if value is None else "Conversation"
    if value != "Text" or prompt is None:
        raise invalid("count: expected Conversation, or Text together with prompt")
    return "Text"


def _read_scope(value: object) -> str | None:
    if value is None:
        return None
    # Nothing is mended here, unlike in a prompt: two scopes must not become one.
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SCOPE_CHARS or value != clean(value):
        raise invalid(f"cache_scope: expected 1 to {MAX_SCOPE_CHARS} characters")
    return value


def _read_shape(body: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: body[name] for name in _SHAPES if body.get(name) is not None}
    if len(given) > 1:
        raise invalid(f"at most one of {', '.join(_SHAPES)} can be given")
    for name, limit in _SHAPE_BYTES.items():
        value = given.get(name)
        if value is not None and not isinstance(value, str):
            raise Refusal(Reason.INVALID_SCHEMA, f"{name}: expected text")
        if value is not None and len(value.encode("utf-8", "surrogatepass")) > limit:
            raise Refusal(Reason.INVALID_SCHEMA, f"{name}: larger than {limit} bytes")
        if value is not None and value != clean(value):
            raise Refusal(Reason.INVALID_SCHEMA, f"{name}: has half of a surrogate pair")
    if "choice" in given:
        given["choice"] = _read_choice(given["choice"])
    narrow = body.get("narrow", False)
    if not isinstance(narrow, bool):
        raise invalid("narrow: expected true or false")
    return {**given, "narrow": narrow}


def _read_choice(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_CHOICES:
        raise Refusal(Reason.INVALID_SCHEMA, f"choice: expected 1 to {MAX_CHOICES} texts")
    if not all(isinstance(text, str) and 0 < len(text) <= MAX_CHOICE_CHARS and text == clean(text) for text in value):
        raise Refusal(Reason.INVALID_SCHEMA, f"choice: texts of 1 to {MAX_CHOICE_CHARS} characters")
    return tuple(value)


def _read_parameters(value: object) -> Parameters:
    if value is None:
        return Parameters()
    if not isinstance(value, dict):
        raise invalid("parameters: expected an object")
    _refuse_unknown(value, {*PARAMETER_NAMES, "logitBias"})
    read: dict[str, Any] = {}
    for wire, given in value.items():
        if given is None:
            continue
        if wire == "stop":
            read["stop"] = _read_stops(given)
        elif wire == "logitBias":
            read["logit_bias"] = _read_bias(given)
        elif wire in _INTEGER_BOUNDS:
            read[PARAMETER_NAMES[wire]] = _bounded(wire, given, int, *_INTEGER_BOUNDS[wire])
        else:
            read[PARAMETER_NAMES[wire]] = float(_bounded(wire, given, (int, float), *_REAL_BOUNDS[wire]))
    return Parameters(**read)


def _read_stops(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_STOPS:
        raise invalid(f"parameters.stop: expected at most {MAX_STOPS} strings")
    if not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_CHARS for stop in value):
        raise invalid(f"parameters.stop: strings of 1 to {MAX_STOP_CHARS} characters")
    return tuple(value)


def _read_bias(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, dict) or len(value) > MAX_BIASED_TOKENS:
        raise invalid(f"parameters.logitBias: expected an object of at most {MAX_BIASED_TOKENS} tokens")
    read = []
    for token, bias in value.items():
        if not (token.isascii() and token.isdigit() and len(token) <= 9):
            raise invalid("parameters.logitBias: names are numbers of tokens")
        read.append((int(token), float(_bounded("logitBias", bias, (int, float), -MAX_BIAS, MAX_BIAS))))
    return tuple(read)


def _bounded(name: str, value: object, kind: Any, low: float, high: float) -> Any:
    # bool is an int to isinstance, never a number to a user.
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        word = "an integer" if kind is int else "a number"
        raise invalid(f"parameters.{name}: expected {word} between {low} and {high}")
    return value


def _refuse_unknown(value: Mapping[str, Any], known: Any) -> None:
    unknown = sorted(set(value) - set(known))
    if unknown:
        raise invalid(f"unknown fields: {', '.join(name[:64] for name in unknown[:8])}")
