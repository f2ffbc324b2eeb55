"""`POST /v1/responses`: the response object and its items."""

import time
from typing import Any

from headrace_crds.dialogue import ToolCall
from headrace_crds.result import Usage
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallResult, Choice
from headrace_facade.openai_dialect.objects import Json, call_suffix, first_alone, token_logprobs
from headrace_facade.openai_dialect.port import told_name
from headrace_facade.openai_dialect.responses_request import ResponseBody, echoed_tools


def response(call: Call, result: CallResult, body: ResponseBody, caller: Caller) -> Json:
    """The whole answer."""
    return finished(started(call, body, caller), items(call, result.choices[0], body), result, caller)


def started(call: Call, body: ResponseBody, caller: Caller) -> Json:
    """The response before anything has come of it."""
    return {
        "id": f"resp_{call_suffix(call.id)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": told_name(call.model, caller),
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": body.temperature,
        "text": {"format": _format(body)},
        "tool_choice": _choice(body),
        "tools": echoed_tools(body),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def finished(begun: Json, output: list[Json], result: CallResult, caller: Caller) -> Json:
    """Completed, or incomplete where its tokens ran out."""
    cut = result.choices[0].finish_reason == "Length"
    return {
        **begun,
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": told_name(result.model, caller),
        "output": output,
        "usage": usage(result.usage),
    }


def _format(body: ResponseBody) -> Json:
    form = body.text.format if body.text is not None else None
    return {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)


def _choice(body: ResponseBody) -> Any:
    choice = body.tool_choice
    if choice is None:
        return "auto"
    if choice.type != "function":
        return choice.type
    return {"type": "function", "name": choice.name or (choice.function.name if choice.function else None)}


def usage(used: Usage) -> Json:
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens or 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


def items(call: Call, choice: Choice, body: ResponseBody) -> list[Json]:
    """In the order thought, said, called; something is always said where nothing is called."""
    suffix = call_suffix(call.id)
    status = "incomplete" if choice.finish_reason == "Length" else "completed"
    calls = first_alone(choice.tool_calls, parallel=body.parallel_tool_calls)
    found: list[Json] = []
    if choice.reasoning:
        found.append(reasoning_item(f"rs_{suffix}_{len(found)}", choice.reasoning, "completed"))
    if choice.text or not calls:
        logprobs = token_logprobs(choice) if body.with_logprobs else []
        found.append(message_item(f"msg_{suffix}_{len(found)}", [output_text(choice.text, logprobs)], status))
    for each in calls:
        found.append(call_item(f"fc_{suffix}_{len(found)}", each, "completed"))
    return found


def reasoning_item(item_id: str, text: str | None, status: str) -> Json:
    content = [] if text is None else [reasoning_text(text)]
    return {"id": item_id, "type": "reasoning", "summary": [], "content": content, "status": status}


def message_item(item_id: str, content: list[Json], status: str) -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def call_item(item_id: str, call: ToolCall, status: str) -> Json:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }


def output_text(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def reasoning_text(text: str) -> Json:
    return {"type": "reasoning_text", "text": text}
