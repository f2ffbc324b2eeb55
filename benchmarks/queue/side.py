"""What every contestant's process has in common: how it is told what to do, and what it answers. No dependencies.

    python X_side.py produce|work '<Order as JSON>'
    stdout: "ready"        stdin: "go"        stdout: one JSON line, a Report

Every process is one event loop. Contestants bring two coroutines, made ready before "go": one enqueues a range of
job numbers, `in_flight` at once; one takes and finishes jobs, `in_flight` at once, calling `done(number)` when the
queue has confirmed the end of each.
"""

import asyncio
import contextlib
import json
import mmap
import os
import resource
import struct
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

_CELL = struct.Struct("<Q")


@dataclass(frozen=True)
class Order:
    url: str
    queue: str
    first: int
    """Numbers of the jobs to enqueue: first … first + count - 1. A worker is told of all."""
    count: int
    in_flight: int
    claim: int
    """Jobs per claim, where the contestant can do that."""
    payload_bytes: int
    board: str
    """File of 8-byte counters, one per worker process: how many jobs each has finished."""
    place: int
    """This worker's counter."""


@dataclass
class Report:
    began: float = 0.0
    """CLOCK_MONOTONIC, which all processes share."""
    ended: float = 0.0
    cpu_seconds: float = 0.0
    numbers: list[int] = field(default_factory=list)
    """The jobs in the order in which they were finished."""


class Tally:
    """Counts finished jobs over all worker processes; `all_done` is set when the last one is through."""

    def __init__(self, order: Order) -> None:
        self.numbers: list[int] = []
        self.last = 0.0
        self.all_done = asyncio.Event()
        self._total = order.count
        self._place = order.place * _CELL.size
        descriptor = os.open(order.board, os.O_RDWR)
        self._board = mmap.mmap(descriptor, Path(order.board).stat().st_size)
        os.close(descriptor)

    def done(self, number: int) -> None:
        self.numbers.append(number)
        _CELL.pack_into(self._board, self._place, len(self.numbers))
        self.last = time.monotonic()

    async def watch(self) -> None:
        # Another process writes the board.
        while sum(each[0] for each in _CELL.iter_unpack(self._board)) < self._total:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.all_done.set()


Run = Callable[[], Awaitable[None]]
Produce = Callable[[Order], contextlib.AbstractAsyncContextManager[Run]]
Work = Callable[[Order, Callable[[int], None]], contextlib.AbstractAsyncContextManager[Run]]


async def spread(order: Order, one: Callable[[int], Awaitable[None]]) -> None:
    """`one` for every number, `in_flight` at once."""
    numbers = iter(range(order.first, order.first + order.count))

    async def lane() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(lane() for _ in range(order.in_flight)))


def filler(order: Order) -> str:
    return "x" * order.payload_bytes


async def _go() -> None:
    print("ready", flush=True)
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    if line.strip() != "go":
        raise SystemExit("not told to go")


async def _produce(order: Order, produce: Produce) -> Report:
    async with produce(order) as run:
        await _go()
        before, began = _cpu(), time.monotonic()
        await run()
        return Report(began, time.monotonic(), _cpu() - before)


async def _work(order: Order, work: Work) -> Report:
    tally = Tally(order)
    async with work(order, tally.done) as run:
        await _go()
        before, began = _cpu(), time.monotonic()
        async with _beside(run()):
            watching = asyncio.create_task(tally.watch())
            await tally.all_done.wait()
            spent = _cpu() - before
            await watching
        return Report(began, tally.last or began, spent, tally.numbers)


@contextlib.asynccontextmanager
async def _beside(work: Awaitable[None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)

    def broke(ended: asyncio.Future[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(70)

    task.add_done_callback(broke)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(produce: Produce, work: Work) -> None:
    role, order = sys.argv[1], Order(**json.loads(sys.argv[2]))
    report = asyncio.run(_produce(order, produce) if role == "produce" else _work(order, work))
    print(json.dumps(asdict(report)), flush=True)
    # Nothing is left to say, and a contestant's threads must not keep the process.
    os._exit(0)
