"""What a caller hears of its rates, and what becomes of them without Redis."""

from typing import Any

import pytest

from headrace_bus import BusUnavailable
from headrace_facade.caller import Caller
from headrace_facade.errors import RateLimitExceeded, Unavailable
from headrace_facade.rates import Rates

ALICE, KEY = Caller("team", "system:serviceaccount:team:alice"), Caller("team", "key:headrace-key-0")


class Ledger:
    def __init__(self, *waits_ms: int | Exception) -> None:
        self.waits = list(waits_ms)
        self.taken: list[str] = []
        self.charged: list[tuple[str, int]] = []

    async def take(self, identity: str, **_rates: int) -> int:
        self.taken.append(identity)
        wait = self.waits.pop(0)
        if isinstance(wait, Exception):
            raise wait
        return wait

    async def charge(self, identity: str, tokens: int, *, tokens_per_minute: int) -> None:
        self.charged.append((identity, tokens))
        if self.waits:
            raise BusUnavailable("away")


def rates(ledger: Ledger | None, requests: int = 10, tokens: int = 100) -> Rates:
    return Rates(ledger, requests, tokens)  # type: ignore[arg-type] # what is asked of it


@pytest.mark.parametrize(("wait_ms", "retry_s"), [(1, 1), (1_000, 1), (1_001, 2), (59_001, 60), (10**9, 3_600)])
async def test_who_comes_too_often_is_told_when_to_come(wait_ms: int, retry_s: int) -> None:
    with pytest.raises(RateLimitExceeded, match="10 requests and 100 tokens per minute") as told:
        await rates(Ledger(wait_ms)).admit(ALICE)
    assert told.value.status == 429
    assert told.value.headers == {"Retry-After": str(retry_s)}


async def test_identities_are_told_apart_and_named_nowhere() -> None:
    ledger = Ledger(0, 0, 0)
    counting = rates(ledger)
    for caller in (ALICE, KEY, Caller("other", ALICE.name)):
        await counting.admit(caller)
    first, second, third = ledger.taken
    assert first == third != second
    assert "alice" not in "".join(ledger.taken)


async def test_without_redis_nobody_goes_uncounted() -> None:
    for counting in (rates(None), rates(Ledger(BusUnavailable("away")))):
        with pytest.raises(Unavailable):
            await counting.admit(ALICE)


@pytest.mark.parametrize("ledger", [None, Ledger(7)], ids=["no Redis", "Redis"])
async def test_without_a_rate_nothing_is_counted(ledger: Any) -> None:
    counting = rates(ledger, 0, 0)
    await counting.admit(ALICE)
    await counting.charge(ALICE, 5)
    assert ledger is None or (ledger.taken, ledger.charged) == ([], [])


async def test_tokens_are_charged_when_used_and_a_result_survives_a_failure() -> None:
    ledger = Ledger()
    await rates(ledger).charge(ALICE, 42)
    await rates(ledger).charge(ALICE, 0)
    assert [tokens for _, tokens in ledger.charged] == [42]
    await rates(Ledger(0)).charge(ALICE, 42)
