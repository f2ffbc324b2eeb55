"""What decisions look at: everything read by `observe_*`, as data. Times are Redis TIME in milliseconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from headrace_crds.cost import Spend
from headrace_crds.model import Breaker, EngineInfo, LLMModel
from headrace_crds.parked import Parked
from headrace_crds.scaling import ScalingStatus
from headrace_crds.task import LLMTask
from headrace_operator.decide.tracing import RunnerTracing
from headrace_operator.refs import ModelRef, TaskRef


class Place(StrEnum):
    """Where the bus holds an entry; the values are the bus's."""

    QUEUED = "Queued"
    DELAYED = "Delayed"
    LEASED = "Leased"
    RETURNED = "Returned"


@dataclass(frozen=True, slots=True)
class ReturnedDelivery:
    """A delivery that came back without an outcome."""

    how: Literal["Failed", "LeaseExpired", "Released", "Parked"]
    worker: str
    claimed_ms: int
    returned_ms: int
    reason: str = ""
    message: str = ""
    retryable: bool = True
    spent: Spend | None = None
    """What it took, as its runner says; None: nothing, or nobody says."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the bus holds under the task's uid; `returned` while RETURNED alone."""

    attempt: int
    place: Place
    since_ms: int
    returned: ReturnedDelivery | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A model that a task may fall back to, as events told of it."""

    ref: ModelRef
    model: LLMModel | None
    """None: there is none, it is being deleted, or it may not be looked at."""
    admitted: bool = True
    """It serves the task's namespace, as far as is known; what does not exist refuses nobody."""


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task, its model and its bus entry at one moment."""

    ref: TaskRef
    now_ms: int
    task: LLMTask | None
    """None: gone, being deleted, or the name belongs to another object."""
    model: LLMModel | None
    """None: there is none, or it is being deleted."""
    held: Held | None
    senseless: bool = False
    """What stands under the uid does not read as an entry; `held` is None then."""
    jitter: float = 0.5
    """0 … 1, uniform."""
    refused_attempt: int | None = None
    """An attempt whose enqueue was refused whole (memory): it was certainly not delivered."""
    cancel_asked_ms: int | None = None
    """When this process first told the task's runner to cancel."""
    misplaced: bool = False
    """Queued by a priority that another ceiling has changed."""
    admitted: bool = True
    """The model serves the task's namespace; False was read afresh."""
    may_share: bool = True
    """The model's namespace is the task's, or the chart's sharing.modelNamespaces names it; else there is no model."""
    remote_allowed: bool = True
    """The LLMQuota lets the namespace's tasks go to remote models."""
    parked: Parked | None = field(default=None, repr=False)
    """What the runner left for the operator to commit; read while it is RETURNED as Parked, and None where it does not
    read."""
    model_replaced: bool = False
    """The model was deleted and made again a moment ago, and its queue purged."""
    named_model: LLMModel | None = None
    """The model of modelRef, whose fallback counts, also after the task was moved."""
    targets: Sequence[Target] = ()
    """The models that are left to fall back to, in order; none where nothing may move the task."""


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container's status: the waiting reason if it waits, when it started if it runs."""

    name: str
    waiting_reason: str = ""
    waiting_message: str = ""
    started_ms: int | None = None
    restarts: int = 0
    last_words: str = field(default="", repr=False)
    """Its termination message, where it ended."""


@dataclass(frozen=True, slots=True)
class PodView:
    """What is kept of a runner pod."""

    name: str
    namespace: str
    spec_generation: int
    phase: str
    created_ms: int
    scheduled: bool | None = None
    """None: the scheduler has not looked at it yet."""
    scheduling_message: str = ""
    scheduled_changed_ms: int | None = None
    ready: bool = False
    ready_changed_ms: int | None = None
    terminating: bool = False
    terminating_ms: int | None = None
    """When it was told to end."""
    node: str = ""
    message: str = ""
    containers: tuple[ContainerView, ...] = ()
    owner_uid: str = ""
    fetches: bool = False
    """It is of the Job that fetches the weights, and no runner."""


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """What is kept of a runner Deployment."""

    name: str
    namespace: str
    generation: int
    owner_uid: str
    spec_hash: str
    spec_generation: int
    replicas: int = 0
    replica_failure: str = ""
    """Message of the ReplicaFailure condition: the pods are refused."""
    weights_dropped: bool = False
    """An API server without image volumes drops such a volume without a word."""


@dataclass(frozen=True, slots=True)
class ProviderView:
    """What a runner of a remote model told about its provider."""

    breaker: Breaker
    reason: str = ""
    """Why no request is made; empty while requests are."""
    message: str = ""
    retry_seconds: int = 0
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class CredentialsView:
    """What is seen of the Secret that a remote model names: never its data."""

    exists: bool
    allowed_hosts: str | None = None
    """Its annotation; None where it has none, or the operator may not look, which is the same."""


@dataclass(frozen=True, slots=True)
class FetchView:
    """How far a downloader said that it is."""

    done_bytes: int
    total_bytes: int | None = None
    bytes_per_second: int | None = None
    eta_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """What is seen of the Job that fetches the weights."""

    uid: str
    ownership: "Ownership"
    made_of: str = ""
    """Digest of what it was made from."""
    tries: int = 0
    created_ms: int = 0
    complete: bool = False
    failed: bool = False
    ended_ms: int = 0
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a runner told about itself; times are its clock's."""

    state: str
    reason: str = ""
    message: str = ""
    since_ms: int | None = None
    restarts: int = 0
    generation: int = 0
    busy: int = 0
    """Work in flight."""
    engine: EngineInfo | None = None
    provider: ProviderView | None = None
    fetch: FetchView | None = None
    commit_forbidden: bool = False
    """The API server's last word to this runner was that it may not commit."""


class Ownership(StrEnum):
    """Whose an object with a child's name is."""

    ABSENT = "Absent"
    OURS = "Ours"
    PREDECESSOR = "Predecessor"
    """Of a deleted model of this name: about to be collected."""
    FOREIGN = "Foreign"


@dataclass(frozen=True, slots=True)
class LiveChild:
    """One name that a child needs."""

    kind: str
    name: str
    ownership: Ownership
    uid: str = ""


@dataclass(frozen=True, slots=True)
class WeightsSettings:
    """The chart's `weights`: how and where weights are fetched."""

    node_directory: str = ""
    """Of models without spec.local.cache; empty: there is none."""
    limit_bytes: int | None = None
    """Of the node directory."""
    allowed_hosts: tuple[str, ...] = ()
    """`host[:port]` that weights may come from wherever they are, and by http."""
    host_paths: tuple[str, ...] = ()
    """Folders of the nodes whose files models may name."""
    bytes_per_second: int | None = None
    parallel: int = 4
    hugging_face: str = "https://huggingface.co"
    resources: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunnerSettings:
    """The part of the operator's settings that shapes runner pods."""

    namespace: str
    image: str
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    redis_address: str = "redis://headrace-redis:6379/0"
    lease_seconds: int = 15
    api_server_ports: tuple[int, ...] = (443, 6443)
    vram_reserve_mib: int = 1024
    """Of each GPU so much stays free."""
    max_vram_usage_percent: int = 95
    """Of each GPU's memory so much may be in use after a load."""
    remote_allowed_hosts: tuple[str, ...] = ()
    """`host[:port]` that remote models may reach wherever they are, and by http; proxies are among them."""
    tracing: RunnerTracing = field(default_factory=RunnerTracing)
    weights: WeightsSettings = field(default_factory=WeightsSettings)


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """A model, its children and its runners' reports at one moment."""

    ref: ModelRef
    now_ms: int
    model: LLMModel | None
    """None: gone or being deleted."""
    runner: RunnerSettings
    redis_password: str = ""
    deployment: DeploymentView | None = None
    pods: Sequence[PodView] = ()
    reports: Mapping[str, Report] = field(default_factory=dict)
    """By pod name."""
    live: Sequence[LiveChild] | None = None
    """What stands under the children's names; None when the children are not due to be applied."""
    served_uid: str = ""
    """Uid of the incarnation whose queue and Redis user stand; empty when none is known."""
    queue_older: bool = False
    """Looked for when an operator begins: its queue holds work that was handed out before this incarnation existed."""
    job: JobView | None = None
    """Of the weights, looked for while they are not known to be there."""
    job_pods: Sequence[PodView] = ()
    claim_missing: bool = False
    """The PersistentVolumeClaim was looked for and does not exist."""
    credentials: CredentialsView | None = None
    """Of the Secret that a remote model names for its key, or that fetching the weights needs; None where there is
    none."""
    client_certificate: CredentialsView | None = None
    """Likewise of the client certificate's."""
    may_share: bool = True
    """The chart's sharing.modelNamespaces names the model's namespace."""
    planned: ScalingStatus | None = None
    """The planner's decision, of a model that scales itself; None before the first one of this leadership."""

    def replicas(self, model: LLMModel) -> int:
        """Runner pods that it is to have. Until the planner has spoken what there is stays."""
        if not model.spec.scales_itself:
            return model.spec.replicas
        if self.planned is not None:
            return self.planned.replicas
        return self.deployment.replicas if self.deployment is not None else 0
