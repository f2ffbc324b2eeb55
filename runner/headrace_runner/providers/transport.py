"""The only way of a remote model's requests out of the pod: judged, resolved once, pinned, bounded, never redirected.

Every request is judged, whoever built its URL. It knows neither keys nor providers.
"""

import contextlib
import ssl
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

import anyio
import httpcore2
import httpx2

from headrace_crds.hosts import (
    DEFAULT_PORTS,
    REMOTE_SETTING,
    AllowedHost,
    Parts,
    Refused,
    Target,
    judge,
    parse_host,
    split,
)
from headrace_crds.remote import Remote
from headrace_crds.resolve import Resolve, resolve
from headrace_runner.providers.pinned import PinnedBackend
from headrace_runner.providers.transport_errors import AnswerRefused, HostNotAllowed, Redirected

BODY_LIMIT_BYTES: Final = 16 * 1024 * 1024
"""Of a whole response, streamed or not, after decompression."""
CONNECT_SECONDS: Final = 5.0
"""For the name, the connection and the proxy together; TLS has as much again."""
WRITE_SECONDS: Final = 30.0
SILENCE_SECONDS: Final = 120.0
"""From one read to the next. The whole is bounded by the caller, whose cancellation closes the connection."""
POOL_SECONDS: Final = 5.0
KEEP_ALIVE_SECONDS: Final = 4.0
"""Less than the 5 s after which uvicorn, and vLLM with it, hangs up on an idle connection."""
_SPARE_CONNECTIONS: Final = 2
"""Beyond maxConcurrency: for looks at the provider's health and at jobs."""
_TIMEOUTS: Final = {
    "connect": CONNECT_SECONDS,
    "read": SILENCE_SECONDS,
    "write": WRITE_SECONDS,
    "pool": POOL_SECONDS,
}
_INFLATED_PIECE_BYTES: Final = 256 * 1024
_GZIP: Final = zlib.MAX_WBITS | 16
_DROPPED_HEADERS: Final = frozenset({b"content-encoding", b"set-cookie"})
"""The body is decoded here; a cookie would tie one task's requests to another's."""


def client(
    remote: Remote,
    allowed: Sequence[AllowedHost],
    exempt: Sequence[AllowedHost],
    *,
    resolver: Resolve = resolve,
    connector: httpcore2.AsyncNetworkBackend | None = None,
) -> httpx2.AsyncClient:
    """The client of one model; close it with ``aclose``.

    ``allowed`` are the hosts that requests may go to, ``exempt`` those that may have any address and speak http. With
    ``remote.proxyURL`` the target is judged by its name alone: its address is what the proxy takes it for.
    ``resolver`` and ``connector`` are replaced in tests. Its requests raise ``transport_errors`` and httpx2's own.
    Raises ValueError that names the field of ``spec.remote`` and the remedy.
    """
    tls = _tls(remote.ca_bundle)
    backend = PinnedBackend(
        resolver,
        connector=httpcore2.AnyIOBackend() if connector is None else connector,
        proxy=None if remote.proxy_url is None else _proxy(remote.proxy_url, exempt),
        tls=tls,
    )
    connections = remote.max_concurrency + _SPARE_CONNECTIONS
    pool = httpcore2.AsyncConnectionPool(
        ssl_context=tls,
        max_connections=connections,
        max_keepalive_connections=connections,
        keepalive_expiry=KEEP_ALIVE_SECONDS,
        network_backend=backend,
    )
    return httpx2.AsyncClient(
        transport=_Transport(pool, backend, tuple(allowed), tuple(exempt)),
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(**_TIMEOUTS),
    )


def _tls(bundle: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=bundle)
    except (ssl.SSLError, ValueError):
        raise ValueError("spec.remote.caBundle: not certificates in PEM; each begins with BEGIN CERTIFICATE") from None


def _proxy(url: str, exempt: Sequence[AllowedHost]) -> Target:
    try:
        parts = split(url)
    except Refused as error:
        raise ValueError(f"spec.remote.proxyURL: {error}") from None
    target = Target(parts.scheme, parts.host, parts.port, parts.path, parts.query, True, REMOTE_SETTING)
    if parts.path != "/" or parts.query:
        raise ValueError(f"spec.remote.proxyURL: a proxy has no path: write {target.origin}")
    if not any(entry.names(parts.host, parts.port) for entry in exempt):
        raise ValueError(
            f"spec.remote.proxyURL: {target.origin} is not a proxy that may be used: "
            f"name it in the chart's {REMOTE_SETTING}"
        )
    return target


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        pool: httpcore2.AsyncConnectionPool,
        backend: PinnedBackend,
        allowed: Sequence[AllowedHost],
        exempt: Sequence[AllowedHost],
    ) -> None:
        self._pool, self._backend, self._allowed, self._exempt = pool, backend, allowed, exempt

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises TransportFault and httpx2.TransportError."""
        target = self._judged(request)
        self._backend.permit(target)
        if not isinstance(request.stream, httpx2.AsyncByteStream):
            raise httpx2.LocalProtocolError("the body of a request is not asynchronous")
        headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"accept-encoding"]
        asked = httpcore2.Request(
            method=request.method,
            # From the parts that were judged, not from what the client made of the URL.
            url=httpcore2.URL(
                scheme=target.scheme, host=target.host.name, port=target.port, target=request.url.raw_path
            ),
            headers=[*headers, (b"Accept-Encoding", b"gzip")],
            content=request.stream,
            # No others: `sni_hostname` and `target` would lead elsewhere.
            extensions={"timeout": _bounded(request.extensions.get("timeout") or {})},
        )
        with _told():
            answer = await self._pool.handle_async_request(asked)
        try:
            body = _Body(answer, target.origin)
            _refuse_redirect(answer, target)
        except BaseException:
            await _close(answer)
            raise
        return httpx2.Response(
            status_code=answer.status,
            headers=[each for each in answer.headers if each[0].lower() not in body.dropped],
            stream=body,
            extensions={key: answer.extensions[key] for key in ("http_version", "reason_phrase")},
        )

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _judged(self, request: httpx2.Request) -> Target:
        """Raises HostNotAllowed."""
        url = request.url
        host = url.raw_host.decode("ascii")
        try:
            if url.scheme not in DEFAULT_PORTS:
                raise Refused("the URL is neither http nor https")
            if url.userinfo:
                raise Refused("the URL has a user or a password: take it out")
            parsed = parse_host(f"[{host}]" if ":" in host else host)
            port = DEFAULT_PORTS[url.scheme] if url.port is None else url.port
            parts = Parts(url.scheme, parsed, port, "/", "")
            target = judge(parts, allowed=self._allowed, exempt=self._exempt)
        except Refused as error:
            raise HostNotAllowed(str(error)) from None
        if request.headers.get_list("host") != [url.netloc.decode("ascii")]:
            # Behind one address there may be many hosts, and this header chooses.
            raise HostNotAllowed("a header Host is not the URL's: take it out of spec.remote.http.headers")
        return target


def _bounded(timeouts: dict[str, float | None]) -> dict[str, float]:
    """What the caller asks for, and no longer than we wait."""
    return {
        name: ours if (theirs := timeouts.get(name)) is None else min(ours, theirs) for name, ours in _TIMEOUTS.items()
    }


def _refuse_redirect(answer: httpcore2.Response, target: Target) -> None:
    if 300 <= answer.status < 400:
        raise Redirected(
            f"{target.origin} answered with a redirect, which is not followed, for the key's sake: "
            "set spec.remote.baseURL to where the API is"
        )
    if answer.status < 200:
        raise AnswerRefused(f"{target.origin} switches protocols, which nobody asked for")


class _Body(httpx2.AsyncByteStream):
    """A response's body, decompressed and bounded; closed when it fails, too."""

    def __init__(self, answer: httpcore2.Response, origin: str) -> None:
        """Raises AnswerRefused where the headers already say that it is too large or cannot be decoded."""
        self._answer, self._origin = answer, origin
        encodings = [_lower(value) for name, value in answer.headers if name.lower() == b"content-encoding"]
        self._compressed = encodings in (["gzip"], ["x-gzip"])
        if not self._compressed and any(each not in ("", "identity") for each in encodings):
            raise AnswerRefused(f"{origin} compresses its answer in a way that was not asked for: it may use gzip")
        self.dropped = _DROPPED_HEADERS | ({b"content-length"} if self._compressed else set())
        for name, value in answer.headers:
            if name.lower() == b"content-length" and value.isdigit() and int(value) > BODY_LIMIT_BYTES:
                raise self._too_large()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = BODY_LIMIT_BYTES
        inflate = _Inflate(self._origin) if self._compressed else None
        try:
            with _told():
                async with contextlib.aclosing(self._answer.aiter_stream()) as received:
                    async for chunk in received:
                        for piece in (chunk,) if inflate is None else inflate.pieces(chunk):
                            left -= len(piece)
                            if left < 0:
                                raise self._too_large()
                            yield piece
                if inflate is not None:
                    inflate.end()
        except BaseException:
            await _close(self._answer)
            raise

    async def aclose(self) -> None:
        await _close(self._answer)

    def _too_large(self) -> AnswerRefused:
        return AnswerRefused(
            f"{self._origin} answered with more than {BODY_LIMIT_BYTES // 2**20} MiB: bound the result, as with "
            "maxTokens, and look whether spec.remote.baseURL leads to the API"
        )


class _Inflate:
    """gzip, in pieces: how large it becomes is seen before it is there."""

    def __init__(self, origin: str) -> None:
        self._gzip = zlib.decompressobj(_GZIP)
        self._origin = origin
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Raises AnswerRefused."""
        self._begun = self._begun or bool(data)
        try:
            while piece := self._gzip.decompress(data, _INFLATED_PIECE_BYTES):
                yield piece
                data = self._gzip.unconsumed_tail
        except zlib.error:
            raise self._broken() from None
        if self._gzip.unused_data:
            raise self._broken()

    def end(self) -> None:
        """Raises AnswerRefused when the end is missing."""
        if self._begun and not self._gzip.eof:
            raise self._broken()

    def _broken(self) -> AnswerRefused:
        return AnswerRefused(f"what {self._origin} answered is no gzip: look whether a proxy changes it")


def _lower(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()


async def _close(answer: httpcore2.Response) -> None:
    with anyio.CancelScope(shield=True):
        await answer.aclose()


_TOLD: Final[tuple[tuple[type[Exception], type[httpx2.TransportError]], ...]] = (
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx2.ReadTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.ReadError, httpx2.ReadError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
    (httpcore2.LocalProtocolError, httpx2.LocalProtocolError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """httpcore2's errors as httpx2's, without their text and their causes, which quote headers."""
    try:
        yield
    except Exception as error:
        for ours, theirs in _TOLD:
            if isinstance(error, ours):
                raise theirs(theirs.__name__) from None
        raise
