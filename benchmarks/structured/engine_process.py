"""An engine for the benchmark: the supervisor and its child as the container starts them, on a socket of their own."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from headrace_runner.engine.client import Stage, read_state

START_SECONDS = 120.0


@contextlib.contextmanager
def engine(model: str, parallelism: int, context_tokens: int) -> Iterator[Path]:
    """Give the socket of an engine that serves; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        socket, state = Path(folder) / "engine.sock", Path(folder) / "engine.json"
        environment = {
            "HEADRACE_ENGINE_SOCKET": str(socket),
            "HEADRACE_ENGINE_STATE": str(state),
            "HEADRACE_MODEL_PATH": model,
            "HEADRACE_MODELS_DIR": str(Path(model).parent),
            "HEADRACE_CONTEXT_TOKENS": str(context_tokens),
            "HEADRACE_PARALLELISM": str(parallelism),
        }
        command = [sys.executable, "-P", "-m", "headrace_runner.engine.supervisor"]
        process = subprocess.Popen(command, env={**os.environ, **environment})
        try:
            _wait(state, process)
            yield socket
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(state: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if read_state(state).state is Stage.SERVING:
                return
        time.sleep(0.05)
    raise RuntimeError("the engine did not start")
