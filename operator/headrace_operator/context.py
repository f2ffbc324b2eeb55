"""The composition root: settings, clients, clock, store, queues, and what the leader remembers between looks."""

import asyncio
import hashlib
import hmac
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace_bus import Bus, ModelKey
from headrace_bus.tracing import SILENT, Tracing
from headrace_crds.reasons import Reason
from headrace_crds.scaling import ScalingStatus
from headrace_operator.allowance import Allowance
from headrace_operator.budget_book import BudgetBook
from headrace_operator.clock import RedisClock
from headrace_operator.decide import waiting
from headrace_operator.decide.input import MissedInput
from headrace_operator.decide.snapshots import CredentialsView
from headrace_operator.fresh import Fresh
from headrace_operator.grants import Grants
from headrace_operator.kube import Kube
from headrace_operator.metrics import Metrics
from headrace_operator.overlooked import Overlooked
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.settings import Settings
from headrace_operator.store import Store
from headrace_operator.window import Window
from headrace_operator.workqueue import WorkQueue

EXPLANATIONS_PER_MINUTE: Final = 120
"""Writes of tasks' waiting reasons per model: a model that flaps must not write every waiting task each time."""
MODEL_STATUSES_PER_MINUTE: Final = 30
"""Writes of one model's status: a runner that reports another state every second is heard more slowly."""
MODEL_WORKERS: Final = 4
REPLACED_FOR_MS: Final = 60_000
"""So long an empty queue is put down to the model's replacement."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Children as this process applied them last."""

    uid: str
    generation: int
    deployment_generation: int
    at: float
    versions: Mapping[str, str]
    """Kind to resourceVersion: another one means that somebody else wrote, or deleted."""
    weights_ready: bool = True
    """They were made for runners that find their weights."""


@dataclass(frozen=True, slots=True)
class RefusedDeletion:
    """How often the API server refused to delete a finished task, and the monotonic time of the next try."""

    times: int
    again_at: float


@dataclass(frozen=True, slots=True)
class SecretLook:
    """What was seen of a Secret that a remote model names, and when."""

    at: float
    seen: CredentialsView


@dataclass(slots=True)
class Memory:
    """Of the leader, lost with it: everything here saves work and decides nothing that the objects do not say."""

    applied: dict[ModelRef, Applied] = field(default_factory=dict)
    probed: dict[ModelRef, float] = field(default_factory=dict)
    """When the children that are not watched were looked at last."""
    secrets: dict[ModelRef, dict[str, SecretLook]] = field(default_factory=dict)
    granted: dict[ModelRef, tuple[str, str]] = field(default_factory=dict)
    """Redis' run_id and the model's uid for which the runners' user stands."""
    registered: set[ModelRef] = field(default_factory=set)
    inherited: set[ModelRef] = field(default_factory=set)
    """Registered when this leadership began, and not looked at yet: the keys may be a deleted model's."""
    replaced_ms: dict[ModelRef, int] = field(default_factory=dict)
    """When queues were purged, as long as that explains that they are empty."""
    overlooked: Overlooked = field(default_factory=Overlooked)
    refused_attempts: dict[TaskRef, int] = field(default_factory=dict)
    """The attempt whose enqueue Redis refused whole."""
    cancels_asked_ms: dict[TaskRef, int] = field(default_factory=dict)
    """When a task's runner was first told to cancel, in Redis TIME. Another leader gives it the whole time again."""
    misplaced: set[TaskRef] = field(default_factory=set)
    """Queued by a priority that another ceiling has changed."""
    bound: set[tuple[ModelRef, str]] = field(default_factory=set)
    """Shared models' runners and the namespaces in which they have their right."""
    missed_inputs: dict[TaskRef, MissedInput] = field(default_factory=dict)
    refused_results: dict[TaskRef, int] = field(default_factory=dict)
    """How often the API server refused the ConfigMap of a large result."""
    refused_deletions: dict[TaskRef, RefusedDeletion] = field(default_factory=dict)
    complaints: dict[ModelRef, set[tuple[str, str]]] = field(default_factory=dict)
    """What was told already of a model's unreadable keys: look and kind of error."""
    unanswered: set[tuple[ModelRef, str]] = field(default_factory=set)
    """Models and looks during which the connection ended last time, though Redis answers."""
    elsewhere: frozenset[ModelRef] = frozenset()
    """Registered models of namespaces that are not watched, as told last."""
    planned: dict[ModelRef, ScalingStatus] = field(default_factory=dict)
    """What the planner decided last for the models that scale themselves."""
    may_run: dict[ModelRef, bool] = field(default_factory=dict)
    """Whether their Deployment may have pods, as the last reconcile found: for one that may not no GPU is kept."""
    fresh: Fresh = field(default_factory=Fresh)
    redis_run_id: str = ""

    def replaced(self, ref: ModelRef, now_ms: int) -> bool:
        """Whether its queue was purged a moment ago."""
        return now_ms - self.replaced_ms.get(ref, -REPLACED_FOR_MS) < REPLACED_FOR_MS

    def note_replaced(self, ref: ModelRef, now_ms: int) -> None:
        self.replaced_ms = {each: at for each, at in self.replaced_ms.items() if self.replaced(each, now_ms)}
        self.replaced_ms[ref] = now_ms

    def forget_task(self, ref: TaskRef) -> None:
        """It is gone or finished."""
        self.refused_attempts.pop(ref, None)
        self.cancels_asked_ms.pop(ref, None)
        self.missed_inputs.pop(ref, None)
        self.refused_results.pop(ref, None)
        self.misplaced.discard(ref)


@dataclass(slots=True)
class Health:
    """What readiness and metrics tell; written by whoever notices."""

    redis_problem: str = "Redis was not reached yet"
    watching: bool = False
    leading: bool = False


async def always() -> bool:
    """A process that nobody competes with."""
    return True


@dataclass(slots=True)
class Context:
    """One per process."""

    settings: Settings
    kube: Kube
    bus: Bus
    clock: RedisClock
    store: Store
    tasks: WorkQueue[TaskRef]
    models: WorkQueue[ModelRef]
    metrics: Metrics
    explanations: Allowance[ModelRef]
    model_statuses: Allowance[ModelRef]
    window: Window
    grants: Grants
    budgets: BudgetBook = field(default_factory=BudgetBook)
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """The Namespaces' labels, where models may be shared."""
    sharing_changed: asyncio.Event = field(default_factory=asyncio.Event)
    memory: Memory = field(default_factory=Memory)
    health: Health = field(default_factory=Health)
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    leads: Callable[[], Awaitable[bool]] = always
    """Asked before what no resourceVersion fences."""
    tracing: Tracing = SILENT

    @classmethod
    def build(cls, settings: Settings, kube: Kube, bus: Bus) -> "Context":
        """Wires what needs no I/O."""
        metrics, store, grants = Metrics(), Store(), Grants(settings.default_quota)
        tasks: WorkQueue[TaskRef] = WorkQueue(
            "tasks", workers=settings.workers, observer=metrics, given_up=lambda ref: window.let_go(ref)
        )
        window = Window(settings.window, grants.of, tasks.add)
        store.listeners.append(window)
        context = cls(
            settings=settings,
            kube=kube,
            bus=bus,
            clock=RedisClock(bus, time.monotonic),
            store=store,
            tasks=tasks,
            models=WorkQueue("models", workers=MODEL_WORKERS, observer=metrics),
            metrics=metrics,
            explanations=Allowance(EXPLANATIONS_PER_MINUTE, time.monotonic),
            model_statuses=Allowance(MODEL_STATUSES_PER_MINUTE, time.monotonic),
            window=window,
            grants=grants,
        )
        store.listeners.append(context.budgets)
        metrics.watch_store(store)
        metrics.watch_queues(context.tasks, context.models)
        return context

    def redis_password(self, uid: str) -> str:
        """Of the runners of one incarnation of a model."""
        return hmac.new(self.settings.runner_redis_secret, uid.encode(), hashlib.sha256).hexdigest()

    def enqueue_everything(self) -> None:
        """Have all that is known reconciled: at the start of a leadership, after Redis lost its memory."""
        for model in self.store.models():
            self.models.add(model)
        for view in self.store.tasks():
            if not view.finished or view.behind:
                self.tasks.add(view.ref)

    def enqueue_tasks_of(self, ref: ModelRef) -> None:
        """Have those tasks reconciled for which the model's state means something else than they say."""
        model = self.store.model(ref)
        expected = waiting.explain(model).cause if model is not None else None
        for view in self.store.open_tasks_of(ref):
            # One that waits for its next try may fall back, when its model is down.
            settled = view.phase in ("Running", "Suspended") or view.reason == "Running"
            settled |= view.reason == "RetryBackoff" and expected == Reason.QUEUED
            same = expected is not None and waiting.cause(view.reason, view.message) == expected
            settled |= (self.window.waits(view.ref.uid) or view.reason == Reason.BUDGET_EXHAUSTED) and model is not None
            if model is None or (view.phase in ("", "Waiting") and not settled) or not (settled or same):
                self.tasks.add(view.ref)


def bus_key(ref: ModelRef) -> ModelKey:
    return ModelKey(ref.namespace, ref.name)
