"""The engine's container from inside: what its process can reach if a model file takes it over."""

import json

import pytest

from tests.e2e.conftest import MODEL_FILE, ROOT, Cluster, eventually, model, task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_a_hostile_engine_reaches_nothing_and_its_runner_goes_on(
    headrace: Cluster, namespace: str, weights: str
) -> None:
    headrace.apply(namespace, model("smollm2", weights))
    headrace.wait("llmmodel/smollm2", "condition=Available", namespace, timeout=180)
    pod = headrace.kubectl("get", "pods", "-n", namespace, "-o", "jsonpath={.items[0].metadata.name}")

    def engine(*command: str, stdin: str | None = None) -> str:
        return headrace.kubectl("exec", "-i", "-n", namespace, pod, "-c", "engine", "--", *command, stdin=stdin)

    # The supervisor is process 1: the filter that the attempts install is what every process of the engine has.
    assert "Seccomp:\t2" in engine("cat", "/proc/1/status")
    limits = engine("cat", "/proc/1/limits").splitlines()
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]

    api_server = headrace.kubectl("get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}")
    redis = headrace.kubectl(
        *("get", "services", "-A", "-o", "jsonpath={.items[?(@.spec.ports[0].port==6379)].spec.clusterIP}")
    ).split()
    assert redis
    targets = {
        "addresses": {"api_server": [api_server, 443], "redis": [redis[0], 6379]},
        "victim": 1,
        "weights": f"/models/{MODEL_FILE}",
    }
    attempts = (ROOT / "tests/stub_engine/attempts.py").read_text()
    found = json.loads(engine("python3", "-", json.dumps(targets), stdin=attempts))

    assert {name: found[name] for name in ("api_server", "redis", "metadata", "datagram", "netlink")} == dict.fromkeys(
        ("api_server", "redis", "metadata", "datagram", "netlink"), "EPERM"
    )
    assert set(found["secrets"].values()) == {"ENOENT"}
    assert {found[name] for name in ("ptrace", "process_vm_readv", "remount")} == {"EPERM"}
    # Read-only for everybody: the container's root, and the volume, whatever the file's mode says.
    assert (found["weights"] in ("EROFS", "EACCES"), found["root"]) == (True, "EROFS")
    mounts = [line.split() for line in engine("cat", "/proc/mounts").splitlines()]
    assert ["ro" in mount[3].split(",") for mount in mounts if mount[1] == "/models"] == [True]
    # It sees the supervisor, so it would see the runner if it could.
    assert any("headrace-engine" in each for each in found["others"])
    assert not [each for each in found["others"] if "headrace-runner" in each]

    # What stands in the engine's place sends the runner a frame of a gibibyte; then the engine comes back.
    engine("python3", "-", stdin=TAKE_OVER)
    headrace.apply(namespace, task("after", "smollm2"))
    headrace.wait("llmtask/after", "condition=Finished", namespace, timeout=180)
    assert headrace.get("llmtask", "after", namespace)["status"]["outcome"] == "Complete"
    eventually(
        lambda: {each["name"]: each for each in headrace.get("pod", pod, namespace)["status"]["containerStatuses"]},
        lambda found: found["runner"]["restartCount"] == 0 and found["runner"]["ready"],
        what="the runner was not restarted and serves",
    )


TAKE_OVER = """
import os, signal, socket, struct
from pathlib import Path
path = "/run/headrace/engine.sock"
children = Path("/proc/1/task/1/children").read_text().split()
server = socket.socket(socket.AF_UNIX)
for pid in children:
    os.kill(int(pid), signal.SIGKILL)
while os.path.exists(path):
    pass
server.bind(path)
os.chmod(path, 0o660)
server.listen()
server.settimeout(30)
runner, _ = server.accept()
runner.settimeout(30)
try:
    runner.sendall(struct.pack(">I", 1 << 30))
    for _ in range(1 << 10):
        runner.sendall(b"x" * (1 << 20))
except OSError:
    print("the runner closed the connection")
else:
    raise SystemExit("the runner read a gibibyte")
"""
