"""docs/openai.md is true: its samples are calls, what it says is refused is refused."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from headrace_facade.openai_batches.lines import ENDPOINTS, window_seconds
from headrace_facade.openai_batches.routes import BatchBody
from headrace_facade.openai_dialect import (
    chat_request,
    completions,
    embeddings,
    rerank,
    responses_request,
    tokenize,
)
from headrace_facade.openai_dialect.wire import Wire, parse

TEXT = (Path(__file__).parents[3] / "docs" / "openai.md").read_text(encoding="utf-8")
TABLES = {
    "chat": chat_request.REFUSED,
    "completions": completions.REFUSED,
    "embeddings": embeddings.REFUSED,
    "rerank": rerank.REFUSED,
    "responses": responses_request.REFUSED,
    "tokenize": tokenize.REFUSED,
}
BODIES: dict[str, type[Wire]] = {
    "chat": chat_request.ChatBody,
    "completions": completions.CompletionBody,
    "embeddings": embeddings.EmbeddingBody,
    "rerank": rerank.RerankBody,
    "responses": responses_request.ResponseBody,
    "tokenize": tokenize.TokenizeBody,
}
OF_OPENAI_ALONE = {
    "access_programs",
    "background_options",
    "context_management",
    "image",
    "max_tool_calls",
    "modalities",
    "prompt_cache_options",
    "truncation",
}
"""Refused, and so far from what models do that the page leaves them to the error."""


def test_the_sample_of_curl_is_a_call() -> None:
    (sample,) = re.findall(r"-d '(\{.*\})'", TEXT)
    body: dict[str, Any] = json.loads(sample)
    asked = chat_request.call_request(parse(body, chat_request.ChatBody, chat_request.REFUSED))
    assert asked.options.stream


@pytest.mark.parametrize("sample", re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE))
def test_the_samples_of_python_name_what_there_is(sample: str) -> None:
    calls = [node for node in ast.walk(ast.parse(sample)) if isinstance(node, ast.Call)]
    creating = {ast.unparse(call.func): {str(k.arg) for k in call.keywords} for call in calls}
    known = {
        "client.chat.completions.create": set(chat_request.ChatBody.model_fields),
        "client.responses.create": set(responses_request.ResponseBody.model_fields),
        "client.files.create": {"file", "purpose"},
        "client.batches.create": set(BatchBody.model_fields),
    }
    assert [name for name in creating if name in known]
    for name in creating.keys() & known.keys():
        assert creating[name] <= known[name]


@pytest.mark.parametrize("kind", TABLES)
def test_every_parameter_is_told_of(kind: str) -> None:
    told = set(re.findall(r"`([a-z_]+)(?:`|:|\.)", TEXT))
    refused = set(TABLES[kind]) - OF_OPENAI_ALONE
    taken = set(BODIES[kind].model_fields) - {"model", "prompt", "input", "text", "encoding_format", "instructions"}
    assert refused | taken <= told, (refused | taken) - told
    assert not set(TABLES[kind]) & set(BODIES[kind].model_fields)


def test_the_sample_of_a_batch_can_be_made() -> None:
    (window,) = re.findall(r'completion_window="(.*?)"', TEXT)
    assert window_seconds(window) == 6 * 3600
    (endpoint,) = re.findall(r'endpoint="(.*?)"', TEXT)
    assert endpoint in ENDPOINTS


def test_every_member_of_a_batch_is_told_of() -> None:
    assert set(BatchBody.model_fields) <= set(re.findall(r"`([a-z_]+)`", TEXT))
