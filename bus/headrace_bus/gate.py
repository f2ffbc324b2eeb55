"""The gate of a remote model: may a call be sent now, and what its end says about the next one.

Shared by all runner pods of the model. Rates, pauses, the limit of calls at a time and the breaker are the scripts of
`lua/remote`; whoever waits, and what a fault is, is the runner's.

    CLOSED ──5 transient failures in a row, or 1 Unavailable──► OPEN ──time──► HALF_OPEN ──one call answered──► CLOSED
                                                                 ▲    Changed     │
                                                                 └────────────────┘ failed: for twice as long
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headrace_bus.arguments import positive, request_id
from headrace_bus.errors import BusCorrupt
from headrace_bus.keys import ModelKey, key_prefix
from headrace_bus.reader import BusReader
from headrace_bus.wire import Reply

CALLS_AT_ONCE: Final = 64
"""Calls, and settlements, of one turn."""
MESSAGE_MAX_CHARS: Final = 256
CALL_ID_MAX_CHARS: Final = 253
_RENEWED_AT_ONCE: Final = 512
_REASON_MAX_CHARS: Final = 128
_TOKENS_MAX: Final = 1_000_000_000
_CONCURRENCY_MAX: Final = 1024
_FAULTS: Final = frozenset({"RateLimited", "Overloaded", "Transient", "Unavailable", "Terminal"})


class Breaker(StrEnum):
    """Whether a model's calls are sent at all."""

    CLOSED = "Closed"
    HALF_OPEN = "HalfOpen"
    """One call at a time, to see whether it is answered."""
    OPEN = "Open"


@dataclass(frozen=True)
class GateLimits:
    """What the model's spec allows over all its pods; None: no bound. Every turn brings them, so that they may change.

    Raises ValueError.
    """

    max_concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.max_concurrency <= _CONCURRENCY_MAX:
            raise ValueError(f"max_concurrency lies in 1…{_CONCURRENCY_MAX}")
        for rate in (self.requests_per_minute, self.tokens_per_minute):
            if rate is not None and not 1 <= rate <= _TOKENS_MAX:
                raise ValueError(f"what may be asked per minute lies in 1…{_TOKENS_MAX}")


@dataclass(frozen=True)
class Call:
    """A call that wants to be sent. `tokens` is what it may cost at most: its input, and the bound of its result.

    `id` is one call's, on one pod: the same id again is the same call.
    """

    id: str
    tokens: int


@dataclass(frozen=True)
class Settlement:
    """A call that has ended. `fault` is the runner's word for a failure: RateLimited, Overloaded, Transient,
    Unavailable or Terminal; None and no `reason` is a success, None with a reason an end that tells nothing of the
    provider. The reason Changed, of an id that was never admitted, is no call's: somebody may have acted on what opened
    the breaker, and it is half open from now on.
    """

    id: str
    fault: str | None = None
    reason: str = ""
    message: str = ""
    """One sentence for people, cut at 256 characters."""
    tokens: int | None = None
    """What was used. None: unknown, and what was booked stays spent, unless the fault says that nothing was served."""
    retry_after_ms: int | None = None
    """For how long the provider wants nothing; an hour at most counts."""


@dataclass(frozen=True)
class GateState:
    """What people are told of a gate."""

    breaker: Breaker = Breaker.CLOSED
    reason: str = ""
    """Why nothing is sent, one PascalCase word; empty while calls are sent."""
    message: str = ""
    retry_in_ms: int = 0
    concurrency: int | None = None
    """Calls that may be under way at a time for the moment; None before the first."""
    under_way: int = 0


@dataclass(frozen=True)
class Turn:
    """What a turn brought; times are the server's."""

    at_ms: int
    admitted: int
    """So many of the calls may be sent, the first ones."""
    reason: str
    """Why the next may not: CircuitOpen, the reason of a pause, Concurrency, RequestsPerMinute or TokensPerMinute."""
    wait_ms: int
    """When to ask again for it. Of Concurrency, and of a probe under way, a guess."""
    room: int
    """So many more calls could be admitted within half a second, beside those that wait (those of this turn too)."""
    state: GateState


class GateBus(BusReader):
    """The bus of whoever sends calls to a provider."""

    async def turn(
        self,
        model: ModelKey,
        limits: GateLimits,
        *,
        calls: Sequence[Call] = (),
        settled: Sequence[Settlement] = (),
        lease_ms: int = 30_000,
        spread: float | None = None,
    ) -> Turn:
        """Settles calls that have ended, then admits others in their order up to the first that may not be sent; 64 of
        each at most. An admitted call has a place until it is settled, or `lease_ms` after its last renewal.

        Idempotent by the calls' ids; a settlement has one effect, also when its call has lost its place.

        `spread` of 0…1 lengthens a pause that is the gate's own by up to a quarter, so that models of one provider do
        not come back together; None: by chance.
        """
        if len(calls) > CALLS_AT_ONCE or len(settled) > CALLS_AT_ONCE:
            raise ValueError(f"a turn takes {CALLS_AT_ONCE} calls at most")
        flat: list[bytes | str | int] = []
        for each in settled:
            flat += _settlement(each, random.random() if spread is None else spread)  # noqa: S311  guards nothing
        for call in calls:
            flat += [_call_id(call.id), min(max(0, call.tokens), _TOKENS_MAX)]
        reply = await self._connection.run(
            "remote/turn",
            key_prefix(model),
            request_id(),
            limits.max_concurrency,
            limits.requests_per_minute or 0,
            limits.tokens_per_minute or 0,
            positive(lease_ms),
            len(settled),
            *flat,
        )
        try:
            at_ms, admitted, reason, wait_ms, room, *state = reply
            return Turn(int(at_ms), int(admitted), _text(reason), int(wait_ms), int(room), _state(state))
        except (ValueError, TypeError) as error:
            raise BusCorrupt(f"the gate of {model} cannot be read") from error

    async def admit(
        self, model: ModelKey, limits: GateLimits, call_id: str, tokens: int, *, lease_ms: int = 30_000
    ) -> Turn:
        """One call: a turn with nothing else; `admitted` is 1 or 0."""
        return await self.turn(model, limits, calls=[Call(call_id, tokens)], lease_ms=lease_ms)

    async def settle(self, model: ModelKey, limits: GateLimits, settlement: Settlement) -> Turn:
        """One call that has ended: a turn with nothing else."""
        return await self.turn(model, limits, settled=[settlement])

    async def renew_calls(self, model: ModelKey, call_ids: Sequence[str], *, lease_ms: int = 30_000) -> list[bool]:
        """Extends the places of calls under way to now + `lease_ms`. False: the place was lost (the lease ran out,
        Redis was emptied), and the call has it again: it goes on in any case, and has to be counted.
        """
        kept: list[bool] = []
        for first in range(0, len(call_ids), _RENEWED_AT_ONCE):
            ids = [_call_id(each) for each in call_ids[first : first + _RENEWED_AT_ONCE]]
            reply = await self._connection.run("remote/renew", key_prefix(model), positive(lease_ms), *ids)
            kept += [bool(each) for each in reply]
        return kept

    async def gate(self, model: ModelKey) -> GateState:
        """How the model's gate stands; of a model that never sent a call, or none for hours, one that is closed to
        nothing. Raises BusCorrupt.
        """
        reply = await self._connection.run("remote/gate", key_prefix(model))
        try:
            return _state(reply)
        except (ValueError, TypeError) as error:
            raise BusCorrupt(f"the gate of {model} cannot be read") from error


def _call_id(text: str) -> str:
    if not 1 <= len(text.encode()) <= CALL_ID_MAX_CHARS:
        raise ValueError(f"a call's id has 1 to {CALL_ID_MAX_CHARS} bytes")
    return text


def _settlement(each: Settlement, spread: float) -> list[bytes | str | int]:
    if each.fault is not None and each.fault not in _FAULTS:
        raise ValueError(f"fault {each.fault!r} is none of {', '.join(sorted(_FAULTS))}")
    return [
        _call_id(each.id),
        each.fault or "",
        each.reason[:_REASON_MAX_CHARS],
        _printable(each.message),
        -1 if each.tokens is None else min(max(0, each.tokens), _TOKENS_MAX),
        -1 if each.retry_after_ms is None else max(0, each.retry_after_ms),
        repr(spread),
    ]


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:MESSAGE_MAX_CHARS])


def _text(data: bytes) -> str:
    return _printable(data.decode("utf-8", "replace"))


def _state(reply: Reply) -> GateState:
    parts: list[Any] = list(reply)
    breaker, reason, message, retry_in_ms, concurrency, under_way = parts
    return GateState(
        Breaker(breaker.decode()),
        _text(reason)[:_REASON_MAX_CHARS],
        _text(message),
        int(retry_in_ms),
        int(concurrency) or None,
        int(under_way),
    )
