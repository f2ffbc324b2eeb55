"""Logs: one JSON object a line, a constant message, data in keys.

Prompts and results never: errors are logged by their type and the places they came through, because the
messages of pydantic and of the API server quote what they refuse.
"""

import traceback
from typing import Any

import structlog


def configure_logs() -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        cache_logger_on_first_use=True,
    )


def error_keys(error: BaseException) -> dict[str, Any]:
    """An unexpected error as log keys, without its message."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return {"error": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]}
