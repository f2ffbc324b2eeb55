"""Provider OpenAICompatible: servers that speak OpenAI's language, more or less: vLLM, llama-server, SGLang, Ollama, ….

No SDK: what these servers do otherwise is read here, and asked for once more where it is a member that they refuse.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import httpx2

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult
from headrace_runner.providers.answer_errors import invalid, lost
from headrace_runner.providers.api_errors import COMPATIBLE_RULES, Complaint, error_of, read_complaint
from headrace_runner.providers.api_key import and_key, read_key
from headrace_runner.providers.chat_answer import ChatAnswer
from headrace_runner.providers.chat_stream import read_answer
from headrace_runner.providers.chat_wire import COMPATIBLE, chat_body, request_texts
from headrace_runner.providers.embedding_wire import embedding_body, embedding_result
from headrace_runner.providers.extra_body import check_members
from headrace_runner.providers.protocol import Provider, ProviderError, Setting
from headrace_runner.providers.rate_headers import budget_of
from headrace_runner.providers.sse import StreamInvalid

CHAT_MEMBERS: Final = frozenset(
    {
        # OpenAI's own
        "metadata",
        "parallel_tool_calls",
        "reasoning_effort",
        "service_tier",
        "user",
        # samplers: the model's default, which a task's parameter goes before
        "min_p",
        "repeat_penalty",
        "repetition_penalty",
        "top_k",
        # vLLM, SGLang
        "chat_template_kwargs",
        "ignore_eos",
        "include_reasoning",
        "min_tokens",
        "priority",
        "separate_reasoning",
        "skip_special_tokens",
        "structured_outputs",
        "guided_choice",
        "guided_decoding_backend",
        "guided_grammar",
        "guided_json",
        "guided_regex",
        # llama-server
        "cache_prompt",
        "reasoning_format",
        "thinking_forced_open",
        # Ollama, LM Studio
        "keep_alive",
        "think",
        "ttl",
        # OpenRouter
        "models",
        "provider",
        "reasoning",
        "route",
        "transforms",
    }
)
EMBEDDING_MEMBERS: Final = frozenset({"dimensions", "input_type", "keep_alive", "truncate_prompt_tokens", "user"})
_ERROR_BYTES: Final = 64 * 1024
_OPTIONAL: Final = ("stream_options", "encoding_format", "response_format")
"""What a request can do without: usage is counted, vectors come as lists, and the schema is in a message as well."""
_NO_ROUTE: Final = (404, 405)


def create(setting: Setting) -> Provider:
    """The factory that the registry calls."""
    return OpenAICompatible(setting)


class _Refused(Exception):
    """A status that is no success."""

    def __init__(self, status: int, complaint: Complaint, headers: httpx2.Headers) -> None:
        super().__init__(status)
        self.status = status
        self.complaint = complaint
        self.headers = headers


class OpenAICompatible:
    """See ``protocol.Provider``."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._model = setting.remote.model
        extra = setting.extra_body or {}
        self._chat_extra = {name: value for name, value in extra.items() if name in CHAT_MEMBERS}
        self._embedding_extra = {name: value for name, value in extra.items() if name in EMBEDDING_MEMBERS}
        self._unknown: set[str] = set()
        """Members that this server refused once, whatever was in them."""

    async def start(self) -> None:
        if not self._setting.remote.base_url:
            raise ValueError("spec.remote.baseURL is needed: where the API is, such as https://llm.example.com/v1")
        check_members(self._setting.extra_body, CHAT_MEMBERS | EMBEDDING_MEMBERS, "OpenAICompatible")

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        shape = COMPATIBLE.shape(request)
        body = chat_body(request, self._model, COMPATIBLE, self._chat_extra, shape)
        if request.whole:
            # As its client would ask it: an event for every token costs both sides more than the text.
            del body["stream"], body["stream_options"]
        answer = ChatAnswer(request, shape.enforcement, on_delta)
        said = [*and_key(request_texts(request), self._setting.credential)]
        with self._faults(said):
            async with self._post("/chat/completions", body) as response:
                ended = await read_answer(response, answer, COMPATIBLE_RULES, said)
        return answer.result(ended=ended)

    async def embed(self, request: Embed) -> GenerationResult:
        begun = time.monotonic()
        body = embedding_body(request, self._model, self._embedding_extra)
        with self._faults([*and_key(request.input, self._setting.credential)]):
            async with self._post("/embeddings", body) as response:
                parsed = await asyncio.to_thread(json.loads, await response.aread())
        return await asyncio.to_thread(embedding_result, request, parsed, begun)

    async def check_health(self) -> None:
        with self._faults(()):
            try:
                async with self._send("GET", "/models", None):
                    pass
            except _Refused as refused:
                # A server without this route is well all the same.
                if refused.status not in _NO_ROUTE:
                    raise

    async def aclose(self) -> None:
        """The connections are those of ``setting.http``."""

    @asynccontextmanager
    async def _post(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx2.Response]:
        """The response; asked for again without a member that the server refuses and that is not needed."""
        for name in self._unknown:
            body.pop(name, None)
        while True:
            try:
                async with self._send("POST", path, body) as response:
                    yield response
                return
            except _Refused as refused:
                dispensable = _dispensable(refused, body)
                if dispensable is None:
                    raise
                del body[dispensable]
                if dispensable != "response_format":
                    self._unknown.add(dispensable)

    @asynccontextmanager
    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> AsyncIterator[httpx2.Response]:
        headers = {"Accept": "text/event-stream, application/json"}
        if key := read_key(self._setting.credential, needed=False):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{(self._setting.remote.base_url or '').rstrip('/')}{path}"
        async with self._setting.http.stream(method, url, json=body, headers=headers) as response:
            if (budget := budget_of(response.headers)) is not None:
                self._setting.on_budget(budget)
            if not response.is_success:
                raise _Refused(response.status_code, read_complaint(await _error_body(response)), response.headers)
            yield response

    @contextmanager
    def _faults(self, said: Iterable[str]) -> Iterator[None]:
        """What comes from below becomes ProviderError, without a chain: answers hang at the errors."""
        try:
            yield
        except ProviderError:
            raise
        except _Refused as refused:
            raise error_of(
                COMPATIBLE_RULES, refused.status, refused.complaint, headers=refused.headers, said=said
            ) from None
        except StreamInvalid as error:
            raise invalid(str(error)) from None
        except (httpx2.HTTPError, OSError) as error:
            raise lost(error) from None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            raise invalid("it is not JSON in UTF-8") from None


def _dispensable(refused: _Refused, body: dict[str, Any]) -> str | None:
    if refused.status not in (400, 422):
        return None
    return next((name for name in _OPTIONAL if name in body and refused.complaint.names(name)), None)


async def _error_body(response: httpx2.Response) -> object:
    """What is wrong, as JSON; None where it is none, or too much of it."""
    read = bytearray()
    async for piece in response.aiter_bytes():
        read += piece
        if len(read) > _ERROR_BYTES:
            return None
    try:
        return json.loads(read)
    except (ValueError, RecursionError):
        return None
