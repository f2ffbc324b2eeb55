"""The tasks that are created, and the one watcher that follows them to their ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from api import GROUP, Api, Body, tasks_path

from tests.stub_engine.script import Script

MODEL = "stub"
PROMPT_BYTES = 4096
RESULT_BYTES = 8192
_PREAMBLE_BYTES = 112
"""About what the stub engine says before its filler."""


def prompt() -> str:
    """Asks the stub engine for a result of 8 KiB at once."""
    line = Script(ms=0, pad_bytes=RESULT_BYTES - _PREAMBLE_BYTES).line() + "\n"
    return line + "x" * (PROMPT_BYTES - len(line))


def task(name: str) -> Body:
    return {
        "apiVersion": GROUP,
        "kind": "LLMTask",
        "metadata": {"name": name},
        "spec": {"modelRef": {"name": MODEL}, "prompt": prompt()},
    }


async def spread(items: Iterable[Any], at_once: int, one: Callable[[Any], Awaitable[None]]) -> None:
    """`one` for every item, so many at once."""
    left = iter(items)

    async def lane() -> None:
        for item in left:
            await one(item)

    await asyncio.gather(*(lane() for _ in range(at_once)))


@dataclass
class Follower:
    """Counts what one watch of a namespace tells; `done` is set when `expected` tasks have an outcome."""

    expected: int
    writes: int = 0
    ended: set[str] = field(default_factory=set)
    last: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_done(self, watching: asyncio.Task[None], within_seconds: float) -> None:
        """Raises what ended the watch, and TimeoutError."""
        waiting = asyncio.ensure_future(self.done.wait())
        await asyncio.wait({waiting, watching}, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            await watching
        if not waiting.done():
            waiting.cancel()
            raise TimeoutError(f"{len(self.ended)} of {self.expected} ended within {within_seconds} s")

    async def follow(self, api: Api, namespace: str, since: str) -> None:
        # The API server ends a watch whose reader is slow, and that of a busy machine is.
        while True:
            async for event in api.watch(tasks_path(namespace), since):
                since = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "DELETED":
                    self._seen(event["object"])

    def _seen(self, body: Body) -> None:
        self.writes += 1
        if "outcome" in (body.get("status") or {}):
            self.ended.add(body["metadata"]["name"])
            self.last = time.monotonic()
            if len(self.ended) >= self.expected:
                self.done.set()
