"""Answers about one task beyond its state: its report, and the events of who follows it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from headrace_facade.schema import TaskStatus, TaskTimings, TaskUsage


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class ReportedAttempt(_Answer):
    """How one delivery to a runner went."""

    number: int
    """Counted from 1."""
    model: str | None
    """LLMModel that had it, as namespace/name."""
    pod: str | None
    """Runner pod; null where none claimed it."""
    started_at: str | None
    """RFC 3339, UTC."""
    completed_at: str | None
    """RFC 3339, UTC."""
    seconds: float | None
    """From the one to the other."""
    outcome: str
    """Complete, Failed, Lost (its runner vanished) or Released (given back, not charged)."""
    reason: str
    """One PascalCase word."""
    message: str
    """The reason in words."""


class ReportedResult(_Answer):
    """What there is of a result, without its text."""

    finish_reason: str
    """Stop, ToolCalls, Length or Cancelled."""
    size_bytes: int
    """Size of the text in UTF-8."""
    sha256: str
    """Digest of the text in UTF-8."""
    partial: bool
    """It is what had been generated when the task was cancelled."""
    enforcement: str | None
    """How the shape was enforced."""
    repairs: int
    """How often the model was asked again because the text did not have the shape."""


class TaskReport(_Answer):
    """What became of a task, and what it took."""

    task_id: Annotated[str, Field(examples=["default.summary-17"])]
    """The task."""
    status: TaskStatus
    """Where it stands."""
    reason: str | None
    """Why, in one PascalCase word."""
    message: str | None
    """The reason in words."""
    model: str
    """LLMModel asked for."""
    assigned_model: str | None
    """LLMModel that has or had it, as namespace/name: a fallback where that is another one."""
    tried_models: list[str]
    """LLMModels that it was moved away from, oldest first."""
    created_at: str | None
    """RFC 3339, UTC."""
    accepted_at: str | None
    """When its deadlines began."""
    started_at: str | None
    """When a runner took it for the first time."""
    completed_at: str | None
    """When it ended."""
    seconds: float | None
    """From its creation to its end."""
    suspended_seconds: int
    """Of these it was suspended, before."""
    attempt: int | None
    """Deliveries so far."""
    retries: int
    """Failed attempts that were charged."""
    losses: int
    """Attempts that ended with their runner or engine."""
    attempts: list[ReportedAttempt]
    """The last ten, oldest first."""
    timings: TaskTimings | None
    """Of the final attempt."""
    usage: TaskUsage | None
    """Tokens of the final attempt, and their cost."""
    result: ReportedResult | None
    """Present where there is one; its text is at GET /api/v1/tasks/{task_id}."""


class TaskWaiting(_Answer):
    """Data of the event `waiting`."""

    task_id: str
    """The task."""
    status: TaskStatus
    """created or queued."""
    reason: str | None
    """Why it waits, in one PascalCase word; null until it was looked at."""
    message: str | None
    """The reason in words."""
    position: int | None
    """Place in the model's queue, 1 is next; null where it is not queued or that is not known."""
    ahead: int | None
    """Deliveries that come first."""
    eta_seconds: float | None
    """Estimate until it starts."""


class TaskRunning(_Answer):
    """Data of the event `running`."""

    task_id: str
    """The task."""
    status: TaskStatus
    """processing."""
    attempt: int | None
    """Which delivery it is."""
    model: str
    """LLMModel that has it, as namespace/name."""
