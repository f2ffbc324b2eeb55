"""The queue around the agenda: workers, errors, and when it is closed. Tests wait on events, never on time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from headrace_bus import BusUnavailable
from headrace_operator.errors import KubeConflict, KubeUnavailable, ObjectInvalid
from headrace_operator.workqueue import Reconcile, WorkQueue


class Tally:
    """What a queue tells its observer, and something to wait for."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    def reconciled(self, queue: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.outcomes[outcome] += 1
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until(self, met: Callable[[Counter[str]], bool]) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: met(self.outcomes))


@asynccontextmanager
async def running(queue: WorkQueue[str], reconcile: Reconcile[str]) -> AsyncIterator[None]:
    task = asyncio.create_task(queue.run(reconcile))
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_many_adds_of_one_key_are_one_reconcile() -> None:
    seen: list[str] = []
    tally = Tally()
    queue: WorkQueue[str] = WorkQueue("tasks", workers=3, observer=tally)

    async def reconcile(key: str) -> None:
        seen.append(key)

    async with running(queue, reconcile):
        for _ in range(20):
            queue.add("a")
        queue.add("b")
        await tally.until(lambda outcomes: outcomes["Done"] == 2)
    assert sorted(seen) == ["a", "b"]


async def test_one_key_is_in_one_pair_of_hands() -> None:
    hands, most, tally = Counter[str](), 0, Tally()
    queue: WorkQueue[str] = WorkQueue("tasks", workers=8, observer=tally)

    async def reconcile(key: str) -> None:
        nonlocal most
        hands[key] += 1
        most = max(most, hands[key])
        queue.add(key)
        await asyncio.sleep(0)
        hands[key] -= 1

    async with running(queue, reconcile):
        queue.add("a")
        queue.add("b")
        await tally.until(lambda outcomes: outcomes["Done"] >= 12)
    assert most == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (KubeUnavailable("away"), "ApiServerUnavailable"),
        (BusUnavailable("away"), "BusUnavailable"),
        (ObjectInvalid("spec.prompt"), "ObjectInvalid"),
        (RuntimeError("a defect"), "Error"),
        (KubeConflict("changed"), "Conflict"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
async def test_whatever_goes_wrong_is_tried_again(error: Exception, outcome: str) -> None:
    errors, tally = [error], Tally()
    queue: WorkQueue[str] = WorkQueue("tasks", workers=1, observer=tally)

    async def reconcile(key: str) -> None:
        if errors:
            raise errors.pop()

    async with running(queue, reconcile):
        queue.add("a")
        await tally.until(lambda outcomes: outcomes["Done"] == 1)
    assert tally.outcomes == {outcome: 1, "Done": 1}


async def test_a_reconcile_can_ask_to_be_called_again() -> None:
    tally, left = Tally(), [0.0, 0.01, None]
    queue: WorkQueue[str] = WorkQueue("tasks", workers=1, observer=tally)

    async def reconcile(key: str) -> float | None:
        return left.pop(0)

    async with running(queue, reconcile):
        queue.add("a")
        await tally.until(lambda outcomes: outcomes["Done"] == 3)
    assert not left


async def test_closed_until_it_runs_and_empty_afterwards() -> None:
    seen: list[str] = []
    tally = Tally()
    queue: WorkQueue[str] = WorkQueue("tasks", workers=1, observer=tally)
    queue.add("before")

    async def reconcile(key: str) -> None:
        seen.append(key)

    async with running(queue, reconcile):
        queue.add("during")
        await tally.until(lambda outcomes: outcomes["Done"] == 1)
    queue.add("after")
    assert seen == ["during"]
    assert len(queue) == 0


async def test_who_kept_something_for_a_key_hears_that_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_operator.workqueue.GIVE_UP_AFTER", 2)
    monkeypatch.setattr("headrace_operator.agenda.FIRST_BACKOFF_SECONDS", 0.001)
    let_go: list[str] = []
    tally = Tally()
    queue: WorkQueue[str] = WorkQueue("tasks", workers=1, observer=tally, given_up=let_go.append)

    async def reconcile(_: str) -> None:
        assert let_go == []
        raise ObjectInvalid("it does not read")

    async with running(queue, reconcile):
        queue.add("a")
        await tally.until(lambda outcomes: outcomes["ObjectInvalid"] == 2)
    assert let_go == ["a"]
