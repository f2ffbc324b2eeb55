"""Answers about the facade's whole: models, queues, GPUs, and what is away."""

from pydantic import BaseModel, ConfigDict

from headrace_facade.native.schema import ModelView


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class QueueView(_Answer):
    """A model's queue. What is of all namespaces together is told of the caller's own models alone."""

    model: str
    """What requests name it by."""
    queued: int | None
    """Tasks and calls of the caller's namespace that wait for a runner."""
    queued_together: int | None = None
    """Of all namespaces."""
    delayed: int | None = None
    """That wait for their next attempt."""
    running: int | None = None
    """That a runner has."""
    oldest_wait_seconds: float | None = None
    """How long the oldest one has waited."""
    mean_service_seconds: float | None = None
    """From the claim to the result; null before the first."""
    slots: int | None = None
    """How many the runners that serve take at once."""
    unknown: str | None = None
    """Why nothing is known of it."""


class GpuView(_Answer):
    """A GPU of one of the caller's own models, as its runner told within the last seconds."""

    model: str
    """LLMModel that it serves."""
    pod: str
    """Runner pod that has it."""
    name: str
    """As its driver names it."""
    total_bytes: int
    """Memory."""
    used_bytes: int
    """Memory in use, by whomever."""
    utilization_percent: int | None = None
    """null where it does not tell."""
    temperature_celsius: int | None = None
    """null where it does not tell."""
    power_milliwatts: int | None = None
    """null where it does not tell."""


class Away(_Answer):
    """A part that does not answer."""

    what: str
    """api-server, redis or models (the facade's own view of them)."""
    message: str
    """Why, and what is missing for it."""


class QueueViews(_Answer):
    """Queues of the models that serve a namespace."""

    namespace: str
    """Whose numbers these are."""
    queues: list[QueueView]
    """The caller's own namespace's models first."""
    left_off: int
    """Models beyond the first hundred."""


class MonitorStatus(QueueViews):
    """All that is known of what serves a namespace."""

    models: list[ModelView]
    """As /api/v1/models tells them."""
    gpus: list[GpuView]
    """Of the caller's own models."""
    away: list[Away]
    """Empty where everything answers."""
