"""`/v1/completions`: a prompt is a user message, put through the model's chat template as everywhere."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field

from headrace_crds.dialogue import Role
from headrace_crds.work import CallOptions
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallResult, Choice, Delta
from headrace_facade.errors import FacadeError
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import EventStream, WholeAnswer
from headrace_facade.openai_dialect.dialogue import message
from headrace_facade.openai_dialect.errors import Refused, members
from headrace_facade.openai_dialect.objects import (
    DONE,
    Json,
    Named,
    call_suffix,
    event,
    finish_reason,
    token_logprobs,
    usage,
)
from headrace_facade.openai_dialect.port import InServices, told_name
from headrace_facade.openai_dialect.sampling import (
    PASSED_OVER,
    Labels,
    MaxTokens,
    Penalties,
    StreamOptions,
    parameters,
)
from headrace_facade.openai_dialect.told import Told
from headrace_facade.openai_dialect.wire import Refusals, read, unsupported, wrong

REFUSED: Final[Refusals] = {
    **PASSED_OVER,
    "best_of": ("completions are not ranked: ask for n", (1,)),
    "echo": ("the prompt is not given back", (False,)),
    "suffix": ("text is not inserted: say in the prompt what follows", ("",)),
}
router = APIRouter(prefix="/v1", include_in_schema=False)


def _one(value: object) -> object:
    if isinstance(value, list):
        if any(not isinstance(each, str) for each in value[:1]):
            raise unsupported("tokens are not taken: send the text")
        if len(value) != 1:
            raise wrong("needs one text: send a request for each prompt")
        return value[0]
    return value


class CompletionBody(Penalties, Labels):
    model: Annotated[str, Field(min_length=1, max_length=128)]
    prompt: Annotated[str, BeforeValidator(_one)]
    max_tokens: MaxTokens | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


def call_request(body: CompletionBody) -> CallRequest:
    """Raises Refused."""
    if body.stream_options is not None and not body.stream:
        raise Refused("stream_options", "is for streams: set stream to true or leave it out")
    return CallRequest(
        model=body.model,
        messages=[message(Role.USER, body.prompt)],
        parameters=parameters(body, body.max_tokens),
        options=CallOptions(stream=body.stream, n=body.n, logprobs=body.logprobs, logit_bias=body.logit_bias or []),
    )


@router.post("/completions")
async def create_completion(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, CompletionBody, REFUSED)
    asked = call_request(body)
    if body.stream:
        return EventStream(services.calls, caller, asked, lambda call: CompletionChunks(call, body, caller))
    return WholeAnswer(services.calls, caller, asked, lambda call, result: completion(call, result, body, caller))


def completion(call: Named, result: CallResult, body: CompletionBody, caller: Caller) -> Json:
    """The whole answer."""
    choices = [_choice(index, c.text, finish_reason(c), _logprobs(c, body)) for index, c in enumerate(result.choices)]
    return {**_head(call, told_name(result.model, caller)), "choices": choices, "usage": usage(result.usage)}


def _head(call: Named, model: str) -> Json:
    suffix = call_suffix(call.id)
    return {"id": f"cmpl-{suffix}", "object": "text_completion", "created": int(time.time()), "model": model}


def _choice(index: int, text: str, finish: str | None, logprobs: Json | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(choice: Choice, body: CompletionBody) -> Json | None:
    if body.logprobs is None:
        return None
    tokens = token_logprobs(choice)
    offsets, at = [], 0
    for each in tokens:
        offsets.append(at)
        at += len(each["token"])
    return {
        "tokens": [each["token"] for each in tokens],
        "token_logprobs": [each["logprob"] for each in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in each["top_logprobs"]} for each in tokens],
        "text_offset": offsets,
    }


class CompletionChunks:
    """Tells a call in chunks. What the model thinks is not shown."""

    def __init__(self, call: Call, body: CompletionBody, caller: Caller) -> None:
        self._body = body
        self._caller = caller
        self._told: defaultdict[int, Told] = defaultdict(Told)
        self._head = _head(call, told_name(call.model, caller))

    def opening(self) -> Iterable[str]:
        return ()

    def delta(self, delta: Delta) -> Iterator[str]:
        self._told[delta.index].add(delta)
        if delta.text:
            yield self._chunk(_choice(delta.index, delta.text, None, None))

    def ended(self, result: CallResult) -> Iterator[str]:
        self._head["model"] = told_name(result.model, self._caller)
        for index, choice in enumerate(result.choices):
            for delta in self._told[index].rest(choice, index):
                yield from self.delta(delta)
            yield self._chunk(_choice(index, "", finish_reason(choice), _logprobs(choice, self._body)))
        if self._body.include_usage:
            yield event({**self._head, "choices": [], "usage": usage(result.usage)})
        yield DONE

    def failed(self, error: FacadeError) -> Iterator[str]:
        yield event({"error": members(error)})

    def _chunk(self, choice: Json) -> str:
        return event({**self._head, "choices": [choice], **({"usage": None} if self._body.include_usage else {})})
