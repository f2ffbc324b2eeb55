"""Answers that live as long as their call: whole ones and event streams.

All of a call happens in one task while the answer is sent, so that a client that goes away hangs up at once, also while
it waits. Before the first event a failure is the answer's status; FastAPI's error handlers see it as any other.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from starlette.types import Send

from headrace_facade.attended import UNBUFFERED, Attended, end, start, whole, write
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallResult, CallService, Delta, Ended, Waiting
from headrace_facade.errors import FacadeError, Internal
from headrace_facade.openai_dialect.wire import json_text

_DEFECT: Final = "an unexpected error: report it with the trace id"


class Narrator(Protocol):
    """Tells one call's events in a dialect's chunks; each is a whole server-sent event."""

    def opening(self) -> Iterable[str]: ...

    def delta(self, delta: Delta) -> Iterable[str]: ...

    def ended(self, result: CallResult) -> Iterable[str]: ...

    def failed(self, error: FacadeError) -> Iterable[str]: ...


class _OfCall(Attended):
    def __init__(self, calls: CallService, caller: Caller, request: CallRequest) -> None:
        super().__init__()
        self._calls = calls
        self._caller = caller
        self._request = request


class WholeAnswer(_OfCall):
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
            await whole(send, body)


class EventStream(_OfCall):
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
                        await start(send, 200, "text/event-stream", UNBUFFERED)
                        await write(send, narrator.opening())
                    match event:
                        case Waiting():
                            await write(send, [self.waiting(event)])
                        case Delta():
                            await write(send, narrator.delta(event))
                        case Ended(result):
                            await write(send, narrator.ended(result))
            except FacadeError as error:
                if not begun:
                    raise
                await write(send, narrator.failed(error))
            except Exception:
                if begun:
                    await write(send, narrator.failed(Internal(_DEFECT)))
                    await end(send)
                raise
        await end(send)


def _comment(waiting: Waiting) -> str:
    ahead = "" if waiting.ahead is None else f", {waiting.ahead} ahead"
    return f": {waiting.reason}{ahead}\n\n"
