"""The facade's own ServiceAccount, with the rights that the chart renders for it and no others."""

import time
from dataclasses import dataclass
from pathlib import Path

from headrace_facade.settings import Settings
from tests.contract.callers import Caller, Server, service_account
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl

REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}}


@dataclass(frozen=True)
class OwnRights:
    """The account, where it lives and where its keys lie, and what the facade is told of it."""

    account: Caller
    keys: str
    settings: Settings


def installed(kubectl: Kubectl, helm: Helm, namespace: str, folder: Path, *values: str) -> OwnRights:
    """Applies the chart's facade/rbac.yaml for a release in `namespace`; returns when its rights are in effect."""
    account = service_account(kubectl, namespace, f"{namespace}-headrace-facade")
    rendered = helm.template("--show-only", "templates/facade/rbac.yaml", *values, namespace=namespace, name=namespace)
    kubectl.ok("apply", "-f", "-", stdin=rendered)
    server = Server.of(kubectl)
    (folder / "ca.crt").write_text(server.authority, encoding="utf-8")
    (folder / "token").write_text(account.token, encoding="ascii")
    keys = f"{namespace}-keys"
    probes = (
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", REVIEW),
        ("GET", "/apis/headrace.dev/v1alpha1/llmmodels", None),
        ("GET", f"/api/v1/namespaces/{keys}/secrets/none", None),
    )
    deadline = time.monotonic() + 15
    for method, path, body in probes:
        while (answer := account.request(method, path, body)).status_code == 403:
            assert time.monotonic() < deadline, answer.text
    settings = Settings(
        kube_url=server.url,
        kube_ca_file=str(folder / "ca.crt"),
        kube_token_file=str(folder / "token"),
        keys_namespace=keys,
        default_namespace=namespace,
    )
    return OwnRights(account, keys, settings)


def removed(kubectl: Kubectl, namespace: str) -> None:
    for kind in ("clusterrolebinding", "clusterrole"):
        for name in (f"{namespace}-headrace-facade", f"{namespace}-headrace-facade-callers"):
            kubectl.run("delete", kind, name, "--ignore-not-found")
    kubectl.run("delete", "namespace", f"{namespace}-keys", "--wait=false")
