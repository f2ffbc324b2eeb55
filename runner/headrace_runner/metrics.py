"""What a runner measures, in the exposition format of Prometheus. One registry per runner; no globals."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from headrace_crds.result import Usage

NAMESPACES_MOST: Final = 200
CURRENCIES_MOST: Final = 8
OTHERS: Final = "(others)"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tasks = Counter(
            "headrace_runner_tasks",
            "Attempts that ended here, by outcome (also Parked, Setback, Released, Lost, Dropped) and reason.",
            ["outcome", "reason"],
            registry=self.registry,
        )
        self.claim_to_commit = Histogram(
            "headrace_runner_claim_to_commit_seconds",
            "From the claim to the outcome in the object.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "headrace_runner_first_token_seconds",
            "From the claim to the engine's first token, of committed attempts.",
            buckets=(0.01, 0.025, *_SECONDS),
            registry=self.registry,
        )
        self.first_append = Histogram(
            "headrace_runner_first_append_seconds",
            "From the claim to the first text that the bus has, of attempts that stream.",
            buckets=(0.01, 0.025, *_SECONDS),
            registry=self.registry,
        )
        self.commit = Histogram(
            "headrace_runner_commit_seconds",
            "From the result to the outcome in the object.",
            buckets=(0.005, 0.01, 0.025, *_SECONDS),
            registry=self.registry,
        )
        self.cache = Counter(
            "headrace_runner_cache",
            "Deterministic requests to models with a cache, by outcome: hit, miss; not_kept counts results of misses "
            "that were not taken.",
            ["outcome"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "headrace_runner_tokens",
            "Tokens of attempts, whatever became of them, by the task's namespace and by kind: prompt, cached (part of "
            "prompt), completion, reasoning (part of completion).",
            ["namespace", "kind"],
            registry=self.registry,
        )
        self.cost_micros = Counter(
            "headrace_runner_cost_micros",
            "What those tokens cost by the model's price, in millionths of the currency.",
            ["namespace", "currency"],
            registry=self.registry,
        )
        self._namespaces: set[str] = set()
        self._currencies: set[str] = set()
        self.leases_lost = Counter(
            "headrace_runner_leases_lost", "Attempts aborted because their lease was lost.", registry=self.registry
        )
        self.fenced_commits = Counter(
            "headrace_runner_fenced_commits",
            "Outcomes dropped because the object had ended, was gone or waited for another attempt.",
            registry=self.registry,
        )
        self.generating = Gauge("headrace_runner_generating", "Tasks in the engine.", registry=self.registry)
        self.parked = Gauge("headrace_runner_parked_commits", "Outcomes on their way.", registry=self.registry)

    def spent(self, namespace: str, usage: Usage | None) -> None:
        """Counts what an attempt took. A shared model serves any number of namespaces: those that come late share a
        label, and so do currencies of prices that change again and again.
        """
        if usage is None:
            return
        space = self._label(namespace, self._namespaces, NAMESPACES_MOST)
        kinds = {
            "prompt": usage.prompt_tokens,
            "cached": usage.cached_tokens,
            "completion": usage.completion_tokens,
            "reasoning": usage.reasoning_tokens or 0,
        }
        for kind, count in kinds.items():
            self.tokens.labels(space, kind).inc(count)
        if usage.cost_micros is not None and usage.currency is not None:
            currency = self._label(usage.currency, self._currencies, CURRENCIES_MOST)
            self.cost_micros.labels(space, currency).inc(usage.cost_micros)

    @staticmethod
    def _label(name: str, known: set[str], most: int) -> str:
        if name not in known and len(known) >= most:
            return OTHERS
        known.add(name)
        return name

    def expose(self) -> bytes:
        return generate_latest(self.registry)
