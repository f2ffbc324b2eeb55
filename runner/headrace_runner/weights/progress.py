"""How far a download is: bytes, bytes per second, what is left."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

WINDOW_SECONDS: Final = 20.0
"""The pace is that of so long a time."""


@dataclass(slots=True)
class Progress:
    """Written by the download, read by the reporter, both on one event loop."""

    state: str = "Starting"
    """Starting, Waiting (for another who downloads the same), Downloading or Verifying."""
    total_bytes: int | None = None
    done_bytes: int = 0
    since_ms: int | None = None
    monotonic: Callable[[], float] = time.monotonic
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def enter(self, state: str) -> None:
        if state != self.state:
            self.state, self.since_ms = state, int(time.time() * 1000)
            self._seen.clear()

    def begin_at(self, done_bytes: int, total_bytes: int | None) -> None:
        """What was there before counts as done and not for the pace."""
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        self._seen.clear()

    def document(self) -> dict[str, Any]:
        """The report as docs/architecture.md has it."""
        now = self.monotonic()
        self._seen.append((now, self.done_bytes))
        while len(self._seen) > 2 and self._seen[0][0] < now - WINDOW_SECONDS:
            self._seen.popleft()
        (then, before), pace, left = self._seen[0], None, None
        if now > then:
            pace = max(0, int((self.done_bytes - before) / (now - then)))
        if pace and self.total_bytes is not None:
            left = max(0, self.total_bytes - self.done_bytes) // pace
        weights = {
            "doneBytes": self.done_bytes,
            "totalBytes": self.total_bytes,
            "bytesPerSecond": pace,
            "etaSeconds": left,
        }
        return {"state": self.state, "sinceMs": self.since_ms, "generation": 0, "weights": weights}
