"""All endpoints of the dialect under `/v1`. They are no part of /openapi.json: their reference is OpenAI's."""

from fastapi import APIRouter

from headrace_facade.openai_dialect import chat, completions, embeddings, models, responses

router = APIRouter(prefix="/v1", include_in_schema=False)
for _each in (chat, completions, embeddings, models, responses):
    router.include_router(_each.router)
