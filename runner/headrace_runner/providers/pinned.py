"""Connections to judged addresses only: one resolution, every answer judged, the connection pinned to one of them.

It knows no HTTP beyond the CONNECT that it asks a proxy for.
"""

import asyncio
import re
import select
import socket
import ssl
from collections.abc import Iterable, Sequence
from typing import Any, Final

import anyio
import httpcore2

from headrace_crds.hosts import Refused, Target
from headrace_crds.resolve import Resolve
from headrace_runner.providers.client_certificate import ClientCertificate, alert
from headrace_runner.providers.transport_errors import (
    AnswerRefused,
    CertificateRefused,
    HostNotAllowed,
    NameNotResolved,
    ProxyFailed,
    TlsFailed,
)

RECEIVED_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""On one connection in answer to one request, as it comes: chunks of one byte and informational answers count too."""
ADDRESSES_LIMIT: Final = 4
"""Of a name's addresses so many are tried, within the one time for connecting."""
_PROXY_HEAD_LIMIT_BYTES: Final = 16 * 1024
_CONNECTED: Final = re.compile(rb"HTTP/1\.[01] 2[0-9]{2}[ \r]")
_CERTIFICATE_WORDS: Final = {
    9: "is not valid yet",
    10: "has expired",
    62: "is for another name",
    64: "is for another address",
}
"""By OpenSSL's X509_V_ERR numbers."""


class PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Connects where ``permit`` has said, and nowhere else.

    With a proxy it connects to that one and asks it, by name, for the target: the target's address is the proxy's
    affair and cannot be judged here. The proxy is asked for a tunnel for http as well.
    """

    def __init__(
        self,
        resolver: Resolve,
        *,
        connector: httpcore2.AsyncNetworkBackend,
        proxy: Target | None = None,
        tls: ssl.SSLContext,
        certificate: ClientCertificate | None = None,
        received_limit_bytes: int = RECEIVED_LIMIT_BYTES,
    ) -> None:
        self._limit_bytes = received_limit_bytes
        self._resolver, self._connector, self._proxy, self._tls = resolver, connector, proxy, tls
        self._certificate = certificate
        self._targets: dict[tuple[str, int], Target] = {}

    def permit(self, target: Target) -> None:
        """``target`` was judged; there are as many as the lists of hosts name. Raises CertificateRefused."""
        if self._certificate is not None:
            # Here, so that no idle connection of another certificate is taken for this request.
            self._certificate.refresh()
        self._targets[target.host.name, target.port] = target

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Raises HostNotAllowed, NameNotResolved, ProxyFailed, TlsFailed, httpcore2.ConnectError, ConnectTimeout."""
        target = self._targets.get((host, port))
        if target is None:
            raise HostNotAllowed("a connection was asked for that no request was judged for")
        try:
            async with asyncio.timeout(timeout):
                if self._proxy is None:
                    stream = await self._dial(target, timeout)
                else:
                    stream = await self._tunnel(self._proxy, target, timeout)
                # Not before: a proxy is shown none.
                stream.certificate = self._certificate
                return stream
        except TimeoutError:
            raise httpcore2.ConnectTimeout from None

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        raise HostNotAllowed("a Unix socket is no host")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _dial(self, target: Target, seconds: float | None) -> "_Stream":
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        addresses = (await self._addresses(target))[:ADDRESSES_LIMIT]
        for left in range(len(addresses), 0, -1):
            share = None if until is None else max(0.0, until - loop.time()) / left
            try:
                stream = await self._connector.connect_tcp(addresses[-left], target.port, timeout=share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                if left == 1:
                    raise
            else:
                return _Stream(stream, target.host.name, self._limit_bytes)
        raise NameNotResolved(f"{target.host} has no address: look at the host's name and at the cluster's DNS")

    async def _addresses(self, target: Target) -> Sequence[str]:
        try:
            return target.judged(await self._resolver(target))
        except Refused as error:
            raise HostNotAllowed(str(error)) from None
        except OSError:
            raise NameNotResolved(
                f"{target.host} is not resolved: look at the host's name and at the cluster's DNS"
            ) from None

    async def _tunnel(self, proxy: Target, target: Target, seconds: float | None) -> "_Stream":
        stream = await self._dial(proxy, seconds)
        try:
            if proxy.scheme == "https":
                stream = await stream.start_tls(self._tls, proxy.host.name, seconds)
            authority = f"{target.host}:{target.port}"
            await stream.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
            head = b""
            while b"\r\n\r\n" not in head:
                part = await stream.read(4096)
                head += part
                if not part or len(head) > _PROXY_HEAD_LIMIT_BYTES:
                    raise ProxyFailed(f"{proxy.origin} does not answer as a proxy: look at spec.remote.proxyURL")
            if not _CONNECTED.match(head):
                raise ProxyFailed(
                    f"the proxy {proxy.origin} does not connect to {authority}: let it, or change spec.remote.proxyURL"
                )
            if not head.endswith(b"\r\n\r\n"):
                # Nobody speaks before it is asked: these bytes would be taken for the target's.
                raise ProxyFailed(f"{proxy.origin} says more than a proxy does: look at spec.remote.proxyURL")
        except (httpcore2.ReadError, httpcore2.WriteError):
            await _close(stream)
            raise ProxyFailed(f"the proxy {proxy.origin} hung up: look at spec.remote.proxyURL") from None
        except BaseException:
            await _close(stream)
            raise
        return stream


class _Stream(httpcore2.AsyncNetworkStream):
    """A connection that counts what it receives, says what is wrong with TLS, and is closed when TLS is cancelled."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, host: str, limit_bytes: int) -> None:
        self._stream, self._host, self._limit_bytes = stream, host, limit_bytes
        self._received_bytes = 0
        self._socket: socket.socket | None = None
        self._shown: ssl.SSLContext | None = None
        self._answered = False
        self.certificate: ClientCertificate | None = None
        """What the next TLS on this connection shows."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        try:
            data = await self._stream.read(max_bytes, timeout)
        except (ssl.SSLError, OSError, anyio.EndOfStream, httpcore2.ReadError) as error:
            # With TLS 1.3 the other side judges the certificate when the client's part is over.
            if (words := alert(self._host, error, shown=self._shown is not None)) is not None:
                raise CertificateRefused(words) from None
            self._refuse_silence()
            raise httpcore2.ReadError from None
        if not data:
            # All that servers of asyncio, such as uvicorn, tell of a certificate that they refuse.
            self._refuse_silence()
        self._answered = True
        self._received_bytes += len(data)
        if self._received_bytes > self._limit_bytes:
            raise AnswerRefused(f"{self._host} answers without end: look whether it is the API")
        return data

    def _refuse_silence(self) -> None:
        if self._shown is not None and not self._answered:
            raise TlsFailed(
                f"{self._host} hung up before it answered anything: look whether it is up, and whether it takes the "
                "client certificate"
            )

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self._received_bytes = 0
        try:
            await self._stream.write(buffer, timeout)
        except (ssl.SSLError, OSError, anyio.EndOfStream):
            raise httpcore2.WriteError from None

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> "_Stream":
        """Raises CertificateRefused, TlsFailed, httpcore2.ConnectTimeout."""
        shown = None if self.certificate is None else self.certificate.context
        try:
            inner = await self._stream.start_tls(shown or ssl_context, server_hostname, timeout)
            made = _Stream(inner, self._host, self._limit_bytes)
            made.certificate, made._shown = self.certificate, shown
            return made
        except httpcore2.ConnectError as error:
            await _close(self)
            if (words := alert(self._host, error.__cause__, shown=shown is not None)) is not None:
                raise CertificateRefused(words) from None
            told = _words(server_hostname or self._host, error.__cause__)
            if shown is not None and not isinstance(error.__cause__, ssl.SSLError):
                told = f"{told}, and whether it takes the client certificate"
            raise TlsFailed(told) from None
        except BaseException:
            await _close(self)
            raise

    def get_extra_info(self, info: str) -> Any:
        if info != "is_readable":
            return self._stream.get_extra_info(info)
        if self.certificate is not None and self.certificate.context is not self._shown:
            # The pool takes it for ended.
            return True
        # The pool asks it of every idle connection, each time that a request begins or ends, and anyio takes its time.
        if self._socket is None:
            self._socket = self._stream.get_extra_info("socket")
        if self._socket is None:
            return self._stream.get_extra_info(info)
        if (number := self._socket.fileno()) < 0:
            return True
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))


async def _close(stream: httpcore2.AsyncNetworkStream) -> None:
    with anyio.CancelScope(shield=True):
        await stream.aclose()


def _words(host: str, error: BaseException | None) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return f"no TLS with {host}: look whether it speaks TLS 1.2 or later at this port"
    if (known := _CERTIFICATE_WORDS.get(error.verify_code)) is not None:
        return f"the certificate of {host} {known}: have it renewed, or correct the host in spec.remote"
    return f"the certificate of {host} is not trusted: put its authority into spec.remote.caBundle"
