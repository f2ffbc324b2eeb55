"""What the chart gives the facade: exactly the rights of decision 0013, and none where it serves no calls."""

import re
from typing import Any

import pytest

from tests.contract.chart.conftest import Document, Helm, named
from tests.contract.conftest import ROOT

pytestmark = pytest.mark.contract
DECISION = ROOT / "docs/decisions/0013-the-facade-has-rights-of-its-own.md"
NAME = "headrace-facade"


def granted(rendered: list[Document]) -> set[tuple[str, str]]:
    """(verb, resource) of every role that is bound to the facade's account."""
    bound = {
        (document["roleRef"]["kind"], document["roleRef"]["name"])
        for document in rendered
        if any(subject["name"] == NAME for subject in document.get("subjects", ()))
    }
    return {
        (verb, resource)
        for document in rendered
        if (document["kind"], document["metadata"]["name"]) in bound
        for rule in document["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def bindings(rendered: list[Document], role: str) -> list[tuple[str, str | None]]:
    return [
        (document["kind"], document["metadata"].get("namespace"))
        for document in rendered
        if document.get("roleRef", {}).get("name") == role
    ]


def test_it_gets_exactly_the_rights_that_the_decision_says(helm: Helm) -> None:
    said = set()
    for words in re.findall(r"^\| `(.+?)` \|", DECISION.read_text(encoding="utf-8"), re.M):
        parts = [word.strip(",").partition(".")[0] for word in words.split()]
        verbs = {"get", "list", "watch", "create"}
        said |= {(verb, kind) for verb in parts if verb in verbs for kind in parts if kind not in verbs}
    assert len(said) == 12
    assert granted(helm.render("--set", "sharing.modelNamespaces={models}")) == said
    namespaces = {(verb, "namespaces") for verb in ("get", "list", "watch")}
    assert granted(helm.render()) == said - namespaces


def test_where_and_only_there(helm: Helm) -> None:
    rendered = helm.render()
    assert bindings(rendered, NAME) == [("ClusterRoleBinding", None)]
    assert bindings(rendered, f"{NAME}-keys") == [("RoleBinding", "headrace-system-keys")]
    kept = named(rendered, "Namespace", "headrace-system-keys")
    assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    some = helm.render(
        "--set",
        "operator.watchNamespaces={a,b}",
        "--set",
        "facade.apiKeys.namespace=k,facade.apiKeys.createNamespace=false",
    )
    assert bindings(some, NAME) == [("RoleBinding", "a"), ("RoleBinding", "b")]
    assert bindings(some, f"{NAME}-keys") == [("RoleBinding", "k")]
    assert not [document for document in some if document["kind"] == "Namespace"]
    assert environment(some)["HEADRACE_KEYS_NAMESPACE"] == "k"
    assert environment(some)["HEADRACE_WATCH_NAMESPACES"] == "a,b"


def test_without_calls_it_has_no_rights_and_no_token(helm: Helm) -> None:
    rendered = helm.render("--set", "facade.calls.enabled=false")
    assert granted(rendered) == set()
    assert not [document for document in rendered if document["kind"] == "Namespace"]
    assert "serviceAccountToken" not in str(pod(rendered))
    assert environment(rendered)["HEADRACE_KUBE_TOKEN_FILE"] == ""


def test_its_token_is_short_lived_and_where_it_looks_for_it(helm: Helm) -> None:
    rendered = helm.render(
        "--set", "facade.calls.requestsPerMinute=60,facade.calls.tokensPerMinute=1000000,facade.calls.holdSeconds=9"
    )
    volume = next(volume for volume in pod(rendered)["volumes"] if "projected" in volume)
    (token,) = [part["serviceAccountToken"] for part in volume["projected"]["sources"] if "serviceAccountToken" in part]
    assert token == {"path": "token", "expirationSeconds": 3600}
    mount = next(each for each in pod(rendered)["containers"][0]["volumeMounts"] if each["name"] == volume["name"])
    told = environment(rendered)
    assert told["HEADRACE_KUBE_TOKEN_FILE"] == f"{mount['mountPath']}/token"
    assert told["HEADRACE_KUBE_CA_FILE"] == f"{mount['mountPath']}/ca.crt"
    assert pod(rendered)["automountServiceAccountToken"] is False
    assert (told["HEADRACE_REQUESTS_PER_MINUTE"], told["HEADRACE_TOKENS_PER_MINUTE"]) == ("60", "1000000")
    assert told["HEADRACE_HOLD_SECONDS"] == "9"


def pod(rendered: list[Document]) -> dict[str, Any]:
    spec: dict[str, Any] = named(rendered, "Deployment", NAME)["spec"]["template"]["spec"]
    return spec


def environment(rendered: list[Document]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod(rendered)["containers"][0]["env"]}
