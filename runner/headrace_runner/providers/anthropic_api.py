"""Provider ``Anthropic``: the Messages API, always streamed, through Anthropic's own SDK.

The SDK gets the runner's client, tries once, and reads no key, address or header from the environment. It is imported
when a provider is made: a runner of another model does without it. Not here: what is sent (``anthropic_request``), what
comes back (``anthropic_answer``), what an error means (``anthropic_errors``).
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Generate, GenerationResult
from headrace_runner.providers.anthropic_answer import Answer, no_answer
from headrace_runner.providers.anthropic_errors import budget_of, fault
from headrace_runner.providers.anthropic_request import asked
from headrace_runner.providers.protocol import Fault, Provider, ProviderError, Setting, counted
from headrace_runner.providers.transport_errors import fault_of

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic, AsyncStream
    from anthropic.types import RawMessageStreamEvent

BASE_URL: Final = "https://api.anthropic.com"
DRAIN_SECONDS: Final = 1.0
EXTRA_MEMBERS: Final = ("inference_geo", "metadata", "output_config", "service_tier", "thinking")
_COUNTED: Final = ("output_config", "system", "thinking", "tool_choice", "tools")
_THINKING: Final = ("adaptive", "between_tools", "disabled", "enabled")
_OF_OBJECT: Final = {"metadata": ("user_id",), "output_config": ("effort",)}


def create(setting: Setting) -> Provider:
    """The factory of the entry point ``Anthropic``. Raises ImportError where the SDK is not installed."""
    import anthropic

    # At DEBUG the SDK logs the options of every request, which hold the prompt.
    logging.getLogger(anthropic.__name__).setLevel(logging.INFO)
    return AnthropicProvider(setting)


class AnthropicProvider:
    """See ``protocol.Provider``."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._model = setting.remote.model
        # The SDK appends /v1/messages; spec.remote.baseURL ends in /v1, as everywhere.
        self._base_url = (setting.remote.base_url or BASE_URL).rstrip("/").removesuffix("/v1")
        self._extra = setting.extra_body or {}

    async def start(self) -> None:
        """Raises ValueError for members of ``extraBody`` that are not allowed, or have no meaning."""
        check_extra(self._extra)

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        """One message. Raises ProviderError; cancelling it closes the connection."""
        call = asked(request, self._model, self._extra)
        answer = Answer(request, call)
        with self._faults(request):
            # Some members are none of the SDK's parameters, while the API has them.
            stream = await self._client().messages.create(
                model=self._model,
                max_tokens=call.body["max_tokens"],
                messages=call.body["messages"],
                stream=True,
                extra_body=call.body,
                extra_headers=call.headers,
            )
            async with stream:
                self._tell_budget(stream.response.headers)
                while not answer.ended and (event := await anext(stream, None)) is not None:
                    if (delta := answer.read(event)) is not None:
                        on_delta(delta)
                await _drained(stream)
        return answer.result()

    async def count(self, request: Generate) -> GenerationResult:
        """As the API counts. Raises ProviderError."""
        call = asked(request, self._model, self._extra)
        body = {name: call.body[name] for name in _COUNTED if name in call.body}
        with self._faults(request):
            told = await self._client().messages.count_tokens(
                model=self._model, messages=call.body["messages"], extra_body=body
            )
            # The SDK takes what comes as it is.
            if type(told.input_tokens) is not int or told.input_tokens < 0:
                raise no_answer()
        return counted(request, told.input_tokens)

    async def embed(self, request: Embed) -> GenerationResult:
        """Raises ProviderError always: the API has no embeddings."""
        message = "Anthropic's API has no embeddings: use a model of another provider"
        raise ProviderError(Fault.TERMINAL, Reason.MODEL_NOT_CAPABLE, message)

    async def check_health(self) -> None:
        """Whether the key is taken and the model known, by the model's entry. Raises ProviderError."""
        with self._faults(None):
            await self._client().models.retrieve(self._model)

    async def aclose(self) -> None:
        """Nothing is kept from call to call."""

    def _client(self) -> "AsyncAnthropic":
        """One for each call, since the key may be another by now; the connections are those of ``setting.http``."""
        from anthropic import AsyncAnthropic

        key = self._setting.credential()
        if not key:
            message = "spec.remote.credentials: there is no key, and Anthropic wants one"
            raise ProviderError(Fault.UNAVAILABLE, Reason.CREDENTIALS_NOT_FOUND, message)
        return AsyncAnthropic(
            api_key=key,
            base_url=self._base_url,
            http_client=self._setting.http,
            timeout=self._setting.http.timeout,
            max_retries=0,
            open_telemetry=False,
        )

    @contextmanager
    def _faults(self, request: Generate | None) -> Iterator[None]:
        """What the SDK raises, as what it means."""
        from anthropic import AnthropicError, APIStatusError

        try:
            yield
        except ProviderError:
            raise
        except APIStatusError as error:
            self._tell_budget(error.response.headers)
            # Without a cause: the SDK's error has the request in it.
            raise fault(error.response.status_code, _body(error.body), error.response.headers, _said(request)) from None
        except Exception as error:
            if (known := fault_of(error)) is not None:
                raise known from None
            if isinstance(error, AnthropicError | json.JSONDecodeError | UnicodeDecodeError | RecursionError):
                raise no_answer() from None
            raise

    def _tell_budget(self, headers: Any) -> None:
        if (budget := budget_of(headers)) is not None:
            self._setting.on_budget(budget)


def check_extra(extra: dict[str, Any]) -> None:
    """Raises ValueError with the first member of ``spec.remote.extraBody`` that is not allowed, and with those that
    are.
    """
    listed = "metadata.user_id, output_config.effort, inference_geo, service_tier, thinking"
    for name, value in extra.items():
        if name not in EXTRA_MEMBERS:
            raise ValueError(
                f"spec.remote.extraBody: Anthropic takes no member {name[:64]!r} from there: remove it; "
                f"allowed are {listed}"
            )
        if name in _OF_OBJECT:
            if not isinstance(value, dict):
                raise ValueError(f"spec.remote.extraBody: {name} has to be an object")
            for inner in value:
                if inner not in _OF_OBJECT[name]:
                    raise ValueError(
                        f"spec.remote.extraBody: Anthropic takes no member {name}.{inner[:64]} from there: remove it; "
                        f"allowed are {listed}"
                    )
    thinking = extra.get("thinking", {"type": "disabled"})
    if not isinstance(thinking, dict) or thinking.get("type") not in _THINKING:
        raise ValueError(f"spec.remote.extraBody: thinking.type has to be one of {', '.join(_THINKING)}")


async def _drained(stream: "AsyncStream[RawMessageStreamEvent]") -> None:
    """Read the response to its end, so that its connection serves another call; the answer does not depend on it."""
    with suppress(Exception):
        async with asyncio.timeout(DRAIN_SECONDS):
            while await anext(stream, None) is not None:
                pass


def _body(body: object) -> object:
    """As parsed; the SDK leaves that of a status as text where it is no JSON."""
    if isinstance(body, str):
        try:
            return json.loads(body)
        except ValueError:
            return None
    return body


def _said(request: Generate | None) -> list[str]:
    if request is None:
        return []
    texts = [message.content for message in request.messages] + [request.prompt or ""]
    texts += [call.arguments for message in request.messages for call in message.tool_calls]
    return [text for text in texts if text]
