"""Whose failure it is: one model's keys and one caller's rights say nothing of the others."""

from typing import Any

import pytest

from headrace_bus import BusCorrupt, BusDenied, BusError, BusUnavailable, ModelKey, Stats
from headrace_facade.bounds import Bounds
from headrace_facade.errors import FacadeError, Forbidden, NotFound, QuotaExceeded, Unauthenticated
from headrace_facade.queues import AWAY, DENIED, UNREADABLE, Queues, QueueUnknown
from headrace_facade.room import Room

POISONED, HEALTHY = ModelKey("ns", "poisoned"), ModelKey("ns", "healthy")
STATS = Stats(0, 0, 0, 0, None)
USED_UP = {
    "metadata": {"name": "default", "namespace": "ns"},
    "spec": {"maxQueuedTasks": 1},
    "status": {"queued": 1, "running": 0, "waiting": 5},
}


class Reader:
    def __init__(self, error: BusError) -> None:
        self.error = error

    async def stats(self, model: ModelKey) -> Stats:
        if model == POISONED:
            raise self.error
        return STATS


@pytest.mark.parametrize("error", [BusCorrupt("x"), BusError("x")])
async def test_one_models_keys_hide_no_other_model(error: BusError) -> None:
    queues = Queues(Reader(error), lambda: 0.0)  # type: ignore[arg-type]
    with pytest.raises(QueueUnknown, match=UNREADABLE):
        await queues.stats(POISONED)
    assert await queues.stats(HEALTHY) == STATS


@pytest.mark.parametrize(("error", "told"), [(BusUnavailable("x"), AWAY), (BusDenied("x"), DENIED)])
async def test_a_redis_that_is_away_is_not_asked_at_once(error: BusError, told: str) -> None:
    queues = Queues(Reader(error), lambda: 0.0)  # type: ignore[arg-type]
    for model in (POISONED, HEALTHY):
        with pytest.raises(QueueUnknown, match=told):
            await queues.stats(model)


class Kube:
    """Answers by token."""

    def __init__(self, answers: dict[str, dict[str, Any] | FacadeError]) -> None:
        self.answers = answers
        self.asked = 0

    async def get_quota(self, namespace: str, token: str) -> dict[str, Any]:
        self.asked += 1
        answer = self.answers[token]
        if isinstance(answer, FacadeError):
            raise answer
        return answer


@pytest.mark.parametrize("refused", [Unauthenticated("no"), Forbidden("no")])
async def test_who_may_not_read_the_quota_hides_it_from_nobody(refused: FacadeError) -> None:
    kube = Kube({"mallory": refused, "alice": USED_UP})
    room = Room(kube, Queues(None), Bounds(), lambda: 0.0)  # type: ignore[arg-type]
    assert await room.refusal("ns", HEALTHY, "mallory", {}) is None  # type: ignore[arg-type]
    assert isinstance(await room.refusal("ns", HEALTHY, "alice", {}), QuotaExceeded)  # type: ignore[arg-type]


async def test_that_there_is_no_quota_is_remembered() -> None:
    kube = Kube({"alice": NotFound("none")})
    room = Room(kube, Queues(None), Bounds(), lambda: 0.0)  # type: ignore[arg-type]
    for _ in range(2):
        assert await room.refusal("ns", HEALTHY, "alice", {}) is None  # type: ignore[arg-type]
    assert kube.asked == 1
