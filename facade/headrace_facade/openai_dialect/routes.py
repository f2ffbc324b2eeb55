"""All endpoints of the dialect. They are no part of /openapi.json: their reference is OpenAI's."""

from fastapi import APIRouter

from headrace_facade.openai_dialect import chat, completions, embeddings, models, rerank, responses, tokenize

router = APIRouter()
# Each has its whole path: the metrics' label is the route's own.
for _each in (chat, completions, embeddings, models, rerank, responses, tokenize):
    router.include_router(_each.router)
