"""Whether an LLMQuota's budgets and its right to remote models admit one more task. Pure.

The operator decides: what is let in here and finds no room there waits in its object.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from headrace_crds.cost import Spend, may_take
from headrace_crds.model import LLMModel
from headrace_crds.quota import QUOTA_NAME, Budget, BudgetStatus, LLMQuota
from headrace_crds.task import LLMTask
from headrace_crds.work import resolve
from headrace_facade.errors import BudgetExhausted, FacadeError, RemoteNotAllowed

_LATER_S: Final = 1
"""At least; a window that is over is told of within seconds."""


def needs_model(quota: LLMQuota) -> bool:
    """Whether it depends on the model."""
    return quota.spec.remote_models is False or bool(quota.spec.budgets)


def refused(
    namespace: str, quota: LLMQuota, model: LLMModel | None, made: dict[str, Any], now_s: float
) -> FacadeError | None:
    """Why the task would only wait. A model that cannot be read, or is not there, is no reason."""
    if model is not None and model.spec.remote is not None and quota.spec.remote_models is False:
        return RemoteNotAllowed(
            f"LLMModel {model.metadata.name!r} is a remote model, and remoteModels is false in LLMQuota {QUOTA_NAME!r} "
            f"of namespace {namespace!r}: name a local model, or have an admin allow it"
        )
    told = quota.status.budgets or [] if quota.status is not None else []
    wanted = _wanted(made, model)
    for budget in quota.spec.budgets or []:
        used = _used(budget, told)
        if used is None or (reset_s := _seconds(used.reset_time)) is None or reset_s <= now_s:
            continue
        if (found := _over(budget, used, wanted)) is not None:
            message = (
                f"{budget.window} budget of namespace {namespace!r}: {found}; it begins anew at {used.reset_time}, "
                f"and an admin can raise it in LLMQuota {QUOTA_NAME!r}"
            )
            return BudgetExhausted(message, max(_LATER_S, math.ceil(reset_s - now_s)))
    return None


def _over(budget: Budget, used: BudgetStatus, wanted: Spend) -> str | None:
    """By what is spent alone: what is reserved comes back, at least in part."""
    micros = wanted.cost_micros if wanted.currency == budget.money else None
    pairs = (
        # Every task takes one at least, whatever is known of it.
        ("tokens", budget.tokens, used.tokens_spent, max(1, wanted.tokens)),
        (f"micros of {budget.money}", budget.cost_micros, used.cost_micros_spent, micros),
    )
    for unit, most, spent, more in pairs:
        if most is not None and more is not None and spent + more > most:
            return f"{spent} {unit} are spent, of at most {most}, and this task may take {more}"
    return None


def _wanted(made: dict[str, Any], model: LLMModel | None) -> Spend:
    """What the operator will reserve, as far as that is known here: without the model nothing."""
    if model is None:
        return Spend()
    try:
        return may_take(resolve(LLMTask.model_validate(made), model))
    except (ValidationError, ValueError):
        return Spend()


def _used(budget: Budget, told: Sequence[BudgetStatus]) -> BudgetStatus | None:
    return next((each for each in told if (each.window, each.currency) == (budget.window, budget.money)), None)


def _seconds(timestamp: str) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None
