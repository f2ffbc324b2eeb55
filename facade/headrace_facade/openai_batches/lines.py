"""A batch's file, line by line: the file is judged as a whole, then each line becomes a task's spec or a refusal. Pure.

A line is translated by the code that translates a call's body; what only a call can say is refused for that line.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import from_json

from headrace_crds.inputs import Embed, ModelRef
from headrace_crds.task import DEADLINE_LIMIT_SECONDS, LLMTaskSpec, Message
from headrace_facade.calls.contract import CallRequest
from headrace_facade.openai_dialect import chat_request, completions, embeddings
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.wire import parse
from headrace_facade.submission import model_ref

LINES_MOST: Final = 1000
NUMBER_MOST: Final = 99_999
"""Of a line, empty ones counted: tasks are named by it."""
LINE_BYTES: Final = 1024 * 1024
CUSTOM_ID_BYTES: Final = 256
PROBLEMS_MOST: Final = 50
CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
EMBEDDINGS: Final = "/v1/embeddings"
ENDPOINTS: Final = (CHAT, COMPLETIONS, EMBEDDINGS)
_MEMBERS: Final = {"custom_id", "method", "url", "body"}
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,7})([smhd])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Problem:
    """Of a whole file, which makes no batch; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True)
class Line:
    number: int
    custom_id: str
    body: dict[str, Any]


def window_seconds(text: str) -> int:
    """`24h`, `30m`, `90s`, `7d`. Raises Refused."""
    match = _WINDOW.fullmatch(text)
    seconds = int(match[1]) * _SECONDS[match[2]] if match is not None else 0
    if not 1 <= seconds <= DEADLINE_LIMIT_SECONDS:
        raise Refused("completion_window", "is a whole number of s, m, h or d, a year at most: 24h, 30m, 7d")
    return seconds


def raw_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and text of each that is not empty; of all of them one is held at a time."""
    number, first = 0, 0
    while first < len(content):
        end = content.find(b"\n", first)
        end = len(content) if end < 0 else end
        number += 1
        line = content[first:end].strip()
        if line:
            yield number, line
        first = end + 1


def read_line(number: int, raw: bytes, endpoint: str) -> Line | Problem:
    """A line by its outside: the body is looked at later. What is wrong with it is wrong with the file."""
    if len(raw) > LINE_BYTES:
        return Problem("line_too_large", f"the line has more than {LINE_BYTES} bytes", number)
    try:
        document = from_json(raw, allow_inf_nan=False)
    except ValueError as error:
        return Problem("invalid_json_line", f"the line is no JSON in UTF-8: {error}", number)
    if not isinstance(document, dict):
        return Problem("invalid_json_line", "the line is no JSON object", number)
    for name in sorted(document.keys() - _MEMBERS):
        return Problem("unknown_parameter", "a line has custom_id, method, url and body alone", number, name[:64])
    custom_id = document.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id.encode(errors="replace")) <= CUSTOM_ID_BYTES:
        told = f"is needed: a text of 1 to {CUSTOM_ID_BYTES} bytes"
        return Problem("missing_required_parameter", told, number, "custom_id")
    if not custom_id.isprintable():
        return Problem("invalid_value", "needs printable characters", number, "custom_id")
    if document.get("method", "POST") != "POST":
        return Problem("invalid_method", "is POST", number, "method")
    if document.get("url") != endpoint:
        return Problem("invalid_url", f"is the batch's endpoint: {endpoint}", number, "url")
    body = document.get("body")
    if not isinstance(body, dict):
        return Problem("missing_required_parameter", "is needed: an object", number, "body")
    return Line(number, custom_id, body)


def judge(content: bytes, endpoint: str) -> Iterator[Line | Problem]:
    """All lines, and what is wrong with the file as a whole; ends after PROBLEMS_MOST."""
    seen: dict[str, int] = {}
    problems = 0
    for count, (number, raw) in enumerate(raw_lines(content), start=1):
        if count > LINES_MOST or number > NUMBER_MOST:
            yield Problem("too_many_lines", f"a batch has {LINES_MOST} lines at most: split the file", number)
            return
        line = read_line(number, raw, endpoint)
        if isinstance(line, Line) and (before := seen.setdefault(line.custom_id, number)) != number:
            line = Problem("duplicate_custom_id", f"is the one of line {before}", number, "custom_id")
        problems += isinstance(line, Problem)
        yield line
        if problems >= PROBLEMS_MOST:
            return
    if not seen and not problems:
        yield Problem("empty_file", "the file has no lines")


def spec_of(endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
    """Members of an LLMTask's spec. Raises Refused for what it cannot say."""
    request = _REQUESTS[endpoint](body)
    try:
        return _spec(request)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])[:64]
        raise Refused(place, problem["msg"].removeprefix("Value error, ")) from None


def _chat(body: dict[str, Any]) -> CallRequest:
    read = parse(body, chat_request.ChatBody, chat_request.REFUSED)
    if not read.parallel_tool_calls:
        raise Refused("parallel_tool_calls", "is not there in a batch: leave it out", "unsupported_parameter")
    return chat_request.call_request(read)


def _completion(body: dict[str, Any]) -> CallRequest:
    return completions.call_request(parse(body, completions.CompletionBody, completions.REFUSED))


def _embedding(body: dict[str, Any]) -> CallRequest:
    read = parse(body, embeddings.EmbeddingBody, embeddings.REFUSED)
    if read.encoding_format != "float":
        raise Refused("encoding_format", "is float in a batch: leave it out", "unsupported_parameter")
    return CallRequest(model=read.model, embed=read.input)


_REQUESTS: Final = {CHAT: _chat, COMPLETIONS: _completion, EMBEDDINGS: _embedding}


def _spec(request: CallRequest) -> dict[str, Any]:
    options = request.options
    for name, asked in (
        ("stream", options.stream),
        ("n", options.n != 1),
        ("logprobs", options.logprobs is not None),
        ("logit_bias", bool(options.logit_bias)),
    ):
        if asked:
            raise Refused(
                name, "is for calls: a batch's line becomes an LLMTask, which has none", "unsupported_parameter"
            )
    members: dict[str, Any] = {"model_ref": ModelRef.model_validate(model_ref(request.model))}
    if request.embed:
        members["embed"] = Embed(input=request.embed)
    else:
        members["messages"] = [Message.model_validate(each.dump()) for each in request.messages]
    if parameters := request.parameters.model_dump(exclude_none=True):
        members["parameters"] = parameters
    if request.output is not None:
        members["output"] = request.output
    if request.tools:
        members |= {"tools": request.tools, "tool_choice": request.tool_choice}
    spec = LLMTaskSpec.model_validate(members)
    return spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
