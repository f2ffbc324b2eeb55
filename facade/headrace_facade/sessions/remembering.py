"""A CallService for one session: what was said before goes with a call, and an answer that succeeded is appended."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from headrace_crds.model import Defaults, LLMModel
from headrace_crds.task import Role
from headrace_crds.work import WorkMessage
from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallEvent, CallRequest, CallResult, CallService, Delta, Ended
from headrace_facade.calls.failures import CallBroken, ContextExceeded
from headrace_facade.openai_dialect.port import Models
from headrace_facade.sessions.exchanges import Exchange, fitting, text_bytes
from headrace_facade.sessions.store import Kept, Opened, Sessions


@dataclass(frozen=True)
class Remembered:
    """What an answer tells of its session."""

    session: str
    kept: Kept
    sent: int
    """Exchanges that the model was sent."""
    left_off: int
    """That had no room in its context."""


class Remembering:
    """Raises FacadeError, as the calls and the sessions do; NotFound for a session that is not the caller's."""

    def __init__(self, calls: CallService, sessions: Sessions, models: Models, session: str) -> None:
        self._calls = calls
        self._sessions = sessions
        self._models = models
        self._session = session

    @asynccontextmanager
    async def call(self, caller: Caller, request: CallRequest) -> AsyncIterator["RememberedCall"]:
        opened = await self._sessions.open(caller, self._session)
        system, said = _parted(request.messages)
        text = system.text if system is not None else opened.system
        fixed = [*([WorkMessage(role=Role.SYSTEM, content=text)] if text else []), *said]
        model = self._models.model(caller, request.model)
        exchanges = fitting(
            opened.exchanges,
            fixed,
            model="" if model is None else f"{model.metadata.namespace}/{model.metadata.name}",
            context_tokens=context_of(model),
            answer_tokens=_answer_tokens(request, model),
        )
        async with AsyncExitStack() as stack:
            remembered = RememberedCall(self, stack, caller, request, opened, system, said, exchanges)
            await remembered.begin()
            yield remembered

    async def begin(self, stack: AsyncExitStack, caller: Caller, request: CallRequest) -> Call:
        return await stack.enter_async_context(self._calls.call(caller, request))

    async def append(self, caller: Caller, opened: Opened, name: str, exchange: Exchange, system: str) -> Kept:
        return await self._sessions.append(caller, opened, name, exchange, system)


class RememberedCall:
    """A Call; `remembered` is there once it has ended."""

    def __init__(
        self,
        service: Remembering,
        stack: AsyncExitStack,
        caller: Caller,
        request: CallRequest,
        opened: Opened,
        system: WorkMessage | None,
        said: Sequence[WorkMessage],
        exchanges: list[Exchange],
    ) -> None:
        self._service = service
        self._stack = stack
        self._caller = caller
        self._request = request
        self._opened = opened
        self._system = system
        self._said = said
        self._exchanges = exchanges
        self._call: Call | None = None
        # Of the exchange, whichever call brings it.
        self._name = secrets.token_hex(16)
        self.remembered: Remembered | None = None

    @property
    def id(self) -> str:
        return self._begun.id

    @property
    def model(self) -> str:
        return self._begun.model

    @property
    def _begun(self) -> Call:
        if self._call is None:
            raise CallBroken("the call has not begun")
        return self._call

    async def begin(self) -> None:
        """Also anew, with fewer exchanges."""
        await self._stack.aclose()
        self._call = await self._service.begin(
            self._stack, self._caller, replace(self._request, messages=self._messages())
        )

    async def result(self) -> CallResult:
        async for event in self.events():
            if isinstance(event, Ended):
                return event.result
        raise CallBroken("the call ended without an answer")

    async def events(self) -> AsyncIterator[CallEvent]:
        begun = False
        while True:
            try:
                async for event in self._begun.events():
                    if isinstance(event, Ended):
                        await self._append(event.result)
                    begun = begun or isinstance(event, Delta)
                    yield event
                return
            except ContextExceeded:
                # The estimate was too low, or the context is not known.
                if begun or not self._exchanges:
                    raise
            self._exchanges = self._exchanges[len(self._exchanges) // 2 + 1 :]
            await self.begin()

    def _messages(self) -> list[WorkMessage]:
        text = self._system.text if self._system is not None else self._opened.system
        first = [WorkMessage(role=Role.SYSTEM, content=text)] if text else []
        return [*first, *(message for each in self._exchanges for message in each.messages), *self._said]

    async def _append(self, result: CallResult) -> None:
        exchange = Exchange(
            tuple(self._said),
            # A model's bytes may be half of a character.
            result.choices[0].text.encode(errors="replace").decode(),
            result.model,
            result.usage.prompt_tokens,
            text_bytes(self._messages()),
        )
        system = self._system.text if self._system is not None else ""
        kept = await self._service.append(self._caller, self._opened, self._name, exchange, system)
        sent = len(self._exchanges)
        self.remembered = Remembered(self._opened.id, kept, sent, len(self._opened.exchanges) - sent)


def context_of(model: LLMModel | None) -> int | None:
    """Prompt and answer together; None of a remote model, whose provider does not tell."""
    if model is None or model.spec.local is None:
        return None
    engine = model.status.engine if model.status is not None else None
    return (engine.context_tokens if engine is not None else 0) or model.spec.local.context_tokens


def _answer_tokens(request: CallRequest, model: LLMModel | None) -> int:
    if request.parameters.max_tokens is not None:
        return request.parameters.max_tokens
    return ((model.spec.defaults if model is not None else None) or Defaults()).max_tokens


def _parted(messages: Sequence[WorkMessage]) -> tuple[WorkMessage | None, list[WorkMessage]]:
    """The system message that leads, and the rest."""
    if messages and messages[0].role is Role.SYSTEM:
        return messages[0], list(messages[1:])
    return None, list(messages)
