"""The seccomp filter, looked at from inside: a probe installs it and tries."""

import json
import os
import subprocess
import sys

import pytest

PROBE = """
import ctypes, errno, json, os, socket, subprocess, sys, threading
from headrace_runner.engine.seccomp import install_filter
assert socket.socket(socket.AF_INET, socket.SOCK_STREAM).fileno() >= 0
install_filter()
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    return "ok" if result >= 0 else errno.errorcode[ctypes.get_errno()]
def family(number):
    try:
        socket.socket(number, socket.SOCK_STREAM if number != 16 else socket.SOCK_RAW).close()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
found = {
    "unix": family(socket.AF_UNIX), "inet": family(socket.AF_INET), "inet6": family(socket.AF_INET6),
    "netlink": family(16), "vsock": family(40), "packet": family(17),
    "padded": call("syscall", ctypes.c_long(41), ctypes.c_ulong((1 << 32) | 2), ctypes.c_long(1), ctypes.c_long(0)),
    "ptrace": call("ptrace", 0, 0, 0, 0), "unshare_user": call("unshare", 0x10000000),
    "mount": call("mount", b"x", b"/", b"tmpfs", 0, None),
    "io_uring": call("syscall", ctypes.c_long(425), ctypes.c_long(1), ctypes.c_void_p(0)),
    "process_vm_readv": call("process_vm_readv", os.getppid(), None, 0, None, 0, 0),
    "shmget": call("shmget", 0, 4096, 0o1600),
    "open_tree_attr": call("syscall", ctypes.c_long(467), -1, b"/", 0, None, 0),
    "bpf": call("syscall", ctypes.c_long(321), ctypes.c_long(0), ctypes.c_void_p(0), ctypes.c_long(0)),
    "socketpair_inet": call("socketpair", 2, 1, 0, ctypes.byref((ctypes.c_int * 2)())),
    "clone_newuser": call("syscall", ctypes.c_long(56), ctypes.c_ulong(0x10000011), *[ctypes.c_long(0)] * 4),
    "clone3": call("syscall", ctypes.c_long(435), ctypes.c_void_p(0), ctypes.c_long(0)),
    "no_new_privs": libc.prctl(39, 0, 0, 0, 0),
}
socket.socketpair()
child = subprocess.run([sys.executable, "-c", "import socket; socket.socket(socket.AF_INET)"], capture_output=True)
found["child_inherits"] = b"PermissionError" in child.stderr
seen = []
thread = threading.Thread(target=lambda: seen.append(family(socket.AF_INET))); thread.start(); thread.join()
found["thread"] = seen[0]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    "name",
    [
        *("inet", "inet6", "netlink", "vsock", "packet", "padded", "socketpair_inet", "thread"),
        *("ptrace", "process_vm_readv", "unshare_user", "clone_newuser", "mount", "io_uring", "bpf"),
        *("shmget", "open_tree_attr"),
    ],
)
def test_it_answers_eperm(found: dict[str, object], name: str) -> None:
    assert found[name] == "EPERM"


def test_it_leaves_unix_sockets_threads_and_children(found: dict[str, object]) -> None:
    assert found["unix"] == "ok"
    assert found["child_inherits"] is True
    assert found["no_new_privs"] == 1
    assert found["clone3"] == "ENOSYS"


def test_without_libseccomp_there_is_no_container_engine(tmp_path: object) -> None:
    code = """
import sys
sys.modules["pyseccomp"] = None  # what an image without the library amounts to
from headrace_runner.engine.supervisor import main
sys.exit(main())
"""
    environment = {
        **os.environ,
        "HEADRACE_MODEL_PATH": "/models/m.gguf",
        "HEADRACE_ENGINE_STATE": f"{tmp_path}/engine.json",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    with open(f"{tmp_path}/engine.json") as file:
        state = json.load(file)
    assert (state["state"], state["reason"]) == ("Failed", "SandboxUnavailable")
