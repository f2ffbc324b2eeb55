"""Waits and budgets out of response headers."""

import time

import pytest

from headrace_runner.providers.protocol import Budget
from headrace_runner.providers.rate_headers import (
    MAX_WAIT_SECONDS,
    budget_of,
    duration_seconds,
    retry_after_seconds,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("2m59.56s", 179.56),
        ("1h30m", 5400.0),
        ("1d", 86_400.0),
        ("9d", MAX_WAIT_SECONDS),
        ("7", 7.0),
        ("", None),
        ("soon", None),
        ("1s later", None),
        ("inf", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after": "1e9"}, MAX_WAIT_SECONDS),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        (
            {"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 08:00:00 GMT"}, 0.0),
        ({"retry-after": "nonsense", "x-ratelimit-reset-requests": "3s"}, 3.0),
        ({}, None),
    ],
)
def test_waits(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_a_date_without_a_clock_beside_it_is_taken_by_ours() -> None:
    at = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert retry_after_seconds({"retry-after": at}) == pytest.approx(60, abs=5)


def test_what_is_spent_is_waited_for() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert retry_after_seconds(headers) == 360.0
    assert retry_after_seconds(headers, resets=False) is None
    assert budget_of(headers) == Budget(3, 0, 360.0)
    assert budget_of(headers | {"x-ratelimit-remaining-tokens": "9"}) == Budget(3, 9, 1.0)
    assert budget_of({"x-ratelimit-remaining-requests": "many"}) is None
