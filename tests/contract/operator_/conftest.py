"""One namespace, one Redis and one operator per test."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from headrace_bus import OPERATOR_ACL, Bus, ModelKey

# Test folders are no packages; the fixture's module lies one above.
sys.path.insert(0, str(Path(__file__).parents[1]))
from cluster_world import MODEL, Cluster, Operator, StartOperator, granted_rules, kubeconfig_of, until
from redis_server import RedisServer, redis_server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """What the bus does not show."""
    async with Redis.from_url(server.url, decode_responses=True) as client:
        await client.execute_command("ACL", "SETUSER", "operator", "reset", "on", ">secret", *OPERATOR_ACL)
        yield client


@pytest.fixture
async def bus(server: RedisServer) -> AsyncIterator[Bus]:
    async with Bus.connect(server.url) as bus:
        yield bus


@pytest.fixture
def cluster(kubectl: Any, namespace: str) -> Iterator[Cluster]:
    cluster = Cluster(kubectl, namespace)
    yield cluster
    cluster.close()


@pytest.fixture
def key(namespace: str) -> ModelKey:
    return ModelKey(namespace, MODEL)


@pytest.fixture
def operator_config(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig of a service account that holds what RBAC.md says, and nothing else."""
    name = f"headrace-operator-{namespace}"
    account = {"kind": "ServiceAccount", "name": "operator", "namespace": namespace}
    rules = [rule for scope, rule in granted_rules() if scope in ("cluster", "own")]
    nodes = [rule for scope, rule in granted_rules() if scope == "nodes"]
    here = [rule for rule in rules if rule["resources"] != ["clusterroles"]]
    everywhere = [rule for rule in rules if rule["resources"] == ["clusterroles"]]
    rbac = "rbac.authorization.k8s.io/v1"
    for manifest in (
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}},
        {"apiVersion": rbac, "kind": "Role", "metadata": {"name": "operator"}, "rules": here},
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": {"name": "operator"},
            "subjects": [account],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        },
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": name}, "rules": everywhere},
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": {"name": "operator-binds-runners"},
            "subjects": [account],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        },
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": f"{name}-nodes"}, "rules": nodes},
    ):
        cluster.create(manifest)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"{name}-nodes"}
    everywhere_path = f"/apis/{rbac}/clusterrolebindings"
    binding = {"metadata": {"name": f"{name}-nodes"}, "subjects": [account], "roleRef": role}
    cluster.request("POST", everywhere_path, json=binding)
    yield kubeconfig_of(cluster, "operator", tmp_path)
    cluster.request("DELETE", f"{everywhere_path}/{name}-nodes")
    cluster.delete("clusterrole", f"{name}-nodes")
    cluster.delete("clusterrole", name)


@pytest.fixture
def start(
    operator_config: Path, namespace: str, server: RedisServer, redis: Redis, tmp_path: Path
) -> Iterator[StartOperator]:
    """Starts operators; whatever still runs at the end is killed."""
    started: list[Operator] = []

    def begin(identity: str = "operator-0", **more: str) -> Operator:
        folder = tmp_path / identity
        folder.mkdir(exist_ok=True)
        url = f"redis://operator:secret@127.0.0.1:{server.port}/0"
        operator = Operator(folder, operator_config, namespace, url, identity, **more)
        operator.start()
        started.append(operator)
        return operator

    yield begin
    for operator in started:
        if operator.process is not None and operator.process.poll() is None:
            operator.kill()
        print(operator.log.read_text())


@pytest.fixture
async def operator(start: StartOperator) -> Operator:
    """One that leads."""
    operator = start()
    await until(operator.leads)
    return operator
