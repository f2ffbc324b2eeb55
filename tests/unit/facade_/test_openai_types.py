"""Every answer is what OpenAI's own types say it is: its client builds them without looking, this looks."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from headrace_facade.calls.contract import CallResult, Choice, Delta
from headrace_facade.errors import Unavailable
from headrace_facade.openai_dialect import chat_answer, chat_request, completions, embeddings, responses_request
from headrace_facade.openai_dialect.answers import Narrator
from headrace_facade.openai_dialect.responses_answer import response
from headrace_facade.openai_dialect.responses_events import ResponseEvents
from headrace_facade.openai_dialect.sampling import StreamOptions
from tests.fake_calls.service import CALLER, TIME, WEATHER, FakeCall, result

CALL = FakeCall([])
TOKEN = {"text": "x", "logprob": -0.5, "top": [["x", -0.5], ["y", -1.0]]}
RESULTS = {
    "said": result(Choice("x", "Stop", logprobs=[TOKEN])),
    "cut": result(Choice("x", "Length")),
    "thought": result(Choice("x", "Stop", reasoning="Hmm")),
    "called": result(Choice("", "ToolCalls", [WEATHER, TIME])),
    "empty": result(Choice("", "Stop")),
}
DELTAS = [Delta(reasoning="H"), Delta(text="x")]
CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "logprobs": True}
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def checked(model: type[BaseModel], document: dict[str, Any]) -> None:
    """Strictly, and what the client would write of it has all that was sent."""
    read = model.model_validate_json(json.dumps(document), strict=True)
    assert read.model_dump(mode="json", exclude_unset=True, by_alias=True) == document


def chunks(narrator: Narrator, deltas: Sequence[Delta], end: CallResult) -> list[dict[str, Any]]:
    written = [*narrator.opening()]
    for delta in deltas:
        written += narrator.delta(delta)
    written += narrator.ended(end)
    told = [text.split("data: ", 1)[1] for text in written]
    return [json.loads(text) for text in told if text != "[DONE]\n\n"]


@pytest.mark.parametrize("name", RESULTS)
def test_chat_completions(name: str) -> None:
    end = RESULTS[name]
    body = chat_request.ChatBody.model_validate(CHAT)
    checked(ChatCompletion, chat_answer.completion(CALL, end, body, CALLER))
    streamed = body.model_copy(update={"stream": True, "stream_options": StreamOptions(include_usage=True)})
    for deltas in ([], DELTAS):
        for chunk in chunks(chat_answer.ChatChunks(CALL, streamed, CALLER), deltas, end):
            checked(ChatCompletionChunk, chunk)


@pytest.mark.parametrize("name", sorted(RESULTS.keys() - {"called"}))
def test_completions(name: str) -> None:
    body = completions.CompletionBody.model_validate({"model": "m", "prompt": "Hi", "logprobs": 1})
    checked(Completion, completions.completion(CALL, RESULTS[name], body, CALLER))


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("form", ["text", "json_schema"])
def test_responses(name: str, form: str) -> None:
    given: dict[str, Any] = {
        "model": "m",
        "input": "Hi",
        "tools": [FUNCTION],
        "include": ["message.output_text.logprobs"],
    }
    given["text"] = {"format": {"type": "text"}}
    if form == "json_schema":
        given["text"] = {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}}
        given["tool_choice"] = {"type": "function", "name": "weather"}
    body = responses_request.ResponseBody.model_validate(given)
    checked(Response, response(CALL, RESULTS[name], body, CALLER))
    for deltas in ([], DELTAS):
        for event in chunks(ResponseEvents(CALL, body, CALLER), deltas, RESULTS[name]):
            read = EVENT.validate_json(json.dumps(event), strict=True)
            assert read.model_dump(mode="json", exclude_unset=True, by_alias=True) == event


def test_a_failed_response() -> None:
    body = responses_request.ResponseBody.model_validate({"model": "m", "input": "Hi"})
    (failed,) = ResponseEvents(CALL, body, CALLER).failed(Unavailable("gone"))
    assert EVENT.validate_json(failed.split("data: ", 1)[1], strict=True).type == "response.failed"


def test_embeddings() -> None:
    body = embeddings.EmbeddingBody.model_validate({"model": "m", "input": "Hi"})
    checked(CreateEmbeddingResponse, embeddings.embeddings(result(embeddings=[[0.5, 1.0]]), body, CALLER))
