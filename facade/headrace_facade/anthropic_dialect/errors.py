"""Errors as Anthropic's clients read them: `{"type": "error", "error": {"type", "message"}, "request_id"}`."""

from typing import Any, Final

from headrace_facade.errors import FacadeError

OVERLOADED: Final = 529
_STATUSES: Final = {422: 400, 503: OVERLOADED, 502: 500}
_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}


def shape(error: FacadeError, trace_id: str) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    return _status(error), document(error, trace_id)


def document(error: FacadeError, trace_id: str) -> dict[str, Any]:
    """The body of an answer, or of a stream's event."""
    status = _status(error)
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": trace_id}


def _status(error: FacadeError) -> int:
    return _STATUSES.get(error.status, error.status)
