"""One task at a time: what Headrace adds to a call of the SDK, and where.

enqueue ──► the request is at the provider ──► its answer is written ──► the outcome is in the object, seen by a watcher
"""

import asyncio
import statistics
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from installation import NAMESPACE, Api, Installation, key_of, tasks_path
from throughput import Sdk, note

from headrace_bus import Bus


async def measure(running: Installation, sdk: Sdk, pairs: int) -> dict[str, Any]:
    """Medians in milliseconds; each task has a call of the SDK beside it."""
    stub, model = running.stubs["remote"], key_of("remote")
    envelopes = await running.queued("remote", [f"single-{n}" for n in range(pairs)], 32)
    rows: list[dict[str, float]] = []
    outcomes: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
    watching = asyncio.create_task(_outcomes(running.api, outcomes))
    commits = _Commits(running)
    async with Bus.connect(running.server.url) as bus:
        await bus.server_time_ms()
        for envelope in envelopes:
            theirs = await sdk.batch(1, 1)
            ((asked, answered),) = theirs["spans"]
            (came, ended) = (await asyncio.to_thread(stub.seen))["last"][0]
            row = {"sdk_before": came - asked, "sdk_after": answered - ended}
            begun = time.monotonic()
            await bus.enqueue(model, envelope)
            name, seen = await asyncio.wait_for(outcomes.get(), 30)
            assert name == envelope.name
            (came, ended) = (await asyncio.to_thread(stub.seen))["last"][0]
            rows.append(row | {"before": came - begun, "after": seen - ended})
    watching.cancel()
    commit_ms = commits.mean_ms()

    def p50(of: Any) -> float:
        return round(statistics.median(map(of, rows)) * 1000, 2)

    added = p50(lambda row: row["before"] + row["after"] - row["sdk_before"] - row["sdk_after"])
    parts = {name: p50(lambda row, name=name: row[name]) for name in ("before", "after", "sdk_before", "sdk_after")}  # type: ignore[misc]
    note(f"one at a time: {added} ms added; {parts}; of what is after, the commit's round trip {commit_ms:.2f}")
    return {
        "added_p50_ms": added,
        "added_p50_ms_without_commit": round(added - commit_ms, 2),
        "added_before_p50_ms": round(parts["before"] - parts["sdk_before"], 2),
        "added_after_p50_ms": round(parts["after"] - parts["sdk_after"], 2),
        "commit_mean_ms": round(commit_ms, 2),
    }


async def _outcomes(api: Api, into: asyncio.Queue[tuple[str, float]]) -> None:
    path = tasks_path(NAMESPACE)
    async for event in api.watch(path, await api.version(path)):
        if "outcome" in (event["object"].get("status") or {}):
            into.put_nowait((event["object"]["metadata"]["name"], time.monotonic()))


class _Commits:
    """The runner's own histogram of commits' round trips, since it was made."""

    def __init__(self, running: Installation) -> None:
        self._port = running.ports["remote"]
        self._before = [*self._sums()]

    def _sums(self) -> Iterator[float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        for suffix in ("sum", "count"):
            yield sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{_HISTOGRAM}_{suffix}"))

    def mean_ms(self) -> float:
        seconds, count = (after - before for before, after in zip(self._before, self._sums(), strict=True))
        return seconds / count * 1000


_HISTOGRAM = "headrace_runner_commit_seconds"
