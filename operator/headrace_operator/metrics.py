"""Prometheus metrics of the operator, in a registry of its own."""

from collections import Counter as Tally
from collections.abc import Iterator, Sized
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_operator.decide.plans import Move
from headrace_operator.store import Store

FALLBACK_PAIRS_LIMIT: Final = 1_000


class _Open(Collector):
    """Counted when somebody asks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "headrace_tasks_open", "Unfinished tasks by phase and reason.", labels=["phase", "reason"]
        )
        tally = Tally((view.phase, view.reason) for view in self._store.tasks() if not view.finished)
        for (phase, reason), count in sorted(tally.items()):
            family.add_metric([phase or "New", reason or "New"], count)
        yield family
        waiting = GaugeMetricFamily(
            "headrace_tasks_waiting", "Unfinished tasks that do not run, by what they wait for.", labels=["reason"]
        )
        reasons = Tally[str]()
        for (phase, reason), count in tally.items():
            if phase != "Running":
                reasons[reason or "New"] += count
        for reason, count in sorted(reasons.items()):
            waiting.add_metric([reason], count)
        yield waiting


class Metrics:
    """Reconciles, queue depths, open tasks, leadership, Redis."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "headrace_reconcile_seconds",
            "Duration of reconciles.",
            ["queue"],
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15),
            registry=self._registry,
        )
        self._reconciles = Counter(
            "headrace_reconciles", "Reconciles by what came of them.", ["queue", "outcome"], registry=self._registry
        )
        self._depth = Gauge("headrace_queue_depth", "Keys that wait for a worker.", ["queue"], registry=self._registry)
        self.leading = Gauge("headrace_leader", "1 in the replica that leads.", registry=self._registry)
        self.model_failures = Counter(
            "headrace_model_failures",
            "Looks at a model that failed because of what Redis holds for it.",
            ["look"],
            registry=self._registry,
        )
        self.scaled = Counter(
            "headrace_models_scaled",
            "Changes of a model's replicas by the planner.",
            ["reason"],
            registry=self._registry,
        )
        self.webhooks = Counter(
            "headrace_webhooks",
            "Attempts to tell a task's end, by what came of them.",
            ["reason"],
            registry=self._registry,
        )
        self.deleted = Counter(
            "headrace_tasks_deleted",
            "Finished tasks deleted by what made them due.",
            ["because"],
            registry=self._registry,
        )
        self._fallbacks = Counter(
            "headrace_operator_fallbacks",
            "Tasks moved to another model, by the models and what moved them.",
            ["from", "to", "reason"],
            registry=self._registry,
        )
        self._fallback_pairs: set[tuple[str, str]] = set()
        self.redis_up = Gauge("headrace_redis_up", "1 while Redis answers.", registry=self._registry)

    def reconciled(self, queue: str, outcome: str, seconds: float) -> None:
        self._seconds.labels(queue).observe(seconds)
        self._reconciles.labels(queue, outcome).inc()

    def fell_back(self, move: Move) -> None:
        """Pairs of models beyond the first thousand are counted together: names are their owners' to choose."""
        pair = str(move.origin), str(move.target)
        if pair not in self._fallback_pairs and len(self._fallback_pairs) >= FALLBACK_PAIRS_LIMIT:
            pair = "other", "other"
        else:
            self._fallback_pairs.add(pair)
        self._fallbacks.labels(*pair, move.because).inc()

    def watch_store(self, store: Store) -> None:
        self._registry.register(_Open(store))

    def watch_queues(self, tasks: Sized, models: Sized) -> None:
        self._depth.labels("tasks").set_function(lambda: len(tasks))
        self._depth.labels("models").set_function(lambda: len(models))

    def exposition(self) -> bytes:
        return generate_latest(self._registry)
