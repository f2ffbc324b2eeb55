"""The gate in plain Python, with the time given: what `test_bus_gate_machine` holds the Lua against, operation by
operation on the same doubles, and what the simulations of rates run on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace_bus import Breaker, Call, GateLimits, GateState, Settlement, Turn

FILL = 0.98
BURST_MS = 250
DEBT_MAX_MS = 3_600_000
OPEN_MAX_MS = 300_000


def cost_ms(count: int, per_minute: int) -> float:
    return count * 60_000 / (per_minute * FILL)


def bucket_wait(full: float, now: float, cost: float) -> float:
    return max(0, full - max(0, BURST_MS - cost) - now)


@dataclass
class GateReference:
    requests: float = 0
    tokens: float = 0
    limit: float = 0
    """0 before the first turn."""
    ceiling: float = 0
    cut: float = 0
    pause: float = 0
    pauses: int = 0
    shut: float = 0
    open: float = 0
    failures: int = 0
    probe: str = ""
    reason: str = ""
    message: str = ""
    pause_reason: str = ""
    pause_message: str = ""
    calls: dict[str, float] = field(default_factory=dict)
    """Call → when its lease ends."""
    booked: dict[str, tuple[int, float]] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)

    def pass_time(self, ms: int) -> None:
        """All that is remembered is so much longer ago."""
        for name in ("requests", "tokens", "cut", "pause", "shut"):
            value = getattr(self, name)
            setattr(self, name, max(0, value - ms) if value else 0)
        self.calls = {call: ends - ms for call, ends in self.calls.items()}
        self.waiting = {call: ends - ms for call, ends in self.waiting.items()}
        self.booked = {call: (tokens, at - ms) for call, (tokens, at) in self.booked.items()}

    def sweep(self, now: float) -> None:
        for call in [call for call, ends in self.calls.items() if ends <= now]:
            del self.calls[call]
            self.booked.pop(call, None)

    def turn(
        self,
        now: float,
        limits: GateLimits,
        calls: Sequence[Call] = (),
        settled: Sequence[Settlement] = (),
        lease_ms: int = 30_000,
        spread: float = 0.0,
    ) -> Turn:
        self.sweep(now)
        self.limit = min(self.limit or limits.max_concurrency, limits.max_concurrency)
        for each in settled:
            self._settle(now, limits, each, spread)
        admitted, reason, wait = 0, "", 0.0
        for call in calls:
            reason, wait = self._admit(now, limits, call, lease_ms)
            if reason:
                break
            admitted += 1
        self.waiting = {call: ends for call, ends in self.waiting.items() if ends > now}
        for call in calls[:admitted]:
            self.waiting.pop(call.id, None)
        self.waiting |= {call.id: now + 1000 for call in calls[admitted:]}
        return Turn(int(now), admitted, reason, math.ceil(wait), self._room(now, limits), self.state(now))

    def renew(self, now: float, ids: Sequence[str], lease_ms: int) -> list[bool]:
        self.sweep(now)
        kept = [call in self.calls for call in ids]
        self.calls |= dict.fromkeys(ids, now + lease_ms)
        return kept

    def breaker(self, now: float) -> Breaker:
        if self.shut == 0:
            return Breaker.CLOSED
        return Breaker.OPEN if now < self.shut else Breaker.HALF_OPEN

    def state(self, now: float) -> GateState:
        breaker, under_way = self.breaker(now), sum(ends >= now for ends in self.calls.values())
        told: tuple[str, str, int] = ("", "", 0)
        if breaker is not Breaker.CLOSED:
            told = (self.reason, self.message, max(0, math.ceil(self.shut - now)))
        elif self.pause > now:
            told = (self.pause_reason, self.pause_message, math.ceil(self.pause - now))
        return GateState(breaker, *told, math.floor(self.limit) or None, under_way)

    def _probing(self, now: float) -> float:
        return max(0, self.calls.get(self.probe, 0) - now) if self.probe else 0

    def _admit(self, now: float, limits: GateLimits, call: Call, lease_ms: int) -> tuple[str, float]:
        if call.id in self.calls:
            self.calls[call.id] = now + lease_ms
            return "", 0
        breaker = self.breaker(now)
        if breaker is Breaker.OPEN:
            return "CircuitOpen", self.shut - now
        if breaker is Breaker.HALF_OPEN and self._probing(now) > 0:
            return "CircuitOpen", min(self._probing(now), 1000)
        if now < self.pause:
            return self.pause_reason or "RateLimited", self.pause - now
        if len(self.calls) + 1 > self.limit:
            return "Concurrency", 250
        request = cost_ms(1, limits.requests_per_minute) if limits.requests_per_minute else 0
        token = cost_ms(call.tokens, limits.tokens_per_minute) if limits.tokens_per_minute else 0
        request_wait = bucket_wait(self.requests, now, request) if request else 0
        token_wait = bucket_wait(self.tokens, now, token) if token else 0
        if request_wait > 0 and request_wait >= token_wait:
            return "RequestsPerMinute", request_wait
        if token_wait > 0:
            return "TokensPerMinute", token_wait
        if request:
            self.requests = max(self.requests, now) + request
        if token:
            self.tokens = min(max(self.tokens, now) + token, now + DEBT_MAX_MS)
        if breaker is Breaker.HALF_OPEN:
            self.probe = call.id
        self.calls[call.id] = now + lease_ms
        self.booked[call.id] = (call.tokens, now)
        return "", 0

    def _room(self, now: float, limits: GateLimits) -> int:
        horizon = now + 500
        if self.shut > horizon or self.pause > horizon:
            return 0
        room = math.floor(self.limit) - len(self.calls)
        if limits.requests_per_minute:
            each = cost_ms(1, limits.requests_per_minute)
            left = horizon + max(0, BURST_MS - each) - max(self.requests, now)
            room = min(room, 0 if left < 0 else math.floor(left / each) + 1)
        if limits.tokens_per_minute:
            room = 0 if self.tokens > horizon else min(room, 1)
        if self.breaker(now) is not Breaker.CLOSED:
            room = min(room, 0 if self._probing(now) > 0 else 1)
        return max(0, room - len(self.waiting))

    def _settle(self, now: float, limits: GateLimits, each: Settlement, spread: float) -> None:
        self.calls.pop(each.id, None)
        tokens, admitted = self.booked.pop(each.id, (None, None))
        used = each.tokens
        if used is None and each.fault in ("RateLimited", "Overloaded", "Unavailable", "Terminal"):
            used = 0
        if tokens is not None and used is not None and limits.tokens_per_minute:
            level = self.tokens + cost_ms(used - tokens, limits.tokens_per_minute)
            self.tokens = max(0, min(level, now + DEBT_MAX_MS))
        match each.fault:
            case "RateLimited" | "Overloaded":
                self._slow_down(now, admitted, each, spread)
            case "Unavailable":
                self._fail(now, each, 30_000)
            case "Transient":
                self.failures += self.shut == 0
                if self.shut > 0 or self.failures >= 5:
                    self._fail(now, each, 5_000)
            case "Terminal":
                self._answered(each.id)
            case None if each.reason == "Changed":
                self.shut = min(self.shut, now)
            case None if not each.reason:
                self._answered(each.id)
                if admitted is not None and admitted > self.cut:
                    self.pauses = 0
                self._grow(limits.max_concurrency)
        if self.probe == each.id:
            self.probe = ""

    def _slow_down(self, now: float, admitted: float | None, each: Settlement, spread: float) -> None:
        pause: float = -1 if each.retry_after_ms is None else min(each.retry_after_ms, 3_600_000)
        if now - self.cut >= 1000 and (admitted is None or admitted > self.cut):
            self.ceiling, self.limit, self.cut = self.limit, max(1, self.limit / 2), now
            if pause < 0:
                pause = min(60_000, 1000 * 2**self.pauses) * (1 + spread / 4)
                self.pauses = min(6, self.pauses + 1)
        if pause > 0 and now + pause > self.pause:
            self.pause, self.pause_reason, self.pause_message = now + math.floor(pause), each.reason, each.message

    def _fail(self, now: float, each: Settlement, first_ms: float) -> None:
        if self.probe == each.id and self.shut > 0:
            opened = max(first_ms, 2 * self.open)
        elif first_ms > self.open:
            opened = first_ms
        else:
            return
        self.open = min(opened, OPEN_MAX_MS)
        self.shut, self.failures, self.reason, self.message = now + self.open, 0, each.reason, each.message

    def _answered(self, call: str) -> None:
        if self.shut == 0:
            self.failures = 0
        elif self.probe == call:
            self.shut, self.open, self.failures, self.reason, self.message = 0, 0, 0, "", ""

    def _grow(self, most: int) -> None:
        step = 1 / self.limit
        if self.limit > self.ceiling + 1:
            self.ceiling = 0
        elif self.limit >= self.ceiling - 1:
            step /= 16
        self.limit = min(most, self.limit + step)
