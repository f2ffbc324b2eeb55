"""What an engine does without a chat template, without libseccomp, and while it has nothing to do."""

import asyncio
import time

import pytest

from headrace_runner.engine.client import EngineClient
from headrace_runner.engine.protocol import Generate, Message, Parameters

pytestmark = pytest.mark.contract

SHORT = Parameters(temperature=0.0, max_tokens=4)


async def test_a_model_without_a_template_completes_prompts_raw_and_chats_as_chatml(odd_engine) -> None:
    state = odd_engine.state()
    assert state.engine is not None
    assert "no chat template" in state.engine.notes[0]
    async with await EngineClient.connect(odd_engine.socket) as client:
        raw = await client.generate(Generate("1", prompt="mill", parameters=SHORT))
        chat = await client.generate(Generate("2", messages=(Message("user", "mill"),), parameters=SHORT))
    assert raw.usage.prompt_tokens <= 2
    assert chat.usage.prompt_tokens >= 8


async def test_headrace_run_serves_without_libseccomp(odd_engine) -> None:
    assert odd_engine.state().sandboxed is False
    async with await EngineClient.connect(odd_engine.socket) as client:
        assert (await client.generate(Generate("1", prompt="hi", parameters=SHORT))).text


async def test_a_child_that_has_nothing_to_do_may_be_silent(odd_engine) -> None:
    async with await EngineClient.connect(odd_engine.socket) as client:
        assert (await client.generate(Generate("1", prompt="hi", parameters=SHORT))).text
        # Longer than the five seconds of silence that are its limit while it decodes.
        end = time.monotonic() + 7
        await asyncio.to_thread(odd_engine.wait, lambda _: time.monotonic() > end)
        assert odd_engine.state().restarts == 0
        assert not client.closed.is_set()
