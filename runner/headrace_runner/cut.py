"""What is left of an attempt that was ended before its text was generated, and why it was."""

from dataclasses import dataclass
from enum import IntEnum

from headrace_runner.engine.client import EngineError
from headrace_runner.engine.protocol import GenerationResult


class Halt(IntEnum):
    """Why an attempt ends early; where several hold, the smallest number wins."""

    CANCEL = 1
    SUSPEND = 2
    DEADLINE = 3
    """The whole task's time is over."""
    ATTEMPT_TIMEOUT = 4


@dataclass(frozen=True)
class Cut:
    """A generation that was ended early. ``partial`` is None where the engine was not asked or gave no answer."""

    why: Halt
    partial: GenerationResult | None = None
    seen_tokens: int = 0
    """Of the last progress, for want of an answer."""

    @property
    def completion_tokens(self) -> int:
        return self.seen_tokens if self.partial is None else self.partial.usage.completion_tokens


class Quarantined(EngineError):
    """Its engine died under several at once, and its time is over before it is known who ended it."""
