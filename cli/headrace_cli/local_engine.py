"""The real engine as a child process: supervisor, llama.cpp and socket in a temporary folder.

Where the kernel admits it the engine denies itself network and ptrace as in a pod; a container's isolation it is not.
"""

import asyncio
import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from headrace_runner.engine.client import EngineClient, EngineLost, EngineState, Stage, read_state

_LOOK_EVERY_SECONDS: Final = 0.05
_STOP_SECONDS: Final = 10.0
_FOLDER_CHARS: Final = 80


class EngineFailed(Exception):
    """The engine does not serve; the message says why, in the engine's words."""


@contextlib.asynccontextmanager
async def local_engine(model: Mapping[str, str], told: Callable[[EngineState], None]) -> AsyncIterator[EngineClient]:
    """A connection to an engine that serves the model, given as its variables; ``told`` hears of its stages.

    Raises EngineFailed.
    """
    if importlib.util.find_spec("llama_cpp") is None:
        raise EngineFailed("llama-cpp-python is not installed: `headrace run` needs the extras cli, runner and engine")
    # Short: a Unix socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="hr-", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        # A file, not a pipe: nobody reads along, and it is wanted only when the engine fails.
        log = place / "log"
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "headrace_runner.engine.supervisor"),
                stdout=sink,
                stderr=sink,
                env=_environment(model, place),
                # Ctrl-C in a terminal is handled here, by ending the engine.
                start_new_session=True,
            )
        try:
            await _serving(process, place, log, told)
            try:
                client = await EngineClient.connect(place / "sock")
            except EngineLost as error:
                raise EngineFailed(str(error)) from error
            async with client:
                yield client
        finally:
            await _end(process)


async def _serving(
    process: asyncio.subprocess.Process, place: Path, log: Path, told: Callable[[EngineState], None]
) -> None:
    last: EngineState | None = None
    while True:
        state = read_state(place / "state")
        if state != last:
            told(state)
            last = state
        if state.state is Stage.SERVING:
            return
        if state.state in (Stage.FAILED, Stage.RESTARTING):
            raise EngineFailed(f"{state.reason}: {state.message}")
        if process.returncode is not None:
            raise EngineFailed(f"the engine ended: {_last_line(log)}")
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        # Its session: the supervisor and the engine below it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        await process.wait()


def _environment(model: Mapping[str, str], place: Path) -> dict[str, str]:
    # A setting of this shell would be the model's.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **model,
        "HEADRACE_MODELS_DIR": str(Path(model["HEADRACE_MODEL_PATH"]).parent),
        "HEADRACE_ENGINE_SOCKET": str(place / "sock"),
        "HEADRACE_ENGINE_STATE": str(place / "state"),
        "HEADRACE_ENGINE_SANDBOX": "BestEffort",
    }


def _short_folder() -> str | None:
    """None is the usual temporary folder; a long TMPDIR gives way."""
    return None if len(tempfile.gettempdir()) <= _FOLDER_CHARS else "/tmp"  # noqa: S108  mkdtemp makes it safe
