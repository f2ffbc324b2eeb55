"""`/v1/embeddings`."""

import base64
import struct
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field

from headrace_facade.caller import Caller
from headrace_facade.calls.contract import CallRequest, CallResult
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.answers import WholeAnswer
from headrace_facade.openai_dialect.objects import Json
from headrace_facade.openai_dialect.port import InServices, told_name
from headrace_facade.openai_dialect.sampling import Labels
from headrace_facade.openai_dialect.wire import Refusals, Wire, read, unsupported, wrong

TOGETHER_LIMIT: Final = 262_144
"""Characters of all texts, as of an LLMTask's embed."""
REFUSED: Final[Refusals] = {
    "dimensions": ("vectors have the model's own length: leave it out, and cut them yourself if the model allows", ()),
}
router = APIRouter(prefix="/v1", include_in_schema=False)


def _texts(value: object) -> object:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        return value
    if value and not isinstance(value[0], str):
        raise unsupported("tokens are not taken: send texts")
    if sum(len(text) for text in value if isinstance(text, str)) > TOGETHER_LIMIT:
        raise wrong(f"holds more than {TOGETHER_LIMIT} characters together: split it into several requests")
    return value


Text = Annotated[str, Field(min_length=1, max_length=65_536)]


class EmbeddingBody(Labels, Wire):
    model: Annotated[str, Field(min_length=1, max_length=128)]
    input: Annotated[list[Text], Field(min_length=1, max_length=512, fail_fast=True), BeforeValidator(_texts)]
    encoding_format: Literal["float", "base64"] = "float"


@router.post("/embeddings")
async def create_embedding(request: Request, caller: Authenticated, services: InServices) -> Response:
    body = await read(request, EmbeddingBody, REFUSED)
    asked = CallRequest(model=body.model, embed=body.input)
    return WholeAnswer(services.calls, caller, asked, lambda _, result: embeddings(result, body, caller))


def embeddings(result: CallResult, body: EmbeddingBody, caller: Caller) -> Json:
    """The whole answer."""
    inside = _base64 if body.encoding_format == "base64" else list
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": inside(vector)}
            for index, vector in enumerate(result.embeddings)
        ],
        "model": told_name(result.model, caller),
        "usage": {"prompt_tokens": result.usage.prompt_tokens, "total_tokens": result.usage.prompt_tokens},
    }


def _base64(vector: list[float]) -> str:
    """Little-endian float32, as the clients read it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
