"""What an API's refusal means for the next call."""

import email.utils
import time

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.providers.http_faults import of_status, retry_after_seconds, words_of
from headrace_runner.providers.protocol import Fault


@pytest.mark.parametrize(
    ("status", "fault", "reason"),
    [
        (301, Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED),
        (400, Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (401, Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (402, Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        (403, Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (404, Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (408, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (409, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (413, Fault.TERMINAL, Reason.INPUT_TOO_LARGE),
        (422, Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (425, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (429, Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (500, Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (503, Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (529, Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
    ],
)
def test_the_table_of_statuses(status: int, fault: Fault, reason: Reason) -> None:
    error = of_status(status, "7", "words")
    assert (error.fault, error.reason, error.status, error.retry_after_seconds) == (fault, reason, status, 7.0)
    assert error.message.endswith(f"(HTTP {status}): words")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("1.5", 1.5),
        ("99999", 3600.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
    ],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_retry_after_as_a_date() -> None:
    later = retry_after_seconds(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert later is not None
    assert 90 < later <= 100
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 -0000") == 0.0


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ("bad\n\x1b[31m thing\u202e", "bad [31m thing"),
        ({"message": "m", "code": 1}, "m"),
        ({"code": 1}, None),
        (["a"], None),
        (5, None),
        ("", None),
        ("\ud800", "?"),
        ("x" * 1000, "x" * 200),
        ("x" * 190 + "the-secret-key", "x" * 190 + "…"),
    ],
)
def test_a_providers_words_are_one_bounded_line_without_the_key(found: object, words: str | None) -> None:
    assert words_of(found, lambda text: text.replace("the-secret-key", "…")) == words
