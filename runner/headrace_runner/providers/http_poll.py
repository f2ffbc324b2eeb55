"""Follows a job that a plain HTTP API began for us, until it is over. It never asks another host than the first."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import httpx2

from headrace_crds.reasons import Reason
from headrace_crds.remote import HttpPoll
from headrace_runner.providers.http_answer import AnswerPointers, as_word, document_of, fault_of_status
from headrace_runner.providers.http_faults import answer_invalid, failed, words_of
from headrace_runner.providers.http_request import Call, RequestTemplate
from headrace_runner.providers.json_pointer import read_pointer
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.transport_errors import fault_of

MAX_PAUSE_SECONDS: Final = 60.0
MAX_FAILED_LOOKS: Final = 5
"""In a row: the job goes on and is paid for, whatever one look at it met."""
MAX_URL_CHARS: Final = 2048
_PATIENT: Final = frozenset({Fault.RATE_LIMITED, Fault.OVERLOADED})


class Poll:
    """How jobs are followed."""

    def __init__(
        self, spec: HttpPoll, http: httpx2.AsyncClient, template: RequestTemplate, pointers: AnswerPointers
    ) -> None:
        """Raises ValueError that names the field."""
        self._http, self._template, self._pointers = http, template, pointers
        self._url = read_pointer(spec.url, "spec.remote.http.poll.url")
        self._status = read_pointer(spec.status, "spec.remote.http.poll.status")
        self._done = frozenset(spec.done_values)
        self._failed = frozenset(spec.failed_values or ())
        self._interval_seconds = spec.interval_millis / 1000
        if both := sorted(self._done & self._failed):
            raise ValueError(f"spec.remote.http.poll: {both[0]} is one of doneValues and of failedValues: remove one")

    async def result(self, asked: Call, first: Any) -> Any:
        """The document of the finished job that ``first`` names. Raises ProviderError. Cancelling it ends the looks."""
        url = self._job_url(asked.url, first)
        pause_seconds, failed_looks = self._interval_seconds, 0
        while True:
            await asyncio.sleep(pause_seconds)
            try:
                document = await self._look(url, asked.repeatable)
            except ProviderError as error:
                if error.fault not in _PATIENT:
                    failed_looks += 1
                    if error.fault is not Fault.TRANSIENT or failed_looks >= MAX_FAILED_LOOKS:
                        raise
                # Twice the pause each time, and what the provider asks for where that is longer.
                pause_seconds = min(MAX_PAUSE_SECONDS, max(2 * pause_seconds, error.retry_after_seconds or 0.0))
                continue
            pause_seconds, failed_looks = self._interval_seconds, 0
            if self._is_over(document, asked.repeatable):
                return document

    def _is_over(self, document: Any, repeatable: Callable[[str], str]) -> bool:
        status = as_word(self._status.find(document))
        if status is None:
            raise answer_invalid(f"http.poll.status ({self._status.text}) finds no status in the job: correct it")
        if status in self._failed:
            found = None if self._pointers.error is None else self._pointers.error.find(document)
            raise failed("the provider's job failed", words_of(found, repeatable))
        if status in self._done:
            self._pointers.refuse_error(document, repeatable)
            return True
        return False

    async def _look(self, url: httpx2.URL, repeatable: Callable[[str], str]) -> Any:
        headers = self._template.headers()
        try:
            async with self._http.stream("GET", url, headers=headers, follow_redirects=False) as response:
                if response.status_code == 404 or response.status_code == 410:
                    raise failed(f"the provider's job is gone (HTTP {response.status_code})")
                if not response.is_success:
                    raise await fault_of_status(response, self._pointers, repeatable)
                return await document_of(response)
        except httpx2.RequestError as error:
            raise (fault_of(error) or error) from error

    def _job_url(self, asked: httpx2.URL, first: Any) -> httpx2.URL:
        found = self._url.find(first)
        if not isinstance(found, str) or not 0 < len(found) <= MAX_URL_CHARS:
            raise answer_invalid(f"http.poll.url ({self._url.text}) finds no URL in the first response: correct it")
        try:
            url = asked.join(found)
        except httpx2.InvalidURL:
            raise answer_invalid(f"http.poll.url ({self._url.text}) finds what is no URL: correct it") from None
        # The requests that follow carry the key: it goes where the first one went, and nowhere else.
        if (url.scheme, url.host, url.port) != (asked.scheme, asked.host, asked.port) or url.userinfo:
            raise ProviderError(
                Fault.UNAVAILABLE,
                Reason.HOST_NOT_ALLOWED,
                "the provider names a job on another host, port or scheme than baseURL's: it is not followed",
            )
        return url
