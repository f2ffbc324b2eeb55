"""How a request of a remote model fails on its way, and what that means for the next one.

    TransportFault (httpx2.TransportError)     the SDKs take these for failed connections
    ├── HostNotAllowed                         judged, and nothing was sent
    ├── Redirected                             answered with a redirect, which nobody follows
    ├── CertificateRefused                     the client's: it cannot be shown, or the other side does not take it
    ├── NameNotResolved, TlsFailed, ProxyFailed
    └── AnswerRefused                          too large, or in an encoding that nobody asked for

Messages name the host and the remedy. Never a path, a query, a header, or what the other side or a library says: h11
quotes the header that it refuses, which may be the key.
"""

from typing import ClassVar, Final

import httpx2

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError

MESSAGE_LIMIT: Final = 512
_CHAIN_LIMIT: Final = 16
_EGRESS: Final = "look whether it is up and whether the cluster's network policies let the runner reach it"


class TransportFault(httpx2.TransportError):
    """What the transport itself says; its text is fit for people."""

    fault: ClassVar[Fault] = Fault.TRANSIENT
    reason: ClassVar[Reason] = Reason.PROVIDER_UNREACHABLE


class HostNotAllowed(TransportFault):
    fault = Fault.UNAVAILABLE
    reason = Reason.HOST_NOT_ALLOWED


class Redirected(TransportFault):
    fault = Fault.UNAVAILABLE
    reason = Reason.HOST_NOT_ALLOWED


class NameNotResolved(TransportFault):
    """No address, or none in time."""


class TlsFailed(TransportFault):
    """No TLS, or a certificate that is not trusted."""


class CertificateRefused(TransportFault):
    fault = Fault.UNAVAILABLE
    reason = Reason.CREDENTIALS_REFUSED


class ProxyFailed(TransportFault):
    """The proxy did not connect."""


class AnswerRefused(TransportFault):
    reason = Reason.PROVIDER_ANSWER_INVALID


_UNREACHABLE: Final = (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
_INVALID: Final = (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
_NOT_ALLOWED: Final = (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED)

# The first that fits: the most specific come first.
_KNOWN: Final[tuple[tuple[type[Exception], tuple[Fault, Reason], str], ...]] = (
    (httpx2.ConnectTimeout, _UNREACHABLE, f"no connection to {{host}} in time: {_EGRESS}"),
    (httpx2.ReadTimeout, _UNREACHABLE, "{host} was silent for too long: look whether it is overloaded"),
    (httpx2.WriteTimeout, _UNREACHABLE, "{host} did not take the request in time: look whether it is overloaded"),
    (
        httpx2.PoolTimeout,
        (Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        "no connection to {host} became free: lower spec.remote.maxConcurrency if it persists",
    ),
    (httpx2.TimeoutException, _UNREACHABLE, "{host} did not answer in time: look whether it is overloaded"),
    (httpx2.ConnectError, _UNREACHABLE, f"no connection to {{host}}: {_EGRESS}"),
    (
        httpx2.NetworkError,
        _UNREACHABLE,
        "the connection to {host} broke: look whether it or a proxy before it restarts",
    ),
    (
        httpx2.RemoteProtocolError,
        _UNREACHABLE,
        "{host} hung up, or what it answered is not HTTP within bounds: look "
        "whether spec.remote.baseURL leads to the API",
    ),
    (
        httpx2.LocalProtocolError,
        (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        "a header for {host} cannot be sent: look for line breaks in the key's Secret and in spec.remote.http.headers",
    ),
    (httpx2.ProxyError, _UNREACHABLE, "the proxy does not connect to {host}: look at spec.remote.proxyURL"),
    (
        httpx2.UnsupportedProtocol,
        _NOT_ALLOWED,
        "{host} is asked for without http or https: look at spec.remote.baseURL",
    ),
    (httpx2.TooManyRedirects, _NOT_ALLOWED, "{host} redirects: set spec.remote.baseURL to where the API is"),
    (httpx2.DecodingError, _INVALID, "what {host} answered cannot be decoded: look whether a proxy changes it"),
    (httpx2.SSEError, _INVALID, "what {host} answered is no stream of server-sent events: look at spec.remote.baseURL"),
    (httpx2.RequestError, _UNREACHABLE, f"the request to {{host}} failed: {_EGRESS}"),
    (httpx2.InvalidURL, _NOT_ALLOWED, "a URL cannot be read: look at spec.remote.baseURL and spec.remote.http.path"),
)


def fault_of(error: BaseException) -> ProviderError | None:
    """What a failed request means, looked for in the error and in its causes, as the SDKs wrap it.

    None: not the transport's affair, such as a status that the provider answered with.
    """
    seen: BaseException | None = error
    for _ in range(_CHAIN_LIMIT):
        if seen is None:
            return None
        if isinstance(seen, ProviderError):
            return seen
        if isinstance(seen, TransportFault):
            return ProviderError(seen.fault, seen.reason, bounded(str(seen)))
        for kind, (fault, reason), words in _KNOWN:
            if isinstance(seen, kind):
                return ProviderError(fault, reason, bounded(words.format(host=_host(seen))))
        seen = seen.__cause__
    return None


def bounded(text: str) -> str:
    """At most MESSAGE_LIMIT characters, all of them printable."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    return plain if len(plain) <= MESSAGE_LIMIT else plain[: MESSAGE_LIMIT - 1] + "…"


def _host(error: BaseException) -> str:
    try:
        request = error.request if isinstance(error, httpx2.RequestError) else None
    except RuntimeError:  # nobody said which
        request = None
    return (request.url.host if request is not None else "") or "the provider"
