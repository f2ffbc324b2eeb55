"""Who is delivered when: namespaces, classes, priorities, and the bounds `order.py` states."""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from headrace_bus import PRIORITY_AGE_MS, STARVATION_BOUND_MS, Bus, EnqueueOutcome, Envelope, ModelKey, WorkClass

pytestmark = pytest.mark.contract


async def fill(bus: Bus, model: ModelKey, made: list[Envelope]) -> None:
    for envelope in made:
        assert await bus.enqueue(model, envelope) is EnqueueOutcome.ENQUEUED


async def drain(bus: Bus, model: ModelKey, *, limit: int = 10_000, step: int = 1) -> list[Envelope]:
    got: list[Envelope] = []
    while len(got) < limit and (claimed := await bus.claim(model, worker="w", count=step, lease_ms=60_000)):
        got += [delivery.envelope for delivery in claimed]
    return got


def names(made: list[Envelope]) -> list[str]:
    return [envelope.uid for envelope in made]


@pytest.mark.parametrize("step", [1, 8])
async def test_equals_come_first_in_first_out(bus: Bus, model: ModelKey, envelopes, step: int) -> None:
    made = [envelopes(uid=f"u{number % 7}-{number}", created_ms=1_700_000_000_000) for number in range(50)]
    await fill(bus, model, made)
    assert names(await drain(bus, model, step=step)) == names(made)


async def test_the_objects_age_decides_not_the_order_of_enqueueing(bus: Bus, model: ModelKey, envelopes) -> None:
    made = [envelopes() for _ in range(20)]
    await fill(bus, model, list(reversed(made)))
    assert names(await drain(bus, model)) == names(made)


async def test_priority_goes_first_and_is_worth_its_age(bus: Bus, model: ModelKey, envelopes) -> None:
    at = 1_700_000_000_000
    plain = envelopes(created_ms=at)
    urgent = envelopes(created_ms=at + 5, priority=1)
    idle = envelopes(created_ms=at, priority=-1)
    just_beaten = envelopes(created_ms=at + PRIORITY_AGE_MS + 1, priority=1)
    await fill(bus, model, [idle, just_beaten, plain, urgent])
    assert names(await drain(bus, model)) == names([urgent, plain, just_beaten, idle])


async def test_a_copy_is_moved_as_it_is(bus: Bus, model: ModelKey, envelopes) -> None:
    at = 1_700_000_000_000
    first, second, third = made = [envelopes(created_ms=at + n) for n in range(3)]
    await fill(bus, model, made)
    for unlike in (replace(third, attempt=2, priority=9), replace(third, uid="nobody", priority=9)):
        assert not await bus.move(model, unlike)
    for _ in range(2):
        assert await bus.move(model, replace(third, priority=9, payload={}))
    (delivery,) = await bus.claim(model, worker="pod-a", count=1, lease_ms=60_000)
    assert delivery.envelope == third, "another copy, or another's work"
    assert not await bus.move(model, replace(third, priority=-9)), "it waits no more"
    assert names(await drain(bus, model)) == names([first, second])


async def test_the_starvation_bound(bus: Bus, model: ModelKey, envelopes) -> None:
    at = 1_700_000_000_000
    lowest = envelopes(created_ms=at, priority=-100)
    earlier = [envelopes(created_ms=at + STARVATION_BOUND_MS - 1 - n, priority=100) for n in range(5)]
    later = [envelopes(created_ms=at + STARVATION_BOUND_MS + n, priority=100) for n in range(5)]
    await fill(bus, model, [lowest, *later, *earlier])
    order = names(await drain(bus, model))
    assert set(order[:5]) == set(names(earlier))
    assert order[5] == lowest.uid
    assert set(order[6:]) == set(names(later))


async def test_an_edited_priority_moves_the_waiting_copy(bus: Bus, model: ModelKey, envelopes) -> None:
    first, second = envelopes(uid="first"), envelopes(uid="second")
    await fill(bus, model, [first, second])
    raised = envelopes(uid="second", created_ms=second.created_ms, priority=5)
    assert await bus.enqueue(model, raised) is EnqueueOutcome.DUPLICATE
    assert await bus.position(model, "second") == 0
    assert [envelope.priority for envelope in await drain(bus, model)] == [5, 0]


async def test_a_thousand_tasks_of_one_namespace_do_not_delay_another(bus: Bus, model: ModelKey, envelopes) -> None:
    await asyncio.gather(*(bus.enqueue(model, envelopes(namespace="big")) for _ in range(1_000)))
    await drain(bus, model, limit=10)
    small = [envelopes(namespace="small") for _ in range(5)]
    await fill(bus, model, small)
    order = await drain(bus, model, limit=12)
    places = [index for index, envelope in enumerate(order) if envelope.namespace == "small"]
    assert len(places) == 5
    assert places[0] <= 1
    assert all(later - earlier == 2 for earlier, later in pairwise(places))


async def test_an_idle_namespace_waits_for_at_most_one_delivery_of_each_other(
    bus: Bus, model: ModelKey, envelopes
) -> None:
    busy = [f"busy-{number}" for number in range(6)]
    for namespace in busy:
        await fill(bus, model, [envelopes(namespace=namespace) for _ in range(20)])
    await drain(bus, model, limit=40)
    await bus.enqueue(model, envelopes(namespace="zz-late"))
    order = await drain(bus, model, limit=len(busy) + 1)
    assert "zz-late" in [envelope.namespace for envelope in order]
    ahead = Counter(envelope.namespace for envelope in order if envelope.namespace != "zz-late")
    assert max(ahead.values()) == 1


async def test_idleness_banks_no_credit(bus: Bus, model: ModelKey, envelopes) -> None:
    await fill(bus, model, [envelopes(namespace="busy") for _ in range(60)])
    await fill(bus, model, [envelopes(namespace="idle")])
    await drain(bus, model, limit=30)
    await fill(bus, model, [envelopes(namespace="idle") for _ in range(20)])
    share = Counter(envelope.namespace for envelope in await drain(bus, model, limit=20))
    assert abs(share["idle"] - share["busy"]) <= 1


async def test_coming_one_by_one_gains_nothing(bus: Bus, model: ModelKey, envelopes) -> None:
    """A namespace whose queue is empty between its tasks has no more than its share."""
    await fill(bus, model, [envelopes(namespace="steady") for _ in range(60)])
    share: Counter[str] = Counter()
    waiting = False
    for _ in range(40):
        if not waiting:
            await bus.enqueue(model, envelopes(namespace="dripping"))
            waiting = True
        (envelope,) = await drain(bus, model, limit=1)
        share[envelope.namespace] += 1
        waiting = waiting and envelope.namespace != "dripping"
    assert abs(share["steady"] - share["dripping"]) <= 1


async def test_removing_the_rest_resets_no_debt(bus: Bus, model: ModelKey, envelopes) -> None:
    await fill(bus, model, [envelopes(namespace="steady", cost_tokens=10) for _ in range(30)])
    heavy = [envelopes(namespace="heavy", cost_tokens=100) for _ in range(2)]
    await fill(bus, model, heavy)
    while "heavy" not in [envelope.namespace for envelope in await drain(bus, model, limit=1)]:
        pass
    await bus.remove(model, heavy[1].uid)
    await bus.enqueue(model, envelopes(namespace="heavy", cost_tokens=100))
    order = [envelope.namespace for envelope in await drain(bus, model, limit=8)]
    assert order == ["steady"] * 8


async def test_a_debt_is_forgotten_once_time_caught_up_or_nobody_waits(
    bus: Bus, model: ModelKey, redis: Redis, envelopes
) -> None:
    finish = f"headrace:{{{model}}}:finish:Task"
    await fill(bus, model, [envelopes(namespace="heavy", cost_tokens=250)])
    await fill(bus, model, [envelopes(namespace="light", cost_tokens=100) for _ in range(6)])
    debt_after = []
    for _ in range(7):
        await drain(bus, model, limit=1)
        debt_after.append(await redis.zscore(finish, "heavy"))
    # Light's starts are 0, 100, 200, 300 …: the third catches up.
    assert debt_after == [250, 250, 250, 250, None, None, None]

    await fill(bus, model, [envelopes(namespace="heavy", cost_tokens=250)])
    await fill(bus, model, [envelopes(namespace="light")])
    await drain(bus, model)
    assert not await redis.exists(finish)
    await fill(bus, model, [envelopes(namespace="light"), envelopes(namespace="heavy")])
    assert [envelope.namespace for envelope in await drain(bus, model)] == ["heavy", "light"]


async def test_the_share_is_counted_in_tokens_and_weighed(bus: Bus, model: ModelKey, redis: Redis, envelopes) -> None:
    for namespace, cost in (("long", 300), ("short", 100)):
        await fill(bus, model, [envelopes(namespace=namespace, cost_tokens=cost) for _ in range(80)])
    share = Counter(envelope.namespace for envelope in await drain(bus, model, limit=40))
    assert 29 <= share["short"] <= 31

    await redis.hset(f"headrace:{{{model}}}:weights", "long", "3")
    share = Counter(envelope.namespace for envelope in await drain(bus, model, limit=40))
    assert 18 <= share["short"] <= 22


@pytest.mark.parametrize("weight", ["0", "-1", "much", "nan", "inf", "1e-300"])
async def test_a_weight_that_makes_no_sense_stops_nothing(
    bus: Bus, model: ModelKey, redis: Redis, envelopes, weight: str
) -> None:
    await redis.hset(f"headrace:{{{model}}}:weights", "team-a", weight)
    made = [envelopes() for _ in range(5)]
    await fill(bus, model, made)
    assert await bus.position(model, made[-1].uid) == 4
    assert len(await drain(bus, model)) == 5


async def test_calls_come_first_and_tasks_keep_one_in_five(bus: Bus, model: ModelKey, envelopes) -> None:
    tasks = [envelopes() for _ in range(30)]
    calls = [envelopes(kind=WorkClass.CALL) for _ in range(40)]
    await fill(bus, model, [*tasks, *calls])
    order = await drain(bus, model, step=3)
    kinds = [envelope.kind for envelope in order]
    assert kinds[0] is WorkClass.CALL
    contended = kinds[:50]
    assert contended.count(WorkClass.CALL) == 40
    for start in range(0, 46):
        assert WorkClass.TASK in contended[start : start + 5]
    assert kinds[50:] == [WorkClass.TASK] * 20
    assert names([envelope for envelope in order if envelope.kind is WorkClass.TASK]) == names(tasks)


@pytest.mark.parametrize("cost", [1, 250])
async def test_the_position_is_what_then_happens(bus: Bus, model: ModelKey, envelopes, cost: int) -> None:
    """Exact, where all cost the same and nothing else arrives."""
    made = [
        envelopes(namespace=namespace, kind=kind, cost_tokens=cost)
        for namespace, kind, number in (
            ("a", WorkClass.TASK, 9),
            ("b", WorkClass.TASK, 4),
            ("c", WorkClass.CALL, 11),
            ("d", WorkClass.CALL, 3),
        )
        for _ in range(number)
    ]
    await fill(bus, model, made)
    await drain(bus, model, limit=7)
    told: dict[str, int | None] = {envelope.uid: await bus.position(model, envelope.uid) for envelope in made}
    order = names(await drain(bus, model))
    assert {uid: place for uid, place in told.items() if place is not None} == {uid: n for n, uid in enumerate(order)}


async def test_what_is_not_queued_has_no_position(bus: Bus, model: ModelKey, envelopes) -> None:
    assert await bus.position(model, "uid-none") is None
    envelope = envelopes()
    await bus.enqueue(model, envelope)
    assert await bus.position(model, envelope.uid) == 0
    await drain(bus, model)
    assert await bus.position(model, envelope.uid) is None
