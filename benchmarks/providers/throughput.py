"""A thousand tasks at once: the runner's own path, and LLMTasks through the operator, beside the bare SDK."""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from installation import NAMESPACE, Follower, Installation, key_of, redis_seconds, spread, task, tasks_path

from headrace_bus import Bus, Envelope
from headrace_crds.names import METADATA_ONLY

LATENCY_SECONDS = 0.5
_WITHIN_SECONDS = 300.0
_TICK = os.sysconf("SC_CLK_TCK")


def note(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def family(pid: int) -> list[int]:
    """The process and the children that it has."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, its children and those that have ended, after proc(5)."""
    total = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / _TICK


def peak_rss_mib(pid: int) -> float:
    """Of the process alone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the process is gone")


def busy_seconds() -> float:
    """CPU seconds that all cores worked."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6, 7)) / _TICK


class Sdk:
    """The process of sdk_side.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def batch(self, count: int, at_once: int) -> dict[str, Any]:
        """See sdk_side.py."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"count": count, "at_once": at_once}).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """The next line that it says."""
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the SDK's side ended")
        found: dict[str, Any] = json.loads(line)
        return found


@contextlib.asynccontextmanager
async def sdk(port: int) -> AsyncIterator[Sdk]:
    """Warmed up."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("sdk_side.py")), f"http://127.0.0.1:{port}/v1"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    try:
        made = Sdk(process)
        await made.answer()
        yield made
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def drain(running: Installation, envelopes: list[Envelope]) -> float:
    """Seconds from the first enqueue until a watcher saw the last outcome."""
    path, model = tasks_path(NAMESPACE), key_of("remote")
    follower = Follower(len(envelopes))
    watching = asyncio.create_task(follower.follow(running.api, NAMESPACE, await running.api.version(path)))
    async with Bus.connect(running.server.url) as bus:
        await bus.server_time_ms()
        began = time.monotonic()
        try:
            await asyncio.gather(*(bus.enqueue(model, envelope) for envelope in envelopes))
            await follower.until_done(watching, _WITHIN_SECONDS)
        finally:
            watching.cancel()
    return follower.last - began


async def warm_up(running: Installation) -> None:
    """So that neither connections nor first imports are counted."""
    await drain(running, await running.queued("remote", [f"warm-{n}" for n in range(128)], 32))


async def of_runner(running: Installation, sdk: Sdk, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds of the SDK and of the runner in turn; medians."""
    count, in_flight = arguments.tasks, arguments.in_flight
    ideal = count * LATENCY_SECONDS / in_flight
    pid = running.processes["runner-remote"].pid
    rows: list[dict[str, float]] = []
    for number in range(arguments.rounds):
        envelopes = await running.queued("remote", [f"round-{number}-{n}" for n in range(count)], in_flight)

        async def ours(envelopes: list[Envelope] = envelopes) -> dict[str, float]:
            cpu, redis_cpu, busy = cpu_seconds(pid), redis_seconds(running.server.port), busy_seconds()
            seconds = await drain(running, envelopes)
            return {
                "ours": seconds,
                "ours_cpu": cpu_seconds(pid) - cpu,
                "redis_cpu": redis_seconds(running.server.port) - redis_cpu,
                "busy": busy_seconds() - busy,
            }

        async def theirs() -> dict[str, float]:
            found = await sdk.batch(count, in_flight)
            return {"sdk": found["seconds"], "sdk_cpu": found["cpu_seconds"]}

        row: dict[str, float] = {}
        # Who is last in one round is first in the next.
        for side in (theirs, ours) if number % 2 == 0 else (ours, theirs):
            row |= await side()
        rows.append(row)
        note(
            f"round {number + 1}: ideal {ideal:.2f} s, ours {row['ours']:.2f} s, SDK {row['sdk']:.2f} s; "
            f"CPU ms per task: ours {row['ours_cpu'] / count * 1000:.2f}, SDK {row['sdk_cpu'] / count * 1000:.2f}, "
            f"Redis {row['redis_cpu'] / count * 1000:.2f}, all of the machine {row['busy'] / count * 1000:.2f}"
        )

    def median(of: Any) -> float:
        return round(statistics.median(map(of, rows)), 3)

    return {
        "ratio_runner": median(lambda row: ideal / row["ours"]),
        "ratio_sdk": median(lambda row: ideal / row["sdk"]),
        "cpu_ratio_to_bare_sdk": median(lambda row: row["ours_cpu"] / row["sdk_cpu"]),
        "cpu_ms_per_task": median(lambda row: row["ours_cpu"] / count * 1000),
        "sdk_cpu_ms_per_call": median(lambda row: row["sdk_cpu"] / count * 1000),
        "machine_busy_share": median(lambda row: row["busy"] / row["ours"] / (os.cpu_count() or 1)),
    }


async def of_objects(running: Installation, arguments: argparse.Namespace) -> dict[str, Any]:
    """LLMTasks from their creation to their outcome, through the operator."""
    count, in_flight, path = arguments.tasks, arguments.in_flight, tasks_path(NAMESPACE)
    follower = Follower(count)
    watching = asyncio.create_task(follower.follow(running.api, NAMESPACE, await running.api.version(path)))
    busy, began = busy_seconds(), time.monotonic()

    async def create(name: str) -> None:
        await running.api.request(
            "POST", path, task("remote", name), query={"fieldValidation": "Strict"}, accept=METADATA_ONLY
        )

    try:
        await spread((f"object-{n}" for n in range(count)), in_flight, create)
        created = time.monotonic() - began
        await follower.until_done(watching, _WITHIN_SECONDS)
    finally:
        watching.cancel()
    seconds = follower.last - began
    share = (busy_seconds() - busy) / (time.monotonic() - began) / (os.cpu_count() or 1)
    note(f"objects: created within {created:.1f} s, ended within {seconds:.1f} s; cores busy {share:.2f}")
    return {
        "ratio_objects": round(count * LATENCY_SECONDS / in_flight / seconds, 3),
        "objects_machine_busy_share": round(share, 3),
    }
