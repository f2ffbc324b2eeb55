"""The facade against a real API server, with real tokens: what its callers may do is what RBAC says."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace_crds.outcome import text_digest
from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Caller, service_account
from tests.contract.conftest import Kubectl
from tests.contract.facade_.answers import as_, code

pytestmark = pytest.mark.contract


def stored(kubectl: Kubectl, task_id: str) -> dict[str, Any]:
    namespace, name = task_id.split(".", 1)
    found: dict[str, Any] = json.loads(kubectl.ok("get", "llmtask", name, "-n", namespace, "-o", "json"))
    return found


async def test_a_large_text_is_told_to_whoever_may_read_it(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task = (await http.post("/api/v1/tasks", json={"model": "m", "prompt": "p"}, headers=as_(alice))).json()
    name, text = task["name"], "ü\n" * 200_000
    size_bytes, digest = text_digest(text)
    lies = {"name": "large", "key": "text"}
    result = {"finishReason": "Stop", "sizeBytes": size_bytes, "sha256": digest, "configMapRef": lies}
    stands = {"attempt": 1, "phase": "Complete", "outcome": "Complete", "completionTime": "2026-01-01T00:00:00Z"}
    patch = json.dumps({"status": {**stands, "result": result}})
    kubectl.ok("patch", "llmtask", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)

    async def found() -> dict[str, Any]:
        answer = await http.get(f"/api/v1/tasks/{task['task_id']}", headers=as_(alice))
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()["result"]
        return told

    refused = await found()
    assert refused["text"] is None
    assert "get on configmaps" in refused["text_missing"]
    kubectl.ok("create", "role", "texts", "-n", namespace, "--verb=get", "--resource=configmaps")
    kubectl.ok("create", "rolebinding", "texts", "-n", namespace, "--role=texts", f"--serviceaccount={namespace}:alice")
    while "get on configmaps" in ((await found())["text_missing"] or ""):
        pass  # until the API server has heard of it
    assert "was deleted" in (await found())["text_missing"]
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"text": text}}
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))
    whole = await found()
    assert (whole["text"], whole["text_missing"]) == (text, None)


async def test_a_task_is_created_and_found_again(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    schema = {"type": "object", "properties": {"z": {"type": "number"}, "a": {"type": "string"}}}
    body = {
        "model": "m",
        "prompt": "Hello \U0001f600",
        "parameters": {"temperature": 0.7, "max_tokens": 16, "top_p": 1, "repeat_penalty": 1.1, "stop": "END"},
        "json_schema": schema,
        "priority": 7,
    }
    answer = await http.post("/api/v1/tasks", json=body, headers=as_(alice))
    assert answer.status_code == 202, answer.text
    task = answer.json()
    assert re.fullmatch(rf"{namespace}\.task-[a-z0-9]+", task["task_id"])
    assert answer.headers["Location"] == f"/api/v1/tasks/{task['task_id']}"
    assert task["status"] == "created"
    spec = stored(kubectl, task["task_id"])["spec"]
    assert spec["prompt"] == "Hello \U0001f600"
    assert spec["parameters"]["temperature"] == "0.7"
    assert spec["output"]["jsonSchema"] == json.dumps(schema, separators=(",", ":"))
    found = await http.get(answer.headers["Location"], headers=as_(alice))
    assert found.status_code == 200
    assert found.json() == task


async def test_a_schema_as_text_arrives_byte_for_byte(http: httpx.AsyncClient, alice: Caller, kubectl: Kubectl) -> None:
    text = '{ "type":"object",\n\t"properties": {"z": {"maximum": 1.0}, "a": {"const": "\\u00fc\u2028</b>"}} }\r\n'
    body = {"model": "m", "prompt": "p", "json_schema": text}
    task = (await http.post("/api/v1/tasks", json=body, headers=as_(alice))).json()
    assert stored(kubectl, task["task_id"])["spec"]["output"]["jsonSchema"] == text


async def test_the_words_of_a_task_follow_its_object(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "name": "way.of-a-task"}
    task = (await http.post("/api/v1/tasks", json=body, headers=as_(alice))).json()
    assert task["task_id"] == f"{namespace}.way.of-a-task"
    result = {"text": "Hi.\n", "finishReason": "Stop", "sizeBytes": 4, "sha256": "0" * 64}
    steps: list[tuple[dict[str, Any], str]] = [
        ({"attempt": 1, "retries": 0, "phase": "Waiting", "reason": "ModelNotFound", "message": "no m"}, "created"),
        ({"phase": "Queued", "reason": "Queued"}, "queued"),
        ({"phase": "Running"}, "processing"),
        (
            {
                "phase": "Complete",
                "outcome": "Complete",
                "completionTime": "2026-01-01T00:00:00Z",
                "result": result,
                "usage": {"promptTokens": 1, "completionTokens": 2},
                "timings": {"queuedMillis": 1, "firstTokenMillis": 2, "generationMillis": 3},
            },
            "completed",
        ),
    ]
    for status, word in steps:
        patch = json.dumps({"status": status})
        kubectl.ok(
            "patch", "llmtask", body["name"], "-n", namespace, "--subresource=status", "--type=merge", "-p", patch
        )
        seen = (await http.get(f"/api/v1/tasks/{task['task_id']}", headers=as_(alice))).json()
        assert seen["status"] == word
    assert seen["result"]["text"] == "Hi.\n"
    assert seen["usage"]["completion_tokens"] == 2
    assert seen["timings"]["generation_ms"] == 3
    listed = (await http.get("/api/v1/tasks", headers=as_(alice))).json()["items"]
    assert [(t["task_id"], t["status"]) for t in listed] == [(task["task_id"], "completed")]
    assert "result" not in listed[0]


async def test_a_name_is_taken_once(http: httpx.AsyncClient, alice: Caller) -> None:
    body = {"model": "m", "prompt": "p", "name": "once"}
    answers = await asyncio.gather(*(http.post("/api/v1/tasks", json=body, headers=as_(alice)) for _ in range(4)))
    assert sorted(a.status_code for a in answers) == [202, 409, 409, 409]
    refused = next(a for a in answers if a.status_code == 409)
    assert code(refused, 409) == "CONFLICT"
    assert "already exists" in refused.json()["message"]


async def test_a_list_goes_on_chunk_by_chunk(http: httpx.AsyncClient, alice: Caller, namespace: str) -> None:
    for n in range(5):
        body = {"model": "m", "prompt": "p", "name": f"t{n}"}
        assert (await http.post("/api/v1/tasks", json=body, headers=as_(alice))).status_code == 202
    seen: list[str] = []
    query: dict[str, Any] = {"namespace": namespace, "limit": 2}
    while True:
        chunk = (await http.get("/api/v1/tasks", params=query, headers=as_(alice))).json()
        seen += [item["name"] for item in chunk["items"]]
        if chunk["continue"] is None:
            break
        assert chunk["remaining"] == 5 - len(seen)
        query["continue"] = chunk["continue"]
    assert seen == [f"t{n}" for n in range(5)]
    wrong = await http.get("/api/v1/tasks", params={"continue": "wrong"}, headers=as_(alice))
    assert code(wrong, 400) == "BAD_REQUEST"


async def test_rights_are_the_callers(http: httpx.AsyncClient, alice: Caller, kubectl: Kubectl) -> None:
    elsewhere = {"model": "m", "prompt": "p", "namespace": "default"}
    answer = await http.post("/api/v1/tasks", json=elsewhere, headers=as_(alice))
    assert code(answer, 403) == "FORBIDDEN"
    assert alice.user in answer.json()["message"]
    assert code(await http.get("/api/v1/tasks?namespace=default", headers=as_(alice)), 403) == "FORBIDDEN"
    assert code(await http.get("/api/v1/tasks/default.x", headers=as_(alice)), 403) == "FORBIDDEN"
    assert code(await http.get("/api/v1/tasks/kube-system.x", headers=as_(alice)), 403) == "FORBIDDEN"
    nobody = service_account(kubectl, alice.namespace, "nobody")
    assert code(await http.get("/api/v1/tasks", headers=as_(nobody)), 403) == "FORBIDDEN"


async def test_a_token_that_is_none(http: httpx.AsyncClient, alice: Caller) -> None:
    for token in ("not-a-token", alice.token[:-4] + "AAAA", "system:admin".replace(":", ".")):
        answer = await http.get("/api/v1/tasks", headers={"Authorization": f"Bearer {token}"})
        assert code(answer, 401) == "UNAUTHENTICATED"
        assert token not in answer.text


async def test_headers_that_would_change_who_asks_are_not_passed_on(http: httpx.AsyncClient, alice: Caller) -> None:
    headers = {**as_(alice), "Impersonate-User": "system:admin", "Impersonate-Group": "system:masters"}
    assert code(await http.get("/api/v1/tasks?namespace=default", headers=headers), 403) == "FORBIDDEN"


async def test_what_does_not_exist(http: httpx.AsyncClient, alice: Caller, namespace: str) -> None:
    answer = await http.get(f"/api/v1/tasks/{namespace}.missing", headers=as_(alice))
    assert code(answer, 404) == "NOT_FOUND"
    assert "missing" in answer.json()["message"]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (
            {"messages": [{"role": "user", "content": "x"}]},
            {"": "exactly one of prompt, messages, embed and inputFrom is needed: set one"},
        ),
        ({"prompt": None}, {"": "exactly one of prompt, messages, embed and inputFrom is needed: set one"}),
        ({"model": "Qwen3.8b"}, {"model": "should match"}),
        ({"name": "Bad_Name"}, {"name": "lowercase RFC 1123 subdomain"}),
        ({"priority": 101}, {"priority": "less than or equal to 100"}),
        ({"parameters": {"max_tokens": 999999}}, {"parameters.max_tokens": "less than or equal to 131072"}),
        ({"parameters": {"stop": ["x"] * 9}}, {"parameters.stop": "at most 8 items"}),
        (
            {"parameters": {"top_k": 1001, "seed": 4294967295}},
            {"parameters.top_k": "1000", "parameters.seed": "429496729"},
        ),
        ({"json_schema": ""}, {"json_schema": "at least 2 chars"}),
        ({"prompt": "x" * (256 * 1024 + 1)}, {"prompt": "may not be more than 262144 bytes"}),
    ],
)
async def test_what_the_api_server_refuses_is_told_in_the_requests_words(
    http: httpx.AsyncClient, alice: Caller, members: dict[str, Any], told: dict[str, str]
) -> None:
    body = {k: v for k, v in ({"model": "m", "prompt": "p"} | members).items() if v is not None}
    answer = await http.post("/api/v1/tasks", json=body, headers=as_(alice))
    assert code(answer, 422) == "VALIDATION_FAILED"
    assert len(answer.text) < 4000, "a refusal must not repeat the prompt"
    found = {f["field"]: f["message"] for f in answer.json()["details"]["fields"]}
    for field, words in told.items():
        assert words in found[field], found


def bounds() -> list[tuple[str, float, bool]]:
    """Every bounded number at both ends, and just beyond them."""
    ranges = {
        "temperature": (0, 2),
        "top_p": (0, 1),
        "min_p": (0, 1),
        "presence_penalty": (-2, 2),
        "frequency_penalty": (-2, 2),
        "repeat_penalty": (0.01, 4),
    }
    cases = []
    for name, (low, high) in ranges.items():
        cases += [
            (name, float(low), True),
            (name, float(high), True),
            (name, high + 0.01, False),
            (name, low - 0.01, False),
        ]
    return cases


async def test_facade_and_api_server_agree_on_every_bound(http: httpx.AsyncClient, alice: Caller) -> None:
    """What the facade lets through is taken; a bound that it kept too tight or too wide would show here."""
    for name, value, accepted in bounds():
        body = {"model": "m", "prompt": "p", "parameters": {name: value}}
        answer = await http.post("/api/v1/tasks", json=body, headers=as_(alice))
        assert answer.status_code == (202 if accepted else 422), (name, value, answer.text)


async def test_ready_says_whether_the_api_server_answers(http: httpx.AsyncClient, settings: Settings) -> None:
    assert (await http.get("/readyz")).status_code == 200
    async with open_context(replace(settings, kube_ca_file=None)) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as mistrusting:
            answer = await mistrusting.get("/readyz")
            assert code(answer, 503) == "UNAVAILABLE"
            assert "Certificate" in answer.json()["message"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_process_serves_and_ends_in_order(settings: Settings, alice: Caller, tmp_path: Path) -> None:
    port, metrics = free_port(), free_port()
    environment = {
        **os.environ,
        "HEADRACE_KUBE_URL": settings.kube_url,
        "HEADRACE_KUBE_CA_FILE": str(settings.kube_ca_file),
        "HEADRACE_HOST": "127.0.0.1",
        "HEADRACE_PORT": str(port),
        "HEADRACE_METRICS_PORT": str(metrics),
        "HEADRACE_DEFAULT_NAMESPACE": settings.default_namespace,
    }
    program = [sys.executable, "-W", "error", "-c", "from headrace_facade.main import main; main()"]
    log = tmp_path / "log"
    with log.open("wb") as output, subprocess.Popen(program, env=environment, stdout=output, stderr=output) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"{url}/readyz").status_code == 200:
                        break
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            body = {"model": "m", "prompt": "do not log this"}
            answer = httpx.post(f"{url}/api/v1/tasks", json=body, headers=as_(alice))
            assert answer.status_code == 202, answer.text
            assert "server" not in answer.headers
            assert 'status="202"' in httpx.get(f"http://127.0.0.1:{metrics}/metrics").text
            assert httpx.get(f"{url}/metrics").status_code == 404
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"serving", "request"} == {line["event"] for line in lines}
    traced = [line for line in lines if line.get("trace_id") == answer.headers["X-Trace-Id"]]
    assert [line["status"] for line in traced] == [202]
    assert "do not log this" not in log.read_text()
    assert alice.token not in log.read_text()
