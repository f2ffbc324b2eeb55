"""Answers whose work lives as long as somebody waits for them: it is aborted when the client goes away.

The work happens in one task while the answer is sent. Before the first byte a failure is the answer's status: FastAPI's
error handlers see it as any other.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

SEND_SECONDS: Final = 30.0
"""So long a client may read nothing of an answer that is there."""
_CLIENT_GONE: Final = 499
UNBUFFERED: Final = (b"x-accel-buffering", b"no")
"""For proxies that would hold events back."""


class _Unread(Exception):
    """The client reads nothing."""


class Attended(Response):
    """`_work` sends the whole answer."""

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
            await start(send, _CLIENT_GONE, "application/json")
            await send({"type": "http.response.body", "body": b""})

    async def _work(self, send: Send) -> None:
        raise NotImplementedError


async def whole(send: Send, body: bytes) -> None:
    """A JSON document."""
    await start(send, 200, "application/json", (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.body", "body": body})


async def start(send: Send, status: int, media_type: str, *headers: tuple[bytes, bytes]) -> None:
    kind = (b"content-type", media_type.encode())
    await send({"type": "http.response.start", "status": status, "headers": [kind, *headers]})


async def write(send: Send, events: Iterable[str]) -> None:
    """A piece of a body that goes on."""
    body = "".join(events).encode(errors="replace")
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
