"""A remote model from its Secret to its status, against a real API server and Redis; kubelet and runner by hand."""

import json
from typing import Any

from cluster_world import MODEL, RUNNER, Cluster, Operator, Writes, until

from headrace_bus import Bus, EntryState, ModelKey
from headrace_crds.remote import Remote

ANNOTATION = "headrace.dev/allowed-hosts"
REMOTE: dict[str, Any] = {
    "provider": "OpenAI",
    "model": "gpt-x",
    "credentials": {"secretKeyRef": {"name": "openai", "key": "token"}},
    "maxConcurrency": 4,
}


def remote_model(cluster: Cluster, **remote: Any) -> None:
    cluster.create(
        {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "LLMModel",
            "metadata": {"name": MODEL},
            "spec": {"remote": {**REMOTE, **remote}},
        }
    )


def secret(cluster: Cluster, hosts: str | None = None) -> None:
    annotations = {} if hosts is None else {ANNOTATION: hosts}
    metadata = {"name": "openai", "annotations": annotations}
    data = {"token": "sk-secret", "unrelated": "another key"}
    cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data})


async def said(cluster: Cluster, **want: tuple[str, str] | None) -> bool:
    found = cluster.conditions()
    return all(found.get(type_) == value for type_, value in want.items())


async def deployed(cluster: Cluster) -> bool:
    return cluster.get("deployment", RUNNER) is not None


def message(cluster: Cluster, type_: str = "Ready") -> str:
    found = cluster.status(MODEL, "llmmodel")["conditions"]
    return next(str(each["message"]) for each in found if each["type"] == type_)


async def waits_for(cluster: Cluster, task: str, reason: str) -> bool:
    return cluster.status(task).get("reason") == reason


def report(breaker: str = "Closed", **more: Any) -> dict[str, Any]:
    provider = {"breaker": breaker, "reason": "", "message": "", "retryInSeconds": None, "concurrency": 4}
    return {"state": "Serving", "generation": 1, "engine": None, "slots": 4, "provider": {**provider, **more}}


async def test_no_pod_before_the_secrets_owner_allows_it(operator: Operator, cluster: Cluster) -> None:
    remote_model(cluster)
    cluster.task("waits")
    await until(lambda: said(cluster, Ready=("False", "CredentialsNotFound"), Stalled=None))
    assert "Secret 'openai' does not exist" in message(cluster)
    await until(lambda: waits_for(cluster, "waits", "CredentialsNotFound"))
    assert cluster.status("waits")["message"].startswith("LLMModel 'smol': Secret 'openai' does not exist")

    secret(cluster)
    await until(lambda: said(cluster, Ready=("False", "HostNotAllowed")))
    remedy = f"kubectl annotate secret openai -n {cluster.namespace} {ANNOTATION}=api.openai.com"
    assert remedy in message(cluster)
    assert cluster.get("deployment", RUNNER) is None

    cluster.patch("secret", "openai", {"metadata": {"annotations": {ANNOTATION: "api.openai.com"}}})
    await until(lambda: deployed(cluster), within_seconds=15)
    await until(lambda: said(cluster, Ready=("False", "Starting")))


async def test_the_pod_is_what_a_restricted_namespace_admits(
    operator: Operator, cluster: Cluster, kubectl: Any, namespace: str
) -> None:
    kubectl.ok("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    secret(cluster, "api.openai.com, eu.example.com:8443")
    remote_model(cluster)
    await until(lambda: deployed(cluster))
    cluster.pod("pod-a")
    pod = cluster.get("pod", "pod-a")
    assert pod is not None
    [container] = pod["spec"]["containers"]
    assert container["name"] == "runner"
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert Remote.model_validate_json(environment["HEADRACE_REMOTE"] or "") == Remote.model_validate(REMOTE)
    assert environment["HEADRACE_ALLOWED_HOSTS"] == "api.openai.com,eu.example.com:8443"
    assert environment["HEADRACE_PARALLELISM"] == "4"
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert set(volumes) == {"token", "redis", "tmp-runner", "credentials"}
    assert volumes["credentials"]["secret"] == {
        "secretName": "openai",
        "items": [{"key": "token", "path": "key", "mode": 0o440}],
        "optional": False,
        "defaultMode": 0o644,
    }
    assert {each["name"]: each.get("readOnly") for each in container["volumeMounts"]}["credentials"] is True
    refused = {"name": "refused", "namespace": namespace}
    privileged = {"containers": [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]}
    body = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": refused, "spec": privileged})
    assert 'violates PodSecurity "restricted' in kubectl.run("create", "-f", "-", stdin=body).stderr

    policy = cluster.get("networkpolicy", RUNNER)
    assert policy is not None
    [way] = [rule for rule in policy["spec"]["egress"] if any("ipBlock" in peer for peer in rule.get("to", ()))]
    assert way["ports"] == [{"protocol": "TCP", "port": 443}]


async def test_the_status_follows_the_provider(operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey) -> None:
    secret(cluster, "api.openai.com")
    remote_model(cluster)
    await until(lambda: deployed(cluster))
    uid = cluster.task("patient")
    cluster.pod("pod-a")
    cluster.pod_ready("pod-a")
    await bus.report(key, "pod-a", report(), ttl_ms=60_000)
    await until(lambda: said(cluster, Ready=("True", "Serving"), Available=("True", "Serving")))
    status = cluster.status(MODEL, "llmmodel")
    assert (status["phase"], status["provider"]) == ("Serving", {"breaker": "Closed", "concurrency": 4})
    assert "engine" not in status
    await until(lambda: waits_for(cluster, "patient", "Queued"))

    shut = report("Open", reason="CircuitOpen", message="5 requests failed in a row", retryInSeconds=300.0)
    await bus.report(key, "pod-a", shut, ttl_ms=60_000)
    await until(lambda: said(cluster, Ready=("True", "ConfigurationValid"), Available=("False", "CircuitOpen")))
    assert cluster.status(MODEL, "llmmodel")["phase"] == "Paused"
    await until(lambda: waits_for(cluster, "patient", "CircuitOpen"))
    assert "5 requests failed in a row" in cluster.status("patient")["message"]
    entry = await bus.inspect(key, uid)
    assert entry is not None
    assert entry.state is EntryState.QUEUED

    writes = Writes(cluster, "llmmodel", MODEL)
    for left in range(20):
        shut["provider"]["retryInSeconds"] = 300 - left
        await bus.report(key, "pod-a", shut, ttl_ms=60_000)
    shut["provider"] = report("Open", reason="CredentialsRefused", message="put a valid key there")["provider"]
    await bus.report(key, "pod-a", shut, ttl_ms=60_000)
    refused = ("False", "CredentialsRefused")
    await until(lambda: said(cluster, Ready=refused, Available=refused, Stalled=("True", "CredentialsRefused")))
    assert writes.count() == 1, "a countdown is not written"
    assert message(cluster) == "put a valid key there"
    await until(lambda: waits_for(cluster, "patient", "CredentialsRefused"))

    await bus.report(key, "pod-a", report(), ttl_ms=60_000)
    await until(lambda: said(cluster, Ready=("True", "Serving"), Available=("True", "Serving"), Stalled=None))
    await until(lambda: waits_for(cluster, "patient", "Queued"))


async def test_an_annotation_that_is_taken_away_stops_the_pods(
    operator: Operator, cluster: Cluster, bus: Bus, key: ModelKey
) -> None:
    secret(cluster, "api.openai.com")
    remote_model(cluster)
    await until(lambda: deployed(cluster))
    cluster.pod("pod-a")
    cluster.pod_ready("pod-a")
    await bus.report(key, "pod-a", report(), ttl_ms=90_000)
    await until(lambda: said(cluster, Ready=("True", "Serving")))

    cluster.patch("secret", "openai", {"metadata": {"annotations": {ANNOTATION: None}}})

    async def stopped() -> bool:
        found = cluster.get("deployment", RUNNER)
        return found is not None and found["spec"]["replicas"] == 0

    await until(stopped, within_seconds=45)
    found = cluster.get("deployment", RUNNER)
    assert found is not None
    assert "openai" not in json.dumps(found["spec"]["template"]["spec"]["volumes"])
    await until(lambda: said(cluster, Ready=("False", "HostNotAllowed"), Available=("False", "HostNotAllowed")))


async def test_hosts_inside_the_cluster_are_the_charts_to_allow(operator: Operator, cluster: Cluster) -> None:
    inside = {"provider": "OpenAICompatible", "baseURL": "http://vllm.models.svc:8000/v1", "credentials": None}
    remote_model(cluster, **inside)
    await until(lambda: said(cluster, Ready=("False", "HostNotAllowed")))
    assert "remote.allowedHosts" in message(cluster)
    assert cluster.get("deployment", RUNNER) is None
