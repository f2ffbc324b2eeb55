"""``headrace run`` with the real engine and model, and ``validate`` against a real API server's opinion."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace_crds.manifest import check
from tests.unit.cli.manifest_cases import CASES, Case

pytestmark = pytest.mark.contract

MODEL = """\
apiVersion: headrace.dev/v1alpha1
kind: LLMModel
metadata: {name: smol}
spec:
  local:
    source:
      persistentVolumeClaim: {claimName: models, path: SmolLM2-135M-Instruct.Q4_1.gguf}
    contextTokens: 512
---
"""
TASK: dict[str, Any] = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "LLMTask",
    "metadata": {"name": "hello"},
    "spec": {"modelRef": {"name": "smol"}, "prompt": "Say hello.", "parameters": {"maxTokens": 16}},
}
PERSON = (
    '{"type":"object","properties":{"name":{"type":"string","maxLength":20},"age":{"type":"integer","minimum":0,'
    '"maximum":120}},"required":["name","age"]}'
)


@pytest.fixture
def weights() -> Path:
    return Path(os.environ["HEADRACE_TEST_MODEL"])


def task(name: str, **spec: Any) -> dict[str, Any]:
    return {**TASK, "metadata": {"name": name}, "spec": {**TASK["spec"], **spec}}


def headrace(*args: object, documents: list[dict[str, Any]], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "headrace_cli", *map(str, args), "-f", "-"],
        input=MODEL + yaml.safe_dump_all(documents),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_task_ends_complete_as_in_a_cluster(weights: Path) -> None:
    done = headrace("run", "--weights", weights, documents=[TASK])
    assert done.returncode == 0, done.stderr
    printed = yaml.safe_load(done.stdout)
    assert printed["spec"] == TASK["spec"]
    status = printed["status"]
    assert (status["outcome"], status["phase"], status["reason"]) == ("Complete", "Complete", "Succeeded")
    assert status["result"]["text"].strip()
    assert {each["type"]: each["status"] for each in status["conditions"]} == {"Finished": "True", "Ready": "True"}
    assert status["usage"]["completionTokens"] <= 16
    assert [each["number"] for each in status["attempts"]] == [1]
    assert "smol serves: llama Q4_1" in done.stderr


def test_the_status_is_one_that_the_api_server_takes(weights: Path, kubectl: Any, namespace: str) -> None:
    done = headrace("run", "--model-dir", weights.parent, "-o", "json", documents=[TASK])
    printed = json.loads(done.stdout)
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(TASK))
    patch = json.dumps({"status": printed["status"]})
    kubectl.ok("patch", "llmtask", "hello", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    stored = json.loads(kubectl.ok("get", "llmtask", "hello", "-n", namespace, "-o", "json"))
    assert stored["status"] == printed["status"]


def test_two_runs_with_a_seed_are_equal(weights: Path) -> None:
    seeded = task("seeded", parameters={"maxTokens": 24, "temperature": "1.2", "seed": 42})
    first, second = (headrace("run", "--weights", weights, "-o", "text", documents=[seeded]) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout.strip()
    assert first.stdout == second.stdout


def test_failed_tasks_say_so_and_the_others_are_printed(weights: Path) -> None:
    documents = [
        task("cut", output={"jsonSchema": PERSON}, parameters={"maxTokens": 3}),
        task("too-long", prompt="word " * 2000),
        task("shaped", output={"jsonSchema": PERSON}, parameters={"maxTokens": 80, "temperature": "0"}),
    ]
    done = headrace("run", "--weights", weights, "-o", "json", documents=documents)
    assert done.returncode == 1, done.stderr
    statuses = {each["metadata"]["name"]: each["status"] for each in json.loads(done.stdout)}
    assert list(statuses) == ["cut", "too-long", "shaped"]
    assert statuses["cut"]["reason"] == "OutputTruncated"
    assert statuses["too-long"]["reason"] == "ContextLengthExceeded"
    assert {each["type"] for each in statuses["cut"]["conditions"]} == {"Finished", "Ready", "Stalled"}
    assert statuses["shaped"]["outcome"] == "Complete"
    assert set(json.loads(statuses["shaped"]["result"]["text"])) >= {"name", "age"}


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF but not really" * 100)
    done = headrace("run", "--weights", garbage, documents=[TASK])
    assert (done.returncode, done.stdout) == (1, "")
    assert "InvalidModelFile" in done.stderr
    assert "garbage.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_long_temporary_folder_is_no_obstacle(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    done = headrace("run", "--weights", weights, "-o", "text", documents=[TASK], TMPDIR=str(folder))
    assert done.returncode == 0, done.stderr


def test_control_c_leaves_no_engine_behind(weights: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace_cli", "run", "--weights", str(weights), "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(MODEL + yaml.safe_dump(task("long", parameters={"maxTokens": 400})))
    process.stdin.close()
    for line in process.stderr:
        if "loading the weights" in line:
            break
    (engine,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[:1]
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(30) == 130, rest
    process.stderr.close()
    assert "Traceback" not in rest
    assert not Path(f"/proc/{engine}").exists()


def test_control_c_prints_what_was_generated_so_far(weights: Path) -> None:
    endless = json.dumps({"type": "string", "minLength": 15_000})
    one = task("endless", output={"jsonSchema": endless}, parameters={"maxTokens": 480, "temperature": "0"})
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace_cli", "run", "--weights", str(weights), "-o", "json", "-f", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(MODEL + yaml.safe_dump_all([one, {**one, "metadata": {"name": "next"}}]))
    process.stdin.close()
    for line in process.stderr:
        if "generates" in line:
            break
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    printed, rest = process.stdout.read(), process.stderr.read()
    assert process.wait(30) == 130, rest
    process.stdout.close()
    process.stderr.close()
    assert "Traceback" not in rest
    # The one that waited for its turn has no status: it never began.
    document = json.loads(printed)
    assert document["metadata"]["name"] == "endless"
    status = document["status"]
    assert (status["outcome"], status["reason"]) == ("Cancelled", "Cancelled")
    assert (status["result"]["partial"], status["result"]["finishReason"]) == (True, "Cancelled")
    assert status["result"]["text"].startswith('"')


def test_an_attempt_that_takes_too_long_is_ended(weights: Path) -> None:
    endless = json.dumps({"type": "string", "minLength": 15_000})
    slow = task("slow", output={"jsonSchema": endless}, attemptTimeoutSeconds=1)
    slow["spec"]["parameters"] = {"maxTokens": 480, "temperature": "0"}
    done = headrace("run", "--weights", weights, "-o", "json", documents=[slow])
    assert done.returncode == 1, done.stderr
    status = json.loads(done.stdout)["status"]
    assert (status["outcome"], status["reason"]) == ("Failed", "AttemptTimeout")
    assert "attemptTimeoutSeconds (1)" in status["message"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_validate_and_the_api_server_agree(kubectl: Any, case: Case) -> None:
    manifest = json.dumps(case.manifest())
    here = check([("here", manifest)])
    there = kubectl.run("create", "--validate=strict", "--dry-run=server", "-f", "-", stdin=manifest)
    if case.only_here:
        assert here.problems
        assert there.returncode == 0, there.stderr
    else:
        assert bool(here.problems) == (there.returncode != 0), there.stderr
