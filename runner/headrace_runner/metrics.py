"""What a runner measures, in the exposition format of Prometheus. One registry per runner; no globals."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

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
        self.tokens = Counter(
            "headrace_runner_tokens", "Tokens of committed attempts, by kind.", ["kind"], registry=self.registry
        )
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

    def expose(self) -> bytes:
        return generate_latest(self.registry)
