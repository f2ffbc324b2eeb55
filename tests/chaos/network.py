"""A network namespace for one runner, joined by a pair of virtual links: what a partition cuts.

Redis is reached over the link; the API server through a relay whose listener stands inside the namespace. Everything
carries the run's own name and goes with `close`.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from typing import Final

CLONE_NEWNET: Final = 0x40000000


class NetworkUnavailable(Exception):
    """Namespaces cannot be made here: not root, or no `ip` or `iptables`."""


def _run(*argv: str, quiet: bool = False) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode and not quiet:
        raise NetworkUnavailable(f"{' '.join(argv)}: {done.stderr.strip()}")


class Partition:
    """`host_address` is this side of the link. `name` has at most 11 characters."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.host_address = f"10.213.{number % 256}.1"
        self._address = f"10.213.{number % 256}.2"
        self._links = f"{name}-a", f"{name}-b"
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def prefix(self) -> list[str]:
        """Before a command that shall run inside."""
        return ["ip", "netns", "exec", self.name]

    def make(self) -> None:
        """Raises NetworkUnavailable."""
        self.remove()
        ours, theirs = self._links
        _run("ip", "netns", "add", self.name)
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", self.name)
        _run("ip", "addr", "add", f"{self.host_address}/30", "dev", ours)
        _run("ip", "link", "set", ours, "up")
        _run(*self.prefix, "ip", "addr", "add", f"{self._address}/30", "dev", theirs)
        _run(*self.prefix, "ip", "link", "set", theirs, "up")
        _run(*self.prefix, "ip", "link", "set", "lo", "up")

    def remove(self) -> None:
        _run("ip", "link", "del", self._links[0], quiet=True)
        _run("ip", "netns", "del", self.name, quiet=True)

    def cut(self) -> None:
        """Packets over the link are dropped in silence, both ways."""
        for chain, way in (("OUTPUT", "-d"), ("INPUT", "-s")):
            _run(*self.prefix, "iptables", "-w", "-A", chain, way, self.host_address, "-j", "DROP")

    def heal(self) -> None:
        for chain in ("OUTPUT", "INPUT"):
            _run(*self.prefix, "iptables", "-w", "-F", chain)

    async def relay(self, target: tuple[str, int]) -> None:
        """Make `target`, an address of this side's loopback, reachable under the same address inside."""
        listener = await asyncio.to_thread(self._listener, target)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                back, forth = await asyncio.open_connection(*target)
            except OSError:
                writer.close()
                return
            await asyncio.gather(_pump(reader, forth), _pump(back, writer))

        self._server = await asyncio.start_server(serve, sock=listener)

    def _listener(self, target: tuple[str, int]) -> socket.socket:
        made: list[socket.socket | OSError] = []

        def make() -> None:
            # The namespace is the thread's; a socket stays where it was made.
            try:
                descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
                if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(descriptor)
                made.append(socket.create_server(target))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise NetworkUnavailable(str(made[0]))
        return made[0]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.remove()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()
