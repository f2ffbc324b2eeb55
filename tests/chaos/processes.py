"""Processes as a kubelet keeps them: started again when they die, known by the ids that were started here."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

RESTART_SECONDS: Final = 0.2
END_SECONDS: Final = 10.0


@dataclass
class Kept:
    """One process. `kept` False: it is not started again. `log` is appended to over all starts."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    kept: bool = True
    restart_seconds: float = RESTART_SECONDS
    starts: int = 0
    started_at: float = 0.0
    _process: asyncio.subprocess.Process | None = None
    _keeper: asyncio.Task[None] | None = None
    _free: asyncio.Event = field(default_factory=asyncio.Event)
    _log_offset: int = 0
    _started_wall: float = 0.0

    async def start(self) -> None:
        """Start it and keep it. Raises what a first start raises."""
        self.kept = True
        self._free.set()
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep-{self.name}")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def logged_since_start(self, words: str) -> bool:
        """Whether the present process has written these words."""
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            return words.encode() in file.read()

    def clock_offset_seconds(self) -> float | None:
        """How far the wall clock of the present process is ahead, by what it logged; None: it has logged nothing."""
        with self.log.open("rb") as file:
            file.seek(self._log_offset)
            for line in file:
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    return datetime.fromisoformat(json.loads(line)["timestamp"]).timestamp() - self._started_wall
        return None

    def signal(self, number: int) -> None:
        """To the present process, if it lives."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def hold_back(self) -> None:
        """When it dies it is not started again until `let_go`."""
        self._free.clear()

    def let_go(self) -> None:
        self._free.set()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def children(self) -> list[int]:
        """Process ids of its children."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(word) for word in text.split()]

    async def end(self) -> None:
        """End it for good: asked first, forced then."""
        self.kept = False
        if self._keeper is None or self._process is None:
            return
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._process.wait()
        except TimeoutError:
            for pid in self.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.kill()
            await self._process.wait()
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)

    async def _spawn(self) -> None:
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as sink:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                env=dict(self.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                # A Ctrl-C ends the run in order; what it started must not go first.
                start_new_session=True,
            )
        self.starts += 1
        self.started_at, self._started_wall = time.monotonic(), time.time()

    async def _keep(self) -> None:
        while True:
            assert self._process is not None
            await self._process.wait()
            await asyncio.sleep(self.restart_seconds)
            await self._free.wait()
            if not self.kept:
                return
            await self._spawn()
