"""The API server itself refuses a second outcome, whatever kind of write asks for it."""

import asyncio
import json
from typing import Any
from urllib.parse import urlencode

import pytest
from kubernetes.aio import client, config

from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
NOW = "2026-01-01T00:00:00Z"

TASK: dict[str, Any] = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "LLMTask",
    "metadata": {"name": "t"},
    "spec": {"modelRef": {"name": "m"}, "prompt": "hello"},
}


def accepted(kubectl: Kubectl, namespace: str) -> dict[str, Any]:
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(TASK))
    patch_status(kubectl, namespace, {"attempt": 1, "retries": 0, "phase": "Queued", "attempts": []})
    return get(kubectl, namespace)


def get(kubectl: Kubectl, namespace: str) -> dict[str, Any]:
    return json.loads(kubectl.ok("get", "llmtask", "t", "-n", namespace, "-o", "json"))


def patch_status(kubectl: Kubectl, namespace: str, status: dict[str, Any]) -> None:
    kubectl.ok(
        "patch",
        "llmtask",
        "t",
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )


def refusal_of(kubectl: Kubectl, namespace: str, status: dict[str, Any] | None) -> str:
    """What the API server says when it refuses this merge of the status; fails where it does not refuse."""
    body = json.dumps({"status": status})
    done = kubectl.run("patch", "llmtask", "t", "-n", namespace, "--subresource=status", "--type=merge", "-p", body)
    assert done.returncode != 0
    return done.stderr


def outcome(value: str, text: str) -> dict[str, Any]:
    """A terminal status; no two writers' are alike."""
    status: dict[str, Any] = {"outcome": value, "phase": value, "completionTime": NOW, "reason": "X", "message": text}
    if value == "Complete":
        status["result"] = {"text": text, "finishReason": "Stop", "sizeBytes": len(text), "sha256": "0" * 64}
    return status


async def send(
    api: client.ApiClient, namespace: str, body: Any, content_type: str, query: list[tuple[str, str]] | None = None
) -> int:
    """PATCH llmtasks/t/status; the answer's HTTP status."""
    url = f"{api.configuration.host}/apis/headrace.dev/v1alpha1/namespaces/{namespace}/llmtasks/t/status"
    response = await api.call_api(
        "PATCH", f"{url}?{urlencode(query or [])}", header_params={"Content-Type": content_type}, body=body
    )
    return int(response.status)


def writes(seen: dict[str, Any]) -> list[tuple[Any, str, list[tuple[str, str]]]]:
    """Eight writers of three kinds; each believes that it ends attempt 1."""
    uid = seen["metadata"]["uid"]
    version = seen["metadata"]["resourceVersion"]
    out: list[tuple[Any, str, list[tuple[str, str]]]] = []
    for n in range(8):
        value = ("Complete", "Failed", "Cancelled")[n % 3]
        status = outcome(value, f"writer {n}")
        match n % 4:
            case 0:
                tests = [
                    {"op": "test", "path": "/metadata/uid", "value": uid},
                    {"op": "test", "path": "/status/attempt", "value": 1},
                ]
                adds = [{"op": "add", "path": f"/status/{k}", "value": v} for k, v in status.items()]
                out.append(([*tests, *adds], JSON_PATCH, []))
            case 1:
                out.append(({"status": status}, MERGE_PATCH, []))
            case 2:
                body = {"apiVersion": TASK["apiVersion"], "kind": "LLMTask", "metadata": {"name": "t"}}
                body["status"] = status
                out.append((body, APPLY, [("fieldManager", f"writer-{n}"), ("force", "true")]))
            case _:
                out.append(({"metadata": {"resourceVersion": version}, "status": status}, MERGE_PATCH, []))
    return out


@pytest.mark.parametrize("round_", range(5))
async def test_of_eight_concurrent_writers_one_sets_the_outcome(
    kubectl: Kubectl, kubeconfig: str, namespace: str, round_: int
) -> None:
    seen = accepted(kubectl, namespace)
    api = await config.new_client_from_config(config_file=kubeconfig)
    async with api:
        calls = writes(seen)
        order = calls[round_:] + calls[:round_]
        answers = await asyncio.gather(*(send(api, namespace, *call) for call in order))
        assert answers.count(200) == 1, answers
        first = get(kubectl, namespace)["status"]
        # Nobody changes it afterwards either, one by one and with nothing to race against.
        for call in order:
            assert await send(api, namespace, *call) != 200 or get(kubectl, namespace)["status"] == first
        last = get(kubectl, namespace)["status"]
    for member in ("outcome", "result", "phase", "completionTime", "attempt"):
        assert last.get(member) == first.get(member)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"outcome": "Failed"}, "are final"),
        ({"outcome": None}, "are final"),
        ({"result": None}, "are final"),
        ({"result": {"text": "other"}}, "are final"),
        ({"phase": "Running"}, "are final"),
        ({"phase": None}, "are final"),
        ({"completionTime": "2027-01-01T00:00:00Z"}, "are final"),
        ({"reason": "Other"}, "are final"),
        ({"message": "other"}, "are final"),
        ({"retries": 7}, "are final"),
        ({"attempts": None}, "are final"),
        ({"usage": {"promptTokens": 1, "completionTokens": 1}}, "are final"),
        ({"attempt": 2}, "are final"),
        ({"attempt": 0}, "attempt"),
        ({"attempt": None}, "attempt never goes back"),
    ],
)
def test_a_finished_task_cannot_be_rewritten(
    kubectl: Kubectl, namespace: str, change: dict[str, Any], refusal: str
) -> None:
    accepted(kubectl, namespace)
    patch_status(kubectl, namespace, outcome("Complete", "text"))
    assert refusal in refusal_of(kubectl, namespace, change)


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        ({"outcome": "Complete", "completionTime": NOW}, "outcome needs attempt"),
        ({"attempt": 1, "outcome": "Failed"}, "outcome needs completionTime"),
        (
            {"attempt": 1, "result": {"text": "x", "finishReason": "Stop", "sizeBytes": 1, "sha256": "0" * 64}},
            "result is set together with outcome Complete",
        ),
        (
            {
                "attempt": 1,
                "conditions": [
                    {"type": "Complete", "status": "True", "reason": "X", "message": "", "lastTransitionTime": NOW}
                ],
            },
            "must agree with outcome",
        ),
    ],
)
def test_a_status_that_contradicts_itself_is_refused(
    kubectl: Kubectl, namespace: str, status: dict[str, Any], refusal: str
) -> None:
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(TASK))
    assert refusal in refusal_of(kubectl, namespace, status)


def test_the_attempt_never_goes_back_and_the_status_cannot_be_dropped(kubectl: Kubectl, namespace: str) -> None:
    accepted(kubectl, namespace)
    patch_status(kubectl, namespace, {"attempt": 3})
    # A dropped status comes back as the default, which holds no attempt.
    for change, refusal in (({"attempt": 2}, "attempt never goes back"), (None, "attempt never goes back")):
        assert refusal in refusal_of(kubectl, namespace, change)


def test_notified_may_still_be_added_after_the_finish(kubectl: Kubectl, namespace: str) -> None:
    accepted(kubectl, namespace)
    patch_status(kubectl, namespace, outcome("Failed", ""))
    notified = {"type": "Notified", "status": "True", "reason": "Delivered", "message": "", "lastTransitionTime": NOW}
    patch_status(kubectl, namespace, {"conditions": [notified]})
    assert get(kubectl, namespace)["status"]["conditions"][0]["type"] == "Notified"
