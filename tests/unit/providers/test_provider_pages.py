"""The documentation lists exactly what the providers take from extraBody."""

import re
from pathlib import Path

from headrace_runner.providers import compatible, openai_api

PAGE = Path(__file__).parents[3] / "docs" / "providers" / "openai.md"


def test_the_page_lists_every_member() -> None:
    rows = dict(re.findall(r"^\| (OpenAI|OpenAICompatible) \| (.*) \|$", PAGE.read_text(), re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows["OpenAI"])) == openai_api.CHAT_MEMBERS
    assert set(re.findall(r"`(\w+)`", rows["OpenAICompatible"])) == compatible.CHAT_MEMBERS
    sentence = re.search(r"Of embedding models: .*", PAGE.read_text())
    assert sentence is not None
    first, more = sentence[0].split("for OpenAICompatible")
    assert set(re.findall(r"`(\w+)`", first)) == openai_api.EMBEDDING_MEMBERS
    listed = openai_api.EMBEDDING_MEMBERS | set(re.findall(r"`(\w+)`", more))
    assert listed == compatible.EMBEDDING_MEMBERS
