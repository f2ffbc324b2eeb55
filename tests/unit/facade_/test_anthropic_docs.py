"""docs/anthropic.md is true: its samples are calls, every parameter is told of."""

import ast
import json
import re
from pathlib import Path
from typing import Any

from headrace_facade.anthropic_dialect.request import REFUSED, MessagesBody, call_request
from headrace_facade.openai_dialect.wire import parse

TEXT = (Path(__file__).parents[3] / "docs" / "anthropic.md").read_text(encoding="utf-8")


def test_the_sample_of_curl_is_a_call() -> None:
    (sample,) = re.findall(r"-d '(\{.*\})'", TEXT)
    body: dict[str, Any] = json.loads(sample)
    assert call_request(parse(body, MessagesBody, REFUSED)).options.stream


def test_the_sample_of_python_names_what_there_is() -> None:
    (sample,) = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    calls = [node for node in ast.walk(ast.parse(sample)) if isinstance(node, ast.Call)]
    named = {ast.unparse(call.func): {str(k.arg) for k in call.keywords} for call in calls}
    for name in ("client.messages.create", "client.messages.stream"):
        assert {"model", "max_tokens", "messages"} <= named[name] <= set(MessagesBody.model_fields)


def test_every_parameter_is_told_of() -> None:
    table = TEXT.partition("## Parameters")[2].partition("## Streams")[0]
    told = set(re.findall(r"`([a-z_]+)(?:`|:|\.)", table))
    asked = (set(REFUSED) | set(MessagesBody.model_fields)) - {"model"}
    assert asked <= told, asked - told
    assert not set(REFUSED) & set(MessagesBody.model_fields)
