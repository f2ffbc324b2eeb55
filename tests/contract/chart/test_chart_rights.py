"""Who may read, write and reach what: RBAC and NetworkPolicies as rendered."""

import json
import re
from typing import Any

import pytest

from headrace_crds.names import RUNNER_CLUSTER_ROLE, runner_labels
from tests.contract.chart.conftest import Helm, named
from tests.contract.conftest import ROOT

pytestmark = pytest.mark.contract


def test_the_operator_gets_exactly_the_rights_it_says_it_needs(helm: Helm) -> None:
    table = (ROOT / "operator/headrace_operator/RBAC.md").read_text(encoding="utf-8")
    needed = set()
    for scope, group, resource, verbs, _why in re.findall(
        r"^\| (\w+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", table, re.M
    ):
        if scope not in ("cluster", "own", "listed", "sharing"):
            continue
        kind, *named_only = re.findall(r"`([^`]+)`", resource)
        for verb in verbs.split(", "):
            needed.add((scope, group.strip("*`").replace("core", ""), kind, tuple(named_only), verb))
    more = ("webhooks.secretNamespaces={team-a,team-b}", "sharing.modelNamespaces={models}")
    rendered = helm.render(*(part for value in more for part in ("--set", value)))
    granted = set()
    roles = {
        "cluster": ("ClusterRole", "headrace-operator"),
        "own": ("Role", "headrace-operator-election"),
        "listed": ("ClusterRole", "headrace-operator-webhooks"),
        "sharing": ("ClusterRole", "headrace-operator-sharing"),
    }
    for scope, (kind, name) in roles.items():
        for rule in named(rendered, kind, name)["rules"]:
            granted |= {
                (scope, group, resource, tuple(rule.get("resourceNames", ())), verb)
                for group in rule["apiGroups"]
                for resource in rule["resources"]
                for verb in rule["verbs"]
            }
    assert len(needed) > 20
    assert granted == needed


def test_secrets_are_read_in_listed_namespaces_alone(helm: Helm) -> None:
    def bindings(*settings: str) -> list[tuple[str, str]]:
        found = [d for d in helm.render(*settings) if d.get("roleRef", {}).get("name") == "headrace-operator-webhooks"]
        return [(d["kind"], d["metadata"]["namespace"]) for d in found]

    assert bindings() == []
    listed = bindings("--set", "webhooks.secretNamespaces={team-a,team-b}")
    assert listed == [("RoleBinding", "team-a"), ("RoleBinding", "team-b")]


def test_the_operator_gets_out_where_it_has_to(helm: Helm) -> None:
    def ports(*settings: str) -> dict[int, list[Any] | None]:
        rules = named(helm.render(*settings), "NetworkPolicy", "headrace-operator")["spec"]["egress"]
        return {port["port"]: rule.get("to") for rule in rules for port in rule["ports"]}

    found = ports()
    assert set(found) == {53, 443, 6443, 6379, 8443}
    assert [peer for peer in found[6379] or [] if "podSelector" in peer]
    public = [peer["ipBlock"] for peer in found[8443] or []]
    assert "10.0.0.0/8" in public[0]["except"]
    hosts = "webhooks.allowedHosts={a.internal:9000,b.internal}"
    found = ports("--set", hosts, "--set", "networkPolicies.apiServerPort=16443")
    assert {port for port, to in found.items() if to is None} >= {443, 6443, 16443, 9000, 80}
    external = "redis.external.address=rediss://[fd00::1]:6380/0,redis.existingSecret=s"
    assert ports("--set", external)[6380] is None


def test_namespaces_are_read_only_where_models_may_be_shared(helm: Helm) -> None:
    assert "namespaces" not in {
        resource
        for document in helm.render()
        if document["kind"] == "ClusterRole"
        for rule in document["rules"]
        for resource in rule["resources"]
    }


def test_watched_namespaces_narrow_the_operators_rights(helm: Helm) -> None:
    rendered = helm.render("--set", "operator.watchNamespaces={a,b}")
    own = [d for d in rendered if d.get("subjects", [{}])[0].get("name") == "headrace-operator"]
    # Nodes have no namespace.
    assert [d["roleRef"]["name"] for d in own if d["kind"] == "ClusterRoleBinding"] == ["headrace-operator-nodes"]
    nodes = named(rendered, "ClusterRole", "headrace-operator-nodes")["rules"]
    assert nodes == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    bound = {d["metadata"]["namespace"] for d in own if d["kind"] == "RoleBinding"}
    assert bound == {"a", "b", "headrace-system"}


def test_runner_and_facade_have_the_rights_they_should(helm: Helm) -> None:
    rendered = helm.render()
    rules = named(rendered, "ClusterRole", RUNNER_CLUSTER_ROLE)["rules"]
    assert rules == [{"apiGroups": ["headrace.dev"], "resources": ["llmtasks/status"], "verbs": ["patch"]}]
    bindings = [d for d in rendered if d["kind"].endswith("RoleBinding")]
    assert bindings
    # What the facade's account is given: test_chart_facade.
    assert {s["name"] for d in bindings for s in d["subjects"]} == {"headrace-operator", "headrace-facade"}
    for role in (d for d in rendered if d["kind"] == "ClusterRole" and "operator" not in d["metadata"]["name"]):
        statuses = [r for rule in role["rules"] for r in rule["resources"] if r.endswith("/status")]
        assert statuses == (["llmtasks/status"] if role["metadata"]["name"] == RUNNER_CLUSTER_ROLE else [])


def test_redis_lets_in_what_it_should(helm: Helm) -> None:
    policy = named(helm.render(), "NetworkPolicy", "headrace-redis")["spec"]
    peers = policy["ingress"][0]["from"]
    operator, facade, runners = peers
    assert facade["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "facade"
    assert "namespaceSelector" not in facade
    without = named(helm.render("--set", "facade.enabled=false"), "NetworkPolicy", "headrace-redis")["spec"]
    assert without["ingress"][0]["from"] == [operator, runners]
    assert operator["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "operator"
    assert "namespaceSelector" not in operator
    assert runners["namespaceSelector"] == {}
    assert runners["podSelector"]["matchLabels"].items() <= runner_labels("m").items()
    assert policy["egress"] == []


def test_operator_and_facade_let_in_what_they_should(helm: Helm) -> None:
    def ports(name: str, *settings: str) -> dict[int, list[Any] | None]:
        spec = named(helm.render(*settings), "NetworkPolicy", name)["spec"]
        assert "Ingress" in spec["policyTypes"]
        return {rule["ports"][0]["port"]: rule.get("from") for rule in spec["ingress"]}

    test = {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "test"}}}

    def peers(found: list[Any] | None) -> list[Any]:
        """The release's own test by its component alone."""
        assert found is not None
        for peer in found:
            for label in ("name", "instance"):
                peer.get("podSelector", {}).get("matchLabels", {}).pop(f"app.kubernetes.io/{label}", None)
        return found

    assert ports("headrace-facade") == {8000: None}
    assert {port: peers(found) for port, found in ports("headrace-operator").items()} == {8080: [test]}
    monitoring = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    chosen = ("--set-json", "networkPolicies.metrics.from=" + json.dumps([monitoring]))
    assert ports("headrace-facade", *chosen) == {8000: None, 9090: [monitoring]}
    assert peers(ports("headrace-operator", *chosen)[8080]) == [test, monitoring]
    behind = ports("headrace-facade", "--set-json", "networkPolicies.facade.from=" + json.dumps([monitoring]))
    assert peers(behind[8000]) == [test, monitoring]
