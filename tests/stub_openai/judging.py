"""What the API refuses of a request, in its words, so that a provider's mistakes are found here and not there.

Members, bounds and roles are those of the SDK's ``types/chat/completion_create_params.py``, its message parameters and
``types/embedding_create_params.py`` (openai 3.57); the errors' shape is that of ``types/shared/error_object.py``, their
words and codes are what the API answers (https://platform.openai.com/docs/guides/error-codes).
"""

from dataclasses import dataclass, field
from typing import Any

from tests.stub_openai.strict_schema import complaint

CHAT_MEMBERS = frozenset(
    {
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "modalities",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
        "web_search_options",
    }
)
EMBEDDING_MEMBERS = frozenset({"input", "model", "dimensions", "encoding_format", "user"})
ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_BOUNDS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "top_logprobs": (0, 20),
    "n": (1, 128),
}
_FIXED_WHEN_REASONING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "logit_bias")


@dataclass
class Refusal(Exception):
    """One error object; ``headers`` go with it."""

    message: str
    param: str | None = None
    code: str | None = None
    status: int = 400
    type: str = "invalid_request_error"
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        names = ("message", "type", "param", "code")
        return {"error": {name: getattr(self, name) for name in names}}


def judge_chat(body: dict[str, Any], *, reasoning: bool) -> None:
    """Raises Refusal as the API would; ``reasoning``: the model is one that reasons."""
    _unknown(body, CHAT_MEMBERS)
    if reasoning:
        _judge_reasoning(body)
    for name, (low, high) in _BOUNDS.items():
        value = body.get(name)
        if value is not None and not (isinstance(value, (int, float)) and low <= value <= high):
            raise Refusal(f"Invalid '{name}': expected a value between {low} and {high}.", name, "invalid_value")
    if "top_logprobs" in body and not body.get("logprobs"):
        raise Refusal("'top_logprobs' is only allowed when 'logprobs' is true.", "top_logprobs")
    if "stream_options" in body and not body.get("stream"):
        raise Refusal("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    if isinstance(stop := body.get("stop"), list) and len(stop) > 4:
        words = "Expected an array with maximum length 4, but got an array with length"
        raise Refusal(f"Invalid 'stop': array too long. {words} {len(stop)} instead.", "stop", "array_above_max_length")
    for token, bias in body.get("logit_bias", {}).items():
        if not token.isdigit() or not isinstance(bias, int) or not -100 <= bias <= 100:
            raise Refusal(f"Invalid type for 'logit_bias.{token}': expected an integer.", "logit_bias", "invalid_type")
    _judge_tools(body)
    _judge_messages(body.get("messages"))
    _judge_format(body)


def judge_embedding(body: dict[str, Any]) -> None:
    """Raises Refusal as the API would."""
    _unknown(body, EMBEDDING_MEMBERS)
    given = body.get("input")
    if not isinstance(given, list) or not 0 < len(given) <= 2048 or not all(isinstance(x, str) and x for x in given):
        raise Refusal("'$.input' is invalid. Please check the API reference.", "input")
    if body.get("encoding_format", "float") not in ("float", "base64"):
        raise Refusal("Invalid value for 'encoding_format'.", "encoding_format", "invalid_value")


def _unknown(body: dict[str, Any], members: frozenset[str]) -> None:
    for name in body:
        if name not in members:
            raise Refusal(f"Unknown parameter: '{name}'.", name, "unknown_parameter")
    if not isinstance(body.get("model"), str):
        raise Refusal("you must provide a model parameter")


def _judge_reasoning(body: dict[str, Any]) -> None:
    if "max_tokens" in body:
        words = "Use 'max_completion_tokens' instead."
        raise Refusal(
            f"Unsupported parameter: 'max_tokens' is not supported with this model. {words}",
            "max_tokens",
            "unsupported_parameter",
        )
    for name in _FIXED_WHEN_REASONING:
        if name in body and body[name] != 1:
            raise Refusal(
                f"Unsupported value: '{name}' does not support {body[name]} with this model.", name, "unsupported_value"
            )


def _judge_tools(body: dict[str, Any]) -> None:
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            raise Refusal(f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", name)
    names = []
    for at, tool in enumerate(body.get("tools", ())):
        function = tool.get("function", {})
        if tool.get("type") != "function" or set(function) - {"name", "description", "parameters", "strict"}:
            raise Refusal("Invalid value.", f"tools[{at}]", "invalid_value")
        if not isinstance(function.get("parameters", {}), dict):
            raise Refusal("Invalid type: expected an object.", f"tools[{at}].function.parameters", "invalid_type")
        names.append(function.get("name"))
    choice = body.get("tool_choice", "auto")
    if isinstance(choice, dict) and choice.get("function", {}).get("name") not in names:
        raise Refusal("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")


def _judge_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise Refusal("Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages")
    open_calls: set[str] = set()
    for at, message in enumerate(messages):
        role = message.get("role")
        if role not in ROLES:
            listed = ", ".join(f"'{each}'" for each in ROLES)
            raise Refusal(
                f"Invalid value: '{role}'. Supported values are: {listed}.", f"messages[{at}].role", "invalid_value"
            )
        if set(message) - {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"}:
            raise Refusal(f"Additional properties are not allowed - 'messages.{at}'", f"messages[{at}]")
        if role == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise Refusal(
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with "
                    "'tool_calls'.",
                    f"messages.[{at}].role",
                )
            open_calls.discard(message["tool_call_id"])
        elif open_calls:
            raise _unanswered(open_calls)
        if not isinstance(message.get("content"), str) and not (role == "assistant" and message.get("tool_calls")):
            raise Refusal(
                f"Invalid value for 'content': expected a string, got {message.get('content')}.",
                f"messages.[{at}].content",
            )
        open_calls |= {_call_id(call, at) for call in message.get("tool_calls", ())}
    if open_calls:
        raise _unanswered(open_calls)


def _call_id(call: dict[str, Any], at: int) -> str:
    function = call.get("function", {})
    whole = set(call) == {"id", "type", "function"} and set(function) == {"name", "arguments"}
    if not whole or not isinstance(function["arguments"], str):
        raise Refusal("Invalid type for a tool call.", f"messages[{at}].tool_calls", "invalid_type")
    return str(call["id"])


def _unanswered(open_calls: set[str]) -> Refusal:
    return Refusal(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(sorted(open_calls))}",
        "messages",
    )


def _judge_format(body: dict[str, Any]) -> None:
    wanted = body.get("response_format", {"type": "text"})
    if wanted["type"] == "json_object":
        if not any("json" in (message.get("content") or "").lower() for message in body["messages"]):
            raise Refusal(
                "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
                "messages",
            )
    elif wanted["type"] == "json_schema":
        given = wanted["json_schema"]
        if given.get("strict") and (wrong := complaint(given["name"], given["schema"])) is not None:
            raise Refusal(wrong, "response_format")
