"""Requests and tokens per minute of an identity, counted over all facades. The transitions are Lua.

Keys begin with `headrace:rate:{digest}:`.

| key    | type | holds                                                          | ends            |
|--------|------|----------------------------------------------------------------|-----------------|
| `full` | hash | requests, tokens → ms at which that bucket is full once more   | with the fuller |

A bucket holds a minute's worth: after a minute of silence as many may come at once, and in the long run the rate holds.
Tokens are counted when they were used; what was used beyond the rate is a debt of an hour at most.
"""

from typing import Final

from headrace_bus.keys import rate_prefix
from headrace_bus.ledger import Ledger

TOKENS_MOST: Final = 1_000_000_000


class RateLedger(Ledger):
    """Raises BusError, and ValueError for what is no digest. A repetition after a lost reply counts twice."""

    async def take(self, identity: str, *, requests_per_minute: int, tokens_per_minute: int) -> int:
        """0: one request was counted. Else none was, and it is the ms until one may come. A rate of 0 is none."""
        reply = await self._connection.run("rate/take", rate_prefix(identity), requests_per_minute, tokens_per_minute)
        return int(reply)

    async def charge(self, identity: str, tokens: int, *, tokens_per_minute: int) -> None:
        """Counts tokens that were used."""
        used = max(0, min(tokens, TOKENS_MOST))
        await self._connection.run("rate/charge", rate_prefix(identity), tokens_per_minute, used)
