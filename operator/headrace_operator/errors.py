"""What can go wrong between the operator and the API server, as its own words.

KubeError
├── KubeConflict      409: the object changed, or somebody else owns the fields; read again
├── KubeNotFound      404: the object, or its namespace, is gone
├── KubeRefused       400, 403, 422: this request will not be taken however often it is sent
│   └── KubeTooLarge  413, and what etcd or validation calls too large
└── KubeUnavailable   retryable: no connection, time-out, 429, 5xx
"""

# The names say the state: that is how the callers' `except` lines read best.

from typing import ClassVar

from headrace_crds.reasons import Reason


class KubeError(Exception):
    """`message` is the server's; it is bounded and never quotes a spec."""

    reason: ClassVar[str] = "KubeError"
    retryable: ClassVar[bool] = False


class KubeConflict(KubeError):
    """Somebody else was faster, or owns what was to be changed."""

    reason = "Conflict"
    retryable = True


class KubeNotFound(KubeError):
    """There is nothing under that name."""

    reason = "NotFound"


class KubeRefused(KubeError):
    """The request itself is refused."""

    reason = "Refused"


class KubeTooLarge(KubeRefused):
    """The object has more bytes than the API server takes."""

    reason = "TooLarge"


class KubeUnavailable(KubeError):
    """The API server cannot be reached or cannot serve for the moment."""

    reason = "ApiServerUnavailable"
    retryable = True


class WorkUnacceptable(Exception):
    """The bus will never take this task's envelope: `reason` is one for people."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ResultUnwritable(Exception):
    """The ConfigMap of a large result will not come about. `retryable` None: nobody is to blame."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retryable = retryable


class NotLeading(Exception):
    """Another may lead: what cannot be fenced is left to it."""

    reason: ClassVar[str] = "NotLeading"


class ObjectInvalid(Exception):
    """An object does not read as its type. Names places, never values: those may be prompts."""

    reason: ClassVar[str] = "ObjectInvalid"
