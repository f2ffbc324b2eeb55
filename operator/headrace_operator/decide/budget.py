"""Budgets: the windows of the calendar, the words for who waits, and what an attempt took that no outcome tells."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from headrace_crds.cost import Spend
from headrace_crds.outcome import timestamp
from headrace_crds.quota import Budget, BudgetWindow
from headrace_crds.reasons import Reason
from headrace_operator.decide.plans import TaskPlan
from headrace_operator.decide.snapshots import Place, TaskSnapshot
from headrace_operator.decide.waiting import Waiting

NOTHING: Final = Spend()
_CUT_OFF: Final = frozenset({Reason.ATTEMPT_TIMEOUT, Reason.ENGINE_LOST, Reason.RUNNER_STOPPED})
"""Ends in the middle of a generation: a runner that tells no usage does not know it."""


@dataclass(frozen=True, slots=True)
class Used:
    """Of one budget in its present window."""

    tokens_spent: int
    micros_spent: int
    tokens_reserved: int
    micros_reserved: int


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt that is over without an outcome of its own. `spent` None: nobody knows, as much as was reserved."""

    attempt: int
    spent: Spend | None
    held: bool = False
    """It is taken from its holder by the plan: over only when the plan was carried out."""


def window_of(window: BudgetWindow, now_ms: int) -> tuple[int, int]:
    """When the calendar's window began and ends, in UTC: milliseconds of the same clock."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    begun = now.replace(minute=0, second=0, microsecond=0)
    if window is BudgetWindow.HOURLY:
        return _ms(begun), _ms(begun + timedelta(hours=1))
    begun = begun.replace(hour=0)
    if window is BudgetWindow.DAILY:
        return _ms(begun), _ms(begun + timedelta(days=1))
    begun = begun.replace(day=1)
    return _ms(begun), _ms((begun + timedelta(days=32)).replace(day=1))


def exhausted(budget: Budget, used: Used, most: Spend, namespace: str, ends_ms: int) -> Waiting:
    """The figures are those of the first look in this window: not each task that ends changes them."""
    micros = most.cost_micros if most.currency == budget.money else 0
    if budget.tokens is not None and used.tokens_spent + used.tokens_reserved + most.tokens > budget.tokens:
        spent, reserved, limit, wanted = used.tokens_spent, used.tokens_reserved, budget.tokens, most.tokens
        unit = "tokens"
    else:
        spent, reserved, limit, wanted = used.micros_spent, used.micros_reserved, budget.cost_micros or 0, micros
        unit = f"micros of {budget.money}"
    told = (
        f"{budget.window} budget of namespace {namespace!r} until {timestamp(ends_ms)}: {spent} {unit} are spent and "
        f"{reserved} reserved, of at most {limit}, and this task may take {wanted}"
    )
    if wanted > limit:
        remedy = "have an admin raise LLMQuota 'default', or create another task with a lower spec.parameters.maxTokens"
    else:
        remedy = "goes on when there is room, at the latest when the budget begins anew; an admin can raise it before"
    return Waiting(Reason.BUDGET_EXHAUSTED, f"{told}: {remedy}")


def ended(s: TaskSnapshot, plan: TaskPlan) -> Ended | None:
    """The attempt that the plan passes over or ends; None where it goes on, or where an outcome with its usage tells
    what it took.
    """
    status = plan.status or {}
    if s.held is None or status.get("usage"):
        return None
    over = s.task is None or "outcome" in status or status.get("phase") in ("Waiting", "Suspended")
    if not over and (status.get("attempt") or 0) <= s.held.attempt:
        return None
    came_back = s.held.returned
    if came_back is not None:
        unknown = came_back.how in ("LeaseExpired", "Parked") or came_back.reason in _CUT_OFF
        return Ended(s.held.attempt, came_back.spent or (None if unknown else NOTHING))
    unknown = s.held.place in (Place.LEASED, Place.RETURNED)
    # What is to be taken back may be claimed meanwhile: it is settled when that has succeeded.
    return Ended(s.held.attempt, None if unknown else NOTHING, held=unknown or plan.take_back is not None)


def _ms(at: datetime) -> int:
    return int(at.timestamp()) * 1000
