"""What the chart renders, judged by a real API server, by Redis, and by the contracts of the other parts."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace_operator.weights_settings import read_weights
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
        "remote": {"allowedHosts": ["vllm.models.svc:8000"], "resources": {"limits": {"memory": "1Gi"}}},
        "facade": {
            "replicas": 3,
            "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
            "podDisruptionBudget": {"enabled": True},
            **PLACEMENT,
        },
        "redis": {"persistence": {"enabled": True, "size": "5Gi", "storageClassName": "fast"}, **PLACEMENT},
        "tracing": {
            "endpoint": "http://collector.observability.svc:4318",
            "samplingRatio": 0.1,
            "headersSecret": "otlp",
        },
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
        ("remote.allowedHosts={169.254.169.254}", "allowedHosts"),
        ("remote.allowedHosts={http://a}", "allowedHosts"),
        ("remote.resources.limit=1", "limit"),
        ("weights=null", "missing property 'weights'"),
        ("weights.allowedHosts={169.254.169.254}", "allowedHosts"),
        ("weights.hostPaths={/srv/../etc}", "hostPaths"),
        ("weights.hostPaths={/}", "hostPaths"),
        ("weights.cache.nodeDirectory=/var/lib/x/", "nodeDirectory"),
        ("weights.huggingFaceEndpoint=https://hub.example/path", "huggingFaceEndpoint"),
        ("webhooks.allowedHosts={a:65536}", "allowedHosts"),
        ("facade.defaultTtlSeconds=null", "missing property 'defaultTtlSeconds'"),
        ("quota=null", "missing property 'quota'"),
        ("quota.default=null", "missing property 'default'"),
        ("sharing=null", "missing property 'sharing'"),
        ("webhooks=null", "missing property 'webhooks'"),
        ("remote=null", "missing property 'remote'"),
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
    "remote.allowedHosts",
    "weights.allowedHosts",
    "weights.hostPaths",
    "admission.extraStatusWriters",
    "runner.pullSecrets",
    "extraManifests",
]


def test_null_is_an_empty_list(helm: Helm) -> None:
    def texts(*settings: str) -> str:
        return helm.template("--set", "redis.existingSecret=s", *settings)

    nulls = [part for value in LISTS for part in ("--set", f"{value}=null")]
    assert texts(*nulls) == texts()


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
    assert set(json.loads(env["HEADRACE_RUNNER_RESOURCES"] or "")) == {"runner", "engine", "remote"}
    assert env["HEADRACE_RUNNER_REDIS_ADDRESS"] == "redis://headrace-redis.headrace-system.svc:6379/0"
    external = helm.render("--set", "redis.external.address=rediss://r:1/0,redis.existingSecret=s")
    assert env_of(external, "headrace-operator")["HEADRACE_RUNNER_REDIS_ADDRESS"] == "rediss://r:1/0"
    assert not [d for d in external if d["metadata"]["name"].endswith("-redis")]


def test_the_operator_reads_what_the_chart_says_of_weights(helm: Helm) -> None:
    assert read_weights(env_of(helm.render(), "headrace-operator")["HEADRACE_WEIGHTS"] or "") == read_weights(
        '{"resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}}'
    )
    values = {
        "cache": {"nodeDirectory": "/var/lib/weights", "limitBytes": 5_000_000_000_000},
        "allowedHosts": ["minio.models.svc:9000"],
        "hostPaths": ["/srv/models"],
        "bandwidthBytesPerSecond": 1_250_000_000,
        "resources": None,
    }
    rendered = helm.render("--set-json", f"weights={json.dumps(values)}")
    read = read_weights(env_of(rendered, "headrace-operator")["HEADRACE_WEIGHTS"] or "")
    assert (read.node_directory, read.limit_bytes) == ("/var/lib/weights", 5_000_000_000_000)
    assert (read.allowed_hosts, read.host_paths) == (("minio.models.svc:9000",), ("/srv/models",))
    assert (read.bytes_per_second, read.parallel, read.resources) == (1_250_000_000, 4, {})


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
