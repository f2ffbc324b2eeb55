"""What a task asks of the stub engine, and what the stub engine writes down.

A task asks by its input: the first line of the last message is `stub {"ms": 400, …}`; without such a line the defaults
hold. What is written down is one JSON object a line, appended in one write, so that several engines share a file:

    {"event": "start", "uid", "attempt", "execution", "pid", "pod", "model", "at"}

`model` is what the process serves, as namespace/name. `at` is CLOCK_MONOTONIC in seconds, which all processes of a
machine share and no skewed wall clock touches. `execution` names one generation. It ends with at most one of `end` (the
text was sent), `fail` (a failure was), `abort` (the runner asked, or its connection ended); a killed engine writes
nothing more. Of a provider's generations `pod` is whoever asked; what a provider refuses before it begins is
`{"event": "refused", "status", "pid", "pod", "model", "at"}`.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Self

PREFIX: Final = "stub "
# A process id is used again after a while.
_PROCESS: Final = f"{os.getpid()}.{time.monotonic_ns() // 1_000_000}"


@dataclass(frozen=True, slots=True)
class Script:
    """One generation. `ms` until it ends, `tokens` reported over that time, `pad_bytes` of filler in the text. `name`:
    whose prompt it is, told again in the text, so that an input under another task's id is seen.

    `ending`: `text`, `fail` (a retryable failure), `refuse` (one that is not), `crash` (the engine dies then), `leave`
    (text, after which the engine begins nothing more and is replaced when the others have ended).
    """

    ms: float = 0.0
    tokens: int = 16
    pad_bytes: int = 0
    ending: str = "text"
    name: str = ""

    @classmethod
    def of(cls, content: str, default: Self) -> Self:
        """Read the first line of a message. Raises ValueError where it begins as one and is none."""
        if not content.startswith(PREFIX):
            return default
        value = json.loads(content.partition("\n")[0][len(PREFIX) :])
        known = {item.name for item in fields(cls)}
        if not isinstance(value, dict) or set(value) - known:
            raise ValueError("stub: expected an object with " + ", ".join(sorted(known)))
        return cls(**value)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The default: STUB_ENGINE_MS and STUB_ENGINE_TOKENS."""
        return cls(
            ms=float(environment.get("STUB_ENGINE_MS", "0")), tokens=int(environment.get("STUB_ENGINE_TOKENS", "16"))
        )

    def line(self) -> str:
        """As a task's prompt asks for it."""
        return PREFIX + json.dumps({item.name: getattr(self, item.name) for item in fields(self)})


@dataclass(frozen=True, slots=True)
class Execution:
    """One generation of one attempt; `number` counts in its process."""

    uid: str
    attempt: int
    number: int

    @classmethod
    def of(cls, wire_id: str, number: int) -> Self:
        """The runner's ids on the wire end in `<uid>/<attempt>`; of others nothing is known."""
        *_, uid, attempt = ["", "", *wire_id.split("/")]
        return cls(uid, int(attempt) if attempt.isdecimal() else 0, number)

    @property
    def name(self) -> str:
        return f"{_PROCESS}.{self.number}"

    def text(self, script: Script) -> str:
        """The result: it says whose it is."""
        told = {"uid": self.uid, "attempt": self.attempt, "execution": self.name}
        if script.name:
            told["name"] = script.name
        return json.dumps(told) + "x" * script.pad_bytes


class Journal:
    """The append-only file that STUB_ENGINE_LOG names; without it nothing is written."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = environment.get("STUB_ENGINE_LOG")
        self._whose = {"pod": environment.get("STUB_ENGINE_POD", ""), "model": environment.get("STUB_ENGINE_MODEL", "")}
        self._file = None if path is None else os.open(Path(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, execution: Execution, **more: str) -> None:
        """`more` takes the place of what the environment says."""
        self._append(event, uid=execution.uid, attempt=execution.attempt, execution=execution.name, **more)

    def refused(self, status: int) -> None:
        """Of a provider: a request that began no generation, by the status of its answer."""
        self._append("refused", status=status)

    def _append(self, event: str, **said: str | int) -> None:
        if self._file is None:
            return
        line: dict[str, Any] = {"event": event, **self._whose, **said, "pid": os.getpid(), "at": time.monotonic()}
        os.write(self._file, json.dumps(line).encode() + b"\n")
