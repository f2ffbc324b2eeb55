"""From the reason for which a call ended to what its caller is told: the table of docs/calls.md."""

from typing import Final

from headrace_crds.reasons import Reason
from headrace_facade.errors import FacadeError, Later

_LATER_S: Final = 5


class InvalidCall(FacadeError):
    status = 400
    code = "INVALID_REQUEST"


class ContextExceeded(FacadeError):
    status = 400
    code = "CONTEXT_LENGTH_EXCEEDED"


class ContentRefused(FacadeError):
    status = 400
    code = "CONTENT_REFUSED"


class ModelNotFound(FacadeError):
    status = 404
    code = "MODEL_NOT_FOUND"


class CallsNotAllowed(FacadeError):
    status = 403
    code = "CALLS_NOT_ALLOWED"


class ProviderLimited(Later):
    status = 429
    code = "RATE_LIMITED"


class OutputInvalid(FacadeError):
    status = 502
    code = "OUTPUT_INVALID"


class ProviderBroken(FacadeError):
    status = 502
    code = "PROVIDER_FAILED"


class ModelUnavailable(Later):
    status = 503
    code = "MODEL_UNAVAILABLE"


class ModelNotReady(Later):
    status = 503
    code = "MODEL_NOT_READY"


class TooManyCalls(Later):
    status = 503
    code = "TOO_MANY_CALLS"


class TimedOut(FacadeError):
    status = 504
    code = "TIMED_OUT"


class CallBroken(FacadeError):
    """A defect, or what no caller can mend."""


_KINDS: Final[dict[type[FacadeError], tuple[Reason, ...]]] = {
    InvalidCall: (
        Reason.INVALID_PARAMETERS,
        Reason.INVALID_SCHEMA,
        Reason.UNSUPPORTED_SCHEMA,
        Reason.UNSUPPORTED_CONTENT,
        Reason.MODEL_NOT_CAPABLE,
        Reason.CHAT_TEMPLATE_FAILED,
        Reason.INPUT_TOO_LARGE,
    ),
    ContextExceeded: (Reason.CONTEXT_LENGTH_EXCEEDED,),
    ContentRefused: (Reason.CONTENT_REFUSED,),
    ProviderLimited: (Reason.RATE_LIMITED, Reason.PROVIDER_QUOTA_EXHAUSTED),
    OutputInvalid: (Reason.INVALID_OUTPUT, Reason.OUTPUT_TRUNCATED, Reason.RESULT_TOO_LARGE),
    ProviderBroken: (
        Reason.CREDENTIALS_REFUSED,
        Reason.REMOTE_MODEL_NOT_FOUND,
        Reason.HOST_NOT_ALLOWED,
        Reason.PROVIDER_FAILED,
        Reason.PROVIDER_ANSWER_INVALID,
    ),
    ModelUnavailable: (
        Reason.ENGINE_LOST,
        Reason.RUNNER_STOPPED,
        Reason.LEASE_EXPIRED,
        Reason.CIRCUIT_OPEN,
        Reason.PROVIDER_OVERLOADED,
        Reason.PROVIDER_UNREACHABLE,
        Reason.ENGINE_OVERLOADED,
        Reason.ENGINE_STOPPING,
        Reason.QUEUE_STATE_LOST,
        Reason.RESULT_NOT_PARKED,
    ),
    TimedOut: (Reason.ATTEMPT_TIMEOUT, Reason.DEADLINE_EXCEEDED),
}
_OF: Final = {reason.value: kind for kind, reasons in _KINDS.items() for reason in reasons}


def failure_of(reason: str, message: str) -> FacadeError:
    """What the caller is told of a call that ended for this reason."""
    kind = _OF.get(reason, CallBroken)
    told = f"{reason}: {message}" if message else reason
    if issubclass(kind, Later):
        return kind(told, _LATER_S)
    return kind(told)
