"""Answers that live as long as their call: whole ones and event streams.

All of a call happens in one task while the answer is sent, so that a client that goes away hangs up at once, also while
it waits. Before the first event a failure is the answer's status; FastAPI's error handlers see it as any other.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallResult, CallService, Delta, Ended, Waiting
from headrace_facade.errors import FacadeError, Internal
from headrace_facade.openai_dialect.wire import json_text

SEND_SECONDS: Final = 30.0
"""So long a client may read nothing of an answer that is there."""
_CLIENT_GONE: Final = 499
_UNBUFFERED: Final = (b"x-accel-buffering", b"no")
"""For proxies that would hold events back."""
_DEFECT: Final = "an unexpected error: report it with the trace id"


class Narrator(Protocol):
    """Tells one call's events in a dialect's chunks; each is a whole server-sent event."""

    def opening(self) -> Iterable[str]: ...

    def delta(self, delta: Delta) -> Iterable[str]: ...

    def ended(self, result: CallResult) -> Iterable[str]: ...

    def failed(self, error: FacadeError) -> Iterable[str]: ...


class _Unread(Exception):
    """The client reads nothing."""


class _Attended(Response):
    def __init__(self, calls: CallService, caller: Caller, request: CallRequest) -> None:
        super().__init__()
        self._calls = calls
        self._caller = caller
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What the call itself holds is counted where calls are.
        if (share := scope.get("state", {}).get("body_share")) is not None:
            share.give_back()
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            try:
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                # As one that has gone; the server closes an answer that is not whole.
                working.cancel()
                raise _Unread from None

        working = asyncio.create_task(self._work(sending))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
            if working.done() and not working.cancelled():
                with contextlib.suppress(_Unread):
                    await working
                return
        finally:
            for task in (working, gone):
                task.cancel()
            await asyncio.gather(working, gone, return_exceptions=True)
        if not begun:
            # Nobody reads it: for the log and the metrics.
            await _start(send, _CLIENT_GONE, "application/json")
            await send({"type": "http.response.body", "body": b""})

    async def _work(self, send: Send) -> None:
        raise NotImplementedError


class WholeAnswer(_Attended):
    """One JSON document at the end."""

    def __init__(
        self,
        calls: CallService,
        caller: Caller,
        request: CallRequest,
        document: Callable[[Call, CallResult], dict[str, Any]],
    ) -> None:
        super().__init__(calls, caller, request)
        self._document = document

    async def _work(self, send: Send) -> None:
        async with self._calls.call(self._caller, self._request) as call:
            body = json_text(self._document(call, await call.result())).encode(errors="replace")
            # Within the call, which counts what is held for it.
            await _start(send, 200, "application/json", (b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.body", "body": body})


class EventStream(_Attended):
    """Server-sent events. The status is sent with the first event of the call; waiting is told in comments."""

    def __init__(
        self, calls: CallService, caller: Caller, request: CallRequest, narrator: Callable[[Call], Narrator]
    ) -> None:
        super().__init__(calls, caller, request)
        self._narrator = narrator

    def waiting(self, waiting: Waiting) -> str:
        """Keeps the connection alive; a dialect that has an event for it tells that."""
        return _comment(waiting)

    async def _work(self, send: Send) -> None:
        begun = False
        async with self._calls.call(self._caller, self._request) as call:
            narrator = self._narrator(call)
            try:
                async for event in call.events():
                    if not begun:
                        begun = True
                        await _start(send, 200, "text/event-stream", _UNBUFFERED)
                        await _write(send, narrator.opening())
                    match event:
                        case Waiting():
                            await _write(send, [self.waiting(event)])
                        case Delta():
                            await _write(send, narrator.delta(event))
                        case Ended(result):
                            await _write(send, narrator.ended(result))
            except FacadeError as error:
                if not begun:
                    raise
                await _write(send, narrator.failed(error))
            except Exception:
                if begun:
                    await _write(send, narrator.failed(Internal(_DEFECT)))
                    await send({"type": "http.response.body", "body": b""})
                raise
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _start(send: Send, status: int, media_type: str, *headers: tuple[bytes, bytes]) -> None:
    kind = (b"content-type", media_type.encode())
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})


async def _write(send: Send, events: Iterable[str]) -> None:
    body = "".join(events).encode(errors="replace")
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


def _comment(waiting: Waiting) -> str:
    ahead = "" if waiting.ahead is None else f", {waiting.ahead} ahead"
    return f": {waiting.reason}{ahead}\n\n"
