"""`/v1/rerank`, in the shape that Jina, Cohere, vLLM and llama-server share: by the cosine of embeddings.

No cross-encoder looks at query and document together: a score says how near their vectors are, from -1 to 1.
"""

import math
from collections.abc import Sequence
from operator import mul
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import Call, CallRequest, CallResult
from headrace_facade.calls.failures import CallBroken
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import WholeAnswer
from headrace_facade.openai_dialect.embeddings import TOGETHER_LIMIT, Text
from headrace_facade.openai_dialect.errors import Refused
from headrace_facade.openai_dialect.objects import Json, call_suffix
from headrace_facade.openai_dialect.port import InServices, told_name
from headrace_facade.openai_dialect.wire import Refusals, Wire, read, unsupported

DOCUMENTS_LIMIT: Final = 511
"""With the query as many texts as an embedding takes."""
REFUSED: Final[Refusals] = {
    "max_chunks_per_doc": ("documents are not cut into pieces: cut them yourself", (1,)),
    "max_tokens_per_doc": ("documents are not cut: cut them yourself", ()),
    "priority": ("is not offered: leave it out", ()),
    "rank_fields": ("documents are texts", ()),
    "truncate_prompt_tokens": ("texts are not cut: cut them yourself", ()),
}
router = APIRouter(prefix="/v1", include_in_schema=False)


def _document(value: object) -> object:
    if isinstance(value, dict):
        if not isinstance(text := value.get("text"), str) or len(value) != 1:
            raise unsupported("a document is a text, or an object with text alone")
        return text
    return value


class RerankBody(Wire):
    model: Annotated[str, Field(min_length=1, max_length=128)]
    query: Text
    documents: Annotated[
        list[Annotated[Text, BeforeValidator(_document)]],
        Field(min_length=1, max_length=DOCUMENTS_LIMIT, fail_fast=True),
    ]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = True
    user: Annotated[str, Field(max_length=512)] | None = None


def call_request(body: RerankBody) -> CallRequest:
    """The documents, and the query as the last text. Raises Refused."""
    texts = [*body.documents, body.query]
    if sum(map(len, texts)) > TOGETHER_LIMIT:
        told = f"query and documents hold more than {TOGETHER_LIMIT} characters together: send fewer documents"
        raise Refused("documents", told)
    return CallRequest(model=body.model, embed=texts)


@router.post("/rerank")
async def create_rerank(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, RerankBody, REFUSED)
    asked = call_request(body)
    return WholeAnswer(services.calls, caller, asked, lambda call, result: ranked(call, result, body, caller))


def ranked(call: Call, result: CallResult, body: RerankBody, caller: Caller) -> Json:
    """The whole answer, the nearest document first; of equal ones the first."""
    if len(result.embeddings) != len(body.documents) + 1:
        raise CallBroken("the model's runner gave another number of vectors than there are texts")
    *documents, query = result.embeddings
    scores = [cosine(query, each) for each in documents]
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    return {
        "id": f"rerank-{call_suffix(call.id)}",
        "object": "list",
        "model": told_name(result.model, caller),
        "results": [
            {
                "index": index,
                "relevance_score": scores[index],
                **({"document": {"text": body.documents[index]}} if body.return_documents else {}),
            }
            for index in best
        ],
        "usage": {"prompt_tokens": result.usage.prompt_tokens, "total_tokens": result.usage.prompt_tokens},
    }


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """-1 to 1; 0 where one of them has no length."""
    lengths = math.hypot(*one) * math.hypot(*other)
    # Rounding may carry it beyond.
    return max(-1.0, min(1.0, sum(map(mul, one, other)) / lengths)) if lengths else 0.0
