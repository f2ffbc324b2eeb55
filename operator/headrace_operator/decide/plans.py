"""What decisions say: plans are data, carried out by `apply_*`, asserted by tests, printed by logs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from headrace_operator.refs import ModelRef


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Hand the task out at this attempt, not before a time (Redis TIME) if one is given."""

    attempt: int
    not_before_ms: int | None = None
    as_it_is: bool = False
    """The copy that waits at this attempt keeps its work and takes its place anew."""
    input_text: str | None = field(default=None, repr=False)
    """What spec.inputFrom refers to, as it was read for this hand-out."""


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Take the entry out of the bus, so that nobody begins with it: nothing else is done while this attempt or a later
    one is leased or has left a parked result.
    """

    attempt: int
    from_holder: bool = False
    """It was seen leased at this attempt, and is taken if it still is."""
    came_back: bool = False
    """It was seen returned at this attempt, and what it may have parked is passed over."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A Kubernetes event, published after the status write succeeded. Never holds prompts or results."""

    type: Literal["Normal", "Warning"]
    reason: str
    note: str


@dataclass(frozen=True, slots=True)
class Move:
    """The status write gives the task to another model; counted after it succeeded."""

    origin: ModelRef
    target: ModelRef
    because: str
    """A word of spec.fallback.when."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Carried out in this order: create, take back, status, interruption, queue, announcement."""

    details: str
    """What is done, as a constant phrase for the log."""
    create: Mapping[str, Any] | None = field(default=None, repr=False)
    """A ConfigMap of a large result, which the status refers to."""
    take_back: TakeBack | None = None
    status: Mapping[str, Any] | None = None
    """Merge patch of the status; None members remove."""
    explains_only: bool = False
    """The status write changes the waiting reason and nothing else: bounded per model and minute."""
    interrupt: Literal["Cancel", "Suspend"] | None = None
    """Tell whoever holds the lease."""
    enqueue: Enqueue | None = None
    enqueue_first: bool = False
    """Before the status, which is all that tells that there is something to be done."""
    remove: bool = False
    """Forget the bus entry, if it is still what was looked at."""
    announcement: Announcement | None = None
    move: Move | None = None
    requeue_after_seconds: float | None = None


SETTLED: Final = TaskPlan("as it should be")


@dataclass(frozen=True, slots=True)
class WeightsPlan:
    """Carried out in this order: the former Job goes, the network policy is applied, the Job is made."""

    remove_uid: str = ""
    policy: Mapping[str, Any] | None = None
    job: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Carried out in this order: retire, queue registration and grant, children, weights, status, announcement."""

    details: str
    retire: bool = False
    """The model, or its incarnation known so far, is gone: purge its queue, revoke its Redis user, tell its tasks."""
    serve: bool = False
    """The queue is registered and the runners' Redis user granted."""
    children: Sequence[Mapping[str, Any]] = ()
    """Manifests to apply; empty when nothing is due."""
    weights: WeightsPlan | None = None
    """What is done about the Job that fetches the weights."""
    weights_ready: bool = True
    """The children were made for runners that find their weights."""
    status: Mapping[str, Any] | None = None
    announcement: Announcement | None = None
    may_run: bool = False
    """Its Deployment may have pods: the planner keeps GPUs for no other."""
    uids: Mapping[str, str] = field(default_factory=dict)
    """Child kind to uid of the live object that the manifest may change by force."""
    requeue_after_seconds: float | None = None
