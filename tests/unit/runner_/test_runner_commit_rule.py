"""The commit rule: every answer of the API server and what it means."""

from typing import Any

import pytest

from headrace_runner.commit_rule import Next, after_commit, after_read
from headrace_runner.kube import Answer

WRITTEN: dict[str, Any] = {
    "outcome": "Complete",
    "reason": "Succeeded",
    "completionTime": "2026-01-01T00:00:09Z",
    "result": {"sha256": "ab", "text": "x"},
    "attempts": [{"number": 3, "pod": "p", "startTime": "2026-01-01T00:00:00Z"}],
}
OURS = {"attempt": 3, **WRITTEN}
POLICY = "ValidatingAdmissionPolicy 'headrace-task-status' with binding 'headrace-task-status' denied request: "
ANOTHERS = POLICY + "only the operator and the runner that the task is assigned to (ns/x) may write its status, not me"


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (200, "", Next.COMMITTED),
        (0, "ClientConnectorError", Next.WAIT),
        (401, "Unauthorized", Next.WAIT),
        (429, "Too many requests", Next.WAIT),
        (503, "apiserver is shutting down", Next.WAIT),
        (500, "etcdserver: leader changed", Next.WAIT),
        (500, "etcdserver: request is too large", Next.SHRINK),
        (500, "rpc error: trying to send message larger than max (2 vs. 1)", Next.SHRINK),
        (413, "Request entity too large: limit is 3145728", Next.SHRINK),
        (400, "strict decoding error", Next.READ),
        (403, "forbidden", Next.FORBIDDEN),
        (403, ANOTHERS, Next.NOT_ASSIGNED),
        (403, POLICY + "only the operator and the assigned runner may write a task's status", Next.NOT_ASSIGNED),
        (403, POLICY + "status.attempt is the operator's alone", Next.FORBIDDEN),
        # Without the policy's name the words are somebody else's.
        (403, "only the operator and the assigned runner may write", Next.FORBIDDEN),
        (404, "not found", Next.READ),
        (409, "the object has been modified", Next.READ),
        (422, "testing value failed", Next.READ),
        # The words alone are not enough: a 422 may quote a result that holds them.
        (422, "request is too large", Next.READ),
    ],
)
def test_what_an_answer_to_a_commit_means(status: int, message: str, expected: Next) -> None:
    assert after_commit(Answer(status, message=message)) is expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(404), Next.FINISHED),
        (Answer(422), Next.FINISHED),
        (Answer(403), Next.FORBIDDEN),
        (Answer(403, message=ANOTHERS), Next.NOT_ASSIGNED),
        (Answer(0), Next.WAIT),
        (Answer(401), Next.WAIT),
        (Answer(409), Next.WAIT),
        (Answer(500, message="request is too large"), Next.WAIT),
        (Answer(200, body={"status": {"attempt": 3}}), Next.AGAIN),
        (Answer(200, body={"status": {"attempt": 4}}), Next.MOVED),
        (Answer(200, body={"status": {"attempt": 2}}), Next.MOVED),
        (Answer(200, body={}), Next.MOVED),
        (Answer(200, body={"status": OURS}), Next.COMMITTED),
        (Answer(200, body={"status": {**OURS, "attempts": [{**WRITTEN["attempts"][0], "pod": "q"}]}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "attempts": [{**WRITTEN["attempts"][0], "number": 2}]}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "completionTime": "2026-01-01T00:00:10Z"}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "result": {"sha256": "cd"}}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "reason": "Other"}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "attempt": 4}}), Next.FINISHED),
        (Answer(200, body={"status": {"attempt": 3, "outcome": "Cancelled"}}), Next.FINISHED),
    ],
)
def test_what_a_second_look_means(answer: Answer, expected: Next) -> None:
    assert after_read(answer, number=3, ours=WRITTEN) is expected
