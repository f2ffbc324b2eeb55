"""A text that lies in a ConfigMap: told as it is, or why not."""

from typing import Any

import pytest

from headrace_crds.outcome import text_digest
from headrace_facade.errors import FacadeError, Forbidden, NotFound, Unavailable
from headrace_facade.objects import to_task
from headrace_facade.texts import TEXT_LIMIT_BYTES, with_text

TEXT = "ü" * 20_000


def task(text: str = TEXT, **result: Any) -> Any:
    size_bytes, digest = text_digest(text)
    told = {
        "finishReason": "Stop",
        "sizeBytes": size_bytes,
        "sha256": digest,
        "configMapRef": {"name": "headrace-uid-1", "key": "text"},
        **result,
    }
    return to_task(
        {
            "metadata": {"name": "n", "namespace": "ns", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"modelRef": {"name": "m"}},
            "status": {"outcome": "Complete", "phase": "Complete", "attempt": 1, "result": told},
        }
    )


class Kube:
    def __init__(self, answer: dict[str, Any] | FacadeError) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, str]] = []

    async def get_config_map(self, namespace: str, name: str, token: str) -> dict[str, Any]:
        self.asked.append((namespace, name, token))
        if isinstance(self.answer, FacadeError):
            raise self.answer
        return self.answer


async def told(of: Any, answer: dict[str, Any] | FacadeError) -> Any:
    kube: Any = Kube(answer)
    result = (await with_text(of, kube, "token")).result
    assert kube.asked in ([], [("ns", "headrace-uid-1", "token")])
    return result


async def test_the_text_is_told_byte_for_byte() -> None:
    result = await told(task(), {"data": {"text": TEXT}})
    assert (result.text, result.text_missing) == (TEXT, None)
    assert result.config_map.name == "headrace-uid-1"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Forbidden("no"), "get on configmaps"),
        (NotFound("no"), "was deleted"),
        ({"data": {"text": TEXT[:-1] + "u"}}, "another text"),
        ({"data": {"other": TEXT}}, "another text"),
        ({"data": {"text": "\ud800"}}, "another text"),
        ({}, "another text"),
    ],
)
async def test_a_text_that_cannot_be_had_is_explained(answer: Any, words: str) -> None:
    result = await told(task(), answer)
    assert result.text is None
    assert words in result.text_missing


async def test_more_than_the_limit_is_not_asked_for() -> None:
    kube: Any = Kube({})
    found = await with_text(task(sizeBytes=TEXT_LIMIT_BYTES + 1), kube, "token")
    assert str(TEXT_LIMIT_BYTES) in found.result.text_missing
    assert kube.asked == []


async def test_an_api_server_that_is_away_is_said_and_not_a_missing_text() -> None:
    with pytest.raises(Unavailable):
        await told(task(), Unavailable("away"))


async def test_a_short_text_is_not_looked_for() -> None:
    kube: Any = Kube({})
    assert (await with_text(task(text="Hi", configMapRef=None), kube, "token")).result.text_missing is None
    assert kube.asked == []
