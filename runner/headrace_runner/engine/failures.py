"""Why an engine does not serve: the reasons of the state file, and their way from the child to the supervisor."""

import json
import os
from dataclasses import asdict
from typing import Any, Final

from headrace_runner.engine.state import EngineModel, Stage

# What the child exits with after it said why; anything else is a crash.
REFUSED_EXIT: Final = 3
# After a goodbye on every connection, with nothing unfinished: the next engine is to take its place at once.
RECYCLED_EXIT: Final = 4
REPORT_FD_VARIABLE: Final = "HEADRACE_ENGINE_REPORT_FD"
MAX_REPORT_BYTES: Final = 64 * 1024


def plain_kernels_note(because: str) -> str:
    """The sentence for a model's status where an engine serves only without its fastest kernels."""
    return (
        f"With the fastest kernels for this CPU {because}; it serves without them, and without repacked weights: "
        "expect half the tokens per second or less. Use an image that is built for this CPU, or another node."
    )


class EngineRefusal(Exception):
    """The engine refuses to serve this configuration. ``reason`` is a PascalCase word for the model's condition:

    ModelFileNotFound, ChecksumMismatch, InvalidModelFile, ModelLoadFailed, GPUUnavailable, ContextTooLarge,
    InsufficientMemory, InvalidSettings, SandboxUnavailable.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Reporter:
    """The child's end of the report pipe: one JSON line per step."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def stage(self, stage: Stage, percent: int | None = None) -> None:
        """Say where the child is; ``percent`` of that stage."""
        self._write({"stage": stage, "percent": percent})

    def serving(self, engine: EngineModel) -> None:
        """Say that the socket accepts connections."""
        self._write({"stage": Stage.SERVING, "engine": asdict(engine)})

    def refusal(self, refusal: EngineRefusal) -> None:
        """Say why the child is about to exit with REFUSED_EXIT."""
        self._write({"refusal": {"reason": refusal.reason[:64], "message": refusal.message[:4000]}})

    def beat(self, busy: bool) -> None:
        """Say that the decode thread lives, and whether sequences run."""
        self._write({"beat": busy})

    def _write(self, report: dict[str, Any]) -> None:
        os.write(self._descriptor, json.dumps(report).encode() + b"\n")
