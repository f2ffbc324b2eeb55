"""Leases are renewed in a thread of their own: a blocked main loop, a frozen Redis and a loss."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from pod_world import until
from redis_server import RedisServer

from headrace_bus import Bus, EntryState, Envelope, ModelKey, WorkClass
from headrace_runner.lease import LeaseKeeper

pytestmark = pytest.mark.contract

MODEL = ModelKey("ns", "smol")
LEASE_MS = 900


@pytest.fixture
async def keeper(redis: RedisServer) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(
        lambda: Bus.connect(redis.url, connect_timeout_s=0.2, socket_timeout_s=0.2), MODEL, lease_ms=LEASE_MS
    )
    keeper.start()
    yield keeper
    await keeper.aclose()


async def claimed(bus: Bus, uid: str) -> object:
    envelope = Envelope(uid, WorkClass.TASK, "ns", uid, 1, 1, 0, 1, {})
    await bus.enqueue(MODEL, envelope)
    (delivery,) = await bus.claim(MODEL, worker="p", count=1, lease_ms=LEASE_MS)
    return delivery.token


async def test_a_blocked_main_loop_loses_nothing(bus: Bus, keeper: LeaseKeeper) -> None:
    lost: list[str] = []
    keeper.hold(await claimed(bus, "a"), lambda: lost.append("a"))
    # Blocking is the subject: nothing in this loop runs for longer than the lease.
    time.sleep(2 * LEASE_MS / 1000)  # noqa: ASYNC251
    await bus.reap(MODEL)
    entry = await bus.inspect(MODEL, "a")
    assert entry is not None
    assert entry.state is EntryState.LEASED
    assert lost == []


async def test_a_loss_is_told_once_in_the_owners_loop(bus: Bus, keeper: LeaseKeeper) -> None:
    told: list[asyncio.AbstractEventLoop] = []
    keeper.hold(await claimed(bus, "b"), lambda: told.append(asyncio.get_running_loop()))
    keeper.hold(await claimed(bus, "c"), lambda: pytest.fail("c was not lost"))
    await bus.remove(MODEL, "b")

    async def heard() -> bool:
        return bool(told)

    await until(heard, 5)
    end = time.monotonic() + 2 * LEASE_MS / 1000

    async def later() -> bool:
        return time.monotonic() > end

    await until(later)
    assert told == [asyncio.get_running_loop()]


async def test_a_lease_that_is_dropped_is_not_renewed(bus: Bus, keeper: LeaseKeeper) -> None:
    token = await claimed(bus, "d")
    keeper.hold(token, lambda: pytest.fail("nobody holds it"))
    keeper.drop(token)

    async def returned() -> bool:
        await bus.reap(MODEL)
        return bool(await bus.returned(MODEL))

    await until(returned, 5)


async def test_a_silent_redis_is_no_loss(bus: Bus, redis: RedisServer, keeper: LeaseKeeper) -> None:
    lost: list[str] = []
    keeper.hold(await claimed(bus, "e"), lambda: lost.append("e"))
    with redis.frozen():
        # Longer than the lease: nobody took it meanwhile, so it is still ours.
        await passed(2 * LEASE_MS / 1000)
    await passed(LEASE_MS / 1000)
    # An overdue lease that was not renewed would be returned by this.
    await bus.reap(MODEL)
    entry = await bus.inspect(MODEL, "e")
    assert entry is not None
    assert entry.state is EntryState.LEASED
    assert lost == []


async def passed(seconds: float) -> None:
    """Until the clock says so: time that passes is the subject."""
    end = time.monotonic() + seconds

    async def later() -> bool:
        return time.monotonic() > end

    await until(later)
