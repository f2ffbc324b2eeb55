"""What Anthropic's Messages API refuses, in its words, as far as the provider could get it wrong.

From the API reference ("Create a Message", "Errors", "Versions"), the page "Structured outputs" and error texts of
public issue reports. ``problem`` is the message of an ``invalid_request_error``, or None.
"""

import re
from typing import Any

NEWEST = "2026-10-21"
VERSIONS = ("2023-06-01", NEWEST)
FIELDS = (
    {"model", "max_tokens", "messages", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences"}
    | {"tools", "tool_choice", "metadata", "service_tier", "thinking", "output_config", "inference_geo"}
    | {"cache_control", "container", "diagnostics", "speed"}
)
SCHEMA_KEYWORDS = {
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "anyOf",
    "allOf",
    "enum",
    "const",
    "$ref",
} | {"$defs", "definitions", "description", "title", "format", "pattern", "minItems", "default"}
FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]+")


def problem(body: dict[str, Any], version: str) -> str | None:
    for name in body:
        if name not in FIELDS or (version == NEWEST and name in ("temperature", "top_p", "top_k")):
            return f"{name}: Extra inputs are not permitted"
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            return f"{name}: Field required"
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
        return "max_tokens: Input should be greater than or equal to 1"
    if not 0 <= body.get("temperature", 1) <= 1:
        return "temperature: range: 0..1"
    if any(not text.strip() for text in body.get("stop_sequences", [])):
        return "stop_sequences: each stop sequence must contain non-whitespace"
    forced = body.get("tool_choice", {}).get("type") in ("any", "tool")
    if forced and body.get("thinking", {"type": "disabled"})["type"] != "disabled":
        return "Thinking may not be enabled when tool_choice forces tool use."
    if "tool_choice" in body and not body.get("tools"):
        return "tool_choice: Tool choice requires tools"
    output = body.get("output_config", {})
    if unknown := output.keys() - {"format", "effort"}:
        return f"output_config.{min(unknown)}: Extra inputs are not permitted"
    found = _messages(body["messages"]) or _tools(body.get("tools", []))
    if found is None and "format" in output:
        if output["format"].get("type") != "json_schema":
            return "output_config.format.type: Input should be 'json_schema'"
        schema = output["format"]["schema"]
        found = schema_problem(schema, schema, ())
    return found


def _messages(messages: list[dict[str, Any]]) -> str | None:
    if not messages:
        return "messages: at least one message is required"
    if messages[0]["role"] != "user":
        return 'messages: first message must use the "user" role'
    asked: set[str] = set()
    for number, message in enumerate(messages):
        if number and message["role"] == messages[number - 1]["role"]:
            return 'messages: roles must alternate between "user" and "assistant", but found multiple in a row'
        answered: list[str] = []
        calls: set[str] = set()
        for at, block in enumerate(message["content"]):
            where = f"messages.{number}.content.{at}"
            if block["type"] == "text" and not block["text"].strip():
                return "messages: text content blocks must be non-empty"
            if block["type"] == "tool_use":
                if message["role"] != "assistant":
                    return f"{where}: `tool_use` blocks can only be in `assistant` messages"
                if not TOOL_ID.fullmatch(block["id"]):
                    return f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
                calls.add(block["id"])
            if block["type"] == "tool_result":
                if block["tool_use_id"] not in asked:
                    return f"{where}: unexpected `tool_use_id` found in `tool_result` blocks"
                if at != len(answered):
                    return f"messages.{number}: `tool_result` blocks must come first in the content"
                answered.append(block["tool_use_id"])
        if asked - set(answered):
            return f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately after"
        asked = calls
    return None


def _tools(tools: list[dict[str, Any]]) -> str | None:
    for at, tool in enumerate(tools):
        if unknown := tool.keys() - {"name", "description", "input_schema", "strict", "cache_control"}:
            return f"tools.{at}.custom.{min(unknown)}: Extra inputs are not permitted"
        schema = tool["input_schema"]
        if schema.get("type") != "object":
            return f"tools.{at}.custom.input_schema.type: Input should be 'object'"
        if schema.keys() & {"anyOf", "oneOf", "allOf"}:
            return f"tools.{at}.custom.input_schema: does not support oneOf, allOf, or anyOf at the top level"
    return None


def schema_problem(schema: dict[str, Any], root: dict[str, Any], within: tuple[str, ...]) -> str | None:
    """What of a schema structured outputs do not take."""
    where = "output_config.format.schema"
    for word in schema:
        if word not in SCHEMA_KEYWORDS:
            return f"{where}: For '{schema.get('type')}' type, property '{word}' is not supported"
    if (ref := schema.get("$ref")) is not None:
        if ref == "#" or ref in within:
            return f"{where}: Recursive schemas are not supported"
        target = root["$defs"][ref.removeprefix("#/$defs/")]
        return schema_problem(target, root, (*within, ref))
    if not schema.keys() & {"type", "anyOf", "allOf", "enum", "const"}:
        return f"{where}: a schema needs a type"
    if isinstance(schema.get("type", ""), list):
        return f"{where}: lists of types are looked at by nobody here"
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        return f"{where}: For 'object' type, 'additionalProperties' must be explicitly set to false"
    if schema.get("minItems", 0) not in (0, 1):
        return f"{where}: For 'array' type, 'minItems' values other than 0 or 1 are not supported"
    if schema.get("format", "uuid") not in FORMATS:
        return f"{where}: format is not supported"
    if any(isinstance(value, dict | list) for value in schema.get("enum", [])):
        return f"{where}: enum values have to be primitives"
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", []), *schema.get("$defs", {}).values()]
    inner += [schema["items"]] if "items" in schema else []
    return next((found for one in inner if (found := schema_problem(one, root, within))), None)
