"""Which shape an error has: each dialect's clients read their own.

A dialect is a path prefix; what is under none of them has the native shape.
"""

from collections.abc import Callable
from typing import Any, Final

from headrace_facade.anthropic_dialect import errors as anthropic_errors
from headrace_facade.errors import FacadeError
from headrace_facade.openai_dialect import errors as openai_errors

Shape = Callable[[FacadeError, str], tuple[int, dict[str, Any]]]
"""From the error and the trace id to status and body."""


def native(error: FacadeError, trace_id: str) -> tuple[int, dict[str, Any]]:
    """`{error_code, message, trace_id, details}`."""
    return error.status, {
        "error_code": error.code,
        "message": error.message,
        "trace_id": trace_id,
        "details": error.details,
    }


# The longest prefix comes first.
SHAPES: Final[tuple[tuple[str, Shape], ...]] = (
    ("/v1/messages", anthropic_errors.shape),
    ("/v1/", openai_errors.shape),
    ("/tokenize", openai_errors.shape),
)


def answer(path: str, error: FacadeError, trace_id: str) -> tuple[int, dict[str, Any]]:
    """The answer's status and JSON."""
    for prefix, shape in SHAPES:
        if path.startswith(prefix):
            return shape(error, trace_id)
    return native(error, trace_id)
