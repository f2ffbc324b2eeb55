"""The stub refuses what OpenAI's API refuses: otherwise a provider's mistakes would pass."""

import json
from typing import Any

import httpx2
import pytest

from tests.stub_openai.server import EMBEDDING_MODELS, KEY, MODELS, REASONING_MODELS, serving

USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def schema(**given: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "r", "strict": True, "schema": given}}


async def asked(path: str, body: dict[str, Any], key: str = KEY) -> tuple[int, dict[str, Any]]:
    async with serving() as stub, httpx2.AsyncClient(trust_env=False, verify=False) as http:
        answer = await http.post(f"{stub.url}{path}", json=body, headers={"Authorization": f"Bearer {key}"})
        return answer.status_code, answer.json()["error"] if answer.status_code >= 400 else {}


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"top_k": 5}, "top_k"),
        ({"min_p": 0.5}, "min_p"),
        ({"temperature": 3}, "temperature"),
        ({"stop": list("abcde")}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"5": 0.5}}, "logit_bias"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [{**TOOL, "type": "other"}]}, "tools[0]"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.[0].content"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "1", "content": "x"}]}, "messages.[1].role"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}, USER]}, "messages"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}]}, "messages"),
        ({"response_format": {"type": "json_object"}}, "messages"),
        ({"response_format": schema(type="object")}, "response_format"),
        ({"response_format": schema(type="array", items={"type": "string"})}, "response_format"),
        (
            {"response_format": schema(type="object", additionalProperties=False, properties={"a": {}}, required=[])},
            "response_format",
        ),
        (
            {"response_format": schema(type="object", additionalProperties=False, allOf=[{}])},
            "response_format",
        ),
    ],
)
async def test_a_request_is_refused_by_its_member(members: dict[str, Any], param: str) -> None:
    status, error = await asked("/chat/completions", {"model": MODELS[0], "messages": [USER], **members})
    assert (status, error["param"]) == (400, param)


@pytest.mark.parametrize(("member", "value"), [("max_tokens", 5), ("temperature", 0.5)])
async def test_a_reasoning_model_refuses_more(member: str, value: float) -> None:
    for model, expected in ((MODELS[0], 200), (REASONING_MODELS[0], 400)):
        body = {"model": model, "messages": [USER], member: value, "stream": True}
        status, error = await asked("/chat/completions", body)
        assert (status, error.get("param")) == (expected, None if expected == 200 else member)


async def test_keys_and_models_are_known() -> None:
    body = {"model": MODELS[0], "messages": [USER]}
    status, error = await asked("/chat/completions", body, "sk-bad")
    assert (status, error["code"]) == (401, "invalid_api_key")
    status, error = await asked("/chat/completions", {**body, "model": "gpt-none"})
    assert (status, error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "members", [{"input": []}, {"input": ["a"], "top_k": 1}, {"input": ["a"], "encoding_format": "x"}]
)
async def test_embeddings_are_judged_as_well(members: dict[str, Any]) -> None:
    status, error = await asked("/embeddings", {"model": EMBEDDING_MODELS[0], **members})
    assert status == 400, json.dumps(error)
