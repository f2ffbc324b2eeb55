"""Headrace's bus as operator and runner use it: idempotent enqueue, claim with lease and token, fenced complete.

What runner and operator do beside it is done here as well, in the worker's process: all leases held are renewed every
five seconds, expired ones are reaped every second.

A lane asks for the next work together with the completion of the last, as BullMQ's one call does both and as a runner
claims while a finished generation is still being committed. Redis carries out one connection's calls in their order, so
the leases held never exceed what is in flight.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import side

from headrace_bus import Bus, Delivery, Envelope, LeaseToken, ModelKey, WorkClass

LEASE_MS = 15_000
RENEW_EVERY_S = 5.0
REAP_EVERY_S = 1.0


def _key(order: side.Order) -> ModelKey:
    return ModelKey("bench", order.queue)


@contextlib.asynccontextmanager
async def produce(order: side.Order) -> AsyncIterator[side.Run]:
    key, filler = _key(order), side.filler(order)
    async with Bus.connect(order.url) as bus:
        await bus.register(key)

        async def one(number: int) -> None:
            envelope = Envelope(
                uid=f"{number:08d}-0000-4000-8000-000000000000",
                kind=WorkClass.TASK,
                namespace="bench",
                name=f"job-{number}",
                attempt=1,
                created_ms=int(time.time() * 1000),
                priority=0,
                cost_tokens=256,
                payload={"number": number, "filler": filler},
            )
            await bus.enqueue(key, envelope)

        async def run() -> None:
            await side.spread(order, one)

        yield run


@contextlib.asynccontextmanager
async def work(order: side.Order, done: Callable[[int], None]) -> AsyncIterator[side.Run]:
    key = _key(order)
    async with Bus.connect(order.url) as bus:
        await bus.check()

        held: dict[str, LeaseToken] = {}

        async def finish(delivery: Delivery) -> None:
            if await bus.complete(key, delivery.token):
                done(delivery.envelope.payload["number"])
            del held[delivery.token.uid]

        async def claim(size: int) -> list[Delivery]:
            deliveries = await bus.claim(key, worker="bench", count=size, lease_ms=LEASE_MS)
            held.update((each.token.uid, each.token) for each in deliveries)
            return deliveries

        async def renew() -> None:
            while True:
                await asyncio.sleep(RENEW_EVERY_S)
                await bus.renew(key, list(held.values()), lease_ms=LEASE_MS)

        async def reap() -> None:
            while True:
                await asyncio.sleep(REAP_EVERY_S)
                await bus.reap(key)
                if lost := await bus.returned(key, limit=1):
                    # An operator would queue it again. Here it would be waited for until the cell's time is over.
                    raise RuntimeError(f"{lost[0].name} came back: {lost[0].reason}")

        async def lane(size: int) -> None:
            deliveries = await claim(size)
            while True:
                if not deliveries:
                    await bus.wait_for_work(key, timeout_s=5)
                *_, deliveries = await asyncio.gather(*map(finish, deliveries), claim(size))

        async def run() -> None:
            await asyncio.gather(renew(), reap(), *(lane(order.claim) for _ in range(order.in_flight // order.claim)))

        yield run


if __name__ == "__main__":
    side.main(produce, work)
