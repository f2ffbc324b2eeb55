"""The engine's state file: what the supervisor tells the runner about the engine between connections.

Both containers use this module; it imports neither numpy nor llama_cpp. The supervisor is the only writer; a model file
that takes the engine over is another, so whoever reads trusts neither the file nor its content.
"""

import enum
import json
import os
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from headrace_runner.engine.untrusted import count, read_small_file, reason_word, sentence, word

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Stage(enum.StrEnum):
    """Where the engine is on its way to serving.

    ::

        Starting → Verifying → Loading → Serving
            ▲          └──────────┴─────────┴──► Failed      (refused: missing file, checksum, GPU …)
            └──────────── back-off ◄────────┴──► Restarting  (died: signal or unexpected exit)
    """

    STARTING = "Starting"
    VERIFYING = "Verifying"
    LOADING = "Loading"
    SERVING = "Serving"
    FAILED = "Failed"
    RESTARTING = "Restarting"


@dataclass(frozen=True, slots=True)
class EngineModel:
    """What is loaded: the source of ``LLMModel.status.engine``.

    ``context_tokens`` is per sequence; ``parameters`` is a count of weights; ``sha256`` is None where no checksum was
    asked for. ``planned_bytes`` is what the memory plan expected, ``memory_bytes`` what llama.cpp's buffers take.
    ``notes`` are sentences for people: what was assumed about this model.
    """

    architecture: str
    context_tokens: int
    parallelism: int
    quantization: str
    parameters: int
    size_bytes: int
    sha256: str | None = None
    gpu_layers: int = 0
    notes: tuple[str, ...] = ()
    planned_bytes: int = 0
    memory_bytes: int = 0
    adapters: int = 0

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Take a decoded JSON object. Raises ValueError where a field is missing or of another type."""
        if not isinstance(value, dict):
            raise ValueError("engine: expected an object")
        return cls(
            architecture=word(value.get("architecture")),
            context_tokens=count(value.get("context_tokens")),
            parallelism=count(value.get("parallelism")),
            quantization=word(value.get("quantization")),
            parameters=count(value.get("parameters")),
            size_bytes=count(value.get("size_bytes")),
            sha256=None if value.get("sha256") is None else _digest(value["sha256"]),
            gpu_layers=count(value.get("gpu_layers")),
            planned_bytes=count(value.get("planned_bytes", 0)),
            memory_bytes=count(value.get("memory_bytes", 0)),
            adapters=count(value.get("adapters", 0)),
            notes=_notes(value.get("notes")),
        )


@dataclass(frozen=True, slots=True)
class EngineState:
    """One content of the state file.

    ``reason`` is a PascalCase word (empty while nothing is wrong), ``restarts`` counts deaths of the child since the
    container started, ``since_ms`` is the wall clock in milliseconds at which ``state`` was entered, ``percent`` is the
    progress inside Verifying or Loading.
    """

    state: Stage = Stage.STARTING
    reason: str = ""
    message: str = ""
    restarts: int = 0
    since_ms: int = 0
    percent: int | None = None
    sandboxed: bool = False
    engine: EngineModel | None = None

    def enter(self, state: Stage, **changes: Any) -> "EngineState":
        """Give the state that follows; ``since_ms`` moves only when ``state`` changes."""
        since_ms = self.since_ms if state is self.state and self.since_ms else int(time.time() * 1000)
        return replace(self, **{"percent": None, **changes, "state": state, "since_ms": since_ms})


def write_state(path: Path, state: EngineState) -> None:
    """Replace the state file atomically: a reader sees the old or the new content, never half of one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(asdict(state)), encoding="utf-8")
    scratch.chmod(0o644)
    scratch.replace(path)


def read_state(path: Path | str) -> EngineState:
    """Read the state file.

    A file that is not there yet reads as Starting: the supervisor writes it before anything else. Raises OSError, and
    ValueError where the file is not a regular one of at most 64 KiB or its content is not a state.
    """
    try:
        raw = read_small_file(path)
    except FileNotFoundError:
        return EngineState()
    try:
        value = json.loads(raw)
    except RecursionError as error:
        raise ValueError("state file: nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("state file: expected an object")
    return EngineState(
        state=Stage(word(value.get("state"))),
        reason=reason_word(value["reason"]) if value.get("reason") else "",
        message=sentence(value.get("message")),
        restarts=count(value.get("restarts")),
        since_ms=count(value.get("since_ms")),
        percent=None if value.get("percent") is None else min(100, count(value["percent"])),
        sandboxed=value.get("sandboxed") is True,
        engine=None if value.get("engine") is None else EngineModel.from_json(value["engine"]),
    )


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError("sha256: expected 64 hexadecimal digits")
    return value


def _notes(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError("notes: expected a list")
    return tuple(sentence(note) for note in value[:16])
