"""Whether a client is told to come later: the table of what is full and who may hear of it."""

import pytest

from headrace_bus import ModelKey, Stats
from headrace_crds.quota import LLMQuota
from headrace_facade.bounds import Bounds, queue_filled, quota_used_up
from headrace_facade.errors import FacadeError, NamespaceFull, QueueFull, QuotaExceeded
from headrace_facade.why import serving_slots
from headrace_operator.decide import window

BOUNDS = Bounds(model_tasks=10, namespace_tasks=4)
MODEL = ModelKey("ns", "m")


def stats(queued: int = 0, *, others: int = 0, mean_ms: float | None = None, **by_namespace: int) -> Stats:
    return Stats(queued, others, others, others, None, by_namespace, mean_ms)


@pytest.mark.parametrize(
    ("namespace", "found", "expected"),
    [
        ("ns", stats(0), None),
        ("ns", stats(3, ns=3), None),
        ("ns", stats(4, ns=4), NamespaceFull),
        ("ns", stats(9, other=9), None),
        ("ns", stats(10, other=10), QueueFull),
        ("ns", stats(1, others=3, other=1), QueueFull),
        # Both: what the namespace can do something about is told.
        ("ns", stats(10, ns=4, other=6), NamespaceFull),
        # A model of another namespace.
        ("other", stats(10, ns=10), None),
        ("other", stats(10, ns=9, other=1), QueueFull),
        ("other", stats(10, other=4), NamespaceFull),
    ],
)
def test_a_full_queue(namespace: str, found: Stats, expected: type[FacadeError] | None) -> None:
    told = queue_filled(namespace, MODEL, found, BOUNDS)
    assert (None if told is None else type(told)) is expected


@pytest.mark.parametrize(("mean_ms", "retry_s"), [(None, "5"), (10.0, "1"), (1000.0, "1"), (1001.0, "2"), (1e12, "60")])
def test_when_to_come_again(mean_ms: float | None, retry_s: str) -> None:
    told = queue_filled("ns", MODEL, stats(10, mean_ms=mean_ms), BOUNDS)
    assert told is not None
    assert told.headers == {"Retry-After": retry_s}


@pytest.mark.parametrize(
    ("most", "queued", "running", "refused"),
    [
        (5, 3, 1, False),
        (5, 3, 2, True),
        (5, 9, 0, True),
        (None, 99, 99, False),
        (0, 0, 0, True),
        (1, None, None, False),
    ],
)
def test_a_quota(most: int | None, queued: int | None, running: int | None, refused: bool) -> None:
    quota = LLMQuota.model_validate(
        {"spec": {"maxQueuedTasks": most}, "status": {"queued": queued, "running": running}}
    )
    assert isinstance(quota_used_up("ns", quota), QuotaExceeded) is refused


@pytest.mark.parametrize(
    ("most_running", "running", "waiting", "refused"),
    [
        # Two run, and eight wait for them: ten may be open.
        (2, 2, 7, False),
        (2, 2, 8, True),
        # Suspended tasks and such without a model wait, too, and keep nobody from being handed out.
        (2, 1, 50, False),
        (None, 9, 50, False),
        (None, 10, 0, True),
        (0, 0, 10, True),
    ],
)
def test_a_task_that_would_only_wait(most_running: int | None, running: int, waiting: int, refused: bool) -> None:
    spec = {"maxQueuedTasks": 10, "maxRunningTasks": most_running}
    quota = LLMQuota.model_validate({"spec": spec, "status": {"queued": 0, "running": running, "waiting": waiting}})
    assert isinstance(quota_used_up("ns", quota), QuotaExceeded) is refused


def test_a_bound_on_what_runs_refuses_nothing() -> None:
    quota = {"spec": {"maxRunningTasks": 2}, "status": {"queued": 0, "running": 2, "waiting": 9999}}
    assert quota_used_up("ns", LLMQuota.model_validate(quota)) is None


def test_the_bounds_are_the_operators() -> None:
    operators = window.Bounds()
    assert Bounds() == Bounds(operators.model_tasks, operators.namespace_tasks)


def test_a_quota_that_nobody_counted_refuses_nobody() -> None:
    assert quota_used_up("ns", LLMQuota.model_validate({"spec": {"maxQueuedTasks": 0}})) is None


def test_only_what_serves_and_can_be_read_counts_as_a_slot() -> None:
    reports = {
        "a": {"state": "Serving", "slots": 2},
        "b": {"state": "Loading", "slots": 4},
        "c": {"state": "Serving", "slots": "9"},
        "d": {"state": "Serving", "slots": float("inf")},
        "e": {"state": "Serving", "slots": True},
        "f": {"state": "Serving", "slots": -3},
        "g": {"state": "Serving", "slots": 10**9},
        "h": {"state": "Serving"},
    }
    assert serving_slots(reports) == 2 + 64


def test_pods_of_a_remote_model_share_what_the_provider_is_given() -> None:
    def remote(**provider: object) -> dict[str, object]:
        return {"state": "Serving", "slots": 300, "provider": {"breaker": "Closed", **provider}}

    assert serving_slots({"a": remote(concurrency=20), "b": remote(concurrency=20)}) == 20
    assert serving_slots({"a": remote(concurrency=None), "b": remote()}) == 300
    assert serving_slots({"a": remote(breaker="Open", concurrency=20)}) == 0
    assert serving_slots({"a": remote(concurrency=10**9)}) == 1024
    assert serving_slots({"a": remote(concurrency="many")}) == 0
    assert serving_slots({"a": {"state": "Serving", "slots": 2, "provider": "x"}}) == 2
