"""How an engine starts, fails, dies and comes back, and what a runner sees of it."""

import asyncio
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace_runner.engine.client import EngineClient, EngineLost, EngineRefused, Stage
from headrace_runner.engine.protocol import Generate, Parameters

pytestmark = pytest.mark.contract

LONG = Parameters(temperature=0.0, max_tokens=460, stop=())
SHORT = Parameters(temperature=0.0, max_tokens=4)


def never_ending(generation_id: str) -> Generate:
    # A grammar without an end, so that no model can finish it early.
    schema = json.dumps({"type": "string", "minLength": 15_000})
    return Generate(generation_id, prompt="x", json_schema=schema, parameters=LONG)


async def running(client: EngineClient, generation_id: str) -> asyncio.Task[object]:
    """Start a generation and wait until it has said that it decodes."""
    decodes = asyncio.Event()
    request = never_ending(generation_id)
    task = asyncio.create_task(client.generate(request, on_progress=lambda tokens: decodes.set()))
    waiter = asyncio.create_task(decodes.wait())
    await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    assert not task.done(), task
    return task


async def test_an_abort_frees_the_sequence_at_once(engine, client: EngineClient) -> None:
    tasks = [await running(client, "1"), await running(client, "2")]
    began = time.monotonic()
    await client.abort("1")
    await tasks[0]
    # The other sequence is still busy, so this one runs in the place that became free.
    result = await client.generate(Generate("3", prompt="hi", parameters=SHORT))
    answered = time.monotonic() - began
    assert not tasks[1].done()
    # Had it waited for a sequence to end by itself, that would have been 460 tokens.
    per_token_seconds = result.timings.generation_ms / result.usage.completion_tokens / 1000
    assert answered < 460 * per_token_seconds / 4
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]


async def test_a_cancelled_generate_and_a_closed_connection_free_their_sequences(engine, client: EngineClient) -> None:
    cancelled = await running(client, "1")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    async with await EngineClient.connect(engine.socket) as other:
        left = [await running(other, str(n)) for n in range(2)]
    for task in left:
        with pytest.raises(EngineLost):
            await task
    results = await asyncio.gather(*(client.generate(Generate("1" * n, prompt="hi", parameters=SHORT)) for n in (1, 2)))
    assert all(result.timings.queued_ms < 5000 for result in results)


async def test_an_id_can_be_used_again_right_after_a_cancel(client: EngineClient) -> None:
    task = await running(client, "same")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await client.generate(Generate("same", prompt="hi", parameters=SHORT))).id == "same"


async def test_a_full_house_refuses_with_a_retryable_reason(client: EngineClient) -> None:
    tasks = {asyncio.create_task(client.generate(never_ending(str(n)))) for n in range(140)}
    refused: set[asyncio.Task[object]] = set()
    while len(refused) < 12:  # 128 may be unfinished, running ones among them
        refused, _ = await asyncio.wait(tasks - refused, return_when=asyncio.FIRST_COMPLETED)
        refused = {task for task in tasks if task.done()}
    outcomes = [task.exception() for task in refused]
    assert {(each.reason, each.retryable) for each in outcomes if isinstance(each, EngineRefused)} == {
        ("EngineOverloaded", True)
    }
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Places are free again as soon as the decode thread has seen the aborts.
    while isinstance(outcome := (await asyncio.gather(again(client), return_exceptions=True))[0], EngineRefused):
        assert outcome.reason == "EngineOverloaded"
    assert outcome == "after"


async def again(client: EngineClient) -> str:
    return (await client.generate(Generate("after", prompt="hi", parameters=SHORT))).id


async def test_the_socket_is_for_the_group_only(engine) -> None:
    assert engine.socket.stat().st_mode & 0o777 == 0o660


async def test_the_child_has_no_network(engine) -> None:
    status = await asyncio.to_thread(Path(f"/proc/{engine.child_pid()}/status").read_text)
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    assert engine.state().sandboxed


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (struct.pack(">I", 1 << 30), "1073741824 bytes exceeds"),
        (struct.pack(">I", 2) + b"[]", "not a JSON object"),
        (struct.pack(">I", 2) + b"{}", "needs an id"),
        (struct.pack(">I", 3) + b"\xff{}", "not JSON"),
    ],
)
async def test_a_broken_frame_ends_its_connection_with_an_error(engine, client, raw: bytes, reason: str) -> None:
    reader, writer = await asyncio.open_unix_connection(str(engine.socket))
    writer.write(raw)
    received = await reader.read()  # to the end: the engine closes
    writer.close()
    last = received[received.rindex(b'{"type"') :]
    body = json.loads(last)
    assert (body["type"], body["id"], body["reason"]) == ("error", "", "ProtocolError")
    assert reason in body["message"]
    assert (await client.generate(Generate("1", prompt="hi", parameters=SHORT))).id == "1"


async def test_a_refused_request_leaves_the_connection_usable(engine) -> None:
    reader, writer = await asyncio.open_unix_connection(str(engine.socket))
    for field in ('"n_discard":-1', '"parameters":{"maxTokens":0}'):
        raw = ('{"type":"generate","id":"1","prompt":"hi",' + field + "}").encode()
        writer.write(struct.pack(">I", len(raw)) + raw)
    seen = [json.loads(await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])) for _ in range(3)]
    writer.close()
    assert [each["type"] for each in seen] == ["hello", "error", "error"]
    assert [each["reason"] for each in seen[1:]] == ["InvalidParameters"] * 2


async def test_killed_while_generating_it_is_lost_restarted_and_works_again(model_path, start_engine) -> None:
    engine = start_engine(model_path)
    with pytest.raises(EngineLost):
        await EngineClient.connect(engine.socket)
    await asyncio.to_thread(engine.wait_serving)
    client = await EngineClient.connect(engine.socket)
    task = await running(client, "1")
    child = engine.child_pid()
    os.kill(child, signal.SIGKILL)  # its template helper becomes an orphan and ends
    with pytest.raises(EngineLost):
        await task
    await asyncio.wait_for(client.closed.wait(), 10)
    with pytest.raises(EngineLost):
        await client.generate(never_ending("2"))
    crashed = await asyncio.to_thread(engine.wait, lambda state: state.restarts == 1)
    assert (crashed.state, crashed.reason) == (Stage.RESTARTING, "EngineCrashed")
    assert "SIGKILL while Serving" in crashed.message
    # While it does not serve nobody can connect.
    assert not engine.socket.exists()
    await asyncio.to_thread(engine.wait, lambda state: state.state is Stage.SERVING and state.restarts == 1)
    assert engine.state().reason == ""
    # Exactly one child, and so no zombie; child_pid says so by unpacking.
    await asyncio.to_thread(engine.wait, lambda _: len(engine.child_pids()) == 1)
    assert engine.child_pid() != child
    async with await EngineClient.connect(engine.socket) as again:
        assert (await again.generate(Generate("1", prompt="hi", parameters=SHORT))).text
    await client.aclose()


async def test_a_child_that_hangs_is_killed_and_works_again(model_path, start_engine) -> None:
    engine = start_engine(model_path, HEADRACE_ENGINE_STALL_SECONDS="5")
    engine.wait_serving()
    client = await EngineClient.connect(engine.socket)
    task = await running(client, "1")
    os.kill(engine.child_pid(), signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(EngineLost):
        await asyncio.wait_for(task, 20)
    assert time.monotonic() - began >= 3
    stalled = await asyncio.to_thread(engine.wait, lambda state: state.restarts == 1)
    assert (stalled.state, stalled.reason) == (Stage.RESTARTING, "EngineStalled")
    assert "no sign of life for 5 s" in stalled.message
    await asyncio.to_thread(engine.wait_serving)
    async with await EngineClient.connect(engine.socket) as again:
        assert (await again.generate(Generate("1", prompt="hi", parameters=SHORT))).text
    await client.aclose()


async def test_one_that_has_grown_leaves_between_tasks_and_the_next_serves(model_path, start_engine) -> None:
    engine = start_engine(model_path, HEADRACE_ENGINE_RECYCLE_MIB="1")
    await asyncio.to_thread(engine.wait_serving)
    before = engine.child_pid()
    async with await EngineClient.connect(engine.socket) as client:
        refused: list[EngineRefused] = []
        number = 0
        while not refused:
            number += 1
            request = Generate(str(number), prompt="A story. " * min(number, 50), parameters=SHORT)
            try:
                assert (await client.generate(request)).usage.completion_tokens
            except EngineRefused as error:
                refused.append(error)
            # A moment in which nothing is unfinished.
            await asyncio.sleep(0.05)
        assert refused[0].left
        await asyncio.wait_for(client.closed.wait(), 10)
        assert client.goodbye is not None
    await asyncio.to_thread(engine.wait, lambda state: state.state is Stage.SERVING and engine.child_pids() != [before])
    assert engine.state().restarts == 0
    async with await EngineClient.connect(engine.socket) as again:
        assert (await again.generate(Generate("1", prompt="hi", parameters=SHORT))).text


async def test_a_checksum_that_fits_is_reported_and_sigterm_lets_generations_finish(model_path, start_engine) -> None:
    sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    engine = start_engine(model_path, HEADRACE_MODEL_SHA256=sha256)
    state = await asyncio.to_thread(engine.wait_serving)
    assert state.engine is not None
    assert state.engine.sha256 == sha256
    client = await EngineClient.connect(engine.socket)
    request = Generate("1", prompt="A story.", parameters=Parameters(temperature=0.0, max_tokens=32))
    task = asyncio.create_task(client.generate(request))
    await asyncio.sleep(0)
    ended = asyncio.create_task(asyncio.to_thread(engine.terminate))
    assert (await task).text
    await client.aclose()
    assert await ended == 0
    assert not engine.socket.exists()


def test_sigterm_while_loading_ends_it(model_path, start_engine) -> None:
    engine = start_engine(model_path)
    engine.wait(lambda state: state.state is not Stage.STARTING)
    assert engine.terminate() == 0


@pytest.mark.parametrize(
    ("content", "environment", "reason", "words"),
    [
        (None, {}, "ModelFileNotFound", "'m.gguf' does not exist in the volume; there are: other.gguf"),
        (b"garbage", {}, "InvalidModelFile", "magic"),
        (b"garbage", {"HEADRACE_MODEL_SHA256": "0" * 64}, "ChecksumMismatch", "expected 0000"),
    ],
)
def test_a_file_that_cannot_be_served_is_failed_with_its_reason(
    tmp_path: Path, start_engine: Callable, content: bytes | None, environment: dict, reason: str, words: str
) -> None:
    (tmp_path / "other.gguf").touch()
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    engine = start_engine(tmp_path / "m.gguf", **environment)
    state = engine.wait(lambda state: state.state is Stage.FAILED)
    assert state.reason == reason
    assert words in state.message
    assert (state.restarts, state.engine) == (0, None)


def test_a_file_that_comes_later_is_served(tmp_path: Path, model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(tmp_path / "late.gguf")
    engine.wait(lambda state: state.state is Stage.FAILED)
    (tmp_path / "late.gguf").symlink_to(model_path)
    assert engine.wait_serving().reason == ""


def test_a_gpu_that_is_not_there_is_never_a_cpu_run(model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(model_path, HEADRACE_GPU_LAYERS="All")
    state = engine.wait(lambda state: state.state in (Stage.FAILED, Stage.SERVING))
    assert (state.state, state.reason) == (Stage.FAILED, "GPUUnavailable")


def test_a_context_without_memory_is_refused(model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(model_path, HEADRACE_CONTEXT_TOKENS="100000", HEADRACE_PARALLELISM="64")
    state = engine.wait(lambda state: state.state in (Stage.FAILED, Stage.SERVING))
    assert (state.state, state.reason) == (Stage.FAILED, "ContextTooLarge")
    assert "64 sequences of 100000 tokens needs" in state.message
    assert "140625 of KV cache" in state.message
    assert "lower contextTokens (to " in state.message


def test_a_death_while_loading_names_signal_stage_and_file(model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(model_path)
    engine.wait(lambda state: state.state is Stage.LOADING)
    os.kill(engine.child_pid(), signal.SIGSEGV)
    state = engine.wait(lambda state: state.restarts == 1)
    assert (state.state, state.reason) == (Stage.STARTING, "EngineCrashed")
    assert state.message == f"the engine died by SIGSEGV while Loading ({model_path.name})"
    # It may have been a kernel that does not fit this CPU: the next does without.
    served = engine.wait_serving()
    assert served.engine is not None
    assert any(
        note.startswith(f"With the fastest kernels for this CPU {state.message}") for note in served.engine.notes
    )


def test_a_killed_supervisor_takes_the_child_along(model_path: Path, start_engine: Callable) -> None:
    engine = start_engine(model_path)
    engine.wait_serving()
    stat = Path(f"/proc/{engine.child_pid()}/stat")
    engine.kill()
    deadline = time.monotonic() + 10
    while stat.exists() and ") Z " not in stat.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_unix_sockets_are_all_it_has(engine) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(engine.socket))
