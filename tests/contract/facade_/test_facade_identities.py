"""Who is let in, by a real API server: tokens, rights and keys of every kind; what the facade's own account may do."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from headrace_cli import key_command
from headrace_cli.cluster import Cluster
from headrace_crds.api_keys import SECRET_TYPE, key_digest, new_key, secret_name
from headrace_facade.app import create_app
from headrace_facade.context import Context, open_context
from headrace_facade.errors import FacadeError, Forbidden, Unauthenticated, Unavailable
from headrace_facade.identity.callers import KEY_REFUSED
from headrace_facade.identity.keys import KEY_KEPT_S
from tests.contract.callers import TASKS, Caller, service_account
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.answers import as_, code
from tests.contract.facade_.conftest import allowed
from tests.contract.facade_.own_rights import OwnRights, installed, removed

pytestmark = pytest.mark.contract


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    yield installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, tmp_path)
    removed(kubectl, namespace)


@pytest.fixture
async def context(own: OwnRights) -> AsyncIterator[Context]:
    async with open_context(own.settings) as context:
        yield context


@pytest.fixture
async def cluster(kubeconfig: str) -> AsyncIterator[Cluster]:
    async with Cluster.connect(kubeconfig, None) as cluster:
        yield cluster


def bearer(token: str) -> Headers:
    return Headers({"Authorization": f"Bearer {token}"})


async def refused(context: Context, headers: Headers, namespace: str | None = None) -> FacadeError:
    with pytest.raises(FacadeError) as told:
        await context.callers.authenticate(headers, namespace=namespace)
    return told.value


async def test_tokens(context: Context, kubectl: Kubectl, namespace: str, alice: Caller) -> None:
    caller = await context.callers.authenticate(bearer(alice.token))
    assert (caller.namespace, caller.name, caller.models, caller.token) == (namespace, alice.user, None, alice.token)
    assert await context.callers.authenticate(Headers({"x-api-key": alice.token})) == caller

    ours = kubectl.ok("create", "token", "alice", "-n", namespace, "--audience=headrace.dev").strip()
    told = await context.callers.authenticate(bearer(ours))
    assert (told.name, told.token) == (alice.user, None), "the API server would not take it"

    other = kubectl.ok("create", "token", "alice", "-n", namespace, "--audience=vault").strip()
    forged = alice.token[:-8] + "AAAAAAAA"
    words = set()
    for bad in (other, forged, "garbage", "a.b.c"):
        error = await refused(context, bearer(bad))
        assert isinstance(error, Unauthenticated), bad
        words.add(error.message)
    assert len(words) == 1
    for none in (Headers({}), Headers({"Authorization": "Basic eDp5"}), Headers({"x-api-key": ""})):
        assert isinstance(await refused(context, none), Unauthenticated)
    both = Headers({"Authorization": f"Bearer {alice.token}", "x-api-key": other})
    assert isinstance(await refused(context, both), Unauthenticated)


async def test_rights(context: Context, kubectl: Kubectl, namespace: str, alice: Caller) -> None:
    nobody = service_account(kubectl, namespace, "nobody")
    error = await refused(context, bearer(nobody.token))
    assert isinstance(error, Forbidden)
    assert nobody.user in error.message
    assert "may not create llmtasks.headrace.dev" in error.message
    reader = allowed(kubectl, namespace, "reader", "get,list")
    assert isinstance(await refused(context, bearer(reader.token)), Forbidden)
    # The right in its own namespace is none in another, and the other way round.
    assert isinstance(await refused(context, bearer(alice.token), "kube-system"), Forbidden)
    subject = f"--serviceaccount={namespace}:nobody"
    other = f"{namespace}-keys"
    kubectl.ok("create", "role", "calls", "-n", other, "--verb=create", "--resource=llmtasks.headrace.dev")
    kubectl.ok("create", "rolebinding", "calls", "-n", other, "--role=calls", subject)
    while kubectl.run(
        "auth", "can-i", "create", "llmtasks.headrace.dev", "-n", other, f"--as={nobody.user}"
    ).returncode:
        pass
    assert isinstance(await refused(context, bearer(nobody.token)), Forbidden)
    assert (await context.callers.authenticate(bearer(nobody.token), namespace=other)).namespace == other


async def test_keys(context: Context, own: OwnRights, cluster: Cluster, namespace: str, kubectl: Kubectl) -> None:
    async def made(*models: str, expires: datetime | None = None) -> tuple[str, str]:
        told = await key_command.create(cluster, own.keys, namespace, models, expires)
        return told["id"], told["key"]

    day = timedelta(days=1)
    now = datetime.now(UTC)
    key_id, key = await made(expires=now + day)
    caller = await context.callers.authenticate(Headers({"x-api-key": key}))
    assert (caller.namespace, caller.name, caller.models) == (namespace, f"key:{secret_name(key_id)}", None)
    assert caller.token is None
    assert await context.callers.authenticate(bearer(key)) == caller
    _, narrow = await made("team/a", "team/b")
    assert (await context.callers.authenticate(bearer(narrow))).models == {"team/a", "team/b"}
    assert isinstance(await refused(context, bearer(key), "elsewhere"), Forbidden)

    _, expired = await made(expires=now - day)
    absent_id, absent = new_key()
    wrong = f"hr_{key_id}_{new_key()[1][-43:]}"
    # The right digest in a Secret of another type, or of another's making, is no key.
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret_name(absent_id)}, "type": "Opaque"}
    data = {"sha256": key_digest(absent), "namespace": namespace}
    kubectl.ok("create", "-n", own.keys, "-f", "-", stdin=json.dumps({**body, "stringData": data}))
    for bad in (expired, absent, wrong, new_key()[1], key[:-1], f"{key}x", "hr_"):
        error = await refused(context, bearer(bad))
        assert isinstance(error, Unauthenticated), bad
        assert error.message == KEY_REFUSED

    rows = await key_command.listed(cluster, own.keys, namespace)
    assert key_id in {row["id"] for row in rows}
    assert key_digest(key) not in json.dumps(rows)
    await key_command.revoke(cluster, own.keys, key_id)
    began = context.callers._facts._clock()  # the same clock that it forgets by
    while True:
        try:
            await context.callers.authenticate(bearer(key))
        except Unauthenticated:
            break
    assert context.callers._facts._clock() - began <= KEY_KEPT_S + 1


async def test_a_key_makes_calls_and_no_tasks(
    context: Context, own: OwnRights, cluster: Cluster, namespace: str, alice: Caller
) -> None:
    key = (await key_command.create(cluster, own.keys, namespace, (), None))["key"]
    transport = httpx.ASGITransport(create_app(context))
    body = {"model": "m", "prompt": "p"}
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
        for headers in ({"x-api-key": key}, {"Authorization": f"Bearer {key}"}):
            answer = await http.post("/api/v1/tasks", json=body, headers=headers)
            assert code(answer, 403) == "FORBIDDEN"
            assert "token of the cluster" in answer.json()["message"]
        assert code(await http.post("/api/v1/tasks", json=body, headers={"x-api-key": new_key()[1]}), 401)
        nobody = await http.post("/v1/chat/completions", json=body)
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (await http.post("/api/v1/tasks", json=body, headers=as_(alice))).status_code == 202


async def test_nobody_is_let_in_while_the_api_server_is_away(own: OwnRights, alice: Caller, tmp_path: Path) -> None:
    async with open_context(replace(own.settings, kube_url="https://127.0.0.1:9")) as context:
        for headers in (bearer(alice.token), bearer(new_key()[1])):
            assert isinstance(await refused(context, headers), Unavailable)
    async with open_context(replace(own.settings, kube_token_file=str(tmp_path / "none"))) as context:
        assert isinstance(await refused(context, bearer(alice.token)), Unavailable)


def test_the_account_can_do_no_more_than_it_was_given(
    own: OwnRights, kubectl: Kubectl, namespace: str, alice: Caller
) -> None:
    kubectl.ok("create", "secret", "generic", "redis", "-n", namespace, "--from-literal=operator-url=x")
    kubectl.ok("create", "secret", "generic", "in-reach", "-n", own.keys, "--from-literal=a=b")
    task = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMTask", "metadata": {"name": "t"}}
    task["spec"] = {"modelRef": {"name": "m"}, "prompt": "p"}  # type: ignore[assignment]
    assert alice.request("POST", TASKS.format(namespace), task).status_code == 201
    secrets = "/api/v1/namespaces/{}/secrets"
    refusals = [
        ("GET", f"{secrets.format(namespace)}/redis", None),
        ("GET", secrets.format(namespace), None),
        ("GET", secrets.format(own.keys), None),
        ("GET", "/api/v1/secrets", None),
        ("POST", secrets.format(own.keys), {"metadata": {"name": "headrace-key-mine"}, "type": SECRET_TYPE}),
        ("DELETE", f"{secrets.format(own.keys)}/in-reach", None),
        ("POST", TASKS.format(namespace), task),
        ("GET", f"{TASKS.format(namespace)}/t", None),
        ("GET", TASKS.format(namespace), None),
        ("DELETE", f"{TASKS.format(namespace)}/t", None),
        ("POST", "/apis/headrace.dev/v1alpha1/namespaces/default/llmmodels", {"metadata": {"name": "m"}}),
        ("GET", "/api/v1/namespaces", None),
        ("GET", "/api/v1/pods", None),
        ("GET", f"/api/v1/namespaces/{namespace}/configmaps", None),
        ("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/alice/token", {"spec": {"audiences": []}}),
    ]
    for method, path, body in refusals:
        assert own.account.request(method, path, body).status_code == 403, (method, path)
    for path in (
        f"{secrets.format(own.keys)}/in-reach",
        "/apis/headrace.dev/v1alpha1/llmmodels",
        "/apis/headrace.dev/v1alpha1/llmquotas",
    ):
        assert own.account.request("GET", path).status_code == 200, path
