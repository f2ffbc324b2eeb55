"""Reads what a plain HTTP API answers, by the pointers of ``spec.remote.http.response``."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from headrace_crds.remote import HttpResponse
from headrace_runner.engine.protocol import FinishReason
from headrace_runner.engine.untrusted import count
from headrace_runner.providers.http_faults import answer_invalid, failed, of_status, words_of
from headrace_runner.providers.json_pointer import Pointer, read_pointer
from headrace_runner.providers.protocol import ProviderError

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_ERROR_BYTES: Final = 64 * 1024
_FIELD: Final = "spec.remote.http.response"


@dataclass(frozen=True, slots=True)
class AnswerPointers:
    """Where the parts of an answer are; all but the text may be absent."""

    text: Pointer
    finish_reason: Pointer | None
    length_values: frozenset[str]
    prompt_tokens: Pointer | None
    completion_tokens: Pointer | None
    error: Pointer | None

    @classmethod
    def read(cls, spec: HttpResponse) -> "AnswerPointers":
        """Read the spec. Raises ValueError that names the field."""

        def optional(text: str | None, name: str) -> Pointer | None:
            if text == "":
                raise ValueError(f"{_FIELD}.{name}: must point into the response, such as /{name}, or be left out")
            return None if text is None else read_pointer(text, f"{_FIELD}.{name}")

        return cls(
            read_pointer(spec.text, f"{_FIELD}.text"),
            optional(spec.finish_reason, "finishReason"),
            frozenset(spec.length_values),
            optional(spec.prompt_tokens, "promptTokens"),
            optional(spec.completion_tokens, "completionTokens"),
            optional(spec.error, "error"),
        )

    def text_of(self, document: Any) -> str | None:
        """The text, None where there is nothing. Raises ProviderError for anything else."""
        found = self.text.find(document)
        if found is None:
            return None
        if not isinstance(found, str):
            raise answer_invalid(
                f"http.response.text ({self.text.text}) points to {_kind(found)} and not to a string: correct it"
            )
        return found.encode("utf-8", "replace").decode()

    def finish_of(self, document: Any) -> FinishReason | None:
        """Why it ended; None where the document does not say."""
        if self.finish_reason is None or (found := self.finish_reason.find(document)) is None:
            return None
        return "Length" if as_word(found) in self.length_values else "Stop"

    def prompt_tokens_of(self, document: Any) -> int | None:
        """Tokens of the input, None where the document does not say. Raises ProviderError."""
        return _count(self.prompt_tokens, document, "promptTokens")

    def completion_tokens_of(self, document: Any) -> int | None:
        """Tokens of the result, None where the document does not say. Raises ProviderError."""
        return _count(self.completion_tokens, document, "completionTokens")

    def refuse_error(self, document: Any, repeatable: Callable[[str], str]) -> None:
        """Raises ProviderError for a success that tells of a failure."""
        if self.error is not None and (found := self.error.find(document)) is not None:
            raise failed("the provider reports a failure", words_of(found, repeatable))


def as_word(value: Any) -> str | None:
    """A string, number or boolean as text, as specs compare it; None for anything else."""
    if isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | int | float) else None


def media_type(response: httpx2.Response) -> str:
    """The content type without parameters, in lower case; empty where there is none."""
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


async def chunks(response: httpx2.Response, limit_bytes: int = MAX_ANSWER_BYTES) -> AsyncIterator[bytes]:
    """The body as it comes. Raises ProviderError when it is longer than that."""
    read = 0
    async for chunk in response.aiter_bytes():
        read += len(chunk)
        if read > limit_bytes:
            raise answer_invalid(f"the answer is longer than {limit_bytes} bytes")
        yield chunk


async def document_of(response: httpx2.Response) -> Any:
    """The whole body as JSON. Raises ProviderError for anything else, without quoting it."""
    kind = media_type(response)
    if kind not in ("application/json", "text/json") and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise answer_invalid(f"the answer is {_shown(kind)} and not JSON: check baseURL, http.path and http.style")
    return parsed(b"".join([chunk async for chunk in chunks(response)]))


def parsed(text: str | bytes) -> Any:
    """JSON in UTF-8. Raises ProviderError."""
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):
        raise answer_invalid("the answer is no JSON in UTF-8") from None


async def fault_of_status(
    response: httpx2.Response, pointers: AnswerPointers, repeatable: Callable[[str], str]
) -> ProviderError:
    """The fault of an answer that is no success, with the provider's words where the error pointer finds some."""
    words = None
    if pointers.error is not None:
        try:
            body = b"".join([chunk async for chunk in chunks(response, MAX_ERROR_BYTES)])
            words = words_of(pointers.error.find(parsed(body)), repeatable)
        except (ProviderError, httpx2.RequestError):
            words = None  # the status says enough
    return of_status(response.status_code, response.headers.get("retry-after"), words)


def _count(pointer: Pointer | None, document: Any, name: str) -> int | None:
    if pointer is None or (found := pointer.find(document)) is None:
        return None
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    try:
        return count(found)
    except ValueError:
        raise answer_invalid(
            f"http.response.{name} ({pointer.text}) points to {_kind(found)} and not to a number of tokens: correct it"
        ) from None


def _kind(value: Any) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case dict():
            return "an object"
        case list():
            return "an array"
    return "a string"


def _shown(kind: str) -> str:
    known = (
        "text/html",
        "text/plain",
        "text/event-stream",
        "application/x-ndjson",
        "application/octet-stream",
        "text/xml",
    )
    return kind if kind in known else "of an unexpected content type" if kind else "without a content type"
