"""Provider OpenAI: chat completions and embeddings of api.openai.com, through OpenAI's own SDK.

The SDK is the transport and its typed errors; bodies and chunks are those of ``chat_wire`` and ``chat_stream``. It is
imported where a provider is made, so that runners of other models do without.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx2

from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult
from headrace_runner.providers.answer_errors import invalid, lost
from headrace_runner.providers.api_errors import OPENAI_RULES, error_of, read_complaint
from headrace_runner.providers.api_key import and_key, read_key
from headrace_runner.providers.chat_answer import ChatAnswer
from headrace_runner.providers.chat_stream import read_answer
from headrace_runner.providers.chat_wire import OPENAI, chat_body, request_texts
from headrace_runner.providers.embedding_wire import embedding_body, embedding_result
from headrace_runner.providers.extra_body import check_members
from headrace_runner.providers.protocol import Provider, ProviderError, Setting
from headrace_runner.providers.rate_headers import budget_of
from headrace_runner.providers.sse import StreamInvalid

if TYPE_CHECKING:
    from openai import AsyncOpenAI, AsyncStream

BASE_URL: Final = "https://api.openai.com/v1"
CHAT_MEMBERS: Final = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
EMBEDDING_MEMBERS: Final = frozenset({"dimensions", "user"})


def create(setting: Setting) -> Provider:
    """The factory that the registry calls."""
    from openai import AsyncOpenAI

    # Its earlier versions logged whole requests at level debug, prompts included, and OPENAI_LOG sets that level.
    logging.getLogger("openai").setLevel(logging.WARNING)

    async def key() -> str:
        return read_key(setting.credential, needed=True)

    client = AsyncOpenAI(
        api_key=key,
        # What is not given here the SDK takes from environment variables, and a model is what its spec says.
        admin_api_key="",
        base_url=setting.remote.base_url or BASE_URL,
        http_client=setting.http,
        timeout=setting.http.timeout,
        max_retries=0,
    )
    client.organization = client.project = None
    return OpenAI(setting, client)


class OpenAI:
    """See ``protocol.Provider``."""

    def __init__(self, setting: Setting, client: "AsyncOpenAI") -> None:
        self._setting = setting
        self._client = client
        self._model = setting.remote.model
        extra = setting.extra_body or {}
        self._chat_extra = {name: value for name, value in extra.items() if name in CHAT_MEMBERS}
        self._embedding_extra = {name: value for name, value in extra.items() if name in EMBEDDING_MEMBERS}

    async def start(self) -> None:
        check_members(self._setting.extra_body, CHAT_MEMBERS | EMBEDDING_MEMBERS, "OpenAI")

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        shape = OPENAI.shape(request)
        body = chat_body(request, self._model, OPENAI, self._chat_extra, shape)
        answer = ChatAnswer(request, shape.enforcement, on_delta)
        said = [*and_key(request_texts(request), self._setting.credential)]
        with self._faults(said):
            async with self._stream(body) as stream:
                self._tell_budget(stream.response)
                await read_answer(stream.response, answer, OPENAI_RULES, said)
        return answer.result()

    async def embed(self, request: Embed) -> GenerationResult:
        begun = time.monotonic()
        body = embedding_body(request, self._model, self._embedding_extra)
        with self._faults([*and_key(request.input, self._setting.credential)]):
            # Not embeddings.create, which turns base64 into lists of Python's numbers.
            response = await self._client.post("/embeddings", body=body, cast_to=httpx2.Response)
            self._tell_budget(response)
            parsed = await asyncio.to_thread(response.json)
        return await asyncio.to_thread(embedding_result, request, parsed, begun)

    async def check_health(self) -> None:
        import openai

        with self._faults(()):
            try:
                await self._client.models.retrieve(self._model)
            except openai.PermissionDeniedError as error:
                # A key whose rights are restricted may generate all the same; that it is known is what can be told.
                if "missing scopes" not in error.message.lower():
                    raise

    async def aclose(self) -> None:
        """The client's connections are those of ``setting.http``."""

    @asynccontextmanager
    async def _stream(self, body: dict[str, Any]) -> "AsyncIterator[AsyncStream[object]]":
        from openai import AsyncStream

        stream = await self._client.post(
            "/chat/completions", body=body, cast_to=object, stream=True, stream_cls=AsyncStream[object]
        )
        async with stream:
            yield stream

    def _tell_budget(self, response: httpx2.Response) -> None:
        if (budget := budget_of(response.headers)) is not None:
            self._setting.on_budget(budget)

    @contextmanager
    def _faults(self, said: Iterable[str]) -> Iterator[None]:
        """What the SDK raises becomes ProviderError, without a chain: bodies and answers hang at its errors."""
        import openai

        try:
            yield
        except ProviderError:
            raise
        except openai.APIStatusError as error:
            self._tell_budget(error.response)
            raise error_of(
                OPENAI_RULES,
                error.status_code,
                read_complaint(error.body),
                headers=error.response.headers,
                said=said,
            ) from None
        except (openai.APIError, httpx2.HTTPError, OSError) as error:
            raise lost(error) from None
        except StreamInvalid as error:
            raise invalid(str(error)) from None
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
            raise invalid("it is not JSON in UTF-8") from None
