"""Progress on stderr: one line that is rewritten in a terminal, a line a stage elsewhere."""

import sys
import time
from typing import Final, TextIO

from headrace_runner.engine.client import EngineState, Stage

_STAGES: Final = {
    Stage.STARTING: "starting the engine",
    Stage.VERIFYING: "verifying the weights",
    Stage.LOADING: "loading the weights",
}


class Progress:
    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._began = time.monotonic()
        self._last = ""
        self._tokens: dict[str, int] = {}

    def line(self, text: str) -> None:
        """A line that stays."""
        if self._live:
            self._stream.write("\r\x1b[2K")
        seconds = time.monotonic() - self._began
        self._stream.write(f"{seconds:6.1f} s  {text}\n")
        self._stream.flush()
        self._last = text

    def engine(self, model: str, state: EngineState) -> None:
        """What the engine does on its way to serving."""
        if state.state is Stage.SERVING and state.engine is not None:
            found = state.engine
            what = f"{found.architecture} {found.quantization}, {found.context_tokens} tokens of context"
            self.line(f"{model} serves: {what}")
        elif (stage := _STAGES.get(state.state)) and self._last != f"{model}: {stage}":
            self.line(f"{model}: {stage}")

    def tokens(self, task: str, completion_tokens: int) -> None:
        """So many tokens of a task; shown in a terminal only."""
        if task not in self._tokens and not self._live:
            self.line(f"{task} generates")
        self._tokens[task] = completion_tokens
        if self._live:
            running = ", ".join(f"{name} {count} tokens" for name, count in self._tokens.items())
            self._stream.write(f"\r\x1b[2K          {running}"[:200])
            self._stream.flush()

    def finished(self, task: str, outcome: str, reason: str, completion_tokens: int) -> None:
        self._tokens.pop(task, None)
        self.line(f"{task}: {outcome}/{reason}, {completion_tokens} tokens")
