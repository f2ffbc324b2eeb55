"""The gate of a remote model, as one runner pod goes through it; what is decided is decided in Redis, for all pods.

One loop asks for everybody: each turn settles the calls that have ended and admits those at the head of the line, in
one round trip. Nobody else asks, so waiting costs Redis nothing.

Without Redis nothing is claimed. A call whose task was claimed before is sent after one try that failed: refusing it
would only hand back, through the same Redis, work whose lease is about to run out, and there are no more such calls
than slots. What it tells in the end is dropped: its place comes back with its lease, and a provider that fails will
fail the next call too.
"""

import asyncio
import collections
import contextlib
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog

from headrace_bus import BusError, Call, GateLimits, ModelKey, Settlement, Turn
from headrace_bus.gate import CALL_ID_MAX_CHARS, CALLS_AT_ONCE, GateBus
from headrace_crds.reasons import Reason
from headrace_crds.remote import Remote
from headrace_runner.providers.protocol import Fault
from headrace_runner.remote.call_gate import PAUSE_SECONDS, PAUSING, NotAdmitted
from headrace_runner.remote.gate_state import Breaker, GateState

ADMIT_SECONDS: Final = 1.0
"""What is claimed is held for so long at most."""
LOOK_EVERY_SECONDS: Final = 1.0
LOOK_SHUT_SECONDS: Final = 0.25
"""While there is no room: another pod's call may end at any moment."""
LEASE_MS: Final = 30_000
_RETRY_AFTER_MAX_SECONDS: Final = 3600.0
_FLUSH_SECONDS: Final = 1.0
_SPREAD: Final = 0.1
_SPREAD_MAX_SECONDS: Final = 5.0
_HEAD_SPREAD_SECONDS: Final = 0.01
_NOT_SENT: Final = "NotSent"
_CHANGED: Final = "Changed"

_RATES: Final = {
    "RequestsPerMinute": "as many requests were sent as spec.remote.limits.requestsPerMinute allows",
    "TokensPerMinute": "as many tokens were asked for as spec.remote.limits.tokensPerMinute allows",
}

_log = structlog.get_logger()


def limits_of(remote: Remote) -> GateLimits:
    """What the model's spec allows."""
    limits = remote.limits
    return GateLimits(
        remote.max_concurrency,
        limits.requests_per_minute if limits else None,
        limits.tokens_per_minute if limits else None,
    )


@dataclass(eq=False)
class _Waiter:
    call: Call
    deadline: float
    answer: asyncio.Future[NotAdmitted | None]
    refusal: NotAdmitted | None = None
    """Why it was not admitted when Redis was asked last."""


@dataclass
class _Expected:
    """Claimed calls that have not come yet: when each is given up."""

    until: collections.deque[float] = field(default_factory=collections.deque)

    def count(self, now: float) -> int:
        while self.until and self.until[0] <= now:
            self.until.popleft()
        return len(self.until)


class Gate:
    """A ``CallGate``. ``open`` is clear until Redis has answered for the first time, while nothing may be sent, and
    while all that may be sent is claimed.
    """

    def __init__(
        self,
        bus: GateBus,
        model: ModelKey,
        limits: GateLimits,
        pod: str,
        *,
        lease_ms: int = LEASE_MS,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.open = asyncio.Event()
        self._bus = bus
        self._model = model
        self._limits = limits
        self._pod = pod
        self._lease_ms = lease_ms
        self._monotonic = monotonic
        self._uniform = uniform
        self._line: collections.deque[_Waiter] = collections.deque()
        self._ended: collections.deque[Settlement] = collections.deque()
        self._under_way: set[str] = set()
        self._expected = _Expected()
        self._wake = asyncio.Event()
        self._due = 0.0
        self._renew_at = 0.0
        self._shut_until = 0.0
        self._spent: tuple[float, str] = (0.0, "")
        self._room = 0
        # Waiters that the room told is beside of.
        self._counted: set[_Waiter] = set()
        self._told: Turn | None = None
        self._told_at = 0.0
        self._away = False

    async def admit(self, call_id: str, tokens: int) -> None:
        """See ``CallGate``. Those of a pod are admitted in the order in which they came."""
        loop, now = asyncio.get_running_loop(), self._monotonic()
        waiter = _Waiter(Call(self._named(call_id), tokens), now + ADMIT_SECONDS, loop.create_future())
        self._line.append(waiter)
        if self._expected.count(now):
            self._expected.until.popleft()
        if self._line[0] is waiter:
            self._ask_at(now)
        try:
            await asyncio.wait({waiter.answer}, timeout=ADMIT_SECONDS)
            refusal = waiter.answer.result() if waiter.answer.done() else waiter.refusal
            if refusal is not None:
                raise refusal
            # Told so, or Redis has not answered.
            self._under_way.add(waiter.call.id)
            waiter.answer.cancel()
        finally:
            if not waiter.answer.done():
                waiter.answer.set_result(waiter.refusal)
            with contextlib.suppress(ValueError):
                self._line.remove(waiter)
            self._judge()

    async def settle(
        self,
        call_id: str,
        *,
        fault: Fault | None,
        reason: str,
        message: str,
        tokens: int,
        retry_after_seconds: float | None,
    ) -> None:
        """See ``CallGate``. Told with the next turn, which begins at once; a success that tells of no tokens keeps
        those that it was admitted with.
        """
        now = self._monotonic()
        name = self._named(call_id)
        self._under_way.discard(name)
        pause = None if retry_after_seconds is None else min(max(0.0, retry_after_seconds), _RETRY_AFTER_MAX_SECONDS)
        used = None if tokens < 0 or (fault is None and tokens == 0) else tokens
        retry_after_ms = None if pause is None else int(pause * 1000)
        self._ended.append(Settlement(name, fault, reason, message, used, retry_after_ms))
        if fault in PAUSING:
            # Whoever reads ``open`` before Redis has answered must find it clear.
            self._shut(now, max(PAUSE_SECONDS, pause or 0.0))
            self._judge()
        self._ask_at(now)

    def changed(self) -> None:
        """See ``CallGate``. For all pods: told with the next turn, which begins at once."""
        self._ended.append(Settlement(self._named(f"changed/{uuid.uuid4().hex}"), reason=_CHANGED, tokens=0))
        self._ask_at(self._monotonic())

    def state(self) -> GateState:
        """As Redis told last, with the time that has passed since taken off."""
        told, now = self._told, self._monotonic()
        if told is None:
            return GateState()
        state = told.state
        left = max(0.0, state.retry_in_ms / 1000 - (now - self._told_at))
        spent_until, why = self._spent
        if not state.reason and now < spent_until and not self.open.is_set():
            return GateState(
                Breaker(state.breaker.value), Reason.RATE_LIMITED, why, spent_until - now, state.concurrency
            )
        return GateState(
            Breaker(state.breaker.value), state.reason, state.message, left if state.reason else None, state.concurrency
        )

    def room(self) -> int:
        """So many calls more could be admitted soon, within a second at most: claim no more."""
        now = self._monotonic()
        if now < self._shut_until:
            return 0
        fresh = sum(waiter not in self._counted for waiter in self._line)
        return max(0, self._room - fresh - self._expected.count(now))

    def claimed(self, count: int) -> None:
        """So many tasks were claimed, and will ask for admission; until then they take up ``room``."""
        self._expected.until.extend([self._monotonic() + ADMIT_SECONDS] * count)
        self._judge()

    async def run(self) -> None:
        """Endless: turns, renewals, and a look each second. When it is cancelled it tells what is still to be told."""
        try:
            while True:
                await self._turn()
                await self._until_due()
        finally:
            if self._ended and not self._away:
                with contextlib.suppress(BusError, TimeoutError):
                    async with asyncio.timeout(_FLUSH_SECONDS):
                        await self._bus.turn(self._model, self._limits, settled=self._some_ended())

    async def _until_due(self) -> None:
        while (left := self._due - self._monotonic()) > 0:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    async def _turn(self) -> None:
        now = self._monotonic()
        self._due = now + (LOOK_EVERY_SECONDS if self.open.is_set() or now < self._shut_until else LOOK_SHUT_SECONDS)
        if now < self._shut_until:
            self._due = min(self._due, self._shut_until)
        asked: list[_Waiter] = []
        try:
            await self._renew()
            asked = list(itertools.islice(self._line, CALLS_AT_ONCE))
            calls, ended = [waiter.call for waiter in asked], self._some_ended()
            turn = await self._bus.turn(self._model, self._limits, calls=calls, settled=ended, lease_ms=self._lease_ms)
        except BusError as error:
            if not self._away:
                _log.warning("gate not reached", reason=error.reason)
            self._away = True
            for waiter in asked or list(self._line):
                self._answer(waiter, None)
            self._judge()
            if self._line:
                self._ask_at(self._monotonic())
        else:
            self._away = False
            self._take(turn, asked)
        if self._ended:
            self._ask_at(self._monotonic())

    async def _renew(self) -> None:
        now = self._monotonic()
        if now < self._renew_at:
            return
        self._renew_at = now + self._lease_ms / 3000
        if self._under_way:
            kept = await self._bus.renew_calls(self._model, list(self._under_way), lease_ms=self._lease_ms)
            if lost := kept.count(False):
                _log.warning("calls were not counted for a while", calls=lost)

    def _take(self, turn: Turn, asked: list[_Waiter]) -> None:
        now = self._monotonic()
        self._told, self._told_at, self._room = turn, now, turn.room
        self._counted = set(asked[turn.admitted :])
        for waiter in asked[: turn.admitted]:
            self._answer(waiter, None)
        retry_seconds = turn.state.retry_in_ms / 1000
        if retry_seconds:
            self._shut(now, retry_seconds)
        else:
            # Redis may have been emptied.
            self._shut_until = min(self._shut_until, now + _SPREAD_MAX_SECONDS)
        if turn.reason:
            self._refuse(turn, asked[turn.admitted], now)
        elif self._line:
            # More than one turn takes, or come meanwhile.
            self._ask_at(now)
        self._judge()

    def _refuse(self, turn: Turn, head: _Waiter, now: float) -> None:
        """What `turn` said of the first one that was not admitted, and so of all behind it."""
        refusal, wait_seconds = self._refusal(turn), turn.wait_ms / 1000
        for waiter in self._line:
            waiter.refusal = refusal
        if turn.reason in _RATES and wait_seconds > ADMIT_SECONDS:
            self._spent = (now + wait_seconds, refusal.message)
        if wait_seconds > ADMIT_SECONDS and turn.reason != "TokensPerMinute":
            self._turn_away(list(self._line), refusal)
        elif now + wait_seconds > head.deadline and turn.reason != "Concurrency":
            # The next one may want fewer tokens.
            self._turn_away([head], refusal)
            wait_seconds = 0.0
        if self._line:
            self._ask_at(now + wait_seconds + self._uniform(0.0, min(_HEAD_SPREAD_SECONDS, wait_seconds)))

    def _turn_away(self, waiters: Iterable[_Waiter], refusal: NotAdmitted) -> None:
        for waiter in waiters:
            self._answer(waiter, refusal)

    def _answer(self, waiter: _Waiter, refusal: NotAdmitted | None) -> None:
        with contextlib.suppress(ValueError):
            self._line.remove(waiter)
        if not waiter.answer.done():
            waiter.answer.set_result(refusal)
        elif refusal is None and not waiter.answer.cancelled():
            # It did not wait so long: nobody will settle it. One that was ended from outside is settled twice, once.
            self._ended.append(Settlement(waiter.call.id, reason=_NOT_SENT, tokens=0))

    def _refusal(self, turn: Turn) -> NotAdmitted:
        state = turn.state
        if turn.reason in _RATES:
            return NotAdmitted(Reason.RATE_LIMITED, _RATES[turn.reason])
        if turn.reason == "Concurrency":
            most = self._limits.max_concurrency
            message = f"{state.under_way} calls are under way, as many as may be; spec.remote.maxConcurrency is {most}"
            return NotAdmitted(Reason.RATE_LIMITED, message)
        if turn.reason == Reason.CIRCUIT_OPEN:
            return NotAdmitted(Reason.CIRCUIT_OPEN, f"calls are held back after {state.reason}: {state.message}")
        return NotAdmitted(turn.reason, state.message)

    def _shut(self, now: float, seconds: float) -> None:
        """Claim nothing for so long; a little longer, so that the pods do not all come back at once."""
        until = now + seconds
        if until > self._shut_until:
            self._shut_until = until + self._uniform(0.0, min(_SPREAD_MAX_SECONDS, seconds * _SPREAD))

    def _judge(self) -> None:
        if self.room() > 0:
            self.open.set()
        else:
            self.open.clear()

    def _ask_at(self, at: float) -> None:
        self._due = min(self._due, at)
        self._wake.set()

    def _some_ended(self) -> list[Settlement]:
        return [self._ended.popleft() for _ in range(min(CALLS_AT_ONCE, len(self._ended)))]

    def _named(self, call_id: str) -> str:
        """One pod's call: the same attempt may have been another pod's before."""
        name = f"{self._pod}:{call_id}"
        return name.encode()[-CALL_ID_MAX_CHARS:].decode("utf-8", "ignore")
