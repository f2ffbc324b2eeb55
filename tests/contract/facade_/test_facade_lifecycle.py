"""Submitting twice, cancelling, suspending and deleting through the facade, judged by a real API server."""

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Caller
from tests.contract.conftest import Kubectl
from tests.contract.facade_.answers import as_, code
from tests.contract.facade_.conftest import allowed

pytestmark = pytest.mark.contract

BODY = {"model": "m", "prompt": "p"}


def tasks(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl.ok("get", "llmtasks", "-n", namespace, "-o", "json"))["items"]
    return found


def finish(kubectl: Kubectl, namespace: str, name: str) -> None:
    status = {
        "attempt": 1,
        "phase": "Failed",
        "outcome": "Failed",
        "reason": "InvalidOutput",
        "completionTime": "2026-01-01T00:00:00Z",
    }
    patch = json.dumps({"status": status})
    kubectl.ok("patch", "llmtask", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


async def test_every_member_reaches_the_object(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    body = {
        **BODY,
        "model": "team-b/m",
        "timeout_seconds": 600,
        "queue_deadline_seconds": 60,
        "attempt_timeout_seconds": 30,
        "webhook_url": "https://example.org/hook",
        "webhook_secret": {"name": "keys", "key": "current"},
        "metadata": {"order": "17"},
        "suspend": True,
    }
    answer = await http.post("/api/v1/tasks", json=body, headers=as_(alice))
    assert answer.status_code == 202, answer.text
    assert (answer.json()["model"], answer.json()["metadata"]) == ("team-b/m", {"order": "17"})
    (stored,) = tasks(kubectl, namespace)
    spec = {
        k: v for k, v in stored["spec"].items() if k not in ("prompt", "priority", "backoffLimit", "cache", "cancel")
    }
    assert spec == {
        "modelRef": {"namespace": "team-b", "name": "m"},
        "activeDeadlineSeconds": 600,
        "queueDeadlineSeconds": 60,
        "attemptTimeoutSeconds": 30,
        "ttlSecondsAfterFinished": 3600,
        "suspend": True,
        "webhook": {"url": "https://example.org/hook", "secretRef": {"name": "keys", "key": "current"}},
    }


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"queue_deadline_seconds": 0}, "queue_deadline_seconds"),
        ({"attempt_timeout_seconds": 86401}, "attempt_timeout_seconds"),
        ({"ttl_seconds": -1}, "ttl_seconds"),
        ({"webhook_url": "ftp://x.example/", "webhook_secret": {"name": "s", "key": "k"}}, "webhook_url"),
        ({"webhook_url": "https://x.example", "webhook_secret": {"name": "S_", "key": "k"}}, "webhook_secret.name"),
        ({"model": "Team/m"}, "model"),
        ({"model": "a/b/c"}, "model"),
    ],
)
async def test_what_the_api_server_refuses_has_the_requests_name(
    http: httpx.AsyncClient, alice: Caller, members: dict[str, Any], field: str
) -> None:
    answer = await http.post("/api/v1/tasks", json={**BODY, **members}, headers=as_(alice))
    assert code(answer, 422) == "VALIDATION_FAILED"
    assert [each["field"] for each in answer.json()["details"]["fields"]] == [field]


async def test_eight_at_once_with_one_key_make_one_task(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl, settings: Settings
) -> None:
    """Through two replicas: neither knows of the other."""
    headers = {**as_(alice), "Idempotency-Key": "order 17"}
    async with open_context(settings) as second:
        transport = httpx.ASGITransport(create_app(second))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as other:
            posts = [each.post("/api/v1/tasks", json=BODY, headers=headers) for each in [http, other] * 4]
            answers = await asyncio.gather(*posts)
    assert [answer.status_code for answer in answers] == [202] * 8, [answer.text for answer in answers]
    assert len({answer.json()["task_id"] for answer in answers}) == 1
    assert Counter(answer.headers.get("Idempotent-Replayed") for answer in answers) == {None: 1, "true": 7}
    (stored,) = tasks(kubectl, namespace)
    assert "order" not in json.dumps(stored)


async def test_a_key_with_another_body_is_a_conflict(http: httpx.AsyncClient, alice: Caller) -> None:
    headers = {**as_(alice), "Idempotency-Key": "k"}
    first = await http.post("/api/v1/tasks", json=BODY, headers=headers)
    assert first.status_code == 202
    other = await http.post("/api/v1/tasks", json={**BODY, "prompt": "another"}, headers=headers)
    assert code(other, 409) == "IDEMPOTENCY_KEY_REUSED"
    assert first.json()["task_id"] in other.json()["message"]
    by_body = await http.post("/api/v1/tasks", json={**BODY, "idempotency_key": "k"}, headers=as_(alice))
    assert (by_body.status_code, by_body.json()["task_id"]) == (202, first.json()["task_id"])


async def test_a_key_is_answered_with_what_became_of_it_and_is_free_when_that_is_deleted(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    headers = {**as_(alice), "Idempotency-Key": "k"}
    first = (await http.post("/api/v1/tasks", json=BODY, headers=headers)).json()
    finish(kubectl, namespace, first["name"])
    again = await http.post("/api/v1/tasks", json=BODY, headers=headers)
    assert (again.status_code, again.json()["status"]) == (200, "failed")
    assert (await http.delete(f"/api/v1/tasks/{first['task_id']}", headers=as_(alice))).status_code == 204
    anew = await http.post("/api/v1/tasks", json=BODY, headers=headers)
    assert (anew.status_code, anew.headers.get("Idempotent-Replayed")) == (202, None)
    assert anew.json()["task_id"] == first["task_id"]


async def test_a_key_shows_no_task_to_whom_may_not_read_it(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    writer = allowed(kubectl, namespace, "writer", "create")
    key = {"Idempotency-Key": "k"}
    assert (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice) | key)).status_code == 202
    refused = await http.post("/api/v1/tasks", json=BODY, headers=as_(writer) | key)
    assert code(refused, 403) == "FORBIDDEN"
    assert "may not read it" in refused.json()["message"]


async def test_a_name_that_somebody_else_took_is_not_the_keys_task(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    headers = {**as_(alice), "Idempotency-Key": "k"}
    made = (await http.post("/api/v1/tasks", json=BODY, headers=headers)).json()
    kubectl.ok("annotate", "llmtask", made["name"], "-n", namespace, "headrace.dev/idempotency-body-")
    assert code(await http.post("/api/v1/tasks", json=BODY, headers=headers), 409) == "IDEMPOTENCY_KEY_REUSED"


async def test_cancel_suspend_and_resume_are_asked_of_the_object(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task_id = (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).json()["task_id"]

    async def asked(verb: str) -> dict[str, Any]:
        answer = await http.post(f"/api/v1/tasks/{task_id}/{verb}", headers=as_(alice))
        assert (answer.status_code, answer.json()["task_id"]) == (202, task_id)
        (stored,) = tasks(kubectl, namespace)
        return {name: stored["spec"].get(name) for name in ("suspend", "cancel")}

    assert await asked("suspend") == {"suspend": True, "cancel": False}
    assert await asked("resume") == {"suspend": False, "cancel": False}
    assert await asked("cancel") == {"suspend": False, "cancel": True}
    assert await asked("cancel") == {"suspend": False, "cancel": True}


async def test_a_finished_task_is_left_as_it_is(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    task = (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).json()
    finish(kubectl, namespace, task["name"])
    (before,) = tasks(kubectl, namespace)
    answer = await http.post(f"/api/v1/tasks/{task['task_id']}/cancel", headers=as_(alice))
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert tasks(kubectl, namespace) == [before]


async def test_changes_need_the_callers_rights(
    http: httpx.AsyncClient, alice: Caller, namespace: str, kubectl: Kubectl
) -> None:
    reader = allowed(kubectl, namespace, "reader", "get")
    task_id = (await http.post("/api/v1/tasks", json=BODY, headers=as_(alice))).json()["task_id"]
    for verb in ("cancel", "suspend", "resume"):
        assert code(await http.post(f"/api/v1/tasks/{task_id}/{verb}", headers=as_(reader)), 403) == "FORBIDDEN"
    assert code(await http.delete(f"/api/v1/tasks/{task_id}", headers=as_(reader)), 403) == "FORBIDDEN"
    gone = f"/api/v1/tasks/{namespace}.gone"
    assert code(await http.post(f"{gone}/cancel", headers=as_(alice)), 404) == "NOT_FOUND"
    assert code(await http.delete(gone, headers=as_(alice)), 404) == "NOT_FOUND"
