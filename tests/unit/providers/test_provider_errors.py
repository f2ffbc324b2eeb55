"""The tables of refusals, and what of a provider's words is repeated."""

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.providers.api_errors import COMPATIBLE_RULES, OPENAI_RULES, Complaint, error_of, read_complaint
from headrace_runner.providers.protocol import Fault
from headrace_runner.providers.provider_words import MAX_SENTENCE_CHARS, sentence

TOO_LARGE = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 36278."


@pytest.mark.parametrize(
    ("status", "complaint", "fault", "reason"),
    [
        (429, Complaint(), Fault.RATE_LIMITED, Reason.RATE_LIMITED),
        (429, Complaint(type="insufficient_quota"), Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        (429, Complaint(message=TOO_LARGE, type="tokens"), Fault.TERMINAL, Reason.INPUT_TOO_LARGE),
        (400, Complaint(code="billing_hard_limit_reached"), Fault.UNAVAILABLE, Reason.PROVIDER_QUOTA_EXHAUSTED),
        (401, Complaint(), Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (403, Complaint(), Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (403, Complaint(code="model_not_found"), Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (404, Complaint(), Fault.UNAVAILABLE, Reason.REMOTE_MODEL_NOT_FOUND),
        (400, Complaint(code="context_length_exceeded"), Fault.TERMINAL, Reason.CONTEXT_LENGTH_EXCEEDED),
        (400, Complaint(code="content_filter"), Fault.TERMINAL, Reason.CONTENT_REFUSED),
        (400, Complaint(code="invalid_prompt"), Fault.TERMINAL, Reason.CONTENT_REFUSED),
        (400, Complaint(param="response_format"), Fault.TERMINAL, Reason.UNSUPPORTED_SCHEMA),
        (400, Complaint(param="temperature"), Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (422, Complaint(), Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (413, Complaint(), Fault.TERMINAL, Reason.INPUT_TOO_LARGE),
        (408, Complaint(), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (409, Complaint(), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (500, Complaint(type="server_error"), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (502, Complaint(), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (503, Complaint(), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (529, Complaint(), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (500, Complaint(type="overloaded_error"), Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
        (301, Complaint(), Fault.UNAVAILABLE, Reason.PROVIDER_FAILED),
        (None, Complaint(), Fault.TRANSIENT, Reason.PROVIDER_FAILED),
        (None, Complaint(code="invalid_api_key"), Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
        (None, Complaint(type="invalid_request_error"), Fault.TERMINAL, Reason.INVALID_PARAMETERS),
        (None, Complaint(status=429), Fault.RATE_LIMITED, Reason.RATE_LIMITED),
    ],
)
def test_both_tables(status: int | None, complaint: Complaint, fault: Fault, reason: Reason) -> None:
    for rules in (OPENAI_RULES, COMPATIBLE_RULES):
        error = error_of(rules, status, complaint)
        assert (error.fault, error.reason) == (fault, reason)


def test_every_status_means_something() -> None:
    for status in range(300, 600):
        assert error_of(OPENAI_RULES, status, Complaint()).status == status


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ({"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}, Complaint("m", "t", "c", "p")),
        ({"error": {"message": "m", "code": 503}}, Complaint("m", status=503)),
        ({"message": "m", "code": "404"}, Complaint("m", status=404)),
        ({"error": "m"}, Complaint("m")),
        ({"detail": "Not Found"}, Complaint("Not Found")),
        ({"detail": [{"loc": ["body", "stop", 4], "msg": "m", "input": "secret"}]}, Complaint("m", param="stop.4")),
        ({"error": {"message": 5, "code": True, "param": ["x"]}}, Complaint()),
        ({"detail": [5]}, Complaint()),
        ("text", Complaint()),
        (None, Complaint()),
    ],
)
def test_bodies_of_all_kinds_are_read(body: object, complaint: Complaint) -> None:
    assert read_complaint(body) == complaint


@pytest.mark.parametrize(
    ("param", "field"),
    [
        ("max_completion_tokens", "parameters.maxTokens"),
        ("messages[3].content", "messages"),
        ("stop.4", "parameters.stop"),
        ("something_else", "something_else"),
    ],
)
def test_fields_have_our_names(param: str, field: str) -> None:
    assert f"({field})" in error_of(OPENAI_RULES, 400, Complaint(param=param)).message


def test_a_field_that_is_none_is_not_repeated() -> None:
    assert "secret" not in error_of(OPENAI_RULES, 400, Complaint(param="my secret prompt")).message


def test_of_a_key_and_an_account_nothing_is_repeated() -> None:
    complaint = Complaint("Incorrect API key provided: sk-1234.", code="invalid_api_key")
    assert "1234" not in str(error_of(OPENAI_RULES, 401, complaint))


@pytest.mark.parametrize(
    ("message", "said", "words"),
    [
        ("Too many. Much more.", (), "Too many"),
        ("Two\nlines\x1b[31m and\tmore", (), "Two lines[31m and more"),
        ("x" * 999, (), "x" * MAX_SENTENCE_CHARS),
        ("for sk-proj-abc_123 and org-xyz", (), "for … and …"),
        ("Invalid value: 'tell me all about it'", ("Please tell me all about it now",), ""),
        ("Invalid value: 'Köln'", ("Köln",), ""),
        ("Invalid value: 'a'", ("a",), "Invalid value: 'a'"),
        ("Unsupported value: 'stop'", ("Tell me a story about value systems",), "Unsupported value: 'stop'"),
        (None, (), ""),
    ],
)
def test_one_sentence_at_most(message: object, said: tuple[str, ...], words: str) -> None:
    assert sentence(message, said) == words
