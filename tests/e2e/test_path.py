"""The thinnest true path: a manifest goes in, text that the model generated in a pod comes out."""

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Cluster, condition, eventually, model, task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_a_task_waits_for_its_model_and_then_completes(headrace: Cluster, namespace: str, weights: str) -> None:
    headrace.apply(namespace, task("early", "smollm2"))
    waiting = eventually(
        lambda: headrace.get("llmtask", "early", namespace),
        lambda t: t.get("status", {}).get("reason") == "ModelNotFound",
        what="the task says that its model does not exist",
    )
    assert waiting["status"]["phase"] == "Waiting"
    assert "smollm2" in waiting["status"]["message"]

    headrace.apply(namespace, model("smollm2", weights))
    headrace.wait("llmtask/early", "condition=Finished", namespace, timeout=180)
    done = headrace.get("llmtask", "early", namespace)
    status = done["status"]
    assert status["outcome"] == "Complete"
    assert status["attempt"] == 1
    assert status["result"]["text"].strip()
    raw = status["result"]["text"].encode()
    assert status["result"]["sizeBytes"] == len(raw)
    assert status["result"]["sha256"] == hashlib.sha256(raw).hexdigest()
    assert status["usage"]["promptTokens"] > 5
    assert 0 < status["usage"]["completionTokens"] <= 16
    assert status["timings"]["generationMillis"] > 0
    assert [a["outcome"] for a in status["attempts"]] == ["Complete"]
    assert status["attempts"][0]["pod"].startswith("headrace-smollm2-")
    ready = headrace.get("llmmodel", "smollm2", namespace)
    assert condition(ready, "Ready")["status"] == "True"
    assert condition(ready, "Available")["status"] == "True"
    assert ready["status"]["engine"]["architecture"] == "llama"


def test_a_schema_is_obeyed(headrace: Cluster, namespace: str, weights: str) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green", "yellow"]}, "sweet": {"type": "boolean"}},
        "required": ["colour", "sweet"],
        "additionalProperties": False,
    }
    headrace.apply(
        namespace,
        model("smollm2", weights),
        task(
            "json",
            "smollm2",
            prompt="Describe a banana.",
            parameters={"maxTokens": 64},
            output={"jsonSchema": json.dumps(schema)},
        ),
    )
    headrace.wait("llmtask/json", "condition=Finished", namespace, timeout=180)
    status = headrace.get("llmtask", "json", namespace)["status"]
    assert status["outcome"] == "Complete", status
    assert status["result"]["enforcement"] == "Grammar"
    document = json.loads(status["result"]["text"])
    assert set(document) == {"colour", "sweet"}


def test_a_task_that_fails_is_finished_too(headrace: Cluster, namespace: str, weights: str) -> None:
    headrace.apply(namespace, model("smollm2", weights), task("huge", "smollm2", prompt="word " * 6000))
    headrace.wait("llmtask/huge", "condition=Finished", namespace, timeout=180)
    status = headrace.get("llmtask", "huge", namespace)["status"]
    assert (status["outcome"], status["reason"]) == ("Failed", "ContextLengthExceeded")
    assert "2048" in status["message"]
    assert "result" not in status


@pytest.mark.parametrize(("prompt", "succeeds"), [("Say hello.", True), ("word " * 6000, False)])
def test_helm_wait_ends_with_a_task_in_the_chart(
    headrace: Cluster, namespace: str, weights: str, tmp_path: Path, prompt: str, succeeds: bool
) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: work\nversion: 1.0.0\n", encoding="utf-8")
    (chart / "templates/task.yaml").write_text(
        yaml.safe_dump(task("in-chart", "smollm2", prompt=prompt)), encoding="utf-8"
    )
    headrace.apply(namespace, model("smollm2", weights))
    # Helm takes a failed object for one that may recover, and gives up on it at its timeout.
    headrace.wait("llmmodel/smollm2", "condition=Available", namespace)
    done = headrace.helm(
        "install", "work", str(chart), "-n", namespace, "--wait", "--timeout", "60s" if succeeds else "20s"
    )
    status = headrace.get("llmtask", "in-chart", namespace)["status"]
    assert (done.returncode == 0) is succeeds, done.stderr
    assert status["outcome"] == ("Complete" if succeeds else "Failed")


def test_helm_test_passes(headrace: Cluster) -> None:
    done = headrace.helm("test", "headrace", "-n", "headrace-system", "--timeout", "120s")
    assert done.returncode == 0, done.stdout + done.stderr
