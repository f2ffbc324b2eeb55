"""The ledger of a namespace's budgets: what is reserved before it is spent, and what was spent. The transitions are
Lua; the operator alone asks for them.

Keys begin with `headrace:budget:{namespace}:`.

| key        | type | holds                                                                            |
|------------|------|----------------------------------------------------------------------------------|
| `spent`    | hash | of each line (window and currency) its start, tokens and micros                  |
| `held`     | hash | uid → `<attempt> <tokens> <micros> <currency>`, what attempts under way may take |
| `ends`     | zset | uid → ms at which that attempt cannot be under way any more                      |
| `reserved` | hash | sums of `held`: tokens, and micros by currency                                   |

Nothing of it is a record: sums begin with what the caller says that the LLMQuota's status tells of the window, and
reservations are made again with the attempts that follow a loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headrace_bus.arguments import positive
from headrace_bus.connection import Connection
from headrace_bus.errors import BusCorrupt
from headrace_bus.keys import budget_prefix, key_part
from headrace_crds.cost import COUNT_LIMIT, Spend

PAGE: Final = 500
LINES_MOST: Final = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One budget in its present window. `told_*` is what the LLMQuota's status says was spent in this very window."""

    window: str
    currency: str
    start_ms: int
    told_tokens: int = 0
    told_micros: int = 0
    tokens: int | None = None
    """What may be spent; None: no bound."""
    micros: int | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """What is spent of a line, and the most that attempts under way may add."""

    tokens_spent: int = 0
    micros_spent: int = 0
    tokens_reserved: int = 0
    micros_reserved: int = 0


@dataclass(frozen=True, slots=True)
class NoRoom:
    """The first line that has no room, by its place in the list, as it stood."""

    line: int
    totals: Totals


class BudgetLedger:
    """Each method is one script, which may be run again to the same effect. Raises BusError, and ValueError for names
    and numbers that cannot be.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def reserve(
        self,
        namespace: str,
        uid: str,
        attempt: int,
        most: Spend,
        lines: Sequence[Line],
        *,
        ends_ms: int,
        forced: bool = False,
    ) -> NoRoom | None:
        """Sets aside what the attempt may take, until it is settled or `ends_ms` (server time); None: there was room in
        every line. An attempt is reserved once; it replaces an earlier one of the task. `forced` refuses nothing: the
        attempt is handed out already.
        """
        flat: list[str | int] = []
        for line in _bounded(lines):
            flat += [*_named(line), _bound(line.tokens), _bound(line.micros)]
        reply = await self._connection.run(
            "budget/reserve",
            budget_prefix(namespace),
            key_part(uid),
            positive(attempt),
            *_figures(most),
            positive(ends_ms),
            "1" if forced else "",
            *flat,
        )
        place, *figures = reply
        return None if place == 0 else NoRoom(int(place) - 1, _totals(figures))

    async def settle(self, namespace: str, uid: str, attempt: int, spent: Spend | None, lines: Sequence[Line]) -> bool:
        """Adds what the attempt took to every line, instead of what was reserved; None: as much as that. False: nothing
        is reserved for this attempt, and nothing was done.
        """
        flat = [part for line in _bounded(lines) for part in _named(line)]
        figures = ("", "", "") if spent is None else _figures(spent)
        reply = await self._connection.run(
            "budget/settle", budget_prefix(namespace), key_part(uid), positive(attempt), *figures, *flat
        )
        return bool(reply == 1)

    async def totals(self, namespace: str, lines: Sequence[Line]) -> list[Totals]:
        """Of each line."""
        flat = [part for line in _bounded(lines) for part in _named(line)]
        reply = await self._connection.run("budget/totals", budget_prefix(namespace), *flat)
        return [_totals(reply[place : place + 4]) for place in range(0, len(reply), 4)]

    async def held(self, namespace: str) -> dict[str, int]:
        """uid → attempt of everything that is reserved; what changes meanwhile may be missing."""
        found: dict[str, int] = {}
        cursor = 0
        while True:
            reply = await self._connection.run("budget/held", budget_prefix(namespace), cursor, PAGE)
            for uid, attempt in zip(reply[1::2], reply[2::2], strict=True):
                found[key_part(uid.decode())] = int(attempt)
            cursor = int(reply[0])
            if cursor == 0:
                return found

    async def forget(self, namespace: str) -> None:
        """Deletes all of it."""
        await self._connection.run("budget/forget", budget_prefix(namespace))


def _bounded(lines: Sequence[Line]) -> Sequence[Line]:
    if len(lines) > LINES_MOST:
        raise ValueError(f"{len(lines)} budgets, {LINES_MOST} at most")
    return lines


def _named(line: Line) -> list[str | int]:
    return [f"{line.window}/{line.currency}", line.start_ms, _figure(line.told_tokens), _figure(line.told_micros)]


def _figures(spend: Spend) -> tuple[int, int, str]:
    return _figure(spend.tokens), _figure(spend.cost_micros), spend.currency


def _figure(value: int) -> int:
    if not 0 <= value <= COUNT_LIMIT:
        raise ValueError(f"{value} is not counted exactly")
    return value


def _bound(value: int | None) -> str | int:
    return "" if value is None else _figure(value)


def _totals(figures: Sequence[int]) -> Totals:
    if len(figures) != 4:
        raise BusCorrupt("no totals")
    return Totals(*(int(each) for each in figures))
