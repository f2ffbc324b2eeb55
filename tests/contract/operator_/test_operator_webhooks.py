"""Webhooks of a real operator to receivers on loopback that the allow-list names; another's verifier judges."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from cluster_world import Cluster, Operator, StartOperator, Writes, granted_rules, until
from webhook_receiver import KEY, OLD_KEY, Receiver, hook, receiver, secret

pytestmark = pytest.mark.contract


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture
def right(cluster: Cluster, namespace: str) -> Callable[[], None]:
    """What the chart binds in a namespace of webhooks.secretNamespaces."""

    def grant() -> None:
        rbac = "rbac.authorization.k8s.io/v1"
        rules = [rule for scope, rule in granted_rules() if scope == "listed"]
        assert rules
        cluster.create({"apiVersion": rbac, "kind": "Role", "metadata": {"name": "webhooks"}, "rules": rules})
        cluster.create(
            {
                "apiVersion": rbac,
                "kind": "RoleBinding",
                "metadata": {"name": "webhooks"},
                "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "webhooks"},
            }
        )

    return grant


def settings(namespace: str, *receivers: Receiver) -> dict[str, str]:
    return {
        "HEADRACE_WEBHOOK_ALLOWED_HOSTS": ",".join(each.host for each in receivers),
        "HEADRACE_WEBHOOK_SECRET_NAMESPACES": namespace,
    }


async def led(start: StartOperator, identity: str = "operator-0", **more: str) -> Operator:
    operator = start(identity, **more)
    await until(operator.leads)
    return operator


async def accepted(cluster: Cluster, name: str) -> None:
    """Waits for its model, which is not there: attempt 1."""

    async def waits() -> bool:
        return cluster.status(name).get("attempt") == 1

    await until(waits)


def commit(cluster: Cluster, name: str, *, notified: bool = True) -> None:
    """As a runner does, with the outbox entry that it was told to write."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

    def said(type_: str, status: str, reason: str) -> dict[str, str]:
        return {"type": type_, "status": status, "reason": reason, "lastTransitionTime": now}

    conditions = [said("Finished", "True", "Succeeded")]
    if notified:
        conditions.append(said("Notified", "False", "NotDelivered"))
    result = {"text": "THE-RESULT", "sizeBytes": 10, "sha256": "0" * 64, "finishReason": "Stop"}
    status = {"outcome": "Complete", "phase": "Complete", "completionTime": now, "reason": "Succeeded"}
    patch = [{"op": "add", "path": f"/status/{name}", "value": value} for name, value in status.items()]
    patch += [{"op": "add", "path": "/status/result", "value": result}]
    patch += [{"op": "add", "path": "/status/conditions", "value": conditions}]
    cluster.patch("llmtask", name, patch, type_="json", status=True)


async def finished(cluster: Cluster, name: str, url: str, *, notified: bool = True, **more: Any) -> str:
    uid = cluster.task(name, prompt="THE-PROMPT", webhook=hook(url), **more)
    await accepted(cluster, name)
    commit(cluster, name, notified=notified)
    return uid


def notified(cluster: Cluster, name: str, status: str, reason: str) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return cluster.conditions("llmtask", name).get("Notified") == (status, reason)

    return is_so


def message(cluster: Cluster, name: str) -> str:
    (found,) = [c for c in cluster.status(name)["conditions"] if c["type"] == "Notified"]
    return str(found["message"])


async def test_an_end_is_told_once_signed_by_every_key_and_costs_one_write(
    start: StartOperator,
    cluster: Cluster,
    namespace: str,
    there: Receiver,
    right: Callable[[], None],
) -> None:
    right()
    cluster.create(secret(OLD_KEY, KEY))
    operator = await led(start, **settings(namespace, there))
    uid = cluster.task("told", prompt="THE-PROMPT", webhook=hook(there.url))
    await accepted(cluster, "told")
    writes = Writes(cluster, "llmtask", "told")
    commit(cluster, "told")
    await until(notified(cluster, "told", "True", "Delivered"))
    assert writes.count() == 2, "the commit, and that it is delivered"
    (request,) = there.received
    assert request.headers["webhook-id"] == uid
    for key in (KEY, OLD_KEY):
        told = request.verified(key)
    assert told["type"] == "llmtask.complete"
    assert told["data"]["uid"] == uid
    assert (told["data"]["namespace"], told["data"]["name"]) == (namespace, "told")
    assert told["data"]["result"] == {"sizeBytes": 10, "sha256": "0" * 64, "finishReason": "Stop"}
    assert "THE-" not in request.body.decode(), "neither prompt nor result"
    answer = await operator.http("/metrics")
    assert answer is not None
    assert 'headrace_webhooks_total{reason="Delivered"} 1.0' in answer.text
    assert operator.stop() == 0
    logged = operator.log.read_text()
    assert uid in logged or "told" in logged
    for word in ("whsec_", KEY[6:], "in-the-query", "THE-"):
        assert word not in logged


async def test_what_the_operator_ends_itself_is_told_too(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    right()
    cluster.create(secret())
    await led(start, **settings(namespace, there))
    writes = Writes(cluster, "llmtask", "refused")
    cluster.task("refused", output={"jsonSchema": "no schema"}, webhook=hook(there.url, events=["Failed"]))
    await until(notified(cluster, "refused", "True", "Delivered"))
    told = there.received[0].verified()
    assert (told["type"], told["data"]["reason"]) == ("llmtask.failed", "InvalidSchema")
    assert writes.count() == 2
    # Nobody asked to hear of this one; and this one's committer knew nothing of webhooks.
    cluster.task("other", webhook=hook(there.url, events=["Failed"]))
    await accepted(cluster, "other")
    commit(cluster, "other", notified=False)
    await finished(cluster, "silent", there.url, notified=False)
    await until(notified(cluster, "silent", "True", "Delivered"))
    assert "Notified" not in cluster.conditions("llmtask", "other")
    assert [each.verified()["data"]["name"] for each in there.received] == ["refused", "silent"]


async def test_it_is_tried_again_under_the_same_id_until_it_is_taken(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    async with receiver() as elsewhere:

        async def away(_: web.Request) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": elsewhere.url})

        async def later(_: web.Request) -> web.StreamResponse:
            return web.Response(status=503, headers={"Retry-After": "3"})

        there.answers = [500, away, later, 200]
        right()
        cluster.create(secret())
        await led(start, **settings(namespace, there, elsewhere))
        uid = await finished(cluster, "again", there.url)
        await until(notified(cluster, "again", "True", "Delivered"))
        assert {each.headers["webhook-id"] for each in there.received} == {uid}
        assert len(there.received) == 4
        times = [each.at for each in there.received]
        assert times[1] - times[0] >= 1.0
        assert times[2] - times[1] >= 2.0
        assert times[3] - times[2] >= 4.0, "the backoff is longer than Retry-After"
        assert elsewhere.received == []


async def test_a_receiver_that_is_gone_is_left_alone(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    there.answers = [410]
    right()
    cluster.create(secret())
    await led(start, **settings(namespace, there))
    await finished(cluster, "gone", there.url)
    await until(notified(cluster, "gone", "True", "Gone"))
    assert len(there.received) == 1


async def test_a_url_that_leads_inside_is_refused_until_it_is_allowed(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    right()
    cluster.create(secret())
    async with receiver() as inside:
        operator = await led(start, **settings(namespace, there))
        await finished(cluster, "inside", inside.url)
        await until(notified(cluster, "inside", "False", "WebhookRefused"))
        assert "webhooks.allowedHosts" in message(cluster, "inside")
        assert "in-the-query" not in message(cluster, "inside")
        writes = Writes(cluster, "llmtask", "inside")

        async def tried_again() -> bool:
            answer = await operator.http("/metrics")
            assert answer is not None
            return any(f'reason="WebhookRefused"}} {n}.0' in answer.text for n in range(3, 9))

        await until(tried_again)
        assert writes.count() == 0, "said once"
        assert inside.received == []
        operator.kill()
        await led(start, "operator-1", **settings(namespace, inside))
        await until(notified(cluster, "inside", "True", "Delivered"))
        assert len(inside.received) == 1


async def test_a_key_that_cannot_be_had_is_named(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    operator = await led(start, **{**settings(namespace, there), "HEADRACE_WEBHOOK_SECRET_NAMESPACES": "elsewhere"})
    await finished(cluster, "unsigned", there.url)

    def says(words: str) -> Callable[[], Awaitable[bool]]:
        async def is_said() -> bool:
            unavailable = cluster.conditions("llmtask", "unsigned").get("Notified") == (
                "False",
                "SigningKeyUnavailable",
            )
            return unavailable and words in message(cluster, "unsigned")

        return is_said

    await until(says("webhooks.secretNamespaces"))
    operator.kill()
    await led(start, "operator-1", **settings(namespace, there))
    await until(says("does not let the operator read"))
    right()
    await until(says("does not exist"))
    cluster.create(secret(labels={}))
    await until(says("lacks the label"))
    cluster.patch("secret", "hook-keys", {"metadata": {"labels": {"headrace.dev/webhook": "true"}}})
    await until(notified(cluster, "unsigned", "True", "Delivered"))
    assert len(there.received) == 1
    there.received[0].verified()


async def test_a_receiver_that_hangs_holds_up_nobody_else(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    right()
    cluster.create(secret())
    async with receiver() as slow:
        slow.answers = [slow.hang]
        await led(start, **settings(namespace, there, slow))
        names = [f"slow-{number}" for number in range(6)]
        for name in names:
            await finished(cluster, name, slow.url)
        await until(lambda: slow.got(4))
        await finished(cluster, "quick", there.url)
        await until(notified(cluster, "quick", "True", "Delivered"))
        # None of them ends before the sender's ten seconds are over.
        begun = [each for each in slow.received if each.at < slow.received[0].at + 9]
        assert len(begun) <= 4, "four at once for a host of a namespace"
        slow.answers = [204]
        slow.hanging.set()
        for name in names:
            await until(notified(cluster, name, "True", "Delivered"))


async def test_the_next_leader_tells_what_was_not_written(
    start: StartOperator, cluster: Cluster, namespace: str, there: Receiver, right: Callable[[], None]
) -> None:
    right()
    cluster.create(secret())
    there.answers = [there.hang]
    first = await led(start, **settings(namespace, there))
    second = start("operator-1", **settings(namespace, there))
    uid = await finished(cluster, "twice", there.url)
    await until(lambda: there.got(1))
    first.kill()
    there.answers = [204]
    await until(second.leads)
    await until(notified(cluster, "twice", "True", "Delivered"))
    assert [each.headers["webhook-id"] for each in there.received] == [uid, uid]
    assert json.loads(there.received[0].body) == json.loads(there.received[1].body)
