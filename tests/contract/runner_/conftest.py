"""A real runner process on a real API server, Redis and engine; the operator's part is played by hand."""

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from headrace_bus import Bus, ModelKey

# Test folders are no packages; this module lies one above.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pod_world import POD, Engine, Gate, Runner, StartRunner, Tasks, until
from redis_server import RedisServer, free_port, redis_server
from runner_account import runner_account

from tests.contract.api_server import ApiServer


@pytest.fixture(scope="session")
def model_path() -> Path:
    return Path(os.environ["HEADRACE_TEST_MODEL"])


@pytest.fixture(scope="session")
def session_engine(model_path: Path) -> Iterator[Engine]:
    # Not tmp_path: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hr-run-"))
    engine = Engine(folder, model_path)
    yield engine
    engine.end()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def session_stub(model_path: Path) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="hr-stub-"))
    engine = Engine(folder, model_path, "tests.stub_engine.supervisor")
    yield engine
    engine.end()
    shutil.rmtree(folder)


@pytest.fixture
async def stub_engine(session_stub: Engine) -> Engine:
    """An engine without a model, for texts longer than a small model's context."""
    await until(session_stub.serving)
    return session_stub


@pytest.fixture
async def engine(session_engine: Engine) -> Engine:
    """One engine with two sequences for all tests; it serves."""
    await until(session_engine.serving)
    return session_engine


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def bus(redis: RedisServer) -> AsyncIterator[Bus]:
    async with Bus.connect(redis.url) as bus:
        yield bus


@pytest.fixture
def model(namespace: str) -> ModelKey:
    return ModelKey(namespace, "smol")


@pytest.fixture
def runner_kubeconfig(api_server: ApiServer, kubeconfig: str, namespace: str, tmp_path: Path) -> Path:
    return runner_account(api_server, kubeconfig, namespace, tmp_path)


@pytest.fixture
def tasks(api_server: ApiServer, namespace: str, bus: Bus, model: ModelKey) -> Tasks:
    return Tasks(api_server, namespace, bus, model)


@pytest.fixture
async def start_runner(
    request: pytest.FixtureRequest, tmp_path: Path, redis: RedisServer, model: ModelKey, runner_kubeconfig: Path
) -> AsyncIterator[StartRunner]:
    runners: list[Runner] = []

    async def start(kubeconfig: Path = runner_kubeconfig, pod: str = POD, engine: Engine | None = None) -> Runner:
        # The engine with a model is started for who needs it.
        engine = engine or request.getfixturevalue("session_engine")
        await until(engine.serving)
        folder = tmp_path / f"runner-{len(runners)}"
        folder.mkdir()
        runners.append(Runner(folder, redis, engine, model, kubeconfig, pod))
        await until(runners[-1].ready)
        return runners[-1]

    yield start
    for runner in runners:
        runner.end()
        print(runner.log.read_text())


@pytest.fixture
async def runner(start_runner: StartRunner) -> Runner:
    """A ready runner."""
    return await start_runner()


@pytest.fixture
def gated(runner_kubeconfig: Path, tmp_path: Path) -> Gate:
    """A runner's way to the API server that can be shut; it is shut."""
    config = yaml.safe_load(runner_kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    host, port = cluster["server"].removeprefix("https://").split(":")
    gate = Gate((host, int(port)), free_port(), tmp_path / "gated-kubeconfig")
    cluster["server"] = f"https://127.0.0.1:{gate.port}"
    gate.kubeconfig.write_text(yaml.safe_dump(config))
    return gate


@pytest.fixture
async def gate(gated: Gate) -> AsyncIterator[Gate]:
    """The same, open."""
    await gated.open()
    yield gated
    await gated.shut()
