"""`/v1/rerank`: the nearest document first, by the vectors of a model that embeds."""

import math
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_facade.calls.contract import Ended
from headrace_facade.calls.failures import InvalidCall
from headrace_facade.openai_dialect.rerank import cosine
from tests.fake_calls.service import KEY, FakeContext, result
from tests.fake_calls.serving import application

TEXTS = ["far", "near", "nearer", "opposite"]
VECTORS = [[0.0, 2.0], [1.0, 1.0], [3.0, 0.5], [-1.0, 0.0], [5.0, 0.0]]
NUMBERS = st.floats(-1e6, 1e6, width=32)


async def ask(context: FakeContext, **members: Any) -> httpx.Response:
    transport = httpx.ASGITransport(application(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
        body = {"model": "small", "query": "which?", "documents": TEXTS, **members}
        return await http.post("/v1/rerank", json=body, headers={"Authorization": f"Bearer {KEY}"})


@pytest.fixture
def context() -> FakeContext:
    context = FakeContext()
    context.calls.script = [Ended(result(embeddings=VECTORS))]
    return context


async def test_the_nearest_comes_first(context: FakeContext) -> None:
    answer = (await ask(context)).json()
    (asked,) = context.calls.asked
    assert asked.embed == [*TEXTS, "which?"]
    assert [each["index"] for each in answer["results"]] == [2, 1, 0, 3]
    assert answer["results"][0]["document"]["text"] == "nearer"
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == pytest.approx([6 / math.hypot(6, 1), math.sqrt(0.5), 0, -1])
    assert (answer["model"], answer["usage"]["total_tokens"]) == ("small", 11)


async def test_some_of_them_without_their_texts(context: FakeContext) -> None:
    documents = [{"text": text} for text in TEXTS]
    answer = (await ask(context, documents=documents, top_n=2, return_documents=False)).json()
    assert [set(each) for each in answer["results"]] == [{"index", "relevance_score"}] * 2
    assert len((await ask(context, top_n=99)).json()["results"]) == 4


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["x"] * 512}, "documents"),
        ({"documents": ["x" * 60_000] * 5}, "documents"),
        ({"documents": [{"text": "a", "title": "b"}]}, "documents[0]"),
        ({"documents": [{"image": "a"}]}, "documents[0]"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"rank_fields": ["a"]}, "rank_fields"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_what_is_refused(context: FakeContext, members: dict[str, Any], param: str) -> None:
    answer = await ask(context, **members)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert context.calls.asked == []


async def test_a_model_that_makes_no_vectors(context: FakeContext) -> None:
    context.calls.refusal = InvalidCall("LLMModel 'small' has no capability Embedding: name another model")
    answer = await ask(context)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_another_number_of_vectors_is_a_broken_answer(context: FakeContext) -> None:
    context.calls.script = [Ended(result(embeddings=VECTORS[:3]))]
    assert (await ask(context)).status_code == 500


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(*[st.lists(NUMBERS, min_size=n, max_size=n)] * 2)))
def test_a_cosine_is_in_its_range_and_symmetric(pair: tuple[list[float], list[float]]) -> None:
    one, other = pair
    assert -1 <= cosine(one, other) <= 1
    assert cosine(one, other) == cosine(other, one)
    if math.hypot(*one) > 1e-100:
        assert cosine(one, one) == pytest.approx(1)
