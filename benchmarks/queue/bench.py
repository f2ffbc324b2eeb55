"""Enqueue → claim → complete on one Redis: Headrace's bus beside SAQ and BullMQ, in interleaved rounds.

A cell is one contestant under one mode of Redis. In every cell the producers enqueue all jobs, then the workers take
and finish all of them; the figure is jobs over the sum of both times, because every job has to go both ways. Every
process is started anew for every cell, and Redis is flushed before. All contestants have the same number of processes,
of jobs in flight and of payload bytes. That each job was finished exactly once is checked in every cell.

modes: "default" (append-only file, fsync every second, as the chart has it), "fsync" (appendfsync always), "1ms"
(default, through a relay that adds 0.5 ms to either direction).

The last line is one JSON object.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests" / "contract"))
from redis_server import RedisServer, redis_server  # noqa: E402

MODES = {
    "default": {"appendonly": "yes", "appendfsync": "everysec"},
    "fsync": {"appendonly": "yes", "appendfsync": "always"},
    "1ms": {"appendonly": "yes", "appendfsync": "everysec"},
}
ADDED_MICROSECONDS_EACH_WAY = 500
CELL_SECONDS = 90.0
CELL_TRIES = 3
"""BullMQ for Python sometimes leaves a job of thousands undone and waits for ever."""


@dataclass(frozen=True)
class Contestant:
    name: str
    family: str
    python: str
    script: str
    claim: int = 1
    silences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """What one run of one contestant gave; rates are jobs per second, CPU is microseconds per job."""

    jobs_per_s: float
    enqueue_per_s: float
    process_per_s: float
    client_cpu_us: float
    redis_cpu_us: float
    proxy_cpu_share: float


class SilentError(Exception):
    """A contestant does not come to its end."""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, contestant: Contestant, role: str, order: dict[str, Any]) -> "Process":
        process = await asyncio.create_subprocess_exec(
            contestant.python,
            str(HERE / contestant.script),
            role,
            json.dumps(order),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        started = cls(process, f"{contestant.name}, {role}")
        await started._line("ready")
        return started

    async def _line(self, expected: str = "") -> str:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(CELL_SECONDS):
                line = (await self._process.stdout.readline()).decode().strip()
        except TimeoutError as error:
            raise SilentError(f"{self._name}: silent for {CELL_SECONDS:.0f} s") from error
        if not line or (expected and line != expected):
            raise RuntimeError(f"{self._name}: said {line!r} and ended {self._process.returncode}")
        return line

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def report(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(await self._line())
        await self._process.wait()
        return report

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


@contextlib.asynccontextmanager
async def delayed(proxy: str, port: int) -> AsyncIterator[tuple[int, int]]:
    """Port and process id of a relay before that port."""
    process = await asyncio.create_subprocess_exec(
        proxy,
        str(port),
        str(ADDED_MICROSECONDS_EACH_WAY),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield int(await process.stdout.readline()), process.pid
    finally:
        process.stdin.close()
        await process.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, after proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def phase(contestant: Contestant, role: str, orders: list[dict[str, Any]]) -> tuple[float, float, list[int]]:
    """Seconds from the first start to the last end, CPU seconds of all processes, numbers of finished jobs."""
    processes = []
    try:
        for order in orders:
            processes.append(await Process.start(contestant, role, order))
        for process in processes:
            process.go()
        reports = await asyncio.gather(*(process.report() for process in processes))
    finally:
        for process in processes:
            process.kill()
    seconds = max(each["ended"] for each in reports) - min(each["began"] for each in reports)
    cpu = sum(each["cpu_seconds"] for each in reports)
    return seconds, cpu, [number for each in reports for number in each["numbers"]]


async def cell(
    contestant: Contestant, arguments: argparse.Namespace, server: RedisServer, port: int, proxy_pid: int | None
) -> Cell:
    assert server.process is not None
    with redis.Redis(port=server.port) as direct:
        direct.flushall()
    with tempfile.NamedTemporaryFile() as board:
        board.write(bytes(8 * arguments.processes))
        board.flush()
        common = {
            "url": f"redis://127.0.0.1:{port}/0",
            "queue": "queue",
            "in_flight": arguments.in_flight,
            "claim": contestant.claim,
            "payload_bytes": arguments.payload_bytes,
            "board": board.name,
        }
        share = arguments.jobs // arguments.processes
        produce = [{**common, "first": n * share, "count": share, "place": n} for n in range(arguments.processes)]
        work = [
            {**common, "first": 0, "count": share * arguments.processes, "place": n} for n in range(arguments.processes)
        ]
        before, proxy_before, began = cpu_seconds(server.process.pid), _cpu_of(proxy_pid), time.monotonic()
        enqueue_seconds, producer_cpu, _ = await phase(contestant, "produce", produce)
        process_seconds, worker_cpu, numbers = await phase(contestant, "work", work)
        redis_cpu = cpu_seconds(server.process.pid) - before
        proxy_share = (_cpu_of(proxy_pid) - proxy_before) / (time.monotonic() - began)
    jobs = share * arguments.processes
    counted = Counter(numbers)
    if sorted(counted) != list(range(jobs)) or max(counted.values()) != 1:
        raise RuntimeError(f"{contestant.name}: {jobs} jobs, {len(counted)} were finished, {len(numbers)} times")
    return Cell(
        jobs_per_s=jobs / (enqueue_seconds + process_seconds),
        enqueue_per_s=jobs / enqueue_seconds,
        process_per_s=jobs / process_seconds,
        client_cpu_us=(producer_cpu + worker_cpu) / jobs * 1e6,
        redis_cpu_us=redis_cpu / jobs * 1e6,
        proxy_cpu_share=proxy_share,
    )


async def tried(
    contestant: Contestant, arguments: argparse.Namespace, server: RedisServer, port: int, proxy_pid: int | None
) -> Cell:
    """A cell that came to its end; how often one did not is told, whoever's it was."""
    for left in reversed(range(CELL_TRIES)):
        try:
            return await cell(contestant, arguments, server, port, proxy_pid)
        except SilentError as error:
            if not left:
                raise
            contestant.silences.append(str(error))
            print(f"{error}: once more", file=sys.stderr, flush=True)
    raise AssertionError("unreachable")


def _cpu_of(pid: int | None) -> float:
    return cpu_seconds(pid) if pid is not None else 0.0


@contextlib.contextmanager
def server_of(mode: str) -> Iterator[RedisServer]:
    with redis_server(**MODES[mode], save="", maxmemory_policy="noeviction") as server:
        yield server


Cells = dict[tuple[str, str], list[Cell]]


async def rounds(arguments: argparse.Namespace, contestants: list[Contestant]) -> Cells:
    cells: Cells = {}
    for number in range(arguments.rounds):
        for mode in arguments.modes:
            with server_of(mode) as server:
                async with contextlib.AsyncExitStack() as stack:
                    port, proxy_pid = server.port, None
                    if mode == "1ms":
                        port, proxy_pid = await stack.enter_async_context(delayed(arguments.proxy, server.port))
                    # Whoever is last in one round is first in the next.
                    shift = number % len(contestants)
                    for contestant in contestants[-shift:] + contestants[:-shift]:
                        got = await tried(contestant, arguments, server, port, proxy_pid)
                        cells.setdefault((mode, contestant.name), []).append(got)
            print(f"round {number + 1} of {arguments.rounds}, {mode}: done", file=sys.stderr, flush=True)
    return cells


def middle(cells: list[Cell], figure: str) -> float:
    return statistics.median(getattr(each, figure) for each in cells)


def print_grid(cells: Cells, modes: list[str], contestants: list[Contestant]) -> None:
    columns = ("jobs_per_s", "enqueue_per_s", "process_per_s", "client_cpu_us", "redis_cpu_us", "proxy_cpu_share")
    print(f"{'mode':9}{'contestant':22}" + "".join(f"{name:>17}" for name in columns) + "   jobs_per_s of the rounds")
    for mode in modes:
        for contestant in contestants:
            of_cell = cells[mode, contestant.name]
            figures = "".join(f"{middle(of_cell, name):17.2f}" for name in columns)
            each = " ".join(f"{one.jobs_per_s:.0f}" for one in of_cell)
            print(f"{mode:9}{contestant.name:22}{figures}   {each}")


def summary(cells: Cells, modes: list[str], contestants: list[Contestant]) -> dict[str, Any]:
    """Per mode the ratio of each round, ours over the better peer's best, and the median of these.

    `redis_cpu_ratio_*`: the CPU that the most frugal peer costs Redis per job over what ours does.
    """

    def best(mode: str, number: int, families: set[str]) -> float:
        return max(cells[mode, c.name][number].jobs_per_s for c in contestants if c.family in families)

    peers = {c.family for c in contestants} - {"headrace"}
    count = len(next(iter(cells.values())))
    figures: dict[str, Any] = {}
    for family, name in (("headrace", "ours_per_s"), ("saq", "saq_per_s"), ("bullmq", "bullmq_per_s")):
        figures[name] = round(statistics.median(best(modes[0], n, {family}) for n in range(count)))
    names = {"default": "ratio_best_peer", "fsync": "ratio_best_peer_fsync", "1ms": "ratio_best_peer_1ms"}
    for mode in modes:
        ratios = [best(mode, n, {"headrace"}) / best(mode, n, peers) for n in range(count)]
        figures[names[mode]] = round(statistics.median(ratios), 2)
        cheapest = {
            family: min(middle(cells[mode, c.name], "redis_cpu_us") for c in contestants if c.family == family)
            for family in ("headrace", *peers)
        }
        figures[names[mode].replace("ratio_", "redis_cpu_ratio_")] = round(
            min(cheapest[family] for family in peers) / cheapest["headrace"], 2
        )
    figures["cells_repeated"] = {c.name: len(c.silences) for c in contestants if c.silences}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saq-python", required=True)
    parser.add_argument("--bullmq-python", required=True)
    parser.add_argument("--proxy", required=True)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=1, help="producers, and as many workers after them")
    parser.add_argument("--in-flight", type=int, default=32, help="per process; a multiple of 8")
    parser.add_argument("--payload-bytes", type=int, default=1024)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--only", nargs="+", help="names of contestants")
    arguments = parser.parse_args()
    # Whatever ends it, the processes it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    contestants = [
        Contestant("headrace, claim 1", "headrace", sys.executable, "headrace_side.py", claim=1),
        Contestant("headrace, claim 8", "headrace", sys.executable, "headrace_side.py", claim=8),
        Contestant("saq", "saq", arguments.saq_python, "saq_side.py"),
        Contestant("bullmq", "bullmq", arguments.bullmq_python, "bullmq_side.py"),
    ]
    if arguments.only:
        contestants = [each for each in contestants if each.family in arguments.only]
    cells = asyncio.run(rounds(arguments, contestants))
    print_grid(cells, arguments.modes, contestants)
    if not arguments.only:
        print(json.dumps(summary(cells, arguments.modes, contestants)))


if __name__ == "__main__":
    main()
