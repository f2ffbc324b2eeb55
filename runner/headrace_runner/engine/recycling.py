"""When an engine has grown so much that another should take its place.

What grows is anonymous memory: an allocator's fragments, caches, a leak in native code. The mapped weights are page
cache that the kernel takes back, and do not count. It must not end anything itself: it only says that it is time.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

LIMIT_PERCENT: Final = 90
"""Of the container's memory limit; what is left has to hold the weights' pages that are in use."""
_LOOK_EVERY_SECONDS: Final = 1.0
_GROWTH_PART: Final = 16
_DRAIN_AFTER_SECONDS: Final = 60.0
_MEMORY_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
_STATUS: Final = Path("/proc/self/status")


def anonymous_bytes(status: Path = _STATUS) -> int:
    """Give a process's anonymous resident memory. Raises OSError, and ValueError where the kernel does not tell it."""
    for line in status.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{status} has no RssAnon")


def limit_bytes(recycle_mib: int | None, memory_limit: Path = _MEMORY_LIMIT) -> int | None:
    """The limit as set in MiB, or by the container's memory (cgroup v2) for None; None where there is none, or 0."""
    if recycle_mib is not None:
        return recycle_mib * 1024 * 1024 or None
    try:
        limit = memory_limit.read_text().strip()
        return None if limit == "max" else int(limit) * LIMIT_PERCENT // 100
    except (OSError, ValueError):
        return None


class Growth:
    """Compares with what the process had when it began to serve.

    A process that begins close to its limit, or above it, has to grow by a sixteenth of it before it is recycled: the
    next one would begin no smaller.
    """

    def __init__(self, limit_bytes: int, begun_bytes: int) -> None:
        self._limit_bytes = max(limit_bytes, begun_bytes + limit_bytes // _GROWTH_PART)

    def is_too_much(self, bytes_now: int) -> bool:
        return bytes_now > self._limit_bytes


async def recycle(
    limit: int,
    measure: Callable[[], int],
    leave_when_idle: Callable[[], None],
    drain: Callable[[], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Watch the process until it has grown beyond ``limit`` bytes, then have it leave.

    ``leave_when_idle`` is called once; ``drain``, by which nothing further is begun, a minute later: an engine that is
    never idle would meet the container's limit. Raises OSError and ValueError where ``measure`` does.
    """
    growth = Growth(limit, measure())
    while not growth.is_too_much(measure()):
        await sleep(_LOOK_EVERY_SECONDS)
    leave_when_idle()
    await sleep(_DRAIN_AFTER_SECONDS)
    drain()
