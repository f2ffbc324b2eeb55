"""Answers about what has happened."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class LogLevel(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class LogRecord(_Answer):
    """Something that happened, without prompt and result."""

    at: str
    """RFC 3339, UTC."""
    level: LogLevel
    """How bad it is."""
    source: str
    """Who tells it: the operator (headrace.dev/operator), a runner's pod, or the object's status."""
    kind: str
    """LLMTask, LLMModel or LLMQuota."""
    name: str
    """Of the object."""
    reason: str
    """One PascalCase word."""
    message: str
    """The reason in words."""
    count: int
    """How often, where it came again."""


class LogRecords(_Answer):
    """The newest records of a namespace or a task."""

    namespace: str
    """Whose they are."""
    items: list[LogRecord]
    """Oldest first; a thousand at most."""
    missing: str | None
    """What is not among them, and why."""
