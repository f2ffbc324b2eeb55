"""One task over the whole way: facade, operator, runner, provider, webhook. Their collector sees one trace."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from cluster_world import Cluster, StartOperator, granted_rules, until
from redis_server import RedisServer
from webhook_receiver import Receiver, receiver, secret

from headrace_bus import ModelKey, tracing
from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.settings import Settings
from tests.contract.callers import Caller, Server, service_account
from tests.contract.runner_.pod_world import Runner
from tests.contract.runner_.remote_world import KEY, ChatApi, remote_settings
from tests.stub_collector.collector import Collector, Told, collecting

pytestmark = pytest.mark.contract

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CANARY = "canary-in-the-prompt"


class HeardApi(ChatApi):
    """Remembers the headers that it got."""

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[dict[str, str]] = []

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return await super()._complete(request)


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """Of all components: this process's environment is theirs."""
    with collecting() as made:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", made.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield made


@pytest.fixture
async def api() -> AsyncIterator[HeardApi]:
    async with HeardApi().serving() as served:
        assert isinstance(served, HeardApi)
        yield served


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture
def alice(cluster: Cluster, namespace: str) -> Caller:
    """May make tasks."""
    caller = service_account(cluster.kubectl, namespace, "alice")
    bind(cluster, "alice", [{"apiGroups": ["headrace.dev"], "resources": ["llmtasks"], "verbs": ["create", "get"]}])
    return caller


def bind(cluster: Cluster, account: str, rules: list[dict[str, Any]]) -> None:
    rbac, name = "rbac.authorization.k8s.io/v1", f"{account}-here"
    cluster.create({"apiVersion": rbac, "kind": "Role", "metadata": {"name": name}, "rules": rules})
    cluster.create(
        {
            "apiVersion": rbac,
            "kind": "RoleBinding",
            "metadata": {"name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": cluster.namespace}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        }
    )


def one(spans: list[Told], name: str) -> Told:
    (found,) = [span for span in spans if span.name == name]
    return found


async def submitted(cluster: Cluster, folder: Path, alice: Caller, task: dict[str, Any], **headers: str) -> str:
    """The task's trace id, as its client is told it."""
    server = Server.of(cluster.kubectl)
    (folder / "facade-ca.crt").write_text(server.authority, encoding="utf-8")
    settings = Settings(
        kube_url=server.url, kube_ca_file=str(folder / "facade-ca.crt"), default_namespace=cluster.namespace
    )
    async with (
        tracing.opened({"OTEL_EXPORTER_OTLP_ENDPOINT": "as in the process"}, "headrace-facade", "facade-0") as made,
        open_context(settings, made) as context,
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app(context)), base_url="http://facade") as http,
    ):
        told = {"Authorization": f"Bearer {alice.token}", **headers}

        async def taken() -> str:
            answer = await http.post("/api/v1/tasks", json=task, headers=told)
            # The authorizer hears of new rights a moment later.
            assert answer.status_code in (202, 403), answer.text
            return answer.headers["X-Trace-Id"] if answer.status_code == 202 else ""

        return await until(taken)


async def test_a_task_is_one_trace_from_its_request_to_its_webhook(
    collector: Collector,
    start: StartOperator,
    cluster: Cluster,
    server: RedisServer,
    key: ModelKey,
    kubeconfig: str,
    api: HeardApi,
    there: Receiver,
    alice: Caller,
    tmp_path: Path,
) -> None:
    bind(cluster, "operator", [rule for scope, rule in granted_rules() if scope == "listed"])
    cluster.create(secret())
    spec = {"remote": {"provider": "Loopback", "model": "m", "baseURL": api.base}}
    cluster.create(
        {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMModel", "metadata": {"name": key.name}, "spec": spec}
    )
    operator = start(
        HEADRACE_WEBHOOK_ALLOWED_HOSTS=there.host,
        HEADRACE_WEBHOOK_SECRET_NAMESPACES=cluster.namespace,
        HEADRACE_REMOTE_ALLOWED_HOSTS=api.base.removeprefix("http://").removesuffix("/v1"),
    )
    await until(operator.leads)
    runner = Runner(tmp_path, server, None, key, Path(kubeconfig), settings=remote_settings(tmp_path / "remote", api))
    try:
        await until(runner.ready)
        task = {
            "name": "traced",
            "model": key.name,
            "prompt": CANARY,
            "webhook_url": there.url,
            "webhook_secret": {"name": "hook-keys", "key": "signing"},
        }
        told = await submitted(cluster, tmp_path, alice, task, traceparent=f"00-{TRACE}-{SPAN}-01")
        assert told == TRACE

        async def complete() -> bool:
            names = {span.name for span in collector.spans() if span.trace_id == TRACE}
            return {"accept", "enqueue", "queue", "chat m", "commit", "webhook"} <= names

        await until(complete)
    finally:
        runner.end()
    assert cluster.status("traced")["outcome"] == "Complete"
    spans = [span for span in collector.spans() if span.trace_id == TRACE and not _refused(span)]
    by_id = {span.span_id: span for span in spans}
    parents = {span.name: by_id[span.parent].name if span.parent in by_id else span.parent for span in spans}
    assert parents == {
        "POST /api/v1/tasks": SPAN,
        "accept": "POST /api/v1/tasks",
        "enqueue": "POST /api/v1/tasks",
        "webhook": "POST /api/v1/tasks",
        "queue": "enqueue",
        "chat m": "enqueue",
        "provider request": "chat m",
        "admission": "provider request",
        "commit": "chat m",
    }
    assert len(spans) == len(parents)
    assert {span.name: (span.service.removeprefix("headrace-"), span.kind) for span in spans} == {
        "POST /api/v1/tasks": ("facade", "SERVER"),
        "accept": ("operator", "INTERNAL"),
        "enqueue": ("operator", "PRODUCER"),
        "webhook": ("operator", "CLIENT"),
        "queue": ("runner", "INTERNAL"),
        "chat m": ("runner", "CONSUMER"),
        "provider request": ("runner", "CLIENT"),
        "admission": ("runner", "INTERNAL"),
        "commit": ("runner", "INTERNAL"),
    }
    assert not any(span.failed or span.events for span in spans)
    attempt, usage = one(spans, "chat m"), cluster.status("traced")["usage"]
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "loopback",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": usage["promptTokens"],
        "gen_ai.usage.output_tokens": usage["completionTokens"],
        "gen_ai.response.finish_reasons": ["stop"],
        "messaging.destination.name": str(key),
        "headrace.name": "traced",
        "headrace.outcome": "Complete",
    }
    assert attempt.attributes | wanted == attempt.attributes
    queue = one(spans, "queue")
    assert queue.start_ns <= queue.end_ns == attempt.start_ns <= one(spans, "commit").start_ns
    # Whom it was told to, and what they learn.
    assert there.received[0].headers["traceparent"] == f"00-{TRACE}-{one(spans, 'webhook').span_id}-01"
    assert one(spans, "webhook").attributes["http.response.status_code"] == 204
    assert api.headers
    assert not any({"traceparent", "tracestate", "baggage"} & set(headers) for headers in api.headers)
    # What nobody is told.
    for private in (CANARY, "Hello.", KEY, alice.token, "in-the-query", "hook-keys"):
        assert not collector.says(private), private
    logs = operator.log.read_text() + runner.log.read_text()
    assert CANARY not in logs
    lines = [json.loads(line) for line in logs.splitlines()]
    traced = {line["event"] for line in lines if line.get("trace_id") == TRACE}
    assert {"handed out", "webhook", "task finished"} <= traced


def _refused(span: Told) -> bool:
    return span.attributes.get("http.response.status_code") == 403


async def test_a_task_made_by_kubectl_has_a_trace_of_its_uid_whatever_is_in_its_annotation(
    collector: Collector,
    start: StartOperator,
    cluster: Cluster,
    server: RedisServer,
    key: ModelKey,
    kubeconfig: str,
    api: HeardApi,
    tmp_path: Path,
) -> None:
    cluster.model()
    operator = start()
    await until(operator.leads)
    runner = Runner(tmp_path, server, None, key, Path(kubeconfig), settings=remote_settings(tmp_path / "remote", api))
    try:
        await until(runner.ready)
        made = cluster.create(
            {
                "apiVersion": "headrace.dev/v1alpha1",
                "kind": "LLMTask",
                "metadata": {"name": "applied", "annotations": {"headrace.dev/traceparent": f"00-{CANARY * 100}-01"}},
                "spec": {"modelRef": {"name": key.name}, "prompt": "hello"},
            }
        )
        trace_id = made["metadata"]["uid"].replace("-", "")

        async def complete() -> bool:
            return {"accept", "enqueue", "chat m", "commit"} <= {
                span.name for span in collector.spans() if span.trace_id == trace_id
            }

        await until(complete)
    finally:
        runner.end()
    spans = [span for span in collector.spans() if span.trace_id == trace_id]
    accept, enqueue, attempt = (one(spans, name) for name in ("accept", "enqueue", "chat m"))
    assert (accept.parent, enqueue.parent, attempt.parent) == ("", accept.span_id, enqueue.span_id)
    assert not collector.says(CANARY)
    assert CANARY not in operator.log.read_text()
