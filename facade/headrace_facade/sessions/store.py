"""Sessions of callers, in Redis: each belongs to the identity and the namespace that made it, and is nobody else's."""

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from headrace_bus import (
    SESSION_BYTES,
    SESSIONS_BYTES,
    SESSIONS_MOST,
    BusError,
    BusOutOfMemory,
    PayloadTooLarge,
    SessionExists,
    SessionFacts,
    SessionLedger,
    SessionsFull,
)
from headrace_facade.caller import Caller
from headrace_facade.errors import Conflict, NotFound, SessionLimit, Unavailable
from headrace_facade.queues import CALL_TIMEOUT_S, redis_url
from headrace_facade.schema import ChatMessage
from headrace_facade.sessions.exchanges import Exchange
from headrace_facade.sessions.schema import SESSION_ID, SessionHistory, SessionView, SessionViews

HOUR_MS: Final = 3600 * 1000
_NOT_SET_UP: Final = "this facade is not connected to Redis, which keeps sessions"
_AWAY: Final = "Redis, which keeps sessions, does not answer: try again"
_log = structlog.get_logger("headrace_facade")


@dataclass(frozen=True)
class Opened:
    """As it was when a request began."""

    id: str
    version: int
    system: str
    exchanges: list[Exchange]


@dataclass(frozen=True)
class Kept:
    """What became of an answer in its session; ``problem`` is empty where it was appended."""

    version: int
    overlapped: bool = False
    problem: str = ""


class Sessions:
    """Raises NotFound, Conflict, SessionLimit and Unavailable. `ledger` is None where there is no Redis."""

    def __init__(self, ledger: SessionLedger | None, ttl_hours: int) -> None:
        self._ledger = ledger
        self._ttl_ms = ttl_hours * HOUR_MS

    async def create(self, caller: Caller, session: str | None, system: str | None) -> SessionView:
        identifier = session or secrets.token_hex(16)
        if not re.fullmatch(SESSION_ID, identifier):
            raise NotFound("no session can have that id: letters, digits and ._- are taken, 64 at most")
        with self._asked() as ledger:
            try:
                await ledger.create(_owner(caller), identifier, system=system or "", ttl_ms=self._ttl_ms)
            except SessionExists:
                raise Conflict(f"you have a session {identifier!r}: delete it first, or take another id") from None
            except SessionsFull:
                told = f"you have {SESSIONS_MOST} sessions, or {SESSIONS_BYTES >> 20} MiB in them: delete some"
                raise SessionLimit(told, 60) from None
            found = await ledger.get(_owner(caller), identifier)
        if found is None:
            raise NotFound("the session has ended")
        return _view(caller, found.facts)

    async def history(self, caller: Caller, session: str) -> SessionHistory:
        found, opened = await self._read(caller, session)
        turns = [message for each in opened.exchanges for message in each.messages]
        return SessionHistory(
            **_view(caller, found).model_dump(),
            system=opened.system or None,
            messages=[ChatMessage.model_validate({"role": each.role.value, "content": each.text}) for each in turns],
        )

    async def owned(self, caller: Caller) -> SessionViews:
        with self._asked() as ledger:
            return SessionViews(items=[_view(caller, each) for each in await ledger.owned(_owner(caller))])

    async def delete(self, caller: Caller, session: str) -> None:
        _check_id(session)
        with self._asked() as ledger:
            if not await ledger.delete(_owner(caller), session):
                raise _unknown(session)

    async def open(self, caller: Caller, session: str) -> Opened:
        return (await self._read(caller, session))[1]

    async def append(self, caller: Caller, opened: Opened, name: str, exchange: Exchange, system: str) -> Kept:
        """Never raises for what Redis says: the answer is good all the same."""
        problem = "Redis, which keeps sessions, does not answer"
        try:
            if self._ledger is not None:
                told = await self._ledger.append(
                    _owner(caller),
                    opened.id,
                    name,
                    exchange.dump(),
                    seen=opened.version,
                    system=system,
                    ttl_ms=self._ttl_ms,
                )
                if told is not None:
                    return Kept(told.version, told.overlapped)
                problem = "the session was deleted or has ended meanwhile"
        except (SessionsFull, PayloadTooLarge):
            problem = f"a session holds {SESSION_BYTES >> 10} KiB, all of yours {SESSIONS_BYTES >> 20} MiB"
        except BusOutOfMemory:
            problem = "Redis, which keeps sessions, has no memory left"
        except BusError as error:
            _log.warning("answer not appended", call=name, error=type(error).__name__)
        return Kept(opened.version, problem=problem)

    async def _read(self, caller: Caller, session: str) -> tuple[SessionFacts, Opened]:
        _check_id(session)
        with self._asked() as ledger:
            found = await ledger.get(_owner(caller), session)
        if found is None:
            raise _unknown(session)
        exchanges = []
        for each in found.exchanges:
            try:
                exchanges.append(Exchange.load(each))
            except ValueError:
                # Of a facade of another version: better forgotten than in everybody's way.
                continue
        return found.facts, Opened(session, found.facts.version, found.system, exchanges)

    @contextmanager
    def _asked(self) -> Iterator[SessionLedger]:
        if self._ledger is None:
            raise Unavailable(_NOT_SET_UP)
        try:
            yield self._ledger
        except BusOutOfMemory as error:
            raise Unavailable("Redis, which keeps sessions, has no memory left: try again", 5) from error
        except BusError as error:
            raise Unavailable(_AWAY) from error


@asynccontextmanager
async def open_sessions(url_file: str | None, ttl_hours: int) -> AsyncIterator[Sessions]:
    """Raises ValueError for a file without a URL."""
    url = redis_url(url_file)
    async with AsyncExitStack() as stack:
        ledger = None
        if url is not None:
            ledger = SessionLedger.connect(url, call_timeout_s=CALL_TIMEOUT_S)
            stack.push_async_callback(ledger.aclose)
        yield Sessions(ledger, ttl_hours)


def _owner(caller: Caller) -> str:
    """Users' names are nobody's business in Redis."""
    return hashlib.sha256(f"{caller.namespace}\0{caller.name}".encode()).hexdigest()[:32]


def _check_id(session: str) -> None:
    if not re.fullmatch(SESSION_ID, session):
        raise _unknown(session)


def _unknown(session: str) -> NotFound:
    told = f"you have no session {session[:64]!r} in this namespace: it has ended, or was never made"
    return NotFound(f"{told}: POST /api/v1/sessions makes one")


def _view(caller: Caller, facts: SessionFacts) -> SessionView:
    return SessionView(
        session_id=facts.id,
        namespace=caller.namespace,
        version=facts.version,
        exchanges=facts.exchanges,
        size_bytes=facts.size_bytes,
        created_at=_timestamp(facts.made_ms),
        expires_at=_timestamp(facts.ends_ms),
    )


def _timestamp(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
