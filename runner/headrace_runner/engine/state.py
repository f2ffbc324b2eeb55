"""The engine's state file: what the supervisor tells the runner about the engine between connections.

Both containers use this module; it imports neither numpy nor llama_cpp. The supervisor is the only writer.
"""

import enum
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self


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
    asked for. ``notes`` are sentences for people: what was assumed about this model.
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

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Take a decoded JSON object. Raises ValueError where a field is missing or of another type."""
        if not isinstance(value, dict):
            raise ValueError("engine: expected an object")
        return cls(
            architecture=_text(value, "architecture"),
            context_tokens=_count(value, "context_tokens"),
            parallelism=_count(value, "parallelism"),
            quantization=_text(value, "quantization"),
            parameters=_count(value, "parameters"),
            size_bytes=_count(value, "size_bytes"),
            sha256=None if value.get("sha256") is None else _text(value, "sha256"),
            gpu_layers=_count(value, "gpu_layers"),
            notes=tuple(str(note)[:500] for note in value.get("notes") or ())[:16],
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

    A file that is not there yet reads as Starting: the supervisor writes it before anything else. Raises ValueError
    where the content is not a state.
    """
    try:
        with Path(path).open("rb") as file:
            raw = file.read(1 << 20)
    except FileNotFoundError:
        return EngineState()
    value = json.loads(raw)
    if not isinstance(value, dict):
        raise ValueError("state file: expected an object")
    return EngineState(
        state=Stage(_text(value, "state")),
        reason=_text(value, "reason"),
        message=_text(value, "message"),
        restarts=_count(value, "restarts"),
        since_ms=_count(value, "since_ms"),
        percent=None if value.get("percent") is None else _count(value, "percent"),
        sandboxed=value.get("sandboxed") is True,
        engine=None if value.get("engine") is None else EngineModel.from_json(value["engine"]),
    )


def _text(value: dict[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise ValueError(f"{name}: expected a string")
    return found[:4096]


def _count(value: dict[str, Any], name: str) -> int:
    found = value.get(name)
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError(f"{name}: expected a non-negative integer")
    return found
