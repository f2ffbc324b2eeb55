"""The API server itself refuses a second outcome, whatever kind of write asks for it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Write:
    """One request to llmtasks/t/status."""

    method: str
    body: Any
    content_type: str
    query: tuple[tuple[str, str], ...] = ()


async def send(api: client.ApiClient, namespace: str, write: Write) -> int:
    """The answer's HTTP status."""
    url = f"{api.configuration.host}/apis/headrace.dev/v1alpha1/namespaces/{namespace}/llmtasks/t/status"
    response = await api.call_api(
        write.method,
        f"{url}?{urlencode(write.query)}",
        header_params={"Content-Type": write.content_type},
        body=write.body,
    )
    return int(response.status)


def commit(seen: dict[str, Any], status: dict[str, Any]) -> Write:
    """What runners do."""
    tests = [
        {"op": "test", "path": "/metadata/uid", "value": seen["metadata"]["uid"]},
        {"op": "test", "path": "/status/attempt", "value": 1},
    ]
    return Write("PATCH", [*tests, *_adds(status)], JSON_PATCH)


def json_patch(_seen: dict[str, Any], status: dict[str, Any]) -> Write:
    return Write("PATCH", _adds(status), JSON_PATCH)


def json_patch_of_the_whole(_seen: dict[str, Any], status: dict[str, Any]) -> Write:
    return Write("PATCH", [{"op": "replace", "path": "/status", "value": {"attempt": 1, **status}}], JSON_PATCH)


def merge_patch(_seen: dict[str, Any], status: dict[str, Any]) -> Write:
    return Write("PATCH", {"status": status}, MERGE_PATCH)


def merge_patch_of_a_version(seen: dict[str, Any], status: dict[str, Any]) -> Write:
    """What the operator does."""
    version = seen["metadata"]["resourceVersion"]
    return Write("PATCH", {"metadata": {"resourceVersion": version}, "status": status}, MERGE_PATCH)


def forced_apply(_seen: dict[str, Any], status: dict[str, Any]) -> Write:
    body = {"apiVersion": TASK["apiVersion"], "kind": "LLMTask", "metadata": {"name": "t"}, "status": status}
    return Write("PATCH", body, APPLY, (("fieldManager", "forced"), ("force", "true")))


def forced_apply_of_a_version(seen: dict[str, Any], status: dict[str, Any]) -> Write:
    metadata = {"name": "t", "resourceVersion": seen["metadata"]["resourceVersion"]}
    body = {"apiVersion": TASK["apiVersion"], "kind": "LLMTask", "metadata": metadata, "status": status}
    return Write("PATCH", body, APPLY, (("fieldManager", "forced-version"), ("force", "true")))


def replacement(seen: dict[str, Any], status: dict[str, Any]) -> Write:
    return Write("PUT", {**seen, "status": {"attempt": 1, **status}}, "application/json")


def _adds(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"op": "add", "path": f"/status/{member}", "value": value} for member, value in status.items()]


KINDS: tuple[Callable[[dict[str, Any], dict[str, Any]], Write], ...] = (
    commit,
    json_patch,
    json_patch_of_the_whole,
    merge_patch,
    merge_patch_of_a_version,
    forced_apply,
    forced_apply_of_a_version,
    replacement,
)


def writes(seen: dict[str, Any]) -> list[Write]:
    """One writer of every kind; each believes that it ends attempt 1 of the object as it saw it."""
    return [
        kind(seen, outcome(("Complete", "Failed", "Cancelled")[n % 3], f"writer {n}")) for n, kind in enumerate(KINDS)
    ]


UNDOINGS = (
    Write("PATCH", [{"op": "remove", "path": "/status"}], JSON_PATCH),
    Write("PATCH", [{"op": "remove", "path": "/status/outcome"}], JSON_PATCH),
    Write("PATCH", [{"op": "replace", "path": "/status", "value": {"attempt": 2}}], JSON_PATCH),
    Write("PATCH", {"status": None}, MERGE_PATCH),
    Write("PATCH", {"status": {"attempt": 2, "losses": 3}}, MERGE_PATCH),
)


async def nobody_changes(api: client.ApiClient, kubectl: Kubectl, namespace: str, stale: dict[str, Any]) -> None:
    """Every kind of write, one by one and with nothing to race against: by who saw it open, and by who saw its end."""
    seen = get(kubectl, namespace)
    applied_less = [forced_apply(seen, {}), forced_apply_of_a_version(seen, {})]
    dropped = Write("PUT", {**seen, "status": {}}, "application/json")
    left = {member: value for member, value in seen["status"].items() if member != "outcome"}
    for write in [*writes(stale), *writes(seen), *UNDOINGS, *applied_less, dropped, replacement(seen, left)]:
        answer = await send(api, namespace, write)
        # The winner's own words once more change nothing, and an apply of nothing gives up fields that others hold.
        assert answer in (200, 409, 422), (answer, write)
        assert get_status(await read(api, namespace)) == get_status(seen), write


async def read(api: client.ApiClient, namespace: str) -> dict[str, Any]:
    url = f"{api.configuration.host}/apis/headrace.dev/v1alpha1/namespaces/{namespace}/llmtasks/t"
    response = await api.call_api("GET", url, header_params={"Accept": "application/json"})
    return dict(json.loads(await response.read()))


def get_status(body: dict[str, Any]) -> dict[str, Any]:
    return dict(body["status"])


@pytest.mark.parametrize("round_", range(len(KINDS)))
async def test_of_eight_concurrent_writers_of_every_kind_one_sets_the_outcome(
    kubectl: Kubectl, kubeconfig: str, namespace: str, round_: int
) -> None:
    seen = accepted(kubectl, namespace)
    api = await config.new_client_from_config(config_file=kubeconfig)
    async with api:
        calls = writes(seen)
        order = calls[round_:] + calls[:round_]
        answers = await asyncio.gather(*(send(api, namespace, write) for write in order))
        assert answers.count(200) == 1, answers
        told = outcome_told(order[answers.index(200)])
        assert get(kubectl, namespace)["status"]["message"] == told, "the one that was answered 200"
        await nobody_changes(api, kubectl, namespace, seen)


def outcome_told(write: Write) -> str:
    """The message of the outcome that a write sets."""
    if isinstance(write.body, list):
        values = {each["path"]: each.get("value") for each in write.body}
        return str(values["/status"]["message"] if "/status" in values else values["/status/message"])
    return str(write.body["status"]["message"])


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
async def test_an_outcome_set_by_any_kind_of_write_is_final_for_every_kind(
    kubectl: Kubectl, kubeconfig: str, namespace: str, kind: Callable[[dict[str, Any], dict[str, Any]], Write]
) -> None:
    seen = accepted(kubectl, namespace)
    api = await config.new_client_from_config(config_file=kubeconfig)
    async with api:
        assert await send(api, namespace, kind(seen, outcome("Complete", "first"))) == 200
        await nobody_changes(api, kubectl, namespace, seen)


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
        ({"losses": 3}, "are final"),
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
