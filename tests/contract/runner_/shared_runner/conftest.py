"""One runner for many tests: each leaves it idle, and counts what it adds to the runner's counters."""

import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace_bus import Bus, ModelKey
from tests.contract.api_server import ApiServer

# Test folders are no packages.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pod_world import Engine, Runner, Tasks, until
from redis_server import RedisServer, redis_server
from runner_account import runner_account


@dataclass(frozen=True)
class Shared:
    namespace: str
    redis: RedisServer
    runner: Runner


@pytest.fixture(scope="session")
def shared(api_server: ApiServer, kubeconfig: str, session_engine: Engine) -> Iterator[Shared]:
    folder = Path(tempfile.mkdtemp(prefix="hr-shared-"))
    namespace = f"t-{uuid.uuid4().hex[:10]}"
    status, _ = api_server.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    assert status == 201
    account = runner_account(api_server, kubeconfig, namespace, folder)
    with redis_server() as redis:
        runner = Runner(folder, redis, session_engine, ModelKey(namespace, "smol"), account)
        yield Shared(namespace, redis, runner)
        runner.end()
    print(runner.log.read_text())
    api_server.request("DELETE", f"/api/v1/namespaces/{namespace}")
    shutil.rmtree(folder)


@pytest.fixture
def namespace(shared: Shared) -> str:
    return shared.namespace


@pytest.fixture
def redis(shared: Shared) -> RedisServer:
    return shared.redis


@pytest.fixture
async def runner(shared: Shared) -> Runner:
    """Ready and idle."""
    await until(shared.runner.ready)
    return shared.runner


@pytest.fixture
async def tasks(
    api_server: ApiServer, namespace: str, bus: Bus, model: ModelKey, runner: Runner
) -> AsyncIterator[Tasks]:
    tasks = Tasks(api_server, namespace, bus, model)
    yield tasks
    await tasks.forget()
    await until(runner.idle)
