"""`headrace key` against a real API server: what is kept of a key, who sees it, and how it ends."""

import base64
import json

import pytest

from headrace_crds.api_keys import KEY, SECRET_TYPE, key_digest, secret_name
from headrace_facade.identity.keys import facts_of
from tests.contract.cli.conftest import Headrace
from tests.contract.conftest import Kubectl

pytestmark = pytest.mark.contract


def test_a_key_is_shown_once_listed_without_itself_and_revoked(
    headrace: Headrace, kubectl: Kubectl, namespace: str
) -> None:
    where = ("--keys-namespace", namespace)
    made = headrace("key", "create", "team-a", "--models", "models/a,team-a/b", "--expires", "90d", *where)
    assert made.code == 0
    key = made.out.strip()
    match = KEY.fullmatch(key)
    assert match is not None
    assert match[1] in made.err
    assert key not in made.err

    secret = json.loads(kubectl.ok("get", "secret", secret_name(match[1]), "-n", namespace, "-o", "json"))
    assert secret["type"] == SECRET_TYPE
    assert secret["immutable"] is True
    stored = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    assert set(stored) == {"sha256", "namespace", "models", "expires"}
    assert key not in json.dumps(stored) + json.dumps(secret)
    facts = facts_of(match[1], secret, bytes.fromhex(key_digest(key)))
    assert facts is not None
    assert (facts.namespace, facts.models) == ("team-a", {"models/a", "team-a/b"})
    assert facts.expires is not None

    other = headrace("key", "create", "team-b", "-o", "json", *where).json()
    assert other["models"] == []
    assert other["expires"] is None
    kubectl.ok("create", "secret", "generic", "headrace-key-not-one", "-n", namespace)
    told = headrace("key", "list", *where)
    assert (match[1] in told.out, other["id"] in told.out, "not-one" in told.out) == (True, True, False)
    for secret_text in (key, other["key"], stored["sha256"]):
        assert secret_text not in told.out
    assert [each["id"] for each in headrace("key", "list", "-n", "team-b", "-o", "json", *where).json()] == [
        other["id"]
    ]

    assert headrace("key", "revoke", match[1], *where).code == 0
    assert match[1] not in headrace("key", "list", *where).out
    again = headrace("key", "revoke", match[1], *where)
    assert again.code == 1
    assert "there is no key" in again.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "Team"),
        ("create", "team", "--models", "m"),
        ("create", "team", "--models", ""),
        ("create", "team", "--expires", "soon"),
        ("create", "team", "--expires", "0d"),
        ("revoke", "../x"),
    ],
    ids=" ".join,
)
def test_mistakes_are_told_before_a_cluster_is_asked(headrace: Headrace, arguments: tuple[str, ...]) -> None:
    told = headrace("key", *arguments, "--kubeconfig", "/nowhere")
    assert told.code == 2


def test_a_key_given_for_its_id_is_not_repeated(headrace: Headrace) -> None:
    key = f"hr_0123456789abcdef_{'k' * 43}"
    told = headrace("key", "revoke", key)
    assert told.code == 2
    assert key not in told.out + told.err
