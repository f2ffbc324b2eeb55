"""What the chart renders, judged by a real API server, by Redis, and by the contracts of the other parts."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from headrace_bus import FACADE_ACL, OPERATOR_ACL, ModelKey
from headrace_bus.acl import acl_rules
from headrace_crds.names import RUNNER_CLUSTER_ROLE, runner_labels
from tests.contract.chart.conftest import CHART, Document, Helm, documents, named
from tests.contract.conftest import ROOT, Kubectl

pytestmark = pytest.mark.contract

PLACEMENT = {
    "podAnnotations": {"a": "1"},
    "podLabels": {"team": "ml", "app.kubernetes.io/name": "not-this"},
    "priorityClassName": "system-cluster-critical",
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}}
            ]
        }
    },
}
VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "images": {"operator": "r.example/o@sha256:" + "0" * 64, "pullSecrets": [{"name": "pull"}]},
        "operator": {
            "replicas": 2,
            "watchNamespaces": ["team-a", "team-b"],
            "podDisruptionBudget": {"enabled": True, "maxUnavailable": "50%"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            "serviceAccount": {"name": "op", "annotations": {"a": "b"}},
            **PLACEMENT,
        },
        "runner": {"pullSecrets": [{"name": "a"}, {"name": "b"}]},
        "sharing": {"modelNamespaces": ["team-a"]},
        "facade": {
            "replicas": 3,
            "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
            "podDisruptionBudget": {"enabled": True},
            **PLACEMENT,
        },
        "redis": {"persistence": {"enabled": True, "size": "5Gi", "storageClassName": "fast"}, **PLACEMENT},
        "webhooks": {"allowedHosts": ["hooks.internal:8080", "[fd00::1]"], "secretNamespaces": ["team-a", "team-b"]},
        "extraManifests": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\n",
        ],
    },
    "small": {
        "facade": {"enabled": False},
        "flowControl": {"enabled": False},
        "networkPolicies": {"enabled": False},
        "rbac": {"aggregateToDefaultRoles": False},
        "crds": {"enabled": False},
    },
    "external-redis": {
        "redis": {"external": {"address": "rediss://redis.example:6380/0"}, "existingSecret": "my-redis"},
        "fullnameOverride": "mill",
    },
    "own-redis-with-a-secret": {"redis": {"existingSecret": "my-redis"}, "facade": {"metrics": False}},
}


@pytest.fixture(params=VALUES)
def rendered(request: pytest.FixtureRequest, helm: Helm, values_file: Path) -> list[Document]:
    values_file.write_text(yaml.safe_dump(VALUES[request.param]), encoding="utf-8")
    return helm.render("-f", str(values_file))


def pod_specs(rendered: list[Document]) -> dict[str, Any]:
    """Metadata and spec of every pod, by the name of what makes it."""
    return {
        f"{d['kind']}/{d['metadata']['name']}": d if d["kind"] == "Pod" else d["spec"]["template"]
        for d in rendered
        if d["kind"] in ("Deployment", "StatefulSet", "Pod")
    }


def test_the_api_server_takes_everything(kubectl: Kubectl, namespace: str, rendered: list[Document]) -> None:
    # A controller manager, where there is one, makes it.
    kubectl.run("create", "serviceaccount", "default", "-n", namespace)
    for document in rendered:
        if document["kind"] == "CustomResourceDefinition":
            continue  # tests/contract/crds
        if document["metadata"].get("namespace"):
            document["metadata"]["namespace"] = namespace
        done = kubectl.run(
            "create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=json.dumps(document)
        )
        # A name of the cluster's may be taken by another test's release.
        assert done.returncode == 0 or "AlreadyExists" in done.stderr, done.stderr


def test_every_pod_meets_pod_security_restricted(kubectl: Kubectl, namespace: str, rendered: list[Document]) -> None:
    kubectl.ok("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    # A controller manager, where there is one, makes it.
    kubectl.run("create", "serviceaccount", "default", "-n", namespace)
    pods = pod_specs(rendered)
    assert len(pods) >= 2
    for name, template in pods.items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": dict(template["spec"])}
        pod["spec"].pop("serviceAccountName", None)
        pod["spec"].pop("priorityClassName", None)
        # A StatefulSet's claims become volumes of its pods.
        volumes = {v["name"] for v in pod["spec"]["volumes"]} if "volumes" in pod["spec"] else set()
        mounts = {m["name"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", ())}
        claims = [{"name": m, "persistentVolumeClaim": {"claimName": m}} for m in sorted(mounts - volumes)]
        pod["spec"]["volumes"] = [*pod["spec"].get("volumes", ()), *claims]
        done = kubectl.run("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(pod))
        assert done.returncode == 0, f"{name}: {done.stderr}"
        loose = {**pod, "spec": {**pod["spec"], "hostNetwork": True}}
        done = kubectl.run("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(loose))
        assert "violates PodSecurity" in done.stderr


def test_containers_are_read_only_bounded_and_hold_no_token_they_do_not_use(rendered: list[Document]) -> None:
    for name, template in pod_specs(rendered).items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is ("operator" in name and "Deployment" in name), name
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name
            if not name.startswith("Pod/"):
                assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container), name


def test_standard_labels_win_over_pod_labels_and_selectors_match(rendered: list[Document]) -> None:
    for document in rendered:
        if document["kind"] in ("ConfigMap", "CustomResourceDefinition") and "labels" not in document["metadata"]:
            continue
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "headrace"
        if document["kind"] in ("Deployment", "StatefulSet"):
            selector = document["spec"]["selector"]["matchLabels"]
            assert selector.items() <= document["spec"]["template"]["metadata"]["labels"].items()


def test_names_are_unique(rendered: list[Document]) -> None:
    names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in rendered]
    assert len(names) == len(set(names))


def test_a_long_release_name_is_cut_to_fit(helm: Helm, kubectl: Kubectl, namespace: str) -> None:
    name = "a" * 53
    for document in documents(helm.template("--set", "crds.enabled=false", name=name, namespace=namespace)):
        if document["kind"] in ("StatefulSet", "Service", "Deployment"):
            kubectl.ok("create", "--dry-run=server", "-n", namespace, "-f", "-", stdin=json.dumps(document))
            assert len(document["metadata"]["name"]) <= 52  # a StatefulSet's pods carry it with a hash as a label


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("operator.replica=2", "replica"),
        ("redis.maxMemory=1", "maxMemory"),
        ("facade.service.type=Ingress", "type"),
        ("operator.leaseSeconds=1", "leaseSeconds"),
        ("images.pullPolicy=Sometimes", "pullPolicy"),
        ("operator.watchNamespaces={Team_A}", "watchNamespaces"),
        ("sharing.modelNamespaces={a' || true || 'b}", "modelNamespaces"),
        ("redis.external.address=redis://user:password@host/0", "address"),
        ("redis.runAsUser=0", "runAsUser"),
        ("redis.external.address=redis://host/0", "redis.existingSecret"),
        ("webhooks.allowedHosts={http://a}", "allowedHosts"),
        ("webhooks.allowedHosts={*.example.com}", "allowedHosts"),
        ("webhooks.secretNamespaces={*}", "secretNamespaces"),
        ("admission.extraStatusWriters={a' || true || 'b}", "extraStatusWriters"),
        ("webhooks.allowedHosts={169.254.169.254}", "allowedHosts"),
        ("webhooks.allowedHosts={a:65536}", "allowedHosts"),
        ("facade.defaultTtlSeconds=null", "missing property 'defaultTtlSeconds'"),
        ("quota=null", "missing property 'quota'"),
        ("quota.default=null", "missing property 'default'"),
        ("sharing=null", "missing property 'sharing'"),
        ("webhooks=null", "missing property 'webhooks'"),
        ("retention=null", "missing property 'retention'"),
        ("queue=null", "missing property 'queue'"),
        (
            "operator.watchNamespaces={a},sharing.modelNamespaces={a,b}",
            'sharing.modelNamespaces names "b", which operator',
        ),
        (
            "operator.watchNamespaces={a},webhooks.secretNamespaces={b}",
            'webhooks.secretNamespaces names "b", which operat',
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(helm: Helm, setting: str, told: str) -> None:
    assert told in helm.refusal("--set", setting)


LISTS = [
    "operator.watchNamespaces",
    "sharing.modelNamespaces",
    "webhooks.allowedHosts",
    "webhooks.secretNamespaces",
    "admission.extraStatusWriters",
    "runner.pullSecrets",
    "extraManifests",
]


def test_null_is_an_empty_list(helm: Helm) -> None:
    def texts(*settings: str) -> str:
        return helm.template("--set", "redis.existingSecret=s", *settings)

    nulls = [part for value in LISTS for part in ("--set", f"{value}=null")]
    assert texts(*nulls) == texts()


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
    assert not [d for d in rendered if d["kind"] == "ClusterRoleBinding"]
    bound = {d["metadata"]["namespace"] for d in rendered if d["kind"] == "RoleBinding"}
    assert bound == {"a", "b", "headrace-system"}


def test_runner_and_facade_have_the_rights_they_should(helm: Helm) -> None:
    rendered = helm.render()
    rules = named(rendered, "ClusterRole", RUNNER_CLUSTER_ROLE)["rules"]
    assert rules == [{"apiGroups": ["headrace.dev"], "resources": ["llmtasks/status"], "verbs": ["patch"]}]
    bindings = [d for d in rendered if d["kind"].endswith("RoleBinding")]
    assert bindings
    assert not [d for d in bindings for s in d["subjects"] if s["name"] != "headrace-operator"]
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


def env_of(rendered: list[Document], deployment: str) -> dict[str, str | None]:
    container = named(rendered, "Deployment", deployment)["spec"]["template"]["spec"]["containers"][0]
    return {e["name"]: e.get("value") for e in container["env"]}


def test_the_operator_hears_every_setting_of_the_contract(helm: Helm) -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = text.split("| operator's setting |")[1].split("\n\n")[0]
    wanted = set(re.findall(r"`(HEADRACE_[A-Z_]+)`", table))
    env = env_of(helm.render(), "headrace-operator")
    assert len(wanted) >= 9
    assert wanted <= set(env)
    assert set(json.loads(env["HEADRACE_RUNNER_RESOURCES"] or "")) == {"runner", "engine"}
    assert env["HEADRACE_RUNNER_REDIS_ADDRESS"] == "redis://headrace-redis.headrace-system.svc:6379/0"
    external = helm.render("--set", "redis.external.address=rediss://r:1/0,redis.existingSecret=s")
    assert env_of(external, "headrace-operator")["HEADRACE_RUNNER_REDIS_ADDRESS"] == "rediss://r:1/0"
    assert not [d for d in external if d["metadata"]["name"].endswith("-redis")]


def test_the_facade_hears_its_settings_and_reads_one_key_of_the_secret(helm: Helm) -> None:
    rendered = helm.render()
    env = env_of(rendered, "headrace-facade")
    assert env["HEADRACE_DEFAULT_TTL_SECONDS"] == "3600"
    kept = env_of(helm.render("--set", "facade.defaultTtlSeconds=-1"), "headrace-facade")
    assert kept["HEADRACE_DEFAULT_TTL_SECONDS"] == ""
    chosen = helm.render("--set", "queue.modelTasks=7,queue.namespaceTasks=1000000")
    bounds = {name for name in env if name.startswith("HEADRACE_QUEUE_")}
    assert len(bounds) == 2
    for made in (rendered, chosen):
        operator, facade = env_of(made, "headrace-operator"), env_of(made, "headrace-facade")
        assert {name: facade[name] for name in bounds} == {name: operator[name] for name in bounds}
    assert env_of(chosen, "headrace-facade")["HEADRACE_QUEUE_MODEL_TASKS"] == "7"
    pod = named(rendered, "Deployment", "headrace-facade")["spec"]["template"]["spec"]
    (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert secret["items"] == [{"key": "facade-url", "path": "facade-url"}]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "redis"]
    assert env["HEADRACE_REDIS_URL_FILE"] == f"{mount['mountPath']}/facade-url"
    url = named(rendered, "Secret", "headrace-redis")["stringData"]["facade-url"]
    assert re.fullmatch(r"redis://facade:\w{48}@headrace-redis\.headrace-system\.svc:6379/0", url)


def test_templates_do_not_print_a_values_name_that_is_missing(helm: Helm) -> None:
    assert "<no value>" not in helm.template()
    assert "<no value>" not in (CHART / "templates/NOTES.txt").read_text(encoding="utf-8")


@contextmanager
def served(helm: Helm, folder: Path, timeout_s: int = 300) -> Iterator[tuple[int, dict[str, str]]]:
    """A real Redis with the chart's own configuration and users. Yields its port and the Secret."""
    rendered = helm.render()
    config = named(rendered, "ConfigMap", "headrace-redis")["data"]["redis.conf"]
    secret: dict[str, str] = named(rendered, "Secret", "headrace-redis")["stringData"]
    port = 20000 + int(time.time() * 1000) % 20000
    config = config.replace("/etc/redis/", f"{folder}/").replace("dir /data", f"dir {folder}")
    config = config.replace("port 6379", f"port {port}").replace("bind * -::*", "bind 127.0.0.1")
    assert "\ntimeout 300\n" in config
    config = config.replace("\ntimeout 300\n", f"\ntimeout {timeout_s}\n")
    (folder / "redis.conf").write_text(config, encoding="utf-8")
    (folder / "users.acl").write_text(secret["users.acl"], encoding="utf-8")
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(["redis-server", str(folder / "redis.conf")], stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + 10
            while b"Ready to accept" not in (folder / "log").read_bytes():
                assert server.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield port, secret
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def own_redis(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, str]]]:
    with served(helm, tmp_path_factory.mktemp("redis")) as it:
        yield it


def test_redis_starts_with_the_charts_configuration(own_redis: tuple[int, dict[str, str]]) -> None:
    port, secret = own_redis
    url = secret["operator-url"].split("@")[0] + f"@127.0.0.1:{port}/0"
    with redis.Redis.from_url(url) as operator:
        memory = operator.info("memory")
        assert memory["maxmemory_policy"] == "noeviction"
        assert memory["maxmemory"] == 256 * 1024 * 1024
        rules = acl_rules(ModelKey("ns", "model"))
        operator.execute_command("ACL", "SETUSER", "ns/model", "reset", "on", ">" + "x" * 20, *rules)
        with pytest.raises(redis.exceptions.NoPermissionError):
            operator.execute_command("CONFIG", "SET", "maxmemory", "0")
        with pytest.raises(redis.exceptions.NoPermissionError):
            operator.set("other", "1")
    with redis.Redis(port=port, username="ns/model", password="x" * 20) as runner:
        runner.set("headrace:{ns/model}:seq", "1")
        with pytest.raises(redis.exceptions.NoPermissionError):
            runner.set("headrace:{ns/other}:seq", "1")


def test_the_facades_user_sees_queues_and_changes_nothing(own_redis: tuple[int, dict[str, str]]) -> None:
    port, secret = own_redis
    url = secret["facade-url"].split("@")[0] + f"@127.0.0.1:{port}/0"
    with redis.Redis.from_url(url) as facade:
        assert facade.zcard("headrace:{ns/model}:queued") == 0
        refused: list[tuple[str, ...]] = [
            ("SET", "headrace:{ns/model}:seq", "1"),
            ("GET", "headrace:{ns/model}:envelope:u"),
            ("DEL", "headrace:{ns/model}:queued"),
            ("EVAL", "return 1", "0"),
            ("KEYS", "*"),
        ]
        for command in refused:
            with pytest.raises(redis.exceptions.NoPermissionError):
                facade.execute_command(*command)


def test_redis_ends_idle_connections_and_not_those_that_wait(helm: Helm, tmp_path: Path) -> None:
    """At one second instead of 300: a blocked reader and a subscriber stay, and a pool connects again by itself."""
    with served(helm, tmp_path, timeout_s=1) as (port, secret):
        url = secret["operator-url"].split("@")[0] + f"@127.0.0.1:{port}/0"
        with (
            redis.Redis.from_url(url) as operator,
            redis.Redis.from_url(url) as reader,
            redis.Redis.from_url(url) as watcher,
            watcher.pubsub() as subscription,
            redis.Redis.from_url(url, single_connection_client=True, retry=None) as idle,
            ThreadPoolExecutor(1) as pool,
        ):
            subscription.psubscribe("headrace:wake:*")
            subscription.get_message(timeout=5)
            before = idle.info("clients")
            assert before["maxclients"] == 2000
            blocked = pool.submit(reader.blpop, ["headrace:{a/b}:wake"], 20)
            deadline = time.monotonic() + 15
            # The rest: this one, the blocked reader and the subscriber.
            while (left := operator.info("clients")["connected_clients"]) > 3:
                assert time.monotonic() < deadline, left
                time.sleep(0.1)
            with pytest.raises(redis.exceptions.ConnectionError):
                idle.connection.read_response()
            operator.publish("headrace:wake:a/b", "x")
            message = subscription.get_message(timeout=5)
            assert message is not None
            assert message["data"] == b"x"
            operator.rpush("headrace:{a/b}:wake", "y")
            assert blocked.result(5) == (b"headrace:{a/b}:wake", b"y")
            # Its connection was idle since then, and closed.
            deadline = time.monotonic() + 15
            while operator.info("clients")["connected_clients"] > 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert reader.ping()


def test_redis_admits_nobody_without_a_password_but_the_probe(own_redis: tuple[int, dict[str, str]]) -> None:
    port, _ = own_redis
    with redis.Redis(port=port) as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()
    with redis.Redis(port=port, username="health", password="health") as probe:
        assert probe.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            probe.get("headrace:models")


def test_the_probe_asks_what_redis_answers(helm: Helm, own_redis: tuple[int, dict[str, str]]) -> None:
    port, _ = own_redis
    pod = named(helm.render(), "StatefulSet", "headrace-redis")["spec"]["template"]["spec"]
    command = pod["containers"][0]["readinessProbe"]["exec"]["command"]
    here = [word.replace("redis-cli", f"redis-cli -p {port}") for word in command]
    assert subprocess.run(here, check=False).returncode == 0
    gone = [word.replace("redis-cli", "redis-cli -p 1") for word in command]
    assert subprocess.run(gone, check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_redis_users_have_the_buses_rules(helm: Helm) -> None:
    users = named(helm.render(), "Secret", "headrace-redis")["stringData"]["users.acl"].splitlines()
    rules = {line.split()[1]: line.split()[2:] for line in users}
    assert rules["operator"][2:] == list(OPERATOR_ACL)
    assert rules["facade"][2:] == list(FACADE_ACL)
    assert set(rules) == {"default", "health", "operator", "facade"}
    assert rules["default"][0] == "off"
