"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Any, Final

from headrace_facade.errors import FacadeError, FieldProblem, Invalid

_CODES: Final = {
    "UNAUTHENTICATED": "invalid_api_key",
    "CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded",
    "CONTENT_REFUSED": "content_filter",
    "MODEL_NOT_FOUND": "model_not_found",
    "RATE_LIMITED": "rate_limit_exceeded",
    "RATE_LIMIT_EXCEEDED": "rate_limit_exceeded",
    "THROTTLED": "rate_limit_exceeded",
    "NAMESPACE_QUEUE_FULL": "rate_limit_exceeded",
    "QUOTA_EXCEEDED": "insufficient_quota",
    "BUDGET_EXHAUSTED": "insufficient_quota",
    "NOT_FOUND": "unknown_url",
}
_PARAMETERS: Final = {"MODEL_NOT_FOUND": "model", "CONTEXT_LENGTH_EXCEEDED": "messages"}


class Refused(Invalid):
    """A field that cannot stay as it is. `kind` is one of OpenAI's codes for it, such as `unknown_parameter`."""

    status = 400

    def __init__(self, param: str, message: str, kind: str = "invalid_value") -> None:
        super().__init__(f"{param}: {message}" if param else message, [FieldProblem(param, message)])
        self.kind = kind


class ModelUnknown(FacadeError):
    """Not there, or not for this caller: which of them is nobody's to know."""

    status = 404
    code = "MODEL_NOT_FOUND"


class ObjectUnknown(FacadeError):
    """A file or a batch that is not there, or not in the caller's namespace."""

    status = 404
    code = "OBJECT_NOT_FOUND"


def shape(error: FacadeError, trace_id: str) -> tuple[int, dict[str, Any]]:
    """Status and body. The trace id is in a header."""
    del trace_id
    return 400 if error.status == 422 else error.status, {"error": members(error)}


def members(error: FacadeError) -> dict[str, Any]:
    """What `error` holds, of an answer or of a stream's event."""
    code = _CODES.get(error.code, error.code.lower())
    param = _PARAMETERS.get(error.code)
    if isinstance(error, Invalid):
        code = error.kind if isinstance(error, Refused) else "invalid_value"
        param = error.problems[0].field or None if error.problems else None
    return {"message": error.message, "type": _type(error.status, code), "param": param, "code": code}


def _type(status: int, code: str) -> str:
    if status >= 500:
        return "server_error"
    if code == "insufficient_quota":
        return code
    if status == 429:
        return "rate_limit_error"
    return "permission_error" if status == 403 else "invalid_request_error"
