"""Provider ``HTTP``: any plain HTTP API, by the template and the pointers of ``spec.remote.http``.

It knows no API: what to send is ``http_request``'s, what an answer says ``http_answer``'s, what a refusal means
``http_faults``'. Here one call goes out, in one of three styles, and comes back as one result.
"""

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

from headrace_crds.reasons import Reason
from headrace_crds.remote import HttpApi, HttpStyle
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Delta, Enforcement, FinishReason, Generate, GenerationResult, Timings, Usage
from headrace_runner.providers import event_stream
from headrace_runner.providers.http_answer import (
    AnswerPointers,
    chunks,
    document_of,
    fault_of_status,
    media_type,
    parsed,
)
from headrace_runner.providers.http_faults import answer_invalid, of_status
from headrace_runner.providers.http_poll import Poll
from headrace_runner.providers.http_request import Call, RequestTemplate
from headrace_runner.providers.protocol import Fault, Provider, ProviderError, Setting
from headrace_runner.providers.transport_errors import fault_of

_NOT_IMPLEMENTED: Final = 501


def create(setting: Setting) -> Provider:
    """The factory of provider ``HTTP``. Nothing is read of the spec before ``start``."""
    return HttpProvider(setting)


@dataclass(slots=True)
class _Answer:
    """What is known of an answer so far; None where nothing was said yet."""

    asked_at: float
    text: list[str] = field(default_factory=list)
    first_text_at: float | None = None
    finish: FinishReason | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    def add(self, text: str) -> None:
        """The text goes on."""
        if self.first_text_at is None:
            self.first_text_at = time.monotonic()
        self.text.append(text)

    def usage(self) -> Usage:
        """What the provider told; 0 where it told nothing."""
        return Usage(self.prompt_tokens or 0, 0, self.completion_tokens or 0)

    def result(self, request_id: str, enforcement: Enforcement | None) -> GenerationResult:
        """The whole answer."""
        ended = time.monotonic()
        first = ended if self.first_text_at is None else self.first_text_at
        timings = Timings(0, round((first - self.asked_at) * 1000), round((ended - first) * 1000))
        return GenerationResult(
            request_id, "".join(self.text), self.finish or "Stop", self.usage(), timings, enforcement=enforcement
        )


@dataclass(frozen=True, slots=True)
class _Api:
    """The spec as ``start`` read it."""

    spec: HttpApi
    template: RequestTemplate
    pointers: AnswerPointers
    poll: Poll | None


class HttpProvider:
    """One API. ``start`` comes first; after it any number of calls at once."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._read: _Api | None = None

    async def start(self) -> None:
        """Read the spec. Raises ValueError that names the field and the remedy."""
        spec, http = self._setting.remote.http, self._setting.http
        if spec is None:
            raise ValueError("spec.remote.http is needed with provider HTTP")
        template, pointers = RequestTemplate(self._setting, spec), AnswerPointers.read(spec.response)
        if (spec.style is HttpStyle.POLL) != (spec.poll is not None):
            raise ValueError("spec.remote.http.poll goes with style Poll, and only with it")
        poll = None if spec.poll is None else Poll(spec.poll, http, template, pointers)
        self._read = _Api(spec, template, pointers, poll)

    async def generate(self, request: Generate, on_delta: Callable[[Delta], None]) -> GenerationResult:
        """One call. With styles Sync and Poll there is one delta, the whole text. Raises ProviderError."""
        api = self._api
        call = api.template.call(request)
        answer = _Answer(time.monotonic())

        def grown(text: str) -> None:
            answer.add(text)
            if text:
                on_delta(Delta(request.id, text, answer.completion_tokens or 0))

        try:
            if api.spec.style is HttpStyle.STREAM:
                await self._stream(api, call, answer, grown)
            else:
                await self._whole(api, call, answer, grown)
        except ProviderError as error:
            if error.usage is None and (answer.prompt_tokens or answer.completion_tokens):
                error.usage = answer.usage()
            raise
        except httpx2.RequestError as error:
            raise (fault_of(error) or error) from error
        return answer.result(request.id, _enforcement(request, api.template))

    async def embed(self, request: Embed) -> GenerationResult:
        """Refused: a template has a place for one input, not for a list of them. Raises ProviderError."""
        raise ProviderError(
            Fault.TERMINAL,
            Reason.MODEL_NOT_CAPABLE,
            "provider HTTP makes no embeddings: use provider OpenAICompatible, or a local model",
        )

    async def check_health(self) -> None:
        """A HEAD of baseURL, without the key: whatever is answered but a failure means that somebody is there.

        Raises ProviderError.
        """
        try:
            url = httpx2.URL(self._api.template.base_url)
            async with self._setting.http.stream("HEAD", url, follow_redirects=False) as response:
                # 501 is the answer of a server that has no HEAD.
                if response.status_code >= 500 and response.status_code != _NOT_IMPLEMENTED:
                    raise of_status(response.status_code, response.headers.get("retry-after"))
        except httpx2.RequestError as error:
            raise (fault_of(error) or error) from error

    async def aclose(self) -> None:
        """Nothing is kept between calls."""

    @property
    def _api(self) -> _Api:
        if self._read is None:
            raise RuntimeError("start() comes before any call")
        return self._read

    def _send(self, call: Call) -> Any:
        return self._setting.http.stream(
            call.method, call.url, headers=call.headers, content=call.content, follow_redirects=False
        )

    async def _whole(self, api: _Api, call: Call, answer: _Answer, grown: Callable[[str], None]) -> None:
        async with self._send(call) as response:
            if not response.is_success:
                raise await fault_of_status(response, api.pointers, call.repeatable)
            document = await document_of(response)
        api.pointers.refuse_error(document, call.repeatable)
        if api.poll is not None:
            document = await api.poll.result(call, document)
        _take(answer, api.pointers, document)
        text = api.pointers.text_of(document)
        if text is None:
            raise answer_invalid(
                f"http.response.text ({api.pointers.text.text}) finds nothing in the answer: correct it"
            )
        grown(text)

    async def _stream(self, api: _Api, call: Call, answer: _Answer, grown: Callable[[str], None]) -> None:
        done = False
        async with self._send(call) as response:
            if not response.is_success:
                raise await fault_of_status(response, api.pointers, call.repeatable)
            try:
                async for data in _events(response):
                    if data == event_stream.DONE:
                        done = True
                        break
                    document = parsed(data)
                    api.pointers.refuse_error(document, call.repeatable)
                    _take(answer, api.pointers, document)
                    if (text := api.pointers.text_of(document)) is not None:
                        grown(text)
            except ValueError:
                raise answer_invalid("the stream is not UTF-8, or an event of it has no end") from None
        if api.pointers.finish_reason is not None and answer.finish is None and not done:
            raise answer_invalid("the stream ended before its end: no event had http.response.finishReason")
        if not answer.text:
            raise answer_invalid(
                f"http.response.text ({api.pointers.text.text}) finds nothing in any event of the stream: correct it"
            )


def _take(answer: _Answer, pointers: AnswerPointers, document: Any) -> None:
    """What a document says besides the text; the last that says something counts."""
    finish = pointers.finish_of(document)
    prompt, completion = pointers.prompt_tokens_of(document), pointers.completion_tokens_of(document)
    answer.finish = finish or answer.finish
    answer.prompt_tokens = answer.prompt_tokens if prompt is None else prompt
    answer.completion_tokens = answer.completion_tokens if completion is None else completion


def _events(response: httpx2.Response) -> AsyncIterator[str]:
    kind = media_type(response)
    if kind == event_stream.SERVER_SENT_EVENTS:
        return event_stream.server_sent_data(chunks(response))
    if kind in event_stream.JSON_LINES:
        return event_stream.json_lines(chunks(response))
    raise answer_invalid(
        "the answer is no stream of text/event-stream or application/x-ndjson: ask for one in http.body, such as "
        '{"stream": true}, or set http.style to Sync'
    )


def _enforcement(request: Generate, template: RequestTemplate) -> Enforcement | None:
    if request.json_schema is not None:
        # Whether an API that is given the schema keeps to it, its author says by giving it a place.
        return "Provider" if template.has_schema else "ValidatedOnly"
    return "ValidatedOnly" if request.regex is not None or request.choice else None
