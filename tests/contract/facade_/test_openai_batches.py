"""OpenAI's client with files and batches at a real API server: what comes of them, and of a facade that is killed."""

import asyncio
import base64
import hashlib
import io
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from headrace_cli import key_command
from headrace_cli.cluster import Cluster
from headrace_facade.context import Context, open_context
from headrace_facade.openai_batches.record import Asked, cancelling, manifest
from tests.contract.callers import Caller
from tests.contract.chart.conftest import Helm
from tests.contract.conftest import Kubectl, required
from tests.contract.facade_.conftest import allowed
from tests.contract.facade_.own_rights import OwnRights, installed, removed
from tests.fake_calls.service import FakeContext
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract

CHAT = "/v1/chat/completions"
MANY = 300
USAGE = {"promptTokens": 10, "completionTokens": 5, "cachedTokens": 2}
TIMINGS = {"queuedMillis": 1, "firstTokenMillis": 2, "generationMillis": 3}


@pytest.fixture
def own(kubectl: Kubectl, kubeconfig: str, namespace: str, tmp_path: Path) -> Iterator[OwnRights]:
    yield installed(kubectl, Helm(required("HEADRACE_KUBE"), kubeconfig), namespace, tmp_path)
    removed(kubectl, namespace)


@pytest.fixture
async def context(own: OwnRights) -> AsyncIterator[Context]:
    async with open_context(own.settings) as context:
        yield context


@pytest.fixture
def bob(kubectl: Kubectl, namespace: str) -> Caller:
    """May do with tasks and ConfigMaps of the namespace what the role edit may."""
    caller = allowed(kubectl, namespace, "bob", "create,get,list,patch,delete")
    verbs = "--verb=create,get,list,patch,delete"
    kubectl.ok("create", "role", "bob-files", "-n", namespace, verbs, "--resource=configmaps")
    subject = f"--serviceaccount={namespace}:bob"
    kubectl.ok("create", "rolebinding", "bob-files", "-n", namespace, "--role=bob-files", subject)
    deadline = time.monotonic() + 10
    while kubectl.run("auth", "can-i", "create", "configmaps", "-n", namespace, f"--as={caller.user}").returncode:
        assert time.monotonic() < deadline
    return caller


@pytest.fixture
async def client(context: Context, bob: Caller) -> AsyncIterator[AsyncOpenAI]:
    async with (
        served(cast("FakeContext", context)) as address,
        AsyncOpenAI(api_key=bob.token, base_url=f"{address}/v1", max_retries=0) as client,
    ):
        yield client


def line(custom_id: str, body: dict[str, Any] | None = None, url: str = CHAT) -> str:
    asked = {"model": "m", "messages": [{"role": "user", "content": f"secret {custom_id}"}]} if body is None else body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": asked})


async def uploaded(client: AsyncOpenAI, lines: list[str], **members: Any) -> str:
    content = "\n".join(lines).encode()
    file = await client.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch", **members)
    return file.id


async def batched(client: AsyncOpenAI, lines: list[str], window: str = "24h", **members: Any) -> Any:
    return await client.batches.create(
        input_file_id=await uploaded(client, lines),
        endpoint=members.pop("endpoint", CHAT),
        completion_window=cast("Any", window),
        **members,
    )


def tasks(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl.ok("get", "llmtasks", "-n", namespace, "-o", "json"))["items"]
    return sorted(found, key=lambda task: task["metadata"]["name"])


async def finish(
    kubectl: Kubectl,
    task: dict[str, Any],
    outcome: str,
    reason: str,
    text: str | None = None,
    result: dict[str, Any] | None = None,
) -> None:
    status: dict[str, Any] = {
        "attempt": 1,
        "phase": outcome,
        "outcome": outcome,
        "reason": reason,
        "message": "so it is",
        "assignedModel": f"{task['metadata']['namespace']}/m",
        "completionTime": "2026-01-01T00:00:09Z",
    }
    if text is not None:
        result = {"text": text, "finishReason": "Stop", "sizeBytes": len(text.encode()), "sha256": "0" * 64}
    if result is not None:
        status |= {"result": result, "usage": USAGE, "timings": TIMINGS}
    patch = json.dumps({"status": status})
    name, namespace = task["metadata"]["name"], task["metadata"]["namespace"]
    arguments = ("patch", "llmtask", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)
    await asyncio.to_thread(kubectl.ok, *arguments)


async def rows(client: AsyncOpenAI, file_id: str | None) -> dict[str, dict[str, Any]]:
    assert file_id is not None
    text = (await client.files.content(file_id)).text
    return {row["custom_id"]: row for row in map(json.loads, text.splitlines())}


async def test_a_file_is_there_whole_and_goes_with_all_its_parts(
    client: AsyncOpenAI, kubectl: Kubectl, namespace: str
) -> None:
    content = base64.b64encode(os.urandom(2_000_000))  # more than a ConfigMap holds, and hardly to be compressed
    made = await client.files.create(file=("large.jsonl", io.BytesIO(content)), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (len(content), "large.jsonl", "batch", "processed")
    assert await client.files.retrieve(made.id) == made
    assert (await client.files.content(made.id)).content == content
    parts = json.loads(kubectl.ok("get", "configmaps", "-n", namespace, "-l", "headrace.dev/file", "-o", "json"))[
        "items"
    ]
    owners = [each["metadata"].get("ownerReferences", [{}])[0].get("name") for each in parts]
    assert len(parts) == 4
    assert owners.count(None) == 1  # the head, which owns the others

    second = await uploaded(client, ["{}"], expires_after={"anchor": "created_at", "seconds": 3600})
    assert {each.id async for each in client.files.list()} == {made.id, second}
    page = await client.files.list(limit=1)
    assert (len(page.data), page.has_more) == (1, True)
    assert (await client.files.retrieve(second)).expires_at is not None
    assert (await client.files.delete(made.id)).deleted
    assert [each.id async for each in client.files.list()] == [second]
    left = json.loads(kubectl.ok("get", "configmaps", "-n", namespace, "-l", "headrace.dev/file", "-o", "json"))[
        "items"
    ]
    assert len(left) == 2
    with pytest.raises(openai.NotFoundError) as gone:
        await client.files.content(made.id)
    assert gone.value.code == "object_not_found"


async def test_a_file_that_somebody_has_changed_is_none(client: AsyncOpenAI, kubectl: Kubectl, namespace: str) -> None:
    made = await uploaded(client, [line("a")])
    number = made.removeprefix("file-")
    patch = json.dumps({"data": {"file": json.dumps({"number": number, "parts": 10**9})}})
    kubectl.ok("patch", "configmap", f"headrace-file-{number}", "-n", namespace, "--type=merge", "-p", patch)
    with pytest.raises(openai.NotFoundError):
        await client.files.content(made)
    assert [each.id async for each in client.files.list()] == []


async def test_results_are_read_while_the_rest_runs(client: AsyncOpenAI, kubectl: Kubectl, namespace: str) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    hi = [{"role": "user", "content": "Hi"}]
    batch = await batched(
        client,
        [
            line("a"),
            line("b", {"model": "team-b/m", "messages": hi, "max_tokens": 7, "temperature": 0.5, "tools": [tool]}),
            "",
            line("c"),
            line("d", {"model": "m", "messages": hi, "n": 2}),
            line("e", {"model": "NO MODEL", "messages": hi}),
        ],
        window="30m",
        metadata={"night": "17"},
    )
    assert (batch.status, batch.completion_window, batch.metadata) == ("in_progress", "30m", {"night": "17"})
    assert batch.expires_at - batch.created_at == 1800
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 0, 2)
    assert batch.output_file_id is None

    a, b, c = tasks(kubectl, namespace)
    assert [each["metadata"]["annotations"]["headrace.dev/batch-custom-id"] for each in (a, b, c)] == ["a", "b", "c"]
    owner = a["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("ConfigMap", f"headrace-batch-{batch.id.removeprefix('batch_')}")
    assert "blockOwnerDeletion" not in owner
    assert b["spec"]["modelRef"] == {"namespace": "team-b", "name": "m"}
    assert b["spec"]["parameters"] == {"maxTokens": 7, "temperature": "0.5"}
    assert b["spec"]["tools"][0]["name"] == "look"
    assert 1700 < b["spec"]["activeDeadlineSeconds"] <= 1800
    assert b["spec"]["ttlSecondsAfterFinished"] == 30 * 86400

    await finish(kubectl, a, "Complete", "Succeeded", "Hello, a")
    partial = await client.batches.retrieve(batch.id)
    assert (partial.status, partial.request_counts.completed) == ("in_progress", 1)
    assert partial.usage is not None
    assert (partial.usage.input_tokens, partial.usage.total_tokens) == (10, 15)
    output = await rows(client, partial.output_file_id)
    assert list(output) == ["a"]
    body = output["a"]["response"]["body"]
    assert (body["object"], body["model"], body["created"]) == ("chat.completion", "m", 1767225609)
    assert body["choices"][0]["message"]["content"] == "Hello, a"
    errors = await rows(client, partial.error_file_id)
    assert set(errors) == {"d", "e"}
    assert errors["d"]["response"]["status_code"] == 400
    assert errors["d"]["response"]["body"]["error"]["param"] == "n"
    assert errors["e"]["response"]["body"]["error"]["code"] == "invalid_value"

    await finish(kubectl, b, "Failed", "InvalidOutput")
    await finish(kubectl, c, "Failed", "DeadlineExceeded")
    ended = await client.batches.retrieve(batch.id)
    assert (ended.status, ended.request_counts.completed, ended.request_counts.failed) == ("expired", 1, 4)
    errors = await rows(client, ended.error_file_id)
    assert errors["b"]["response"]["status_code"] == 502
    assert (errors["c"]["response"], errors["c"]["error"]["code"]) == (None, "batch_expired")
    file = await client.files.retrieve(str(ended.output_file_id))
    assert (file.purpose, file.bytes) == ("batch_output", len((await client.files.content(file.id)).content))

    # What has ended is known without its tasks; of a task that is gone only that is told.
    kubectl.ok("delete", "llmtask", a["metadata"]["name"], "-n", namespace)
    assert (await client.batches.retrieve(batch.id)).request_counts == ended.request_counts
    assert (await rows(client, ended.error_file_id))["a"]["error"]["code"] == "result_expired"


async def test_completions_and_vectors(client: AsyncOpenAI, kubectl: Kubectl, namespace: str) -> None:
    texts = await batched(
        client, [line("t", {"model": "m", "prompt": "Hi"}, "/v1/completions")], endpoint="/v1/completions"
    )
    (task,) = tasks(kubectl, namespace)
    await finish(kubectl, task, "Complete", "Succeeded", "there")
    done = await client.batches.retrieve(texts.id)
    assert done.status == "completed"
    assert (await rows(client, done.output_file_id))["t"]["response"]["body"]["choices"][0]["text"] == "there"
    kubectl.ok("delete", "llmtask", "--all", "-n", namespace)

    vectors = await batched(
        client, [line("v", {"model": "m", "input": ["a", "b"]}, "/v1/embeddings")], endpoint="/v1/embeddings"
    )
    (task,) = tasks(kubectl, namespace)
    assert task["spec"]["embed"] == {"input": ["a", "b"]}
    numbers = base64.b64encode(b"\0\0\x80\x3f\0\0\0\0" * 2).decode()
    document = {"shape": [2, 2], "dtype": "float32", "encoding": "base64", "data": numbers}
    await finish(kubectl, task, "Complete", "Succeeded", json.dumps(document))
    done = await client.batches.retrieve(vectors.id)
    body = (await rows(client, done.output_file_id))["v"]["response"]["body"]
    assert [each["embedding"] for each in body["data"]] == [[1.0, 0.0], [1.0, 0.0]]


async def test_a_large_result_is_read_where_it_lies(client: AsyncOpenAI, kubectl: Kubectl, namespace: str) -> None:
    batch = await batched(client, [line("a"), line("b")])
    for task, text in zip(tasks(kubectl, namespace), ("large " * 9000, "lost"), strict=True):
        name = task["metadata"]["name"]
        data = text.encode()
        result = {
            "configMapRef": {"name": f"{name}-result", "key": "text"},
            "finishReason": "Stop",
            "sizeBytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if text != "lost":
            made = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"{name}-result"},
                "data": {"text": text},
            }
            kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(made))
        await finish(kubectl, task, "Complete", "Succeeded", result=result)
    ended = await client.batches.retrieve(batch.id)
    output = await rows(client, ended.output_file_id)
    assert output["a"]["response"]["body"]["choices"][0]["message"]["content"] == "large " * 9000
    assert (output["b"]["response"], output["b"]["error"]["code"]) == (None, "result_missing")
    assert (ended.request_counts.completed, ended.error_file_id) == (2, None)


async def test_a_batch_whose_file_is_gone_before_its_tasks_were_made(
    client: AsyncOpenAI, kubectl: Kubectl, namespace: str
) -> None:
    """As a facade leaves it that is killed after it has written the batch down."""
    asked = Asked("f" * 24, CHAT, "1h", 3600, int(time.time()), 2)
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(manifest("b" * 24, asked, {1: "a", 3: "c"}, [])))
    ended = await client.batches.retrieve("batch_" + "b" * 24)
    assert (ended.status, ended.request_counts.total, ended.request_counts.failed) == ("completed", 2, 2)
    errors = await rows(client, ended.error_file_id)
    assert {key: row["response"]["body"]["error"]["code"] for key, row in errors.items()} == dict.fromkeys(
        "ac", "input_file_missing"
    )
    assert tasks(kubectl, namespace) == []


@pytest.mark.parametrize(("window_s", "status"), [(1, "expired"), (3600, "cancelled")])
async def test_nothing_is_made_after_the_window_or_a_cancellation(
    client: AsyncOpenAI, kubectl: Kubectl, namespace: str, window_s: int, status: str
) -> None:
    number = (await uploaded(client, [line("a"), line("b")])).removeprefix("file-")
    made = manifest("b" * 24, Asked(number, CHAT, "?", window_s, int(time.time()) - 60, 2), {1: "a", 2: "b"}, [])
    if status == "cancelled":
        made["data"] |= cancelling(int(time.time()))
    kubectl.ok("create", "-n", namespace, "-f", "-", stdin=json.dumps(made))
    ended = await client.batches.retrieve("batch_" + "b" * 24)
    assert (ended.status, ended.request_counts.failed) == (status, 2)
    code = f"batch_{status}"
    assert {row["error"]["code"] for row in (await rows(client, ended.error_file_id)).values()} == {code}
    assert tasks(kubectl, namespace) == []


async def test_a_cancelled_batch_tells_its_open_tasks(client: AsyncOpenAI, kubectl: Kubectl, namespace: str) -> None:
    batch = await batched(client, [line("a"), line("b")])
    a, b = tasks(kubectl, namespace)
    await finish(kubectl, a, "Complete", "Succeeded", "done")
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    assert [each["spec"]["cancel"] for each in tasks(kubectl, namespace)] == [False, True]
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    await finish(kubectl, b, "Cancelled", "Cancelled")
    ended = await client.batches.retrieve(batch.id)
    assert (ended.status, ended.request_counts.completed, ended.request_counts.failed) == ("cancelled", 1, 1)
    assert (await rows(client, ended.error_file_id))["b"]["error"]["code"] == "batch_cancelled"
    other = await batched(client, [line("a")])
    found = [each.id async for each in client.batches.list(limit=1)]
    assert set(found) == {batch.id, other.id}


async def test_a_file_that_is_wrong_makes_a_batch_that_has_failed(
    client: AsyncOpenAI, kubectl: Kubectl, namespace: str
) -> None:
    batch = await batched(client, [line("a"), "{no json", line("a"), line("b", url="/v1/embeddings")])
    assert batch.status == "failed"
    found = [(each.line, each.code) for each in batch.errors.data]
    assert found == [(2, "invalid_json_line"), (3, "duplicate_custom_id"), (4, "invalid_url")]
    assert "secret" not in batch.model_dump_json()
    assert tasks(kubectl, namespace) == []
    with pytest.raises(openai.ConflictError):
        await client.batches.cancel(batch.id)


async def test_who_may_not(
    client: AsyncOpenAI, kubectl: Kubectl, kubeconfig: str, own: OwnRights, namespace: str, alice: Caller
) -> None:
    """A key's owner, whoever may not write ConfigMaps, another namespace."""
    file = await uploaded(client, [line("a")])
    async with Cluster.connect(kubeconfig, None) as cluster:
        key = (await key_command.create(cluster, own.keys, namespace, [], None))["key"]
    for token in (key, alice.token):
        with pytest.raises(openai.PermissionDeniedError):
            await uploaded(client.with_options(api_key=token), [line("a")])
        with pytest.raises(openai.PermissionDeniedError):
            await client.with_options(api_key=token).batches.list()
    kubectl.ok("create", "namespace", other := f"{namespace}-other")
    try:
        eve = allowed(kubectl, other, "eve", "create")
        kubectl.ok("create", "rolebinding", "eve", "-n", other, "--clusterrole=edit", f"--serviceaccount={other}:eve")
        theirs = client.with_options(api_key=eve.token)
        deadline = time.monotonic() + 10
        while True:
            try:
                assert [each.id async for each in theirs.files.list()] == []
                break
            except openai.PermissionDeniedError:
                assert time.monotonic() < deadline
        with pytest.raises(openai.NotFoundError):
            await theirs.files.retrieve(file)
    finally:
        kubectl.run("delete", "namespace", other, "--wait=false")


async def test_a_request_that_is_sent_again_makes_one_batch(
    client: AsyncOpenAI, kubectl: Kubectl, namespace: str
) -> None:
    file, headers = await uploaded(client, [line("a"), line("b")]), {"Idempotency-Key": "night 17"}
    made = [
        await client.batches.create(
            input_file_id=file, endpoint=CHAT, completion_window=cast("Any", "1h"), extra_headers=headers
        )
        for _ in range(2)
    ]
    assert made[0].id == made[1].id
    assert len(tasks(kubectl, namespace)) == 2
    with pytest.raises(openai.ConflictError):
        await client.batches.create(
            input_file_id=file, endpoint=CHAT, completion_window=cast("Any", "2h"), extra_headers=headers
        )


async def test_what_a_killed_facade_has_left_is_made_by_the_next_one(
    client: AsyncOpenAI, own: OwnRights, bob: Caller, kubectl: Kubectl, namespace: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = own.settings
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from headrace_facade.main import main; main()",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADRACE")},
            "HEADRACE_KUBE_URL": settings.kube_url,
            "HEADRACE_KUBE_CA_FILE": str(settings.kube_ca_file),
            "HEADRACE_KUBE_TOKEN_FILE": str(settings.kube_token_file),
            "HEADRACE_HOST": "127.0.0.1",
            "HEADRACE_PORT": str(port),
            "HEADRACE_METRICS_PORT": "0",
        },
    )
    first = client.with_options(base_url=f"http://127.0.0.1:{port}/v1", api_key=bob.token)
    file = await uploaded(client, [line(str(number)) for number in range(MANY)])
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            while True:
                try:
                    if (await http.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
            posting = asyncio.create_task(
                first.batches.create(input_file_id=file, endpoint=CHAT, completion_window=cast("Any", "1h"))
            )
            while len(await asyncio.to_thread(tasks, kubectl, namespace)) < 10:
                assert not posting.done(), posting.exception()
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    with pytest.raises(openai.APIConnectionError):
        await posting
    before = tasks(kubectl, namespace)
    assert 10 <= len(before) < MANY
    (batch,) = [each async for each in client.batches.list()]
    assert batch.status == "in_progress"
    looked = await client.batches.retrieve(batch.id)
    assert (looked.status, looked.request_counts.total, looked.errors) == ("in_progress", MANY, None)
    after = tasks(kubectl, namespace)
    uids = {each["metadata"]["uid"] for each in after}
    assert len(after) == MANY
    assert {each["metadata"]["uid"] for each in before} < uids
    ids = {each["metadata"]["annotations"]["headrace.dev/batch-custom-id"] for each in after}
    assert ids == {str(number) for number in range(MANY)}
