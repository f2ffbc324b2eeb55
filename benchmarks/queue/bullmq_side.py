"""BullMQ for Python: `addBulk` and its own Worker. Finished jobs are removed; the client has a pool."""

import contextlib
from collections.abc import AsyncIterator, Callable

import redis.asyncio as redis
import side
from bullmq import Queue, Worker


def _client(order: side.Order) -> redis.Redis:
    """BullMQ's own connection sends one command at a time; a client handed to it may have as many as are in flight."""
    return redis.Redis.from_url(order.url, decode_responses=True)


@contextlib.asynccontextmanager
async def produce(order: side.Order) -> AsyncIterator[side.Run]:
    queue, filler = Queue(order.queue, {"connection": _client(order)}), side.filler(order)
    await queue.getJobCounts()

    async def run() -> None:
        end = order.first + order.count
        for start in range(order.first, end, order.in_flight):
            numbers = range(start, min(end, start + order.in_flight))
            await queue.addBulk(
                [
                    {"name": "job", "data": {"number": n, "filler": filler}, "opts": {"removeOnComplete": True}}
                    for n in numbers
                ]
            )

    yield run
    await queue.close()


@contextlib.asynccontextmanager
async def work(order: side.Order, done: Callable[[int], None]) -> AsyncIterator[side.Run]:
    async def job(job: object, token: str) -> None:
        pass

    worker = Worker(order.queue, job, {"connection": _client(order), "concurrency": order.in_flight, "autorun": False})
    worker.on("completed", lambda job, result: done(job.data["number"]))
    yield worker.run


if __name__ == "__main__":
    side.main(produce, work)
