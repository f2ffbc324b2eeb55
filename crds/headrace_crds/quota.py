"""``LLMQuota``: what an admin grants to the tasks of one namespace."""

from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import ApiModel, ObjectMeta, Rule, Timestamp

QUOTA_NAME: Final = "default"
"""The one name that counts: a namespace has one quota."""


class LLMQuotaSpec(ApiModel):
    """Bounds on the LLMTasks of this namespace. Absent members grant what the chart grants everybody."""

    priority_ceiling: Annotated[int, Field(ge=-100, le=100)] | None = None
    """Highest spec.priority of a task. Higher ones are refused, or ordered as this one if they are there already."""
    max_queued_tasks: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Tasks that are queued or running at the same time, over all models; the others wait as QuotaExceeded, and the
    HTTP API answers one more with a 429. Where maxRunningTasks is lower, what waits for it counts as queued there."""
    max_running_tasks: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Tasks that run at the same time. The others wait as QuotaExceeded."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share of a model's time against other namespaces that wait for it."""


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
