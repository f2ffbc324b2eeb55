"""The commands that look into a cluster, against a real API server; places in queues by a real facade and Redis."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from headrace_bus import Bus, Envelope, ModelKey, WorkClass
from tests.contract.callers import Server, service_account
from tests.contract.cli.conftest import Headrace
from tests.contract.conftest import Kubectl
from tests.contract.redis_server import free_port, redis_server

pytestmark = pytest.mark.contract


def make(kubectl: Kubectl, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    body = {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "LLMTask",
        "metadata": {"name": name},
        "spec": {"modelRef": {"name": "m"}, "prompt": "secret", **spec},
    }
    made: dict[str, Any] = json.loads(
        kubectl.ok("create", "-n", namespace, "-f", "-", "-o", "json", stdin=json.dumps(body))
    )
    return made


def tell(kubectl: Kubectl, namespace: str, name: str, **status: Any) -> None:
    patch = json.dumps({"status": {"attempt": 1, "retries": 0, **status}})
    kubectl.ok("patch", "llmtask", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def failed(kubectl: Kubectl, namespace: str, name: str, reason: str = "EngineLost", **spec: Any) -> dict[str, Any]:
    made = make(kubectl, namespace, name, **spec)
    ended = {"outcome": "Failed", "phase": "Failed", "completionTime": "2026-01-01T00:00:00Z"}
    tell(kubectl, namespace, name, reason=reason, message=f"{reason} told", **ended)
    return made


def spec_of(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl.ok("get", "llmtask", name, "-n", namespace, "-o", "json"))
    return found


def test_why_tells_the_chain_and_what_to_do(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    make(kubectl, namespace, "t")
    tell(kubectl, namespace, "t", phase="Waiting", reason="ModelNotFound", message="LLMModel 'm' does not exist")
    ended = headrace("why", "t")
    assert ended.code == 0, ended.err
    assert f"llmtask {namespace}/t: Waiting for " in ended.out
    assert "model  " in ended.out
    assert "model: create the LLMModel" in ended.out
    told = headrace("why", f"{namespace}/t", "-o", "json").json()
    assert [link["about"] for link in told["chain"]] == ["task", "quota", "window", "model"]
    assert (told["reason"], told["position"]) == ("ModelNotFound", None)


def test_why_says_how_to_learn_the_position(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    make(kubectl, namespace, "t")
    tell(kubectl, namespace, "t", phase="Queued", reason="Queued", message="queued for LLMModel 'm'")
    assert "position: name the facade by --facade URL or HEADRACE_FACADE" in headrace("why", "t").out
    # The test's administrator has a certificate and no token.
    assert "set HEADRACE_TOKEN" in headrace("why", "t", "--facade", "https://127.0.0.1:1").out


@contextlib.contextmanager
def facade(kubectl: Kubectl, redis_url: str, folder: Path) -> Iterator[str]:
    """The real process."""
    server, port = Server.of(kubectl), free_port()
    (folder / "ca.crt").write_text(server.authority, encoding="utf-8")
    (folder / "redis-url").write_text(redis_url, encoding="utf-8")
    environment = {
        **os.environ,
        "HEADRACE_KUBE_URL": server.url,
        "HEADRACE_KUBE_CA_FILE": str(folder / "ca.crt"),
        "HEADRACE_HOST": "127.0.0.1",
        "HEADRACE_PORT": str(port),
        "HEADRACE_METRICS_PORT": "0",
        "HEADRACE_REDIS_URL_FILE": str(folder / "redis-url"),
    }
    log = folder / "log"
    program = [sys.executable, "-c", "from headrace_facade.main import main; main()"]
    with log.open("wb") as output, subprocess.Popen(program, env=environment, stdout=output, stderr=output) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        break
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)


async def _queue(url: str, model: ModelKey, *uids: str) -> None:
    async with Bus.connect(url) as bus:
        for created_ms, uid in enumerate(uids, 1):
            await bus.enqueue(model, Envelope(uid, WorkClass.TASK, model.namespace, uid, 1, created_ms, 0, 1, {}))


def test_why_asks_the_facade_with_the_kubeconfigs_token(
    headrace: Headrace, kubectl: Kubectl, namespace: str, kubeconfig_file: Path, tmp_path: Path
) -> None:
    made = make(kubectl, namespace, "t")
    tell(kubectl, namespace, "t", phase="Queued", reason="Queued", message="queued for LLMModel 'm'")
    alice = service_account(kubectl, namespace, "alice")
    kubectl.ok("create", "role", "r", "-n", namespace, "--verb=get", "--resource=llmtasks.headrace.dev")
    kubectl.ok("create", "rolebinding", "r", "-n", namespace, "--role=r", f"--serviceaccount={namespace}:alice")
    config = yaml.safe_load(kubeconfig_file.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": alice.token}
    kubeconfig_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with redis_server() as redis, facade(kubectl, redis.url, tmp_path) as url:
        asyncio.run(_queue(redis.url, ModelKey(namespace, "m"), "first", made["metadata"]["uid"]))
        told = headrace("why", "t", "--facade", url, "-o", "json").json()
        text = headrace("why", "t", "--facade", url).out
    assert (told["position"], told["ahead"], told["estimated_start_seconds"]) == (2, 1, None)
    assert "position: 2 (1 come first)" in text
    # Alice may read tasks and nothing else.
    refused = {link["about"]: link["message"] for link in told["chain"] if link["reason"] == "NotReadable"}
    assert set(refused) == {"quota", "model"}
    assert "forbidden" in refused["model"]


def test_cancel_suspend_and_resume(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    make(kubectl, namespace, "a")
    make(kubectl, namespace, "b")
    assert headrace("suspend", "a", "b").code == 0
    assert spec_of(kubectl, namespace, "b")["spec"]["suspend"] is True
    assert [each["changed"] for each in headrace("resume", "a", "b", "-o", "json").json()] == [True, True]
    assert spec_of(kubectl, namespace, "b")["spec"]["suspend"] is False
    assert "not suspended" in headrace("resume", "a").out
    assert "cancellation asked for" in headrace("cancel", "a").out
    assert spec_of(kubectl, namespace, "a")["spec"]["cancel"] is True


def test_one_that_is_not_there_keeps_no_other(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    make(kubectl, namespace, "b")
    ended = headrace("suspend", "gone", "b")
    assert ended.code == 1
    assert "there is no LLMTask 'gone'" in ended.err
    assert spec_of(kubectl, namespace, "b")["spec"]["suspend"] is True
    failed(kubectl, namespace, "t")
    ended = headrace("dlq", "replay", "gone", "t")
    assert (ended.code, "replayed as t-replay-1" in ended.out) == (1, True)


def test_kubectl_finds_the_plugin(kubectl: Kubectl, namespace: str, kubeconfig_file: Path, tmp_path: Path) -> None:
    make(kubectl, namespace, "t")
    plugin = tmp_path / "bin/kubectl-headrace"
    plugin.parent.mkdir()
    # What the distribution's script of that name does.
    plugin.write_text(f"#!{sys.executable}\nimport sys\nfrom headrace_cli.main import main\nsys.exit(main())\n")
    plugin.chmod(0o755)
    path = f"{plugin.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig_file)}
    command = [kubectl.program, "kubectl", "headrace", "why", "t"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"llmtask {namespace}/t: not accepted yet" in done.stdout


def test_a_finished_task_is_left_as_it_is(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    failed(kubectl, namespace, "t")
    before = spec_of(kubectl, namespace, "t")
    (told,) = headrace("cancel", "t", "-o", "json").json()
    assert (told["changed"], told["message"]) == (False, "unchanged: it is Failed already")
    assert spec_of(kubectl, namespace, "t") == before


def test_dead_letters_are_listed_by_reason_and_namespace(
    headrace: Headrace, kubectl: Kubectl, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace_cli.cluster.PAGE", 2)
    failed(kubectl, namespace, "a", "EngineLost")
    failed(kubectl, namespace, "b", "Poison")
    failed(kubectl, namespace, "c", "EngineLost")
    make(kubectl, namespace, "open")

    def names(*args: str) -> list[str]:
        return [
            each["name"]
            for each in headrace("dlq", "list", *args, "-o", "json").json()
            if each["namespace"] == namespace
        ]

    assert names() == ["a", "b", "c"]
    assert names("--reason", "EngineLost") == ["a", "c"]
    assert names("-A", "--reason", "Poison") == ["b"]
    text = headrace("dlq", "list").out
    assert "NAMESPACE" in text
    assert "EngineLost told" in text
    assert "secret" not in text
    assert "no Failed task" in headrace("dlq", "list", "-n", "default", "--reason", "InvalidOutput").out


def test_a_dead_letter_is_replayed_once_unless_asked_again(
    headrace: Headrace, kubectl: Kubectl, namespace: str
) -> None:
    letter = failed(kubectl, namespace, "t", priority=7, suspend=True)
    assert "replayed as t-replay-1" in headrace("dlq", "replay", "t").out
    made = spec_of(kubectl, namespace, "t-replay-1")
    assert made["metadata"]["annotations"]["headrace.dev/replay-of"] == letter["metadata"]["uid"]
    spec = {key: value for key, value in letter["spec"].items() if key != "suspend"}
    assert {key: value for key, value in made["spec"].items() if key != "suspend"} == spec
    assert made["spec"]["suspend"] is False

    second = headrace("dlq", "replay", "t")
    assert second.code == 1
    assert "replayed before as t-replay-1: --again makes another one" in second.out
    assert "replayed as t-replay-2" in headrace("dlq", "replay", "t", "--again").out
    shown = headrace("dlq", "show", "t", "-o", "json").json()
    assert shown["replays"] == ["t-replay-1", "t-replay-2"]
    assert "t-replay-2" in headrace("dlq", "show", "t").out


def test_a_name_that_is_somebody_elses_is_passed_over(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    failed(kubectl, namespace, "t")
    make(kubectl, namespace, "t-replay-1")
    assert "replayed as t-replay-2" in headrace("dlq", "replay", "t").out


def test_replaying_by_reason_leaves_out_what_was_replayed(headrace: Headrace, kubectl: Kubectl, namespace: str) -> None:
    for name in ("a", "b"):
        failed(kubectl, namespace, name)
    failed(kubectl, namespace, "c", "Poison")
    assert headrace("dlq", "replay", "b").code == 0
    told = headrace("dlq", "replay", "--reason", "EngineLost", "-o", "json").json()
    assert [(each["name"], each["created"]) for each in told] == [("a", True), ("b", False)]
    assert [each["created"] for each in headrace("dlq", "replay", "--all", "-o", "json").json()] == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("why", "gone"), "there is no LLMTask 'gone'"),
        (("cancel", "gone"), "there is no LLMTask 'gone'"),
        (("dlq", "show", "gone"), "there is no LLMTask 'gone'"),
        (("dlq", "replay", "open"), "has not ended: only Failed tasks are dead letters"),
        (("why", "open", "--context", "nobody"), "no cluster"),
    ],
)
def test_what_goes_wrong_says_what_to_do(
    headrace: Headrace, kubectl: Kubectl, namespace: str, arguments: tuple[str, ...], told: str
) -> None:
    make(kubectl, namespace, "open")
    ended = headrace(*arguments)
    assert ended.code == 1
    assert told in ended.err


def test_rights_and_reach_are_told(headrace: Headrace, kubectl: Kubectl, namespace: str, kubeconfig_file: Path) -> None:
    nobody = service_account(kubectl, namespace, "nobody")
    config = yaml.safe_load(kubeconfig_file.read_text(encoding="utf-8"))
    config["users"][0]["user"] = {"token": nobody.token}
    kubeconfig_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    ended = headrace("dlq", "list")
    assert ended.code == 1
    assert "forbidden" in ended.err
    assert nobody.user in ended.err
    config["users"][0]["user"] = {"token": base64.b64encode(b"nothing").decode()}
    kubeconfig_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "log in again" in headrace("dlq", "list").err
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    kubeconfig_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "https://127.0.0.1:1 cannot be reached" in headrace("dlq", "list").err
