"""What the API server answers, as the facade's own errors."""

from typing import Any

import pytest

from headrace_facade.errors import (
    BadRequest,
    Conflict,
    Expired,
    FacadeError,
    Forbidden,
    Invalid,
    NotFound,
    Throttled,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from headrace_facade.kube import convert

STATUS_CASES: list[tuple[int, dict[str, Any], type[FacadeError]]] = [
    (400, {}, BadRequest),
    (401, {}, Unauthenticated),
    (403, {}, Forbidden),
    (404, {"details": {"name": "x"}}, NotFound),
    (404, {"details": {}}, Unavailable),
    (409, {}, Conflict),
    (410, {}, Expired),
    (422, {}, Invalid),
    (429, {}, Throttled),
    (500, {}, UpstreamFailed),
    (503, {}, Unavailable),
    (504, {}, Unavailable),
    (302, {}, UpstreamFailed),
]


@pytest.mark.parametrize(("status", "answer", "expected"), STATUS_CASES)
def test_every_answer_of_the_api_server_has_its_error(
    status: int, answer: dict[str, Any], expected: type[FacadeError]
) -> None:
    error = convert(status, {"message": "told", **answer}, "7")
    assert type(error) is expected
    if expected is Throttled or status in (503, 504):
        assert error.headers == {"Retry-After": "7"}


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ('Invalid value: "object": exactly one of a and b', "exactly one of a and b"),
        ('Invalid value: "a \\" b: c": must not', "must not"),
        ("Invalid value: 3: too small", "too small"),
        (
            "Invalid value: 1000: spec.priority in body should be less than or equal to 100",
            "should be less than or equal to 100",
        ),
        ('Unsupported value: "bot": supported values: "system"', 'supported values: "system"'),
        ("Required value", "Required value"),
    ],
)
def test_the_offending_value_is_not_repeated(told: str, reason: str) -> None:
    error = convert(422, {"details": {"causes": [{"field": "spec.x", "message": told}]}}, None)
    assert isinstance(error, Invalid)
    assert error.problems[0].message == reason
