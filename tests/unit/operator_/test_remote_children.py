"""The manifests of a remote model: one container, one key, and the way to one provider."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from operator_cases import deployment, model, model_snapshot
from remote_cases import ALLOWS, OPENAI, OWN, SETTINGS, granted, remote_model, remote_snapshot

from headrace_crds.model import LLMModel
from headrace_operator.decide import children
from headrace_operator.decide.snapshots import CredentialsView, LiveChild, Ownership

STANDS = [LiveChild("Deployment", "headrace-qwen", Ownership.OURS, "d-uid")]


def built(of: LLMModel, **more: Any) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in children.build(remote_snapshot(of, **more), of)}


def pod_spec(of: LLMModel, **more: Any) -> dict[str, Any]:
    spec: dict[str, Any] = built(of, **more)["Deployment"]["spec"]["template"]["spec"]
    return spec


def environment(of: LLMModel, **more: Any) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in pod_spec(of, **more)["containers"][0]["env"]}


def egress(of: LLMModel, **more: Any) -> dict[int, Any]:
    rules = built(of, **more)["NetworkPolicy"]["spec"]["egress"]
    return {port["port"]: rule.get("to") for rule in rules for port in rule["ports"] if port["protocol"] == "TCP"}


def test_one_container_with_what_the_runner_needs() -> None:
    of = remote_model(spec={"capabilities": ["Chat", "Embedding"]}, remote={**OPENAI, "maxConcurrency": 7})
    [container] = pod_spec(of)["containers"]
    assert container["name"] == "runner"
    assert container["command"] == ["headrace-runner"]
    assert container["resources"] == {"limits": {"memory": "256Mi"}}
    assert of.spec.remote is not None
    found = environment(of)
    assert json.loads(found.pop("HEADRACE_REMOTE")) == of.spec.remote.dump()
    assert found == {
        "HEADRACE_MODEL": "team-a/qwen",
        "HEADRACE_MODEL_GENERATION": "1",
        "HEADRACE_POD": "",
        "HEADRACE_REDIS_URL_FILE": "/etc/headrace/redis/url",
        "HEADRACE_PARALLELISM": "7",
        "HEADRACE_LEASE_SECONDS": "15",
        "HEADRACE_DRAIN_SECONDS": "5",
        "HEADRACE_CAPABILITIES": "Chat,Embedding",
        "HEADRACE_ALLOWED_HOSTS": "api.openai.com",
        "HEADRACE_EXEMPT_HOSTS": "",
        "HEADRACE_CREDENTIAL_FILE": "/etc/headrace/credentials/key",
        "NVIDIA_VISIBLE_DEVICES": "void",
    }


def test_exactly_the_one_key_is_mounted_and_read_only() -> None:
    spec = pod_spec(remote_model())
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(volumes) == {"token", "redis", "tmp-runner", "credentials"}
    assert volumes["credentials"]["secret"] == {
        "secretName": "openai",
        "items": [{"key": "token", "path": "key", "mode": 0o440}],
        "optional": False,
    }
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert set(mounts) == set(volumes)
    assert mounts["credentials"] == {
        "name": "credentials",
        "mountPath": "/etc/headrace/credentials",
        "readOnly": True,
    }


def test_a_model_without_a_key_mounts_none() -> None:
    of = remote_model(remote=OWN)
    assert "credentials" not in {volume["name"] for volume in pod_spec(of)["volumes"]}
    assert "HEADRACE_CREDENTIAL_FILE" not in environment(of)
    assert environment(of)["HEADRACE_ALLOWED_HOSTS"] == "llm.example.com:443"


def test_pod_security_restricted() -> None:
    spec = pod_spec(remote_model())
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = spec["containers"]
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["readOnlyRootFilesystem"] is True
    assert all(set(volume) - {"name"} <= {"emptyDir", "projected", "secret"} for volume in spec["volumes"])


REFUSED = [CredentialsView(False), CredentialsView(True), CredentialsView(True, "elsewhere.example.com")]


@pytest.mark.parametrize("seen", REFUSED)
def test_what_is_not_allowed_gets_no_object_at_all(seen: CredentialsView) -> None:
    of = remote_model()
    assert built(of, credentials=seen, deployment=None, live=[]) == {}
    absent = [LiveChild("Deployment", "headrace-qwen", Ownership.ABSENT)]
    assert built(of, credentials=seen, deployment=None, live=absent) == {}


@pytest.mark.parametrize("seen", REFUSED)
def test_what_is_not_allowed_any_more_is_stopped_and_loses_the_key(seen: CredentialsView) -> None:
    of = remote_model(replicas=3)
    found = built(of, credentials=seen, live=STANDS)
    assert found["Deployment"]["spec"]["replicas"] == 0
    assert "openai" not in json.dumps(found["Deployment"]["spec"]["template"]["spec"]["volumes"])
    assert environment(of, credentials=seen, live=STANDS)["HEADRACE_ALLOWED_HOSTS"] == ""
    assert set(egress(of, credentials=seen, live=STANDS)) == {53, 6379, 443, 6443}
    assert built(of, live=STANDS)["Deployment"]["spec"]["replicas"] == 3


def test_what_rolls_pods() -> None:
    of = remote_model()
    before = children.spec_hash(of, granted(of))
    other = remote_model(remote={**OPENAI, "model": "gpt-y"})
    more_hosts = CredentialsView(True, "api.openai.com,eu.example.com")
    chart = replace(SETTINGS, remote_allowed_hosts=("api.openai.com",))
    unrelated = replace(SETTINGS, remote_allowed_hosts=("vllm.svc:8000",))
    assert children.spec_hash(other, granted(other)) != before
    assert children.spec_hash(of, granted(of, more_hosts)) != before
    assert children.spec_hash(of, granted(of, ALLOWS, chart)) != before
    assert children.spec_hash(of, granted(of, CredentialsView(True))) != before
    assert children.spec_hash(of, granted(of, ALLOWS, unrelated)) == before
    scaled = remote_model(replicas=4, generation=2)
    assert children.spec_hash(scaled, granted(scaled)) == before


def test_a_changed_annotation_is_another_generation_of_pods() -> None:
    of = remote_model(generation=5)
    stands = deployment(of, spec_hash=children.spec_hash(of, granted(of)), generation=2)
    assert children.spec_generation(remote_snapshot(of, deployment=stands), of) == 2
    changed = remote_snapshot(of, deployment=stands, credentials=CredentialsView(True, "api.openai.com,b.example.com"))
    assert children.spec_generation(changed, of) == 5


def test_the_way_out_is_public_alone() -> None:
    peers = egress(remote_model(remote={**OWN, "baseURL": "https://llm.example.com:8443/v1"}))[8443]
    blocks = [peer["ipBlock"] for peer in peers]
    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", "::/0"]

    def reached(address: str) -> bool:
        return any(
            ip_address(address) in ip_network(block["cidr"])
            and not any(ip_address(address) in ip_network(each) for each in block["except"])
            for block in blocks
        )

    for inside in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"):
        assert not reached(inside), inside
    for inside in ("::1", "fd00::1", "fe80::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "ff02::1"):
        assert not reached(inside), inside
    assert reached("1.1.1.1")
    assert reached("2606:4700::1111")
    for block in blocks:
        assert all(ip_network(each).subnet_of(ip_network(block["cidr"])) for each in block["except"])


def test_the_charts_hosts_and_proxies_are_reached_wherever_they_are() -> None:
    remote = {**OWN, "baseURL": "http://vllm.models.svc:8000/v1", "proxyURL": "http://proxy:3128"}
    chart = replace(SETTINGS, remote_allowed_hosts=("vllm.models.svc:8000", "proxy:3128"))
    found = egress(remote_model(remote=remote), runner=chart)
    assert found[8000] is None
    assert found[3128] is None


def test_a_local_models_policy_and_pod_know_nothing_of_it() -> None:
    found = {each["kind"]: each for each in children.build(model_snapshot(model()), model())}
    assert len(found["NetworkPolicy"]["spec"]["egress"]) == 3
    names = {v["name"] for v in found["Deployment"]["spec"]["template"]["spec"]["volumes"]}
    assert names == {"socket", "model", "token", "redis", "tmp-runner", "tmp-engine"}


MTLS = {**OPENAI, "clientCertificate": {"secretName": "mtls"}}


def test_the_client_certificate_is_mounted_beside_the_key_and_nothing_else_of_its_secret() -> None:
    of = remote_model(remote=MTLS)
    spec = pod_spec(of, client_certificate=ALLOWS)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert set(volumes) == {"token", "redis", "tmp-runner", "credentials", "client-certificate"}
    assert volumes["client-certificate"]["secret"] == {
        "secretName": "mtls",
        "items": [{"key": name, "path": name, "mode": 0o440} for name in ("tls.crt", "tls.key")],
        "optional": False,
    }
    mounts = {mount["name"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    folder = environment(of, client_certificate=ALLOWS)["HEADRACE_CLIENT_CERTIFICATE_DIR"]
    assert mounts["client-certificate"] == {"name": "client-certificate", "mountPath": folder, "readOnly": True}


@pytest.mark.parametrize("seen", REFUSED, ids=["missing", "not annotated", "for another host"])
def test_without_its_owners_word_neither_certificate_nor_key_is_mounted(seen: CredentialsView) -> None:
    of = remote_model(remote=MTLS)
    assert children.build(remote_snapshot(of, client_certificate=seen, deployment=None), of) == []
    stopped = pod_spec(of, client_certificate=seen, live=STANDS)
    assert not {"credentials", "client-certificate"} & {volume["name"] for volume in stopped["volumes"]}
