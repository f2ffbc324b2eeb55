"""The span of a request, by OpenTelemetry's conventions for HTTP servers: method, route, path and status.

Nothing of the query, the headers or the bodies is told, and of the path only where it is one of ours.
"""

from collections.abc import MutableMapping
from typing import Any, Final

from headrace_bus.tracing import SILENT, Kind, Span, TraceContext, Tracing

_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"}
_PROBES: Final = {"/healthz", "/readyz", "/metrics"}


def begun(scope: MutableMapping[str, Any], tracing: Tracing) -> Span:
    """Below the caller's span, where it came as a W3C `traceparent`. Probes have none that is told."""
    parent = trace_of(scope["headers"])
    own = TraceContext.fresh()
    if scope["path"] in _PROBES:
        return SILENT.begin("", parent=parent, own=own)
    asked = method(scope)
    about = {"http.request.method": asked, "url.scheme": str(scope.get("scheme", "http"))}
    return tracing.begin(asked, Kind.SERVER, about, parent=parent, own=own)


def told(span: Span, scope: MutableMapping[str, Any], route: str | None, status: int) -> None:
    """`route` is None where no path of ours matched, `status` 0 where nothing was answered."""
    if route is not None:
        span.rename(f"{method(scope)} {route}")
        span.set({"http.route": route, "url.path": str(scope["path"])})
    if status:
        span.set({"http.response.status_code": status})
    if status >= 500:
        span.fail(str(status))


def method(scope: MutableMapping[str, Any]) -> str:
    """Of those that are known: another one is the caller's own word."""
    asked = str(scope.get("method", "GET"))  # a WebSocket's handshake is one, and its scope does not say so
    return asked if asked in _METHODS else "_OTHER"


def trace_of(headers: list[tuple[bytes, bytes]]) -> TraceContext | None:
    """The caller's; None where there is none, or none that can be read: a trace begins here. Two are none."""
    found = [value for name, value in headers if name == b"traceparent"]
    return TraceContext.parse(found[0].decode("latin-1")) if len(found) == 1 else None
