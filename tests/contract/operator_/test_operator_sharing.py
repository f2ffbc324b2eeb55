"""A model that serves another namespace: who is admitted, what its runner may, and what ends with sharing."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_world import MODEL, RUNNER, Cluster, Operator, StartOperator, granted_rules, until
from redis.asyncio import Redis

from headrace_bus import Bus, EntryState, ModelKey
from headrace_crds.names import RUNNER_CLUSTER_ROLE, shared_binding_name
from headrace_operator.decide.children import redis_user
from headrace_operator.refs import ModelRef

RBAC = "rbac.authorization.k8s.io/v1"
EXPRESSION = {"key": "team", "operator": "In", "values": ["ml"]}
SELECTED = {"namespaces": {"from": "Selector", "selector": {"matchExpressions": [EXPRESSION]}}}


def label(cluster: Cluster, value: str | None) -> None:
    headers = {"Content-Type": "application/merge-patch+json"}
    patch = json.dumps({"metadata": {"labels": {"team": value}}})
    cluster.request("PATCH", f"/api/v1/namespaces/{cluster.namespace}", content=patch, headers=headers)


@pytest.fixture
def tenant(cluster: Cluster, kubectl: Any) -> Iterator[Cluster]:
    """Another namespace, labelled, in which the operator has its rights as well."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    cluster.request("POST", "/api/v1/namespaces", json={"metadata": {"name": name, "labels": {"team": "ml"}}})
    tenant = Cluster(kubectl, name)
    yield tenant
    for plural in ("llmtasks", "llmmodels"):
        tenant.request("DELETE", f"/apis/headrace.dev/v1alpha1/namespaces/{name}/{plural}")
    tenant.request("DELETE", f"/api/v1/namespaces/{name}")
    tenant.close()


@pytest.fixture
def shares(cluster: Cluster, tenant: Cluster, start: StartOperator) -> Iterator[dict[str, str]]:
    """Settings of an operator that serves both, with the rights for it."""
    account = {"kind": "ServiceAccount", "name": "operator", "namespace": cluster.namespace}
    here = cluster.get("role", "operator")
    assert here is not None
    name = f"headrace-operator-{cluster.namespace}"
    cluster_role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
    rules = [rule for scope, rule in granted_rules() if scope == "sharing"]
    for manifest in (
        {"apiVersion": RBAC, "kind": "Role", "metadata": {"name": "operator"}, "rules": here["rules"]},
        {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": "operator"},
            "subjects": [account],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "operator"},
        },
        {
            "apiVersion": RBAC,
            "kind": "RoleBinding",
            "metadata": {"name": "operator-binds-runners"},
            "subjects": [account],
            "roleRef": {**cluster_role, "name": name},
        },
        {"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": f"{name}-sharing"}, "rules": rules},
    ):
        tenant.create(manifest)
    everywhere = f"/apis/{RBAC}/clusterrolebindings"
    role = {**cluster_role, "name": f"{name}-sharing"}
    body = {"metadata": {"name": f"{name}-sharing"}, "subjects": [account], "roleRef": role}
    cluster.request("POST", everywhere, json=body)
    yield {
        "HEADRACE_WATCH_NAMESPACES": f"{cluster.namespace},{tenant.namespace}",
        "HEADRACE_SHARING_MODEL_NAMESPACES": cluster.namespace,
    }
    cluster.request("DELETE", f"{everywhere}/{name}-sharing")
    cluster.delete("clusterrole", f"{name}-sharing")


@pytest.fixture
async def sharing(start: StartOperator, shares: dict[str, str]) -> Operator:
    operator = start(**shares)
    await until(operator.leads)
    return operator


def foreign_task(cluster: Cluster, tenant: Cluster, name: str) -> str:
    return tenant.task(name, modelRef={"name": MODEL, "namespace": cluster.namespace})


async def queued(bus: Bus, key: ModelKey, uid: str, attempt: int = 1) -> bool:
    entry = await bus.inspect(key, uid)
    return entry is not None and (entry.state, entry.attempt) == (EntryState.QUEUED, attempt)


async def absent(bus: Bus, key: ModelKey, uid: str) -> bool:
    return await bus.inspect(key, uid) is None


async def told(cluster: Cluster, name: str, phase: str, reason: str) -> bool:
    status = cluster.status(name)
    return (status.get("phase"), status.get("reason")) == (phase, reason)


def binding(cluster: Cluster, tenant: Cluster) -> dict[str, Any] | None:
    return tenant.get("rolebinding", shared_binding_name(cluster.namespace, MODEL))


async def unbound(cluster: Cluster, tenant: Cluster) -> bool:
    return binding(cluster, tenant) is None


async def test_an_admitted_namespace_is_served_and_the_runner_bound_before(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model(sharing=SELECTED)
    own = cluster.task("own")
    await until(lambda: queued(bus, key, own))
    assert binding(cluster, tenant) is None, "made before there is a task"

    uid = foreign_task(cluster, tenant, "guest")
    await until(lambda: queued(bus, key, uid))
    found = binding(cluster, tenant)
    assert found is not None
    assert found["roleRef"]["name"] == RUNNER_CLUSTER_ROLE
    assert found["subjects"] == [{"kind": "ServiceAccount", "name": RUNNER, "namespace": cluster.namespace}]
    status = tenant.status("guest")
    assert status["runner"]["serviceAccount"] == f"{cluster.namespace}/{RUNNER}"
    assert status["assignedModel"] == str(key)
    deliveries = await bus.claim(key, worker="pod-a", count=2, lease_ms=600)
    assert {d.envelope.namespace for d in deliveries} == {cluster.namespace, tenant.namespace}
    # The ended lease is heard of from the model's keys alone.
    await until(lambda: queued(bus, key, uid, 2))
    assert tenant.status("guest")["attempts"][0]["reason"] == "LeaseExpired"


async def test_who_is_not_admitted_fails_until_its_namespace_is(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    label(tenant, None)
    cluster.model(sharing=SELECTED)
    foreign_task(cluster, tenant, "refused")
    await until(lambda: told(tenant, "refused", "Failed", "ModelNotShared"))
    assert binding(cluster, tenant) is None
    label(tenant, "ml")
    uid = foreign_task(cluster, tenant, "served")
    await until(lambda: queued(bus, key, uid))


async def test_a_model_that_the_setting_does_not_back_is_not_shared(
    start: StartOperator, shares: dict[str, str], cluster: Cluster, tenant: Cluster
) -> None:
    operator = start(**{**shares, "HEADRACE_SHARING_MODEL_NAMESPACES": tenant.namespace})
    await until(operator.leads)
    cluster.model(sharing={"namespaces": {"from": "All"}})
    foreign_task(cluster, tenant, "refused")
    await until(lambda: told(tenant, "refused", "Failed", "ModelNotShared"))
    assert binding(cluster, tenant) is None
    # A stranger cannot tell whether there is such a model.
    cluster.delete("llmmodel", MODEL)
    foreign_task(cluster, tenant, "blind")
    await until(lambda: told(tenant, "blind", "Failed", "ModelNotShared"))
    assert tenant.status("blind")["message"] == tenant.status("refused")["message"]


async def test_a_task_waits_for_a_model_of_another_namespace(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    uid = foreign_task(cluster, tenant, "early")
    await until(lambda: told(tenant, "early", "Waiting", "ModelNotFound"))
    cluster.model(sharing={"namespaces": {"from": "All"}})
    await until(lambda: queued(bus, key, uid))


@pytest.mark.parametrize("end", ["model", "label"])
async def test_the_end_of_sharing_takes_the_right_and_lets_tasks_wait(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey, end: str
) -> None:
    cluster.model(sharing=SELECTED)
    running, waits = foreign_task(cluster, tenant, "running"), foreign_task(cluster, tenant, "waits")
    for uid in (running, waits):
        await until(lambda uid=uid: queued(bus, key, uid))
    await bus.claim(key, worker="pod-a", count=1, lease_ms=60_000)
    if end == "model":
        cluster.patch("llmmodel", MODEL, {"spec": {"sharing": {"namespaces": {"from": "Same", "selector": None}}}})
    else:
        label(tenant, None)
    await until(lambda: unbound(cluster, tenant))
    for name, uid in (("running", running), ("waits", waits)):
        await until(lambda name=name: told(tenant, name, "Waiting", "ModelNotShared"))
        await until(lambda uid=uid: absent(bus, key, uid))
    foreign_task(cluster, tenant, "late")
    await until(lambda: told(tenant, "late", "Failed", "ModelNotShared"))
    # Mended within the grace.
    cluster.patch("llmmodel", MODEL, {"spec": {"sharing": SELECTED}})
    label(tenant, "ml")
    for uid in (running, waits):
        await until(lambda uid=uid: queued(bus, key, uid, 2))
    assert tenant.status("running")["retries"] == 0


async def test_the_bindings_of_a_deleted_model_are_swept_by_whoever_leads_next(
    start: StartOperator, shares: dict[str, str], cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    first = start(**shares)
    cluster.model(sharing=SELECTED)
    uid = foreign_task(cluster, tenant, "guest")
    await until(lambda: queued(bus, key, uid))
    first.kill()
    cluster.delete("llmmodel", MODEL)
    cluster.collect()
    assert binding(cluster, tenant) is not None
    start("operator-1", **shares)
    await until(lambda: unbound(cluster, tenant))
    await until(lambda: told(tenant, "guest", "Waiting", "ModelNotFound"))


async def test_a_binding_that_is_deleted_comes_back_while_tasks_need_it(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    cluster.model(sharing=SELECTED)
    uid = foreign_task(cluster, tenant, "guest")
    await until(lambda: queued(bus, key, uid))
    tenant.delete("rolebinding", shared_binding_name(cluster.namespace, MODEL))

    async def bound() -> bool:
        return binding(cluster, tenant) is not None

    await until(bound)


async def test_a_name_that_is_taken_is_said_and_nothing_handed_out(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    name = shared_binding_name(cluster.namespace, MODEL)
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}
    tenant.create({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": {"name": name}, "roleRef": role})
    cluster.model(sharing=SELECTED)
    uid = foreign_task(cluster, tenant, "guest")
    await until(lambda: told(tenant, "guest", "Waiting", "ModelNotReady"))
    assert tenant.status("guest")["message"].startswith("RoleBindingRefused: ")
    assert await absent(bus, key, uid)
    tenant.delete("rolebinding", name)
    await until(lambda: queued(bus, key, uid))


async def granted(redis: Redis, key: ModelKey) -> bool:
    return redis_user(ModelRef(*key)) in await redis.acl_users()


@pytest.mark.parametrize("admitted", [True, False])
async def test_a_shared_models_keys_do_not_speak_for_a_tenants_own_tasks(
    sharing: Operator, cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey, redis: Redis, admitted: bool
) -> None:
    label(tenant, "ml" if admitted else None)
    cluster.model(sharing=SELECTED)
    tenant.model()
    await until(lambda: granted(redis, key))
    own = ModelKey(tenant.namespace, MODEL)
    uid = tenant.task("victim")
    await until(lambda: queued(bus, own, uid))
    await bus.claim(own, worker="pod-a", count=1, lease_ms=60_000)
    source = await redis.hgetall(f"headrace:{{{own}}}:entry:{uid}")
    fatal = '{"reason": "Forged", "message": "not yours", "retryable": false}'
    forged = {**source, "state": "Returned", "reason": "Failed", "worker": "pod-x", "failure": fatal, "since": "1"}
    await redis.hset(f"headrace:{{{key}}}:entry:{uid}", mapping=forged)
    await redis.hset(f"headrace:{{{key}}}:index", uid, "1")
    await redis.zadd(f"headrace:{{{key}}}:returned", {uid: 1})
    entry = await bus.inspect(key, uid)
    assert entry is not None
    assert (entry.state, entry.namespace) == (EntryState.RETURNED, tenant.namespace)
    await redis.publish(f"headrace:wake:{key}", "")
    await until(lambda: absent(bus, key, uid))
    status = tenant.status("victim")
    assert (status["attempt"], status["phase"], status["attempts"]) == (1, "Queued", [])


async def test_a_runner_that_may_not_commit_is_given_its_rights_at_once(
    start: StartOperator, shares: dict[str, str], cluster: Cluster, tenant: Cluster, bus: Bus, key: ModelKey
) -> None:
    # Nothing else looks for what was deleted.
    operator = start(**{**shares, "HEADRACE_SWEEP_SECONDS": "600", "HEADRACE_RELIST_SECONDS": "600"})
    await until(operator.leads)
    cluster.model(sharing=SELECTED)
    uid = foreign_task(cluster, tenant, "guest")
    await until(lambda: queued(bus, key, uid))
    cluster.delete("rolebinding", RUNNER)
    tenant.delete("rolebinding", shared_binding_name(cluster.namespace, MODEL))
    report = {"state": "Serving", "generation": 1, "commitForbidden": True}
    await bus.report(key, "pod-a", report, ttl_ms=60_000)

    async def bound() -> bool:
        return binding(cluster, tenant) is not None and cluster.get("rolebinding", RUNNER) is not None

    await until(bound, 60)
