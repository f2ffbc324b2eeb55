"""What the planner is told and what it answers: data alone.

Times are milliseconds of Redis' clock. A model is told by ``namespace/name``, a replica by its pod's name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

AGE_STARTS_SECONDS: Final = (0, 2, 10, 30, 60, 120, 300, 600, 1800, 3600)
"""Where the age buckets of a backlog begin; the last one has no end."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Work that nobody has begun: counts by class and by age, one for each of AGE_STARTS_SECONDS."""

    calls: tuple[int, ...] = (0,) * len(AGE_STARTS_SECONDS)
    tasks: tuple[int, ...] = (0,) * len(AGE_STARTS_SECONDS)

    @property
    def total(self) -> int:
        return sum(self.calls) + sum(self.tasks)


class ReplicaState(StrEnum):
    STARTING = "Starting"
    """Has or wants a node, and does not serve yet."""
    SERVING = "Serving"
    DRAINING = "Draining"
    """Claims nothing more; its GPUs are free when it has ended."""


@dataclass(frozen=True, slots=True)
class Replica:
    """A pod, or one that its Deployment asks for and that is not there yet: Starting, by a name of its own."""

    pod: str
    state: ReplicaState
    since_ms: int
    """When it entered that state."""
    busy: int = 0
    """Work that it has in flight."""
    node: str = ""
    """Empty while it has none."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """Members of ``spec.scaling``, and ``spec.replicas`` where its mode is Manual."""

    min_replicas: int = 0
    max_replicas: int = 1
    idle_seconds: int = 300
    tasks_per_replica: int | None = None
    """Backlog that one more replica is started for; None: what one serves in twice the time of a start."""
    manual: int | None = None
    """Wanted exactly, whatever the backlog."""


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What one replica takes, all of it on one node."""

    resource: str
    count: int
    nodes: frozenset[str]
    """Where it may run by selectors, taints and labels."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    ref: str
    scaling: Scaling
    slots: int
    """Work that one replica runs at once."""
    gpu: GpuNeed | None = None
    """None: CPU or remote. Room is not the planner's affair then."""
    backlog: Backlog = field(default_factory=Backlog)
    in_flight: int = 0
    service_ms: float | None = None
    """Mean time of one task in its slot; None while nothing is measured."""
    start_ms: float | None = None
    """Mean time from the pod to serving; None while nothing is measured."""
    last_work_ms: int = 0
    """When it last had work that waits or runs; 0: never known."""
    served_ms: int = 0
    """When a replica of it last served; 0: never known. Who has been longest without a turn comes first of those that
    starve: the bound on waiting rests on it."""
    replicas: tuple[Replica, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeFacts:
    name: str
    free: Mapping[str, int]
    """Per resource what is allocatable, less what pods that are no runners have taken."""


class Verdict(StrEnum):
    """Why a model has as many replicas as it has. These words stand in its status."""

    MANUAL = "Manual"
    BACKLOG = "Backlog"
    """As many as its work needs."""
    MINIMUM = "MinReplicas"
    MAXIMUM = "MaxReplicas"
    """Its work needs more than maxReplicas."""
    WARM = "Warm"
    """Without work, and idleSeconds are not over."""
    IDLE = "ScaledToZero"
    WAITING_FOR_GPU = "WaitingForGPU"
    """Fewer than wanted: all GPUs that it may have are taken, and nobody has to make room yet."""
    MAKING_ROOM = "MakingRoom"
    """Fewer than it could use: another model's turn on its GPUs."""
    NO_SUCH_GPU = "NoSuchGPU"
    """No node that it may run on has what it asks for."""


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    wanted: int
    """What its work needs within min and max, were there room."""
    verdict: Verdict
    message: str
    """For people: numbers, and who it waits for or makes room for."""
    drains: tuple[str, ...] = ()
    """Pods that go first when replicas are fewer than there are. Those that drain already are in neither."""


@dataclass(frozen=True, slots=True)
class Plan:
    decisions: Mapping[str, Decision]
    look_again_ms: int
    """By then, on the same clock, time alone may change the plan."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The knobs; what they are good for is measured by ``make bench-planner``."""

    residency_seconds: float = 60.0
    """A replica that serves is not drained for another model sooner, unless it is idle."""
    starvation_seconds: float = 600.0
    """Work that has waited longer comes before everything that has not; seen at the next start of an age bucket."""
    call_starvation_seconds: float = 30.0
    """The same of a call: its client does not wait for a minute."""
    swap_gain: float = 50.0
    """Another model's claim on a GPU must be so many times the holder's."""
    call_weight: float = 8.0
    """How much more a waiting call counts than a waiting task."""
    age_seconds: float = 300.0
    """What has waited so long counts twice what has come, and so on."""
    call_residency_seconds: float = 15.0
    """Residency that a replica with tasks alone has against calls."""
    turn_starts: float = 8.0
    """A replica with a backlog is not drained for work that starves before it served so many times its start."""
