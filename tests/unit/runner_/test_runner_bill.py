"""What an attempt took: in its ending, whichever that is, on the bus and in the metrics."""

import json
from dataclasses import replace
from typing import Any

import pytest

from headrace_bus.arguments import failure_json
from headrace_bus.records import Failure
from headrace_bus.replies import _failure
from headrace_crds.cost import Spend
from headrace_crds.remote import Price
from headrace_crds.result import Usage
from headrace_runner.attempt import Attempt
from headrace_runner.engine.protocol import Usage as EngineUsage
from headrace_runner.metrics import NAMESPACES_MOST, Metrics
from headrace_runner.pod_sink import PodSink
from headrace_runner.slots import Slots
from headrace_runner.verdict import GivenBack, Setback, Verdict, also_spent, failed, priced

PRICE = Price(currency="EUR", input_per_million_tokens="2", output_per_million_tokens="10")
USAGE = Usage(prompt_tokens=100, cached_tokens=40, completion_tokens=10, reasoning_tokens=4)


def endings(usage: Usage | None) -> list[Verdict | Setback | GivenBack]:
    return [failed("ContentRefused", "no", usage=usage), Setback("X", "no", usage=usage), GivenBack("X", usage)]


def test_every_ending_has_its_bill() -> None:
    for ending in endings(USAGE):
        billed = priced(ending, PRICE)
        assert type(billed) is type(ending)
        assert billed.usage == USAGE.model_copy(update={"cost_micros": 300, "currency": "EUR"})
        assert priced(ending, None) == ending
    for ending in endings(None):
        assert priced(ending, PRICE) == ending


def test_the_tries_before_count_also_where_the_last_took_nothing() -> None:
    before = EngineUsage(7, 3, 5, 2)
    for ending in endings(USAGE):
        total = Usage(prompt_tokens=107, cached_tokens=43, completion_tokens=15, reasoning_tokens=6)
        assert also_spent(ending, before).usage == total
        assert also_spent(ending, None) == ending
    for ending in endings(None):
        expected = Usage(prompt_tokens=7, cached_tokens=3, completion_tokens=5, reasoning_tokens=2)
        assert also_spent(ending, before).usage == expected


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_metrics_tell_kinds_and_costs_by_namespace() -> None:
    metrics = Metrics()
    metrics.spent("team-a", priced(Setback("X", "", usage=USAGE), PRICE).usage)
    metrics.spent("team-a", USAGE)
    metrics.spent("team-b", None)
    for kind, count in {"prompt": 200, "cached": 80, "completion": 20, "reasoning": 8}.items():
        assert sample(metrics, "headrace_runner_tokens_total", namespace="team-a", kind=kind) == count
    assert sample(metrics, "headrace_runner_cost_micros_total", namespace="team-a", currency="EUR") == 300
    assert sample(metrics, "headrace_runner_tokens_total", namespace="team-b", kind="prompt") is None


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for number in range(NAMESPACES_MOST + 7):
        metrics.spent(f"n-{number}", USAGE)
    assert sample(metrics, "headrace_runner_tokens_total", namespace="(others)", kind="prompt") == 700
    metrics.spent("n-0", USAGE)
    assert sample(metrics, "headrace_runner_tokens_total", namespace="n-0", kind="prompt") == 200
    for number in range(20):
        bill = USAGE.model_copy(update={"cost_micros": 1, "currency": f"A{chr(65 + number)}A"})
        metrics.spent("n-0", bill)
    assert sample(metrics, "headrace_runner_cost_micros_total", namespace="n-0", currency="(others)") == 12


class Entry:
    """Keeps the words."""

    keys: dict[str, Any]

    def __init__(self) -> None:
        self.keys = {}
        self.told: list[Any] = []

    async def fail(self, failure: Failure) -> None:
        self.told.append(failure)

    async def release(self, reason: str, spent: Spend | None = None) -> None:
        self.told.append((str(reason), spent))


@pytest.mark.parametrize("stopping", [False, True])
async def test_the_bus_is_told_what_a_failed_attempt_took(attempt: Attempt, stopping: bool) -> None:
    entry, metrics = Entry(), Metrics()
    sink = PodSink(attempt, entry, None, Slots(1), metrics)  # type: ignore[arg-type]
    sink.stopping = stopping
    bill = USAGE.model_copy(update={"cost_micros": 300, "currency": "EUR"})
    await sink.give_back(Setback("AttemptTimeout", "late", usage=bill))
    spent = Spend(110, 300, "EUR")
    assert entry.told == [("RunnerStopped", spent) if stopping else Failure("AttemptTimeout", "late", spent=spent)]
    assert sample(metrics, "headrace_runner_tokens_total", namespace=attempt.namespace, kind="prompt") == 100
    await sink.release("Suspended")
    assert entry.told[-1] == ("Suspended", None)


@pytest.mark.parametrize("spent", [None, Spend(1, 2, "USD"), Spend(3)])
def test_a_failure_keeps_what_was_spent(spent: Spend | None) -> None:
    failure = Failure("X", "why", spent=spent)
    assert _failure(failure_json(failure)) == failure


@pytest.mark.parametrize(
    "told",
    [
        1,
        "x",
        [],
        [1],
        [1, 2, 3],
        [1, 2, "USDX"],
        [-1, 0, ""],
        [0, -1, ""],
        [1 << 53, 0, ""],
        [True, 0, ""],
        [0.5, 0, ""],
    ],
)
def test_what_no_attempt_can_take_counts_as_not_told(told: object) -> None:
    document = {"reason": "X", "message": "why", "retryable": True, "spent": told}
    assert _failure(json.dumps(document).encode()) == Failure("X", "why")


def test_a_price_belongs_to_the_work(attempt: Attempt) -> None:
    assert attempt.work.price is None
    assert replace(attempt, work=attempt.work.model_copy(update={"price": PRICE})).work.dump()["price"] == {
        "currency": "EUR",
        "inputPerMillionTokens": "2",
        "outputPerMillionTokens": "10",
    }
