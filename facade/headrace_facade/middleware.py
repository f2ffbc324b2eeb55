"""Around every request: trace id, security headers, limits, log line, metrics, and the answer to a defect.

Pure ASGI and outermost, so that it sees what FastAPI's own middleware answers, too.
"""

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import structlog
from starlette.datastructures import Headers

from headrace_bus import tracing
from headrace_facade import server_span, shapes
from headrace_facade.budget import Share
from headrace_facade.context import Context
from headrace_facade.errors import BadRequest, BodyTooLarge, FacadeError, Internal, Unavailable
from headrace_facade.identity.credential import credential_of
from headrace_facade.openai_batches.upload import BODY_LIMIT_BYTES, too_large

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_WITHIN_S: Final = 10.0
_PAGE: Final = "/ui/"
_PAGE_BODY_MOST: Final = 64 * 1024
"""Bodies that come to the page are read before anybody knows who sends them."""
_PROBES: Final = {"/healthz", "/readyz"}
_SECURITY: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
# Ours, and where OpenAI's and Anthropic's clients look.
_TRACE: Final = (b"x-trace-id", b"x-request-id", b"request-id")
_log = structlog.get_logger("headrace_facade")


class Guard:
    """Wraps the whole application."""

    def __init__(self, app: App, context: Context) -> None:
        self._app = app
        self._context = context
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        span = server_span.begun(scope, self._context.tracing)
        trace_id = span.context.trace_id if span.context is not None else ""
        scope.setdefault("state", {})["trace_id"] = trace_id
        began = time.monotonic()
        answer = _Answer(send, scope["path"], trace_id)
        with (
            tracing.entered(span),
            structlog.contextvars.bound_contextvars(trace_id=trace_id),
            self._context.metrics.active.track_inprogress(),
            self._context.bodies.share() as share,
        ):
            self._under_way += 1
            try:
                scope["state"]["body_share"] = share
                self._admit(scope)
                if _is_upload(scope):
                    # Read by its route, piece by piece, once it is known who sends it.
                    self._declared(scope, BODY_LIMIT_BYTES, too_large())
                    await self._app(scope, receive, answer.send)
                else:
                    body = await self._read(scope, receive, share)
                    await self._app(scope, _replay(body, receive), answer.send)
            except FacadeError as error:
                await answer.problem(error)
            except Exception as error:
                # Where, not what: the text of an exception may quote a prompt or a result.
                stack = "".join(traceback.format_tb(error.__traceback__))
                _log.error("request failed", error=type(error).__name__, stack=stack)
                if not answer.status:
                    await answer.problem(Internal("an unexpected error: report it with the trace id"))
            finally:
                self._under_way -= 1
            seconds = time.monotonic() - began
            # The path holds names only; the query, headers and bodies are never logged.
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=answer.status,
                duration_ms=round(seconds * 1000, 1),
            )
            route = getattr(scope.get("route"), "path", None)
            server_span.told(span, scope, route, answer.status)
        self._context.metrics.answered(scope["method"], route or "unmatched", answer.status, seconds)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Its bounds are the door's (`sockets`); here it gets its trace id, log line and metric."""
        span = server_span.begun(scope, self._context.tracing)
        trace_id = span.context.trace_id if span.context is not None else ""
        scope.setdefault("state", {})["trace_id"] = trace_id
        began = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                status = message.get("status", 101)
                headers = [*message.get("headers", ()), *((name, trace_id.encode()) for name in _TRACE)]
                message = {**message, "headers": headers if status == 101 else [*headers, *_SECURITY]}
            await send(message)

        with (
            tracing.entered(span),
            structlog.contextvars.bound_contextvars(trace_id=trace_id),
            self._context.metrics.sockets.track_inprogress(),
        ):
            try:
                await self._app(scope, receive, sending)
            except Exception as error:
                stack = "".join(traceback.format_tb(error.__traceback__))
                _log.error("socket failed", error=type(error).__name__, stack=stack)
            _log.info(
                "socket", path=scope["path"], status=status, duration_ms=round((time.monotonic() - began) * 1000, 1)
            )
            server_span.told(span, scope, getattr(scope.get("route"), "path", None), status)

    def _admit(self, scope: Scope) -> None:
        """By the headers alone, before anything is read for the caller."""
        if scope["path"] in _PROBES:
            return
        if self._under_way > self._context.settings.requests_limit:
            raise Unavailable("too many requests are under way: try again")
        if _takes_a_token(scope):
            credential_of(Headers(scope=scope))

    async def _read(self, scope: Scope, receive: Receive, share: Share) -> bytes:
        """The body, read before it is looked at: bounded in size and time. Where nobody looks at it none is."""
        limit = self._context.settings.body_limit_bytes
        if scope["path"].startswith(_PAGE):
            limit = min(limit, _PAGE_BODY_MOST)
        elif not _takes_a_token(scope):
            return b""
        problem = BodyTooLarge(f"the body is larger than {limit} bytes: put less into one task")
        self._declared(scope, limit, problem)
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise BadRequest("the client went away")
                    piece = message.get("body", b"")
                    if len(body) + len(piece) > limit:
                        raise problem
                    share.take(len(piece))
                    body += piece
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            raise BadRequest(f"the body did not arrive within {BODY_WITHIN_S:.0f} seconds") from error

    def _declared(self, scope: Scope, limit: int, problem: FacadeError) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise problem


def _is_upload(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"] == "/v1/files")


def _takes_a_token(scope: Scope) -> bool:
    path = str(scope["path"])
    return path.startswith(("/api/", "/v1/")) or path == "/tokenize"


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hands the body over once; what follows comes from the server: the client's going away."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay


class _Answer:
    """Sends, adds the headers that every answer has, and remembers the status; 0 until it started."""

    def __init__(self, send: Send, path: str, trace_id: str) -> None:
        self._send = send
        self._path = path
        self._trace_id = trace_id
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), *((name, self._trace_id.encode()) for name in _TRACE)]
            # The page has some of its own.
            own = {name for name, _ in headers}
            headers += [each for each in _SECURITY if each[0] not in own]
            message = {**message, "headers": headers}
        await self._send(message)

    async def problem(self, error: FacadeError) -> None:
        status, document = shapes.answer(self._path, error, self._trace_id)
        body = json.dumps(document, ensure_ascii=False).encode()
        headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
