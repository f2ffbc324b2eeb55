"""The only way of a remote model's requests out of the pod: judged, resolved once, pinned, bounded, never redirected.

Every request is judged, whoever built its URL. It knows neither keys nor providers.
"""

from collections.abc import Sequence
from typing import Final

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
from headrace_runner.providers.bodies import Body, close, told
from headrace_runner.providers.client_certificate import ClientCertificate, trusting
from headrace_runner.providers.pinned import PinnedBackend
from headrace_runner.providers.transport_errors import AnswerRefused, HostNotAllowed, Redirected

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


def client(
    remote: Remote,
    allowed: Sequence[AllowedHost],
    exempt: Sequence[AllowedHost],
    *,
    certificate: ClientCertificate | None = None,
    resolver: Resolve = resolve,
    connector: httpcore2.AsyncNetworkBackend | None = None,
) -> httpx2.AsyncClient:
    """The client of one model; close it with ``aclose``.

    ``allowed`` are the hosts that requests may go to, ``exempt`` those that may have any address and speak http. With
    ``remote.proxyURL`` the target is judged by its name alone: its address is what the proxy takes it for.
    ``certificate`` is shown to targets that ask for one; its authorities are then those of ``remote.ca_bundle``.
    ``resolver`` and ``connector`` are replaced in tests. Its requests raise ``transport_errors`` and httpx2's own.
    Raises ValueError that names the field of ``spec.remote`` and the remedy.
    """
    tls = trusting(remote.ca_bundle)
    backend = PinnedBackend(
        resolver,
        connector=httpcore2.AnyIOBackend() if connector is None else connector,
        proxy=None if remote.proxy_url is None else _proxy(remote.proxy_url, exempt),
        tls=tls,
        certificate=certificate,
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
        with told():
            answer = await self._pool.handle_async_request(asked)
        try:
            body = Body(answer, target.origin)
            _refuse_redirect(answer, target)
        except BaseException:
            await close(answer)
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
