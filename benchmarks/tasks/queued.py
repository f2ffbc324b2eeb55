"""Many tasks that wait: what the operator holds for them, what a LIST costs, how long a resync takes.

No runner claims. The same is asked at half the number, so that growth is seen to be linear or not.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from api import Api, tasks_path
from load import MODEL, spread, task
from world import NAMESPACE, World

from headrace_bus import Bus, ModelKey

LIST_CHUNK = 250
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


def rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def measure(
    api: Api, running: World, token: str, count: int, at_once: int, note: Callable[[str], None]
) -> dict[str, Any]:
    """Figures at half and at all of the tasks."""
    empty_mib = rss_mib(running.processes["operator"].pid)
    key = ModelKey(NAMESPACE, MODEL)
    figures: dict[str, Any] = {"queued": count, "operator_rss_mib_empty": round(empty_mib, 1)}
    made = 0

    async def create(number: int) -> None:
        await api.request("POST", tasks_path(NAMESPACE), task(f"queued-{number}"))

    async with Bus.connect(running.server.url) as bus:
        for part, upto in (("half", count // 2), ("all", count)):
            await spread(range(made, upto), at_once, create)
            made = upto
            await running.until(lambda upto=upto: _accepted(running) >= upto, within_seconds=1800)  # type: ignore[misc]
            in_redis = (await bus.stats(key)).queued
            note(f"{upto} are accepted, {in_redis} of them in Redis")
            figures[part] = {
                "tasks": upto,
                "in_redis": in_redis,
                "operator_rss_mib": round(rss_mib(running.processes["operator"].pid), 1),
                **await _lists(api, upto),
                **await _resync(running, token, upto),
                "redis_mib": round((await bus.check()).used_memory_bytes / 2**20, 1),
            }
    return figures


def _open(running: World, but: str = "") -> int:
    """Unfinished tasks that the operator knows, without those of a phase."""
    lines = [line for line in running.operator_metrics().splitlines() if line.startswith("headrace_tasks_open{")]
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if not but or f'phase="{but}"' not in line))


def _accepted(running: World) -> int:
    return _open(running, but="New")


async def _lists(api: Api, count: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, accept in (("list_seconds", "application/json"), ("list_metadata_seconds", _METADATA)):
        began, seen = time.monotonic(), 0
        async for items in api.pages(tasks_path(NAMESPACE), LIST_CHUNK, accept):
            seen += len(items)
        assert seen == count, f"{seen} of {count}"
        found[name] = round(time.monotonic() - began, 2)
    return found


async def _resync(running: World, token: str, count: int) -> dict[str, float]:
    """A new operator process: from its start until it leads and has every task in its store again."""
    running.end()
    began = time.monotonic()
    await running.start_operator(token)
    await running.until(lambda: _open(running) >= count, within_seconds=600)
    seconds = time.monotonic() - began
    return {"resync_seconds": round(seconds, 2), "operator_rss_mib_after_resync": _rss(running)}


def _rss(running: World) -> float:
    return round(rss_mib(running.processes["operator"].pid), 1)
