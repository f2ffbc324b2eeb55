"""The Redis of a run: with an append-only file as the chart's, and everything that can happen to one."""

import asyncio
import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace_bus import FACADE_ACL, OPERATOR_ACL

START_SECONDS: Final = 10.0
OPERATOR_PASSWORD: Final = "chaos-operator"
FACADE_PASSWORD: Final = "chaos-facade"
ADMIN_PASSWORD: Final = "chaos-admin"


class ChaosRedis:
    """Listens on `addresses`; the first is where this process reaches it."""

    def __init__(self, folder: Path, port: int, addresses: tuple[str, ...]) -> None:
        self._folder = folder
        self._port = port
        self._addresses = addresses
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "users.acl").write_text(
            f"user operator reset on >{OPERATOR_PASSWORD} {' '.join(OPERATOR_ACL)}\n"
            f"user facade reset on >{FACADE_PASSWORD} {' '.join(FACADE_ACL)}\n"
            f"user default reset on >{ADMIN_PASSWORD} ~* &* +@all\n"
        )

    @property
    def operator_url(self) -> str:
        return f"redis://operator:{OPERATOR_PASSWORD}@127.0.0.1:{self._port}/0"

    @property
    def facade_url(self) -> str:
        return f"redis://facade:{FACADE_PASSWORD}@127.0.0.1:{self._port}/0"

    @contextlib.asynccontextmanager
    async def admin(self) -> AsyncIterator["Redis[str]"]:
        url = f"redis://:{ADMIN_PASSWORD}@127.0.0.1:{self._port}/0"
        async with Redis.from_url(url, decode_responses=True) as client:
            yield client

    async def start(self) -> None:
        """Returns when it answers, its file loaded."""
        options = {
            "bind": " ".join(self._addresses),
            "port": str(self._port),
            "dir": str(self._folder),
            "aclfile": str(self._folder / "users.acl"),
            "protected-mode": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "databases": "1",
            "logfile": str(self._folder / "redis.log"),
        }
        argv = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", value))]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(  # noqa: ASYNC220  a fork of microseconds
            argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while not await self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start: " + (self._folder / "redis.log").read_text()[-2000:])
            await asyncio.sleep(0.01)

    async def answers(self) -> bool:
        try:
            async with asyncio.timeout(1), self.admin() as client:
                return bool(await client.ping())
        except (RedisError, OSError, TimeoutError):
            return False

    async def kill(self) -> None:
        """SIGKILL: what was written to the file stays there."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Its file is gone. Only while it does not run."""
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)

    def keep_copy(self) -> None:
        """Remembers the file as it is: what a machine that loses power finds again."""
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder / "appendonlydir", copy)

    def take_copy(self) -> None:
        """Puts the remembered file back. Only while it does not run."""
        self.forget()
        shutil.copytree(self._folder / "copy", self._folder / "appendonlydir")

    async def flush(self) -> None:
        async with self.admin() as client:
            await client.flushall()

    async def used_bytes(self) -> int:
        async with self.admin() as client:
            info: dict[str, Any] = await client.info("memory")
        return int(info["used_memory"])

    async def refused_for_memory(self) -> int:
        """How many commands this process has answered with OOM."""
        async with self.admin() as client:
            info: dict[str, Any] = await client.info("errorstats")
        return int(info.get("errorstat_OOM", {}).get("count", 0))

    async def limit_bytes(self, size: int) -> None:
        """0: no limit."""
        async with self.admin() as client:
            await client.config_set("maxmemory", str(size))
