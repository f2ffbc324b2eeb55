"""The commit rule: every answer of the API server and what it means."""

import pytest

from headrace_runner.commit_rule import Next, after_commit, after_read
from headrace_runner.kube import Answer

OURS = {"attempt": 3, "outcome": "Complete", "attempts": [{"number": 3, "pod": "p"}]}


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
        (403, "forbidden", Next.READ),
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
        (Answer(0), Next.WAIT),
        (Answer(401), Next.WAIT),
        (Answer(409), Next.WAIT),
        (Answer(500, message="request is too large"), Next.WAIT),
        (Answer(200, body={"status": {"attempt": 3}}), Next.AGAIN),
        (Answer(200, body={"status": {"attempt": 4}}), Next.MOVED),
        (Answer(200, body={"status": {"attempt": 2}}), Next.MOVED),
        (Answer(200, body={}), Next.MOVED),
        (Answer(200, body={"status": OURS}), Next.COMMITTED),
        (Answer(200, body={"status": {**OURS, "attempts": [{"number": 3, "pod": "q"}]}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "attempts": [{"number": 2, "pod": "p"}]}}), Next.FINISHED),
        (Answer(200, body={"status": {**OURS, "attempt": 4}}), Next.FINISHED),
        (Answer(200, body={"status": {"attempt": 3, "outcome": "Cancelled"}}), Next.FINISHED),
    ],
)
def test_what_a_second_look_means(answer: Answer, expected: Next) -> None:
    assert after_read(answer, number=3, pod="p") is expected
