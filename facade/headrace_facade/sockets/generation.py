"""`WS /api/v1/generate/ws`: one generation at a time, cancelled by a word or with its socket."""

import asyncio
import json
import traceback
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import structlog
from pydantic import Field, ValidationError

from headrace_facade.budget import ByteBudget
from headrace_facade.calls.contract import CallRequest, CallService, Delta, Ended, Waiting
from headrace_facade.errors import (
    BadRequest,
    Conflict,
    FacadeError,
    FieldProblem,
    Forbidden,
    Internal,
    Invalid,
)
from headrace_facade.native import asked, told
from headrace_facade.native.schema import Generate
from headrace_facade.schema import Text
from headrace_facade.sockets.door import Guest
from headrace_facade.sockets.talk import IDLE, LIFE_OVER, POLICY, Over, Talk

IDLE_S: Final = 300.0
MISTAKES_MOST: Final = 16
"""Messages that are none, in a row."""
_log = structlog.get_logger("headrace_facade")


class GenerateMessage(Generate):
    """What a client sends to have something generated."""

    type: Literal["generate"] = "generate"
    """May be left out."""
    id: Annotated[Text, Field(max_length=64)] | None = None
    """Is told with each event of this generation."""


class Under(Conflict):
    code = "GENERATION_UNDER_WAY"


class Conversation:
    """Of one socket, until it ends: raises Over."""

    def __init__(
        self,
        talk: Talk,
        guest: Guest,
        service: Callable[[str | None], CallService],
        bodies: ByteBudget,
        *,
        clock: Callable[[], float],
        idle_s: float = IDLE_S,
    ) -> None:
        self._talk = talk
        self._guest = guest
        self._service = service
        self._bodies = bodies
        self._clock = clock
        self._idle_s = idle_s
        self._mistakes = 0
        self._running: asyncio.Task[None] | None = None
        self._running_id: str | None = None

    async def run(self) -> None:
        hearing: asyncio.Task[str] | None = None
        try:
            while True:
                hearing = hearing or asyncio.create_task(self._talk.heard())
                waited = [each for each in (hearing, self._running) if each is not None]
                await asyncio.wait(waited, timeout=self._patience_s(), return_when=asyncio.FIRST_COMPLETED)
                if self._running is not None and self._running.done():
                    ended, self._running = self._running, None
                    # Over, where its client reads nothing.
                    await ended
                elif hearing.done():
                    done, hearing = hearing, None
                    await self._heard(done.result())
                elif self._running is None:
                    if self._clock() >= self._guest.until:
                        raise Over(LIFE_OVER, "this socket has lived as long as one may: open another")
                    raise Over(IDLE, "nothing was asked for a while")
        finally:
            left = [each for each in (hearing, self._running) if each is not None]
            for each in left:
                each.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _patience_s(self) -> float | None:
        if self._running is not None:
            return None
        return max(min(self._idle_s, self._guest.until - self._clock()), 0)

    async def _heard(self, text: str) -> None:
        identifier: str | None = None
        try:
            with self._bodies.share() as share:
                share.take(len(text))
                document = _document(text)
                given = document.get("id")
                identifier = given if isinstance(given, str) and len(given) <= 64 else None
                match document.get("type", "generate"):
                    case "generate":
                        await self._begin(_message(document))
                    case "cancel":
                        await self._cancel()
                    case "ping":
                        await self._talk.tell("pong", {}, identifier)
                    case _:
                        raise Invalid.of([FieldProblem("type", "needs to be generate, cancel or ping")])
            self._mistakes = 0
        except FacadeError as error:
            self._mistakes += 1
            await self._talk.fail(error, identifier)
            if self._mistakes >= MISTAKES_MOST:
                raise Over(POLICY, f"{MISTAKES_MOST} messages in a row that cannot be served") from None

    async def _begin(self, body: GenerateMessage) -> None:
        if self._running is not None:
            raise Under("a generation is under way on this socket: cancel it, wait for its end, or open another socket")
        if self._clock() >= self._guest.until:
            raise Over(LIFE_OVER, "this socket has lived as long as one may: open another")
        request = asked.generation(body, stream=True)
        self._running_id = body.id
        self._running = asyncio.create_task(self._generate(body, request))

    async def _cancel(self) -> None:
        """What has ended meanwhile has told its end."""
        if self._running is None:
            return
        running, self._running = self._running, None
        running.cancel()
        (ending,) = await asyncio.gather(running, return_exceptions=True)
        if isinstance(ending, Over):
            raise ending
        if isinstance(ending, asyncio.CancelledError):
            await self._talk.tell("cancelled", {}, self._running_id)

    async def _generate(self, body: GenerateMessage, request: CallRequest) -> None:
        try:
            caller = await self._guest.again()
            if body.namespace not in (None, caller.namespace):
                raise Forbidden(f"this socket is of namespace {caller.namespace!r}: open it with ?namespace=")
            async with self._service(body.session_id).call(caller, request) as call:
                async for event in call.events():
                    match event:
                        case Waiting(reason, message, ahead):
                            data = {"reason": reason, "message": message, "ahead": ahead}
                            await self._talk.tell("waiting", data, body.id)
                        case Delta():
                            await self._talk.tell("delta", told.told_delta(event), body.id)
                        case Ended(result):
                            await self._talk.tell("end", told.generated(call, result), body.id)
        except FacadeError as error:
            await self._talk.fail(error, body.id)
        except Over:
            raise
        except Exception as error:
            # Where, not what: the text of an exception may quote a prompt or a result.
            stack = "".join(traceback.format_tb(error.__traceback__))
            _log.error("generation failed", error=type(error).__name__, stack=stack)
            await self._talk.fail(Internal("an unexpected error: report it with the trace id"), body.id)


def _document(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise BadRequest("the message is no JSON") from None
    if not isinstance(found, dict):
        raise BadRequest('a message needs to be a JSON object, such as {"model": …, "prompt": …}')
    return found


def _message(document: dict[str, Any]) -> GenerateMessage:
    """Raises Invalid without the values: those are the caller's own, and may be prompts."""
    try:
        return GenerateMessage.model_validate(document)
    except ValidationError as error:
        problems = [
            FieldProblem(".".join(str(part) for part in each["loc"])[:128], str(each["msg"]))
            for each in error.errors(include_input=False, include_url=False)
        ]
        raise Invalid.of(problems[:32]) from None
