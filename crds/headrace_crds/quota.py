"""``LLMQuota``: what an admin grants to the tasks of one namespace."""

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import CURRENCY, ApiModel, ObjectMeta, Rule, Timestamp

QUOTA_NAME: Final = "default"
"""The one name that counts: a namespace has one quota."""
BUDGET_CURRENCY: Final = "USD"
"""Of a budget that names none."""
BUDGET_LIMIT: Final = 10**15
"""Tokens, or micros: a billion of the currency."""


class BudgetWindow(StrEnum):
    HOURLY = "Hourly"
    DAILY = "Daily"
    MONTHLY = "Monthly"


class Budget(ApiModel):
    """What the namespace's tasks may spend within one window."""

    rules: ClassVar = (
        Rule("has(self.tokens) || has(self.costMicros)", "a budget needs tokens, costMicros or both"),
        Rule(
            "!has(self.currency) || has(self.costMicros)",
            "currency is of costMicros: add it, or remove currency",
            ".currency",
        ),
    )

    window: BudgetWindow
    """Hourly, Daily or Monthly, by the calendar in UTC: a new one begins with nothing spent."""
    tokens: Annotated[int, Field(ge=0, le=BUDGET_LIMIT)] | None = None
    """Tokens of inputs and results together, of all models."""
    cost_micros: Annotated[int, Field(ge=0, le=BUDGET_LIMIT)] | None = None
    """Money in millionths of the currency: 5000000 are 5. Counted is what models with a price in this currency cost."""
    currency: Annotated[str, Field(max_length=3, pattern=CURRENCY)] | None = None
    """ISO 4217; absent: USD."""

    @property
    def money(self) -> str:
        return self.currency or BUDGET_CURRENCY


class LLMQuotaSpec(ApiModel):
    """Bounds on the LLMTasks of this namespace. Absent members grant what the chart grants everybody."""

    rules: ClassVar = (
        Rule(
            "!has(self.budgets) || self.budgets.all(a, self.budgets.exists_one(b, a.window == b.window && "
            "(has(a.currency) ? a.currency : 'USD') == (has(b.currency) ? b.currency : 'USD')))",
            "two budgets have the same window and currency: make them one",
            ".budgets",
        ),
    )

    priority_ceiling: Annotated[int, Field(ge=-100, le=100)] | None = None
    """Highest spec.priority of a task. Higher ones are refused, or ordered as this one if they are there already."""
    max_queued_tasks: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Tasks that are queued or running at the same time, over all models; the others wait as QuotaExceeded, and the
    HTTP API answers one more with a 429. Where maxRunningTasks is lower, what waits for it counts as queued there."""
    max_running_tasks: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Tasks that run at the same time. The others wait as QuotaExceeded."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share of a model's time against other namespaces that wait for it."""
    remote_models: bool | None = None
    """False: no task goes to a model with spec.remote, whatever it may reach; those that name one wait as
    RemoteNotAllowed, and the HTTP API answers with a 403. What is claimed already goes on. Absent: as the chart's
    quota.default says, else true."""
    budgets: Annotated[list[Budget], Field(min_length=1, max_length=4)] | None = None
    """What the tasks may spend. An attempt is handed out when each of them has room for the most that it may take; the
    others wait as BudgetExhausted, and go on by themselves."""


class BudgetStatus(ApiModel):
    """What is spent of one budget."""

    window: BudgetWindow
    """As in the spec."""
    currency: Annotated[str, Field(max_length=3, pattern=CURRENCY)]
    """Of the two costs."""
    tokens_spent: Annotated[int, Field(ge=0)]
    """Tokens of attempts that ended within the window."""
    cost_micros_spent: Annotated[int, Field(ge=0)]
    """What they cost."""
    tokens_reserved: Annotated[int, Field(ge=0)]
    """The most that attempts under way may take."""
    cost_micros_reserved: Annotated[int, Field(ge=0)]
    """What that may cost."""
    reset_time: Timestamp
    """When the window ends and another begins."""


class LLMQuotaStatus(ApiModel):
    """What the namespace uses, brought up to date every few seconds."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """metadata.generation that this status was derived from."""
    queued: Annotated[int, Field(ge=0)] | None = None
    """Tasks in the queue."""
    running: Annotated[int, Field(ge=0)] | None = None
    """Tasks that run."""
    waiting: Annotated[int, Field(ge=0)] | None = None
    """Open tasks that are not handed out, for whatever reason."""
    budgets: Annotated[list[BudgetStatus], Field(max_length=4)] | None = None
    """What is spent of spec.budgets; Redis begins with it after it lost its memory."""
    update_time: Timestamp | None = None
    """When these numbers were counted."""


class LLMQuota(ApiModel):
    """Bounds on the LLMTasks of a namespace, written by admins. The one named default counts."""

    rules: ClassVar = (
        Rule("self.metadata.name == 'default'", "metadata.name must be default: a namespace has one LLMQuota"),
    )

    metadata: ObjectMeta = Field(default_factory=ObjectMeta)
    spec: LLMQuotaSpec
    status: LLMQuotaStatus | None = None
