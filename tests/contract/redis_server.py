"""A Redis of one's own for a test: a real server process in a temporary directory, ended by its pid.

    with redis_server(maxmemory="32mb") as server:
        bus = Bus.connect(server.url)

It listens on a free port of 127.0.0.1 and on a Unix socket, keeps nothing on disk, and can be
stopped, started again (empty, on the same port) and frozen.
"""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_START_WITHIN_S = 10.0


@dataclass
class RedisServer:
    """A running server. `url` is TCP, `unix_url` the socket."""

    folder: Path
    port: int
    options: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": f"{self.folder}/redis.sock",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "logfile": f"{self.folder}/redis.log",
            "databases": "1",
            "enable-debug-command": "local",
            **self.options,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(
            ["redis-server", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_WITHIN_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = self.folder / "redis.log"
                raise RuntimeError("redis-server did not start: " + (log.read_text() if log.exists() else "no log"))
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def stop(self) -> None:
        """Ends the process the hard way, as a crash would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The server accepts connections but answers nothing."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextlib.contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    """A server with these settings, underscores for dashes: `redis_server(maxmemory_policy="allkeys-lru")`."""
    # Short: a Unix socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="hr-redis-") as folder:
        server = RedisServer(
            Path(folder), free_port(), {name.replace("_", "-"): value for name, value in options.items()}
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()
