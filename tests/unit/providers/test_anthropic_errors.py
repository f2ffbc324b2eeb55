"""What Anthropic's errors and rate-limit headers mean."""

from typing import Any

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.providers.anthropic_errors import budget_of, fault, retry_after_seconds, sentence
from headrace_runner.providers.protocol import Budget, Fault

NOW = {"date": "Mon, 30 Nov 2026 12:00:00 GMT"}


def body(kind: str, message: str = "words") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


@pytest.mark.parametrize(
    ("status", "kind", "what", "reason"),
    [
        (400, "invalid_request_error", Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (401, "authentication_error", Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (402, "billing_error", Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        (403, "permission_error", Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (404, "not_found_error", Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (408, "", Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (409, "conflict_error", Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (413, "request_too_large", Fault.TERMINAL, Reason.INPUT_TOO_LARGE),
        (422, "", Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (429, "rate_limit_error", Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (500, "api_error", Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (502, "", Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (504, "timeout_error", Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (529, "overloaded_error", Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (200, "overloaded_error", Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (200, "rate_limit_error", Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (200, "an_error_of_tomorrow", Fault.TRANSIENT, Reason.PROVIDER_FAILED),
    ],
)
def test_statuses_and_types(status: int, kind: str, what: Fault, reason: Reason) -> None:
    for shape in [body(kind)] + ([] if status == 200 else [None, "<html>", {"error": "text"}, {"error": {"type": 1}}]):
        error = fault(status, shape, {})
        assert (error.fault, error.reason, error.status) == (what, reason, status)


@pytest.mark.parametrize(
    ("message", "what", "reason"),
    [
        ("prompt is too long: 208310 tokens > 200000 maximum", Fault.TERMINAL, Reason.CONTEXT_LENGTH_EXCEEDED),
        (
            "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
            Fault.TERMINAL,
            Reason.CONTEXT_LENGTH_EXCEEDED,
        ),
        ("Your credit balance is too low to access", Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        ("You have reached your specified API usage limits.", Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        ("temperature: range: 0..1", Fault.TERMINAL, Reason.INVALID_PARAMETERS),
    ],
)
def test_one_type_with_several_meanings(message: str, what: Fault, reason: Reason) -> None:
    error = fault(400, body("invalid_request_error", message), {})
    assert (error.fault, error.reason) == (what, reason)


def test_only_a_wait_is_a_wait() -> None:
    after = {"retry-after": "3"}
    assert fault(429, None, after).retry_after_seconds == 3
    assert fault(529, None, after).retry_after_seconds == 3
    assert fault(401, None, after).retry_after_seconds is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "1e99"}, 86_400),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        (NOW | {"retry-after": "Mon, 30 Nov 2026 12:00:40 GMT"}, 40),
        (NOW | {"anthropic-ratelimit-tokens-reset": "2026-11-30T12:01:00Z"}, None),
        (
            NOW
            | {
                "anthropic-ratelimit-tokens-remaining": "0",
                "anthropic-ratelimit-tokens-reset": "2026-11-30T12:01:00Z",
                "anthropic-ratelimit-requests-remaining": "5",
                "anthropic-ratelimit-requests-reset": "2026-11-30T12:09:00Z",
            },
            60,
        ),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_what_is_left_is_the_scarcest() -> None:
    headers = NOW | {
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-11-30T13:00:02+01:00",
        "anthropic-ratelimit-tokens-remaining": "90000",
        "anthropic-ratelimit-output-tokens-remaining": "7000",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-30T12:00:09Z",
    }
    assert budget_of(headers) == Budget(49, 7000, 9.0)
    assert budget_of(headers | {"anthropic-ratelimit-requests-remaining": "0"}) == Budget(0, 7000, 2.0)


def test_headers_that_say_nothing_are_no_budget() -> None:
    assert budget_of(NOW) is None
    assert (
        budget_of({"anthropic-ratelimit-requests-remaining": "many", "anthropic-ratelimit-tokens-reset": "?"}) is None
    )


def test_of_the_provider_s_words_one_sentence_is_repeated() -> None:
    words = "tools.0: name 'my secret tool' is bad\u202e.  Look at the documentation."
    assert sentence(words) == "tools.0: name … is bad"
    assert len(sentence("x" * 5000)) == 160
    assert "sk-ant" not in sentence("the key sk-ant-api03-abcdef is bad")


@pytest.mark.parametrize("said", ["Tell me of the secret plan.", "secret"])
def test_what_the_request_said_is_not_repeated(said: str) -> None:
    assert sentence("cannot parse of the secret plan here", [said]) == ""
    assert sentence("max_tokens: too large", [said]) == "max_tokens: too large"


def test_an_unprintable_character_disguises_no_quotation() -> None:
    body = {"error": {"type": "invalid_request_error", "message": "Invalid: my secret is hunter2"}}
    assert "hunter2" not in fault(400, body, {}, ["my se\u200bcret is hun\u200bter2"]).message
    body["error"]["message"] = "Invalid: my se\u200bcret is hun\u200bter2"
    assert "ter2" not in fault(400, body, {}, ["my secret is hunter2"]).message
