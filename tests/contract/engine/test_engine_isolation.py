"""A hostile engine under the real supervisor: what it tries fails, and its runner survives it.

Mounts and process ids are the container's doing: tests/e2e/test_isolation.py tries those in a real pod.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace_runner.engine.client import EngineClient, EngineLost, Stage, read_state
from headrace_runner.engine.frames import MAX_FRAME_BYTES
from headrace_runner.engine.protocol import Generate
from headrace_runner.engine.recycling import anonymous_bytes

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[3]
_PR_CAPBSET_DROP = 24


def drop_capabilities() -> None:
    """As `capabilities: {drop: [ALL]}` does: what is started has none, whoever starts it."""
    libc = ctypes.CDLL(None)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


@dataclass
class Hostile:
    folder: Path
    process: subprocess.Popen[bytes]
    found: dict[str, Any]
    listeners: dict[str, socket.socket]

    @property
    def socket(self) -> Path:
        return self.folder / "e.sock"


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with contextlib.ExitStack() as stack:
        # Not tmp_path: the path of a Unix socket has at most 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hr-hostile-")))
        listeners = {
            name: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for name in ("redis", "api_server")
        }
        victim = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(victim.kill)
        targets = {
            "addresses": {name: each.getsockname() for name, each in listeners.items()},
            "victim": victim.pid,
            "weights": str(folder / "weights"),
        }
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "STUB_ENGINE_CHILD": "tests.stub_engine.hostile",
            "HEADRACE_ENGINE_SOCKET": str(folder / "e.sock"),
            "HEADRACE_ENGINE_STATE": str(folder / "e.json"),
            "HEADRACE_MODEL_PATH": "stub",
            "HOSTILE_TARGETS": json.dumps(targets),
            "HOSTILE_FOUND": str(folder / "found"),
        }
        command = [sys.executable, "-P", "-m", "tests.stub_engine.supervisor"]
        process = subprocess.Popen(command, env=environment, cwd=folder, preexec_fn=drop_capabilities)
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        deadline = time.monotonic() + 60
        while read_state(folder / "e.json").state is not Stage.SERVING:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield Hostile(folder, process, json.loads((folder / "found").read_text()), listeners)


@pytest.mark.parametrize("name", ["redis", "api_server", "metadata", "datagram", "netlink"])
def test_no_packet_leaves(hostile: Hostile, name: str) -> None:
    # Refused where a socket is made: before there is an address to send to.
    assert hostile.found[name] == "EPERM"


@pytest.mark.parametrize("name", ["redis", "api_server"])
def test_nobody_was_reached(hostile: Hostile, name: str) -> None:
    listener = hostile.listeners[name]
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_it_has_no_way_into_other_processes(hostile: Hostile) -> None:
    assert {hostile.found[name] for name in ("ptrace", "process_vm_readv", "remount")} == {"EPERM"}
    # Standard streams, the pipe to the supervisor, the listing itself: no socket of anybody's.
    assert not {"socket", "anon_inode"} & set(hostile.found["descriptors"])


def test_a_core_would_hold_no_prompt_and_is_not_written(hostile: Hostile) -> None:
    assert hostile.found["core"] in ("ValueError", "EPERM")
    assert int(hostile.found["core_filter"], 16) == 0
    children = Path(f"/proc/{hostile.process.pid}/task/{hostile.process.pid}/children")
    (child,) = children.read_text().split()
    os.kill(int(child), signal.SIGABRT)
    deadline = time.monotonic() + 30
    while children.read_text().split() in ([], [child]) or read_state(hostile.folder / "e.json").restarts < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not [each.name for each in hostile.folder.iterdir() if each.name.startswith("core")]


async def test_the_runner_survives_a_frame_of_a_gibibyte(hostile: Hostile) -> None:
    deadline = time.monotonic() + 30
    while read_state(hostile.folder / "e.json").state is not Stage.SERVING:
        assert time.monotonic() < deadline
        await asyncio.to_thread(time.sleep, 0.02)
    before = anonymous_bytes()
    async with asyncio.timeout(60), await EngineClient.connect(hostile.socket) as client:
        with pytest.raises(EngineLost, match="1073741824 bytes exceeds"):
            await client.generate(Generate("1", prompt="x"))
        await client.closed.wait()
        assert client.goodbye is None
    # Neither the frame nor a part of it is kept.
    assert anonymous_bytes() - before < 4 * MAX_FRAME_BYTES
