"""The only way out of a downloader: judged, resolved once, pinned; redirects are followed and judged each.

What authorizes a request goes to the origin alone. It knows no files and no ranges.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urljoin

import httpcore2

from headrace_crds.hosts import DEFAULT_PORTS, AllowedHost, Refused, Target, judge_source
from headrace_crds.reasons import Reason
from headrace_crds.resolve import Resolve, resolve
from headrace_runner.providers.client_certificate import trusting
from headrace_runner.providers.pinned import PinnedBackend
from headrace_runner.providers.transport_errors import HostNotAllowed, TransportFault
from headrace_runner.weights.failures import Again, WeightsFailure
from headrace_runner.weights.origins import Origin

REDIRECTS_LIMIT: Final = 8
CONNECT_SECONDS: Final = 10.0
SILENCE_SECONDS: Final = 30.0
RETRY_AFTER_LIMIT_SECONDS: Final = 60.0
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SLOW_DOWN: Final = frozenset({408, 425, 429})
_BUSY: Final = {"connect": CONNECT_SECONDS, "read": SILENCE_SECONDS, "write": SILENCE_SECONDS, "pool": 600.0}
_UNLIMITED: Final = 1 << 62
"""The caller counts: a file may be of any size."""


@dataclass(frozen=True, slots=True)
class Answer:
    """200, 206 or 416, and what comes with it. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: AsyncIterator[bytes]
    host: str


class Fetcher:
    """Requests for one origin. Where it redirects to is remembered, until that address fails."""

    def __init__(
        self,
        origin: Origin,
        exempt: Sequence[AllowedHost],
        *,
        connections: int,
        resolver: Resolve = resolve,
        connector: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        """``exempt`` may have any address and speak http; resolver and connector are replaced in tests."""
        self._origin, self._exempt = origin, tuple(exempt)
        tls = trusting(None)
        self._backend = PinnedBackend(
            resolver,
            connector=httpcore2.AnyIOBackend() if connector is None else connector,
            tls=tls,
            received_limit_bytes=_UNLIMITED,
        )
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, max_connections=connections, network_backend=self._backend
        )
        self._moved: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    @contextlib.asynccontextmanager
    async def get(self, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """One answer. Raises WeightsFailure, and Again where another request may succeed; so does its body."""
        moved, url = self._moved, self._moved or self._origin.url
        for _ in range(REDIRECTS_LIMIT + 1):
            target = self._judged(url)
            answer = await self._ask(url, target, headers)
            try:
                found = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
                if answer.status in _REDIRECTS:
                    url = urljoin(url, found.get("location", ""))
                    continue
                if answer.status >= 400 and answer.status != 416 and moved is not None and url == moved:
                    # An address that was given for a while: the origin is asked for another.
                    self._moved = moved = None
                    url = self._origin.url
                    continue
                _refuse(answer.status, found, target)
                self._moved = url if url != self._origin.url else None
                yield Answer(answer.status, found, _body(answer, target), target.origin)
                return
            finally:
                await _close(answer)
        raise WeightsFailure(Reason.DOWNLOAD_FAILED, f"{self._judged(self._origin.url).origin} redirects without end")

    def _judged(self, url: str) -> Target:
        try:
            return judge_source(url, exempt=self._exempt)
        except Refused as error:
            raise WeightsFailure(Reason.HOST_NOT_ALLOWED, f"weights are not fetched there: {error}") from None

    async def _ask(self, url: str, target: Target, headers: Mapping[str, str]) -> httpcore2.Response:
        sent = {"Accept-Encoding": "identity", "User-Agent": "headrace-weights", **headers}
        first = self._judged(self._origin.url)
        if (target.scheme, target.host, target.port) == (first.scheme, first.host, first.port):
            sent |= self._origin.authorize(headers)
        port = "" if target.port == DEFAULT_PORTS[target.scheme] else f":{target.port}"
        path = target.path + (f"?{target.query}" if target.query else "")
        request = httpcore2.Request(
            method="GET",
            url=httpcore2.URL(scheme=target.scheme, host=target.host.name, port=target.port, target=path.encode()),
            headers=[("Host", f"{target.host}{port}"), *sent.items()],
            extensions={"timeout": dict(_BUSY)},
        )
        self._backend.permit(target)
        with _told(target):
            return await self._pool.handle_async_request(request)


async def _body(answer: httpcore2.Response, target: Target) -> AsyncIterator[bytes]:
    with _told(target):
        async for piece in answer.aiter_stream():
            yield piece


async def _close(answer: httpcore2.Response) -> None:
    with contextlib.suppress(httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError):
        await answer.aclose()


@contextlib.contextmanager
def _told(target: Target) -> Iterator[None]:
    """The transport's errors, without what libraries and servers say."""
    try:
        yield
    except HostNotAllowed as error:
        raise WeightsFailure(Reason.HOST_NOT_ALLOWED, str(error)) from None
    except TransportFault as error:
        words = type(error).__name__
        raise Again(
            f"{target.origin} is not reached ({words}): look at its name, its certificate and policies"
        ) from None
    except httpcore2.TimeoutException:
        raise Again(f"{target.origin} is silent: look whether it is up and policies let the Job reach it") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError):
        raise Again(f"the connection to {target.origin} broke: look whether it is up") from None


def _refuse(status: int, headers: Mapping[str, str], target: Target) -> None:
    if status in (200, 206, 416):
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise WeightsFailure(
                Reason.DOWNLOAD_FAILED, f"{target.origin} compresses the file, which was not asked for"
            )
        return
    if status in (401, 403):
        message = f"{target.origin} answers {status}: correct source's credentials, or the path if the file is public"
        raise WeightsFailure(Reason.CREDENTIALS_REFUSED, message)
    if status in (404, 410):
        message = f"{target.origin} answers {status}: the file is not there; correct spec.local.source"
        raise WeightsFailure(Reason.WEIGHTS_NOT_FOUND, message)
    if status in _SLOW_DOWN or status >= 500:
        wait = headers.get("retry-after", "")
        seconds = min(float(wait), RETRY_AFTER_LIMIT_SECONDS) if wait.isascii() and wait.isdigit() else 0.0
        raise Again(f"{target.origin} answers {status}", wait_seconds=seconds)
    raise WeightsFailure(Reason.DOWNLOAD_FAILED, f"{target.origin} answers {status}: look at spec.local.source")
