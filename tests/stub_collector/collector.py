"""A collector on loopback that takes OTLP over HTTP, and shows what it was told: decoded, and byte for byte."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class Told:
    """One span; ids in hex, ``parent`` empty for the first of a trace."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    attributes: dict[str, Any]
    failed: bool
    status_message: str
    events: int
    start_ns: int
    end_ns: int


@dataclass
class Collector:
    """``status`` is what it answers; while ``hold`` is set it answers nothing, and counts who waits for it."""

    url: str = ""
    status: int = 200
    hold: bool = False
    held: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def spans(self) -> list[Told]:
        return [span for body in list(self.bodies) for span in _decoded(body)]

    def named(self, name: str) -> list[Told]:
        return [span for span in self.spans() if span.name == name]

    def says(self, text: str) -> bool:
        """Whether any byte that was exported has it."""
        return any(text.encode() in body for body in self.bodies)


def _decoded(body: bytes) -> Iterator[Told]:
    request = ExportTraceServiceRequest.FromString(body)
    for resource in request.resource_spans:
        about = {each.key: _value(each.value) for each in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Told(
                    str(about.get("service.name")),
                    span.name,
                    WireSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    {each.key: _value(each.value) for each in span.attributes},
                    span.status.code == Status.STATUS_CODE_ERROR,
                    span.status.message,
                    len(span.events),
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )


def _value(value: AnyValue) -> Any:
    if value.WhichOneof("value") == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, value.WhichOneof("value") or "string_value")


@contextmanager
def collecting() -> Iterator[Collector]:
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            made.headers.append(dict(self.headers))
            if made.hold:
                made.held += 1
                made.let_go.wait()
            if self.path == "/v1/traces" and made.status == 200:
                made.bodies.append(body)
            self.send_response(made.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name
            """Nowhere."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.let_go.set()
        server.shutdown()
        thread.join()
        server.server_close()
