"""Whatever is killed in the middle, the task ends once, with its attempts recorded."""

import json
from typing import Any

import pytest

from tests.e2e.conftest import SYSTEM, Cluster, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

KILL_ENGINE = """
import os, signal
for pid in (int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != os.getpid()):
    try:
        line = open(f'/proc/{pid}/cmdline').read().split('\\0')
    except OSError:
        continue
    if any('headrace_runner.engine.child' in part for part in line):
        os.kill(pid, signal.SIGKILL)
        print('killed', pid)
"""


def finished(headrace: Cluster, namespace: str) -> dict[str, Any]:
    headrace.wait("llmtask/long", "condition=Finished", namespace, timeout=300)
    status: dict[str, Any] = headrace.get("llmtask", "long", namespace)["status"]
    assert status["outcome"] == "Complete", status
    assert len(json.loads(status["result"]["text"])) == 80
    assert [a["outcome"] for a in status["attempts"]].count("Complete") == 1
    assert status["attempts"][-1]["number"] == status["attempt"]
    return status


def runner_pod(headrace: Cluster, namespace: str) -> str:
    return headrace.kubectl(
        "get", "pods", "-n", namespace, "-l", "headrace.dev/model=smollm2", "-o", "jsonpath={.items[0].metadata.name}"
    )


def test_the_engine_is_killed(headrace: Cluster, namespace: str, weights: str) -> None:
    running(headrace, namespace, weights)
    pod = runner_pod(headrace, namespace)
    said = headrace.kubectl("exec", "-n", namespace, pod, "-c", "engine", "--", "python3", "-c", KILL_ENGINE)
    assert "killed" in said
    status = finished(headrace, namespace)
    assert status["attempt"] == 2
    assert status["retries"] == 1
    assert status["attempts"][0]["reason"] == "EngineLost"
    containers = headrace.get("pod", pod, namespace)["status"]["containerStatuses"]
    assert {c["name"]: c["restartCount"] for c in containers} == {"runner": 0, "engine": 0}


def test_the_runner_pod_is_killed(headrace: Cluster, namespace: str, weights: str) -> None:
    running(headrace, namespace, weights)
    pod = runner_pod(headrace, namespace)
    headrace.kubectl("delete", "pod", pod, "-n", namespace, "--force", "--grace-period=0")
    status = finished(headrace, namespace)
    assert status["attempt"] >= 2
    assert status["attempts"][0]["outcome"] in {"Lost", "Released"}
    assert status["attempts"][0]["pod"] == pod


def test_the_operator_is_killed(headrace: Cluster, namespace: str, weights: str) -> None:
    running(headrace, namespace, weights)
    headrace.kubectl(
        "delete", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=operator", "--force", "--grace-period=0"
    )
    status = finished(headrace, namespace)
    assert status["attempt"] == 1
    headrace.kubectl("rollout", "status", "deployment", "-n", SYSTEM, "--timeout=90s")


def test_redis_is_killed(headrace: Cluster, namespace: str, weights: str) -> None:
    running(headrace, namespace, weights)
    headrace.kubectl(
        "delete", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/component=redis", "--force", "--grace-period=0"
    )
    finished(headrace, namespace)
