"""What goes wrong, and how it is told.

    FacadeError
      BadRequest       400  BAD_REQUEST         the request cannot be read
      Unauthenticated  401  UNAUTHENTICATED     no bearer token, or one the API server does not know
      Forbidden        403  FORBIDDEN           the token's owner has no right to do this there
      NotFound         404  NOT_FOUND           no such task, or no such namespace
      MethodNotAllowed 405  METHOD_NOT_ALLOWED
      Conflict         409  CONFLICT            a task of that name exists
      KeyReused        409  IDEMPOTENCY_KEY_REUSED  the key has made a task with another body
      Expired          410  CONTINUE_EXPIRED    the list went on too late: start again without `continue`
      Gone             410  GONE                a watch of the facade's own began too late; never told to a caller
      BodyTooLarge     413  BODY_TOO_LARGE
      WrongContentType 415  CONTENT_TYPE_NOT_JSON   the body is not declared as application/json
      Invalid          422  VALIDATION_FAILED   `details.fields` names each field and what to do
      Throttled        429  THROTTLED           Retry-After
      QuotaExceeded    429  QUOTA_EXCEEDED      all that its LLMQuota grants is handed out; Retry-After
      BudgetExhausted  429  BUDGET_EXHAUSTED    a budget of its LLMQuota has no room for this task; Retry-After
      RateLimitExceeded 429 RATE_LIMIT_EXCEEDED  this identity's requests or tokens of a minute; Retry-After
      RemoteNotAllowed 403  REMOTE_NOT_ALLOWED  its LLMQuota admits no remote models
      SessionLimit     429  SESSION_LIMIT       the identity has as many sessions as it may; Retry-After
      SocketLimit      429  SOCKET_LIMIT        the identity has as many WebSockets or tickets as it may; Retry-After
      NamespaceFull    429  NAMESPACE_QUEUE_FULL  the namespace fills its share of the model's queue; Retry-After
      QueueFull        503  QUEUE_FULL          the model's queue is full; Retry-After
      Internal         500  INTERNAL            a defect; the trace id finds it in the log
      UpstreamFailed   502  API_SERVER_ERROR    the API server failed in an unexpected way
      Unavailable      503  UNAVAILABLE         the API server is away or without our CRDs; Retry-After

Every answer is `{error_code, message, trace_id, details}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class FieldProblem:
    """`field` in the request's own words, such as `parameters.top_p`; empty for the request as a whole."""

    field: str
    message: str


class FacadeError(Exception):
    """Base of all. `message` is for the caller: no token, no prompt, no stack."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def details(self) -> dict[str, Any]:
        return {}

    @property
    def headers(self) -> dict[str, str]:
        return {}


class BadRequest(FacadeError):
    status = 400
    code = "BAD_REQUEST"


class Unauthenticated(FacadeError):
    status = 401
    code = "UNAUTHENTICATED"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="headrace"'}


class Forbidden(FacadeError):
    status = 403
    code = "FORBIDDEN"


class NotFound(FacadeError):
    status = 404
    code = "NOT_FOUND"


class MethodNotAllowed(FacadeError):
    status = 405
    code = "METHOD_NOT_ALLOWED"


class Conflict(FacadeError):
    status = 409
    code = "CONFLICT"


class KeyReused(FacadeError):
    status = 409
    code = "IDEMPOTENCY_KEY_REUSED"


class Expired(FacadeError):
    status = 410
    code = "CONTINUE_EXPIRED"


class Gone(FacadeError):
    status = 410
    code = "GONE"


class BodyTooLarge(FacadeError):
    status = 413
    code = "BODY_TOO_LARGE"


class WrongContentType(FacadeError):
    status = 415
    code = "CONTENT_TYPE_NOT_JSON"


class Invalid(FacadeError):
    status = 422
    code = "VALIDATION_FAILED"

    def __init__(self, message: str, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)

    @classmethod
    def of(cls, problems: Sequence[FieldProblem]) -> Self:
        """With a message made of the problems."""
        return cls("; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems), problems)

    @property
    def details(self) -> dict[str, Any]:
        return {"fields": [{"field": p.field, "message": p.message} for p in self.problems]}


class Later(FacadeError):
    """Worth another try after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def details(self) -> dict[str, Any]:
        return {"retry_after_seconds": self.retry_after_s}

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class Throttled(Later):
    status = 429
    code = "THROTTLED"


class QuotaExceeded(Later):
    status = 429
    code = "QUOTA_EXCEEDED"


class BudgetExhausted(Later):
    status = 429
    code = "BUDGET_EXHAUSTED"


class RateLimitExceeded(Later):
    status = 429
    code = "RATE_LIMIT_EXCEEDED"


class RemoteNotAllowed(FacadeError):
    status = 403
    code = "REMOTE_NOT_ALLOWED"


class SessionLimit(Later):
    status = 429
    code = "SESSION_LIMIT"


class SocketLimit(Later):
    status = 429
    code = "SOCKET_LIMIT"


class NamespaceFull(Later):
    status = 429
    code = "NAMESPACE_QUEUE_FULL"


class QueueFull(Later):
    status = 503
    code = "QUEUE_FULL"


class Internal(FacadeError):
    """A defect of the facade."""


class UpstreamFailed(FacadeError):
    status = 502
    code = "API_SERVER_ERROR"


class Unavailable(Later):
    status = 503
    code = "UNAVAILABLE"
