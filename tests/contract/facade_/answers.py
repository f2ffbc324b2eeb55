"""What callers send, and the shape of what they hear."""

import httpx

from tests.contract.callers import Caller


def as_(caller: Caller) -> dict[str, str]:
    return {"Authorization": f"Bearer {caller.token}"}


def code(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error_code", "message", "trace_id", "details"}
    return str(body["error_code"])
