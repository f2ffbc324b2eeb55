"""SAQ: many `Queue.enqueue` at once, and its own Worker. Results are not kept, nothing throttles below in-flight."""

import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import side
from saq import Queue, Worker


def _queue(order: side.Order) -> Queue:
    return Queue.from_url(order.url, name=order.queue, max_concurrent_ops=order.in_flight)


@contextlib.asynccontextmanager
async def produce(order: side.Order) -> AsyncIterator[side.Run]:
    queue, filler = _queue(order), side.filler(order)
    await queue.connect()

    async def one(number: int) -> None:
        await queue.enqueue("job", key=str(number), number=number, filler=filler, ttl=-1, timeout=0)

    async def run() -> None:
        await side.spread(order, one)

    yield run
    await queue.disconnect()


@contextlib.asynccontextmanager
async def work(order: side.Order, done: Callable[[int], None]) -> AsyncIterator[side.Run]:
    logging.getLogger("saq").setLevel(logging.ERROR)
    queue = _queue(order)
    await queue.connect()
    # Takes its lock for a minute: a sweep while jobs run ends those that were taken a moment ago.
    await queue.sweep()

    async def job(context: object, *, number: int, filler: str) -> None:
        pass

    async def after_process(context: dict) -> None:  # type: ignore[type-arg]
        if context["job"].status == "complete":
            done(context["job"].kwargs["number"])

    worker = Worker(queue, [("job", job)], concurrency=order.in_flight, after_process=after_process)
    yield worker.start


if __name__ == "__main__":
    side.main(produce, work)
