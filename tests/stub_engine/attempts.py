"""What a model file that has taken the engine over would try; each attempt says how it ended.

Only the standard library, in one file: the end-to-end test runs its text inside the engine's container.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECRETS = ("/var/run/secrets/kubernetes.io/serviceaccount/token", "/etc/headrace/redis/url")
SUCCEEDED = "succeeded"


def tried(attempt: Callable[[], object]) -> str:
    """The error's name; `succeeded` where there was none."""
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, type(error).__name__)
    except ValueError as error:  # what setrlimit raises
        return type(error).__name__
    return SUCCEEDED


def connect(host: str, port: int) -> None:
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as attempt:
        attempt.settimeout(2)
        attempt.connect((host, port))


def native(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


def read_memory(pid: int) -> None:
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        memory.read(1)


def write(path: Path) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(b"x")


def reach_out(kind: socket.SocketKind) -> None:
    """What reaching a cloud's metadata service begins with; no more, so that none is reached by a broken filter."""
    socket.socket(socket.AF_INET, kind).close()


def dump_cores() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def others() -> list[str]:
    """Command lines of all processes that can be seen, but for this one and its parents in the engine."""
    seen = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                seen.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip())
    return seen


def attempts(targets: dict[str, Any]) -> dict[str, Any]:
    """`targets`: addresses by name as [host, port], `victim` a process id, `weights` a file or folder."""
    found: dict[str, Any] = {name: tried(lambda at=at: connect(*at)) for name, at in targets["addresses"].items()}
    victim = int(targets["victim"])
    local = ctypes.create_string_buffer(8)
    block = (ctypes.c_size_t * 2)(ctypes.addressof(local), 8)
    return found | {
        "metadata": tried(lambda: reach_out(socket.SOCK_STREAM)),
        "datagram": tried(lambda: reach_out(socket.SOCK_DGRAM)),
        "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
        "ptrace": tried(lambda: native("ptrace", 16, victim, 0, 0)),
        "process_vm_readv": tried(lambda: native("process_vm_readv", victim, block, 1, block, 1, 0)),
        "secrets": {path: tried(lambda path=path: Path(path).read_bytes()) for path in SECRETS},
        "memory": tried(lambda: read_memory(victim)),
        "others": others(),
        "weights": tried(lambda: write(Path(targets["weights"]))),
        "root": tried(lambda: write(Path("/hostile"))),
        "remount": tried(lambda: native("mount", b"none", b"/", None, 0x20, None)),
        "core": tried(dump_cores),
        "core_filter": Path("/proc/self/coredump_filter").read_text().strip(),
        "descriptors": sorted(kind(int(each)) for each in os.listdir("/proc/self/fd")),
    }


def kind(descriptor: int) -> str:
    """What an inherited descriptor leads to."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0]
    except OSError:
        return "closed"  # the listing's own


def main() -> None:
    """In the engine's container: cage oneself as the supervisor does, then try."""
    from headrace_runner.engine.seccomp import install_filter

    install_filter()
    print(json.dumps(attempts(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
