"""Answers against the types of Anthropic's client, which itself builds them without looking."""

import json
from typing import Any

import httpx
import pytest
from anthropic.types import Message, ModelInfo, RawMessageStreamEvent
from pydantic import TypeAdapter

from headrace_facade.calls.contract import Delta
from tests.fake_calls.service import KEY, WEATHER, FakeContext, ended
from tests.fake_calls.serving import served

pytestmark = pytest.mark.contract

ASKED: Any = {"model": "small", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
HEADERS = {"x-api-key": KEY, "Authorization": f"Bearer {KEY}", "anthropic-version": "2023-06-01"}
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@pytest.mark.parametrize("text", ["Hello", ""], ids=["text", "empty"])
async def test_answers_are_of_its_types(text: str) -> None:
    context = FakeContext()
    context.calls.script = [Delta(reasoning="hm"), ended(text, "ToolCalls", WEATHER, reasoning="hm")]
    async with served(context) as address, httpx.AsyncClient(base_url=address, headers=HEADERS) as plain:
        whole = await plain.post("/v1/messages", json=ASKED)
        stream = await plain.post("/v1/messages", json={**ASKED, "stream": True})
        models = await plain.get("/v1/models")
    assert Message.model_validate(whole.json()).content
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: ")]
    assert [EVENT.validate_python(each).type for each in events][-2:] == ["message_delta", "message_stop"]
    assert [ModelInfo.model_validate(each).id for each in models.json()["data"]] == ["small", "platform/large"]
