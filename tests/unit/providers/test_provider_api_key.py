"""A key that is missing or odd stops the model before anything is sent."""

import pytest

from headrace_crds.reasons import Reason
from headrace_runner.providers.api_key import and_key, read_key
from headrace_runner.providers.extra_body import check_members
from headrace_runner.providers.protocol import Fault, ProviderError


def unreadable() -> str:
    raise FileNotFoundError("/etc/headrace/credentials/key")


def test_a_key_is_given_without_the_newline_of_its_file() -> None:
    assert read_key(lambda: "sk-1\n", needed=True) == "sk-1"
    assert read_key(lambda: "", needed=False) == ""


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        (unreadable, Reason.CREDENTIALS_NOT_FOUND),
        (lambda: " ", Reason.CREDENTIALS_NOT_FOUND),
        (lambda: "a b", Reason.CREDENTIALS_REFUSED),
        (lambda: "a\x00b", Reason.CREDENTIALS_REFUSED),
        (lambda: "schlüssel", Reason.CREDENTIALS_REFUSED),
    ],
)
def test_what_is_no_key_is_refused(credential: object, reason: Reason) -> None:
    with pytest.raises(ProviderError) as caught:
        read_key(credential, needed=True)  # type: ignore[arg-type]
    assert (caught.value.fault, caught.value.reason) == (Fault.UNAVAILABLE, reason)
    assert "spec.remote.credentials" in caught.value.message


def test_what_may_not_be_repeated_has_the_key() -> None:
    assert list(and_key(["a"], lambda: "sk-1")) == ["a", "sk-1"]
    assert list(and_key(["a"], unreadable)) == ["a"]


def test_members_of_the_spec_are_those_that_are_listed() -> None:
    check_members(None, {"a"}, "P")
    check_members({"a": 1}, {"a"}, "P")
    with pytest.raises(ValueError, match=r"spec.remote.extraBody: remove 'c': P does not take it there; allowed: a, b"):
        check_members({"a": 1, "c": 1}, {"a", "b"}, "P")
