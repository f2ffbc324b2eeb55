"""What each error of a request means for the next one; no text but ours reaches anybody."""

import inspect

import httpx2
import pytest

from headrace_crds.reasons import Reason
from headrace_runner.providers.protocol import Fault, ProviderError
from headrace_runner.providers.transport_errors import MESSAGE_LIMIT, AnswerRefused, HostNotAllowed, bounded, fault_of

REQUEST = httpx2.Request("POST", "https://api.example.com/secret-path?token=sk-canary")
_TRANSIENT = (Fault.TRANSIENT, Reason.PROVIDER_UNREACHABLE)
_INVALID = (Fault.TRANSIENT, Reason.PROVIDER_ANSWER_INVALID)
_NOT_ALLOWED = (Fault.UNAVAILABLE, Reason.HOST_NOT_ALLOWED)
MEANING = {
    "RequestError": _TRANSIENT,
    "TransportError": _TRANSIENT,
    "TimeoutException": _TRANSIENT,
    "ConnectTimeout": _TRANSIENT,
    "ReadTimeout": _TRANSIENT,
    "WriteTimeout": _TRANSIENT,
    "PoolTimeout": (Fault.OVERLOADED, Reason.PROVIDER_OVERLOADED),
    "NetworkError": _TRANSIENT,
    "ConnectError": _TRANSIENT,
    "ReadError": _TRANSIENT,
    "WriteError": _TRANSIENT,
    "CloseError": _TRANSIENT,
    "ProtocolError": _TRANSIENT,
    "RemoteProtocolError": _TRANSIENT,
    "LocalProtocolError": (Fault.UNAVAILABLE, Reason.CREDENTIALS_REFUSED),
    "ProxyError": _TRANSIENT,
    "UnsupportedProtocol": _NOT_ALLOWED,
    "DecodingError": _INVALID,
    "SSEError": _INVALID,
    "TooManyRedirects": _NOT_ALLOWED,
}


def test_no_kind_of_request_error_is_forgotten() -> None:
    known = {
        name for name, each in vars(httpx2).items() if inspect.isclass(each) and issubclass(each, httpx2.RequestError)
    }
    assert known >= {"ConnectError", "ReadTimeout"}
    assert known <= MEANING.keys()


@pytest.mark.parametrize("name", MEANING)
def test_a_request_error(name: str) -> None:
    found = fault_of(getattr(httpx2, name)("Illegal header value sk-canary", request=REQUEST))
    assert found is not None
    assert (found.fault, found.reason) == MEANING[name]
    assert "api.example.com" in found.message
    assert ": " in found.message, "what happened, and what to do"
    assert not any(word in str(found) for word in ("canary", "secret-path", "Illegal"))


def test_an_error_that_nobody_said_the_request_of() -> None:
    found = fault_of(httpx2.ReadTimeout("x"))
    assert found is not None
    assert found.message.startswith("the provider was silent")


def test_a_url_that_cannot_be_read() -> None:
    found = fault_of(httpx2.InvalidURL("https://sk-canary"))
    assert found is not None
    assert (found.fault, found.reason) == _NOT_ALLOWED
    assert "canary" not in found.message


def test_causes_are_walked_and_ours_say_their_own_words() -> None:
    wrapped = RuntimeError("the SDK's")
    wrapped.__cause__ = ValueError("another")
    wrapped.__cause__.__cause__ = HostNotAllowed("evil.example is no host:\nx" + "y" * 1000)
    found = fault_of(wrapped)
    assert found is not None
    assert (found.fault, found.reason) == _NOT_ALLOWED
    assert found.message.startswith("evil.example is no host: x")
    assert len(found.message) == MESSAGE_LIMIT
    told = ProviderError(Fault.TERMINAL, Reason.CONTENT_REFUSED, "said already")
    wrapped.__cause__ = told
    assert fault_of(wrapped) is told
    answered = fault_of(AnswerRefused("too large"))
    assert answered is not None
    assert (answered.fault, answered.reason) == _INVALID


def test_a_circle_of_causes_ends() -> None:
    one, other = RuntimeError(), RuntimeError()
    one.__cause__, other.__cause__ = other, one
    assert fault_of(one) is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        httpx2.HTTPStatusError("404", request=REQUEST, response=httpx2.Response(404)),
        httpx2.StreamClosed(),
    ],
)
def test_what_is_not_the_transports_affair(error: Exception) -> None:
    assert fault_of(error) is None


def test_bounded_text_is_printable() -> None:
    assert bounded("a\x1b[31m\r\nb\u202e") == "a [31m  b "
