"""A model's status tells the truth: GPUs that are taken, files that are not what they should be, deletions."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import (
    MODEL_FILE,
    ROOT,
    SYSTEM,
    Cluster,
    condition,
    eventually,
    long_task,
    model,
    required,
    task,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# The node only pretends to have a GPU, so no layer is asked to go there; holding it is what these tests are about.
PRETEND_GPU = {"count": 1, "layers": "0"}


def test_two_models_want_the_one_gpu(headrace: Cluster, namespace: str, weights: str) -> None:
    headrace.apply(namespace, model("first", weights, gpu=PRETEND_GPU))
    headrace.wait("llmmodel/first", "condition=Available", namespace, timeout=120)
    headrace.apply(namespace, model("second", weights, gpu=PRETEND_GPU), task("wants-second", "second"))

    short = eventually(
        lambda: headrace.get("llmmodel", "second", namespace),
        lambda m: (condition(m, "Placed") or {}).get("reason") == "WaitingForGPU",
        what="the second model waits for the GPU",
    )
    placed = condition(short, "Placed")
    assert placed["status"] == "False"
    assert "nvidia.com/gpu" in placed["message"]
    assert "since" in placed["message"]
    assert short["status"]["phase"] == "WaitingForGPU"
    waiting = eventually(
        lambda: headrace.get("llmtask", "wants-second", namespace),
        lambda t: t["status"].get("reason") == "WaitingForGPU",
        what="the task says that its model waits for a GPU",
    )
    assert "since" in waiting["status"]["message"]

    headrace.kubectl("delete", "llmmodel", "first", "-n", namespace)
    headrace.wait("llmtask/wants-second", "condition=Finished", namespace, timeout=180)
    assert headrace.get("llmtask", "wants-second", namespace)["status"]["outcome"] == "Complete"


def bad_file(headrace: Cluster, namespace: str, tmp_path: Path) -> str:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + b"\xff" * 4096)
    done = headrace.run(str(ROOT / "tests/cluster/model-volume"), namespace, "garbage", str(garbage))
    assert done.returncode == 0, done.stderr
    return "garbage"


@pytest.mark.parametrize("case", ["garbage", "missing", "wrong-digest"])
def test_a_model_file_that_cannot_be_served(
    headrace: Cluster, namespace: str, weights: str, tmp_path: Path, case: str
) -> None:
    match case:
        case "garbage":
            spec = model("bad", bad_file(headrace, namespace, tmp_path), path="garbage.gguf")
            reason, named = "InvalidModelFile", "garbage.gguf"
        case "missing":
            spec = model("bad", weights, path="no-such.gguf")
            reason, named = "ModelFileNotFound", "no-such.gguf"
        case _:
            spec = model("bad", weights, sha256="0" * 64)
            reason, named = "ChecksumMismatch", MODEL_FILE
    headrace.apply(namespace, spec, task("hopeful", "bad"))

    def said(body: dict[str, Any]) -> bool:
        return (condition(body, "Ready") or {}).get("reason") == reason

    refused = eventually(lambda: headrace.get("llmmodel", "bad", namespace), said, within=120, what=f"Ready={reason}")
    ready = condition(refused, "Ready")
    assert ready["status"] == "False"
    assert named in ready["message"]
    assert condition(refused, "Stalled")["status"] == "True"
    waiting = eventually(
        lambda: headrace.get("llmtask", "hopeful", namespace),
        lambda t: t["status"].get("reason") == "ModelNotReady" and reason in t["status"]["message"],
        what="the task says why its model cannot serve",
    )
    assert "outcome" not in waiting["status"]
    # Nothing loops: over ten seconds the model's status is written at most once more, and no container restarts.
    version = headrace.get("llmmodel", "bad", namespace)["metadata"]["resourceVersion"]
    changes = headrace.run(
        headrace.env["KUBECTL"],
        "get",
        "llmmodel",
        "bad",
        "-n",
        namespace,
        "--watch-only",
        "-o",
        "name",
        "--request-timeout=10s",
    ).stdout.splitlines()
    assert len(changes) <= 1, (version, changes)
    pods = headrace.kubectl(
        "get",
        "pods",
        "-n",
        namespace,
        "-l",
        "headrace.dev/model=bad",
        "-o",
        "jsonpath={.items[*].status.containerStatuses[*].restartCount}",
    )
    assert set(pods.split()) == {"0"}


SCAN = """
import os, redis
url = open(os.environ['HEADRACE_REDIS_URL_FILE']).read().strip()
operator = redis.Redis.from_url(url)
operator.execute_command('ACL', 'SETUSER', 'e2e', 'reset', 'on', 'nopass', '~*', '+scan')
try:
    address = operator.connection_pool.connection_kwargs
    reader = redis.Redis(host=address['host'], port=address['port'], username='e2e', password='-')
    print('\\n'.join(sorted(key.decode() for key in reader.scan_iter(count=1000))))
finally:
    operator.execute_command('ACL', 'DELUSER', 'e2e')
"""


def redis_keys(headrace: Cluster) -> str:
    """All keys. Nobody may scan but a user that the operator's own credentials make for the moment."""
    return headrace.kubectl("exec", "-n", SYSTEM, "deploy/headrace-operator", "--", "python3", "-c", SCAN)


@pytest.mark.parametrize("what", ["queued task", "running task", "model"])
def test_a_deletion_leaves_nothing_behind(headrace: Cluster, namespace: str, weights: str, what: str) -> None:
    if what == "queued task":
        headrace.apply(
            namespace, {**model("m", weights), "spec": {**model("m", weights)["spec"], "replicas": 0}}, task("t", "m")
        )
        phase = "Queued"
    else:
        headrace.apply(namespace, model("m", weights), long_task("t", "m"))
        phase = "Running"
    body = eventually(
        lambda: headrace.get("llmtask", "t", namespace),
        lambda t: t.get("status", {}).get("phase") == phase,
        within=120,
        what=phase,
    )
    uid = body["metadata"]["uid"]
    assert namespace in redis_keys(headrace)
    if what == "model":
        headrace.kubectl("delete", "llmmodel", "m", "-n", namespace)
        eventually(
            lambda: headrace.get("llmtask", "t", namespace),
            lambda t: t["status"].get("reason") == "ModelNotFound" or "outcome" in t["status"],
            what="the task waits for a model again",
        )
        eventually(
            lambda: headrace.kubectl(
                "get",
                "deployments,pods,serviceaccounts,rolebindings,secrets,networkpolicies",
                "-n",
                namespace,
                "-l",
                "headrace.dev/model=m",
                "-o",
                "name",
            ),
            lambda names: names.strip() == "",
            within=90,
            what="the model's children are gone",
        )
        eventually(lambda: redis_keys(headrace), lambda keys: namespace not in keys, what="no key of the model is left")
    else:
        headrace.kubectl("delete", "llmtask", "t", "-n", namespace)
        eventually(lambda: redis_keys(headrace), lambda keys: uid not in keys, what="no key names the task")
        if phase == "Running":
            # The generation was aborted: the model takes the next task at once.
            headrace.apply(namespace, task("next", "m"))
            headrace.wait("llmtask/next", "condition=Finished", namespace, timeout=30)


def test_scaled_to_zero_is_ready_and_its_tasks_stay_queued(headrace: Cluster, namespace: str, weights: str) -> None:
    headrace.apply(namespace, model("m", weights))
    headrace.wait("llmmodel/m", "condition=Available", namespace, timeout=120)
    headrace.kubectl("scale", "llmm/m", "-n", namespace, "--replicas=0")
    zero = eventually(
        lambda: headrace.get("llmmodel", "m", namespace),
        lambda m: m["status"].get("phase") == "ScaledToZero" and m["status"].get("replicas") == 0,
        what="scaled to zero",
    )
    assert condition(zero, "Ready")["status"] == "True"
    assert condition(zero, "Available")["status"] == "False"
    headrace.apply(namespace, task("t", "m"))
    eventually(
        lambda: headrace.get("llmtask", "t", namespace),
        lambda t: t.get("status", {}).get("reason") == "ModelScaledToZero",
        what="the task says that its model is scaled to zero",
    )
    headrace.kubectl("scale", "llmm/m", "-n", namespace, "--replicas=1")
    headrace.wait("llmtask/t", "condition=Finished", namespace, timeout=120)


def test_headrace_run_and_the_cluster_agree(headrace: Cluster, namespace: str, weights: str, tmp_path: Path) -> None:
    import sys

    import yaml

    manifest = tmp_path / "both.yaml"
    documents = [model("m", weights), task("t", "m")]
    manifest.write_text(yaml.safe_dump_all(documents), encoding="utf-8")
    local = subprocess.run(
        [
            sys.executable,
            "-m",
            "headrace_cli",
            "run",
            "-f",
            str(manifest),
            "--weights",
            required("HEADRACE_TEST_MODEL"),
            "-o",
            "json",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **headrace.env,
            "PYTHONPATH": ":".join(str(ROOT / d) for d in ("crds", "bus", "operator", "runner", "facade", "cli")),
        },
    )
    assert local.returncode == 0, local.stderr
    headrace.apply(namespace, *documents)
    headrace.wait("llmtask/t", "condition=Finished", namespace, timeout=120)
    there = headrace.get("llmtask", "t", namespace)["status"]["result"]["text"]
    import json

    printed = json.loads(local.stdout)
    here = printed[0] if isinstance(printed, list) else printed
    assert here["status"]["result"]["text"] == there
