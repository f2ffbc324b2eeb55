"""How many runner pods a local or remote model has, and what the planner made of that."""

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import ApiModel, Rule

REPLICAS_MAX: Final = 64
NO_GPU: Final = frozenset({"WaitingForGPU", "MakingRoom", "NoSuchGPU"})
"""Reasons of a plan that gives a model fewer GPUs than its work wants."""


class ScalingMode(StrEnum):
    AUTO = "Auto"
    MANUAL = "Manual"


class Scaling(ApiModel):
    """Replicas by the work that waits, between two bounds."""

    rules: ClassVar = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "maxReplicas must be at least minReplicas",
            ".maxReplicas",
        ),
    )

    mode: ScalingMode = ScalingMode.AUTO
    """Auto: the operator's planner decides by the backlog, and spec.replicas means nothing. Manual: spec.replicas does,
    which kubectl scale, an HPA or KEDA writes."""
    min_replicas: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] = 0
    """Kept without work, too; 0 lets the model go to zero. Mode Auto."""
    max_replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] = 1
    """Never more than these. Mode Auto."""
    idle_seconds: Annotated[int, Field(ge=0, le=604800)] = 300
    """So long a model without work keeps what it has, unless another one waits for its GPUs. Mode Auto."""
    drain_seconds: Annotated[int, Field(ge=1, le=600)] = 60
    """So long a pod that has to go may finish what it runs; the rest is given back and runs elsewhere, without a
    charge. Both modes; absent spec.scaling: 5."""
    tasks_per_replica: Annotated[int, Field(ge=1, le=100000)] | None = None
    """Waiting tasks that one more replica is started for. Absent: as many as a replica would do while another starts.
    Mode Auto."""


class ScalingStatus(ApiModel):
    """What the planner decided last, and why."""

    replicas: Annotated[int, Field(ge=0)]
    """Runner pods that the model is to have now."""
    wanted: Annotated[int, Field(ge=0)]
    """What its work needs within the bounds, were there GPUs for all."""
    reason: Annotated[str, Field(max_length=64)]
    """Backlog, MinReplicas, MaxReplicas, Warm, ScaledToZero, WaitingForGPU, MakingRoom, NoSuchGPU; NotReady while its
    pods may not be started."""
    message: Annotated[str, Field(max_length=1024)]
    """The same for people, with the numbers of that moment."""
    start_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a replica takes from its node to serving, as measured lately; absent before the first."""
