"""How a provider's call that gave nothing ends its attempt. Light: verdicts are made without any provider's code."""

from enum import Enum, auto

from headrace_runner.engine.client import EngineError
from headrace_runner.engine.protocol import Usage


class Consequence(Enum):
    RELEASED = auto()
    """Nobody is charged."""
    SETBACK = auto()
    """The attempt is charged and may be tried again."""
    FAILED = auto()
    """The task has failed."""


class ProviderRefused(EngineError):
    """A call without a result. ``reason`` is a word of Reason, ``message`` a bounded sentence; ``usage`` what the
    provider charges all the same.
    """

    def __init__(self, consequence: Consequence, reason: str, message: str, usage: Usage | None = None) -> None:
        super().__init__(f"{reason}: {message}")
        self.consequence = consequence
        self.reason = reason
        self.message = message
        self.usage = usage
