"""The request for embeddings and its answer, for OpenAI and for what speaks its language.

https://platform.openai.com/docs/api-reference/embeddings; vectors come as base64 of float32, little-endian, or
as lists.
"""

import base64
import math
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from headrace_runner.engine.embedding_request import Embed, document
from headrace_runner.engine.protocol import GenerationResult, Timings
from headrace_runner.providers.answer_errors import invalid
from headrace_runner.providers.chat_answer import read_usage


def embedding_body(request: Embed, model: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The request's body. base64 is a quarter of the numbers' text."""
    texts = [text.encode("utf-8", "replace").decode("utf-8") for text in request.input]
    return {**extra, "model": model, "input": texts, "encoding_format": "base64"}


def embedding_result(
    request: Embed, body: object, begun: float, clock: Callable[[], float] = time.monotonic
) -> GenerationResult:
    """The result of an answer, its vectors in the order of the texts; ``begun`` is when it was asked for.

    Computes for a while where there are many numbers: not for the event loop's thread. Raises ProviderError.
    """
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(data, list) or len(data) != len(request.input):
        raise invalid(f"expected {len(request.input)} vectors")
    vectors: dict[int, bytes] = {}
    for at, item in enumerate(data):
        if not isinstance(item, Mapping):
            raise invalid("an embedding is no object")
        index = item.get("index", at)
        if not isinstance(index, int) or not 0 <= index < len(data) or index in vectors:
            raise invalid("the vectors' indexes are not those of the texts")
        vectors[index] = _vector(item.get("embedding"))
    size_bytes = len(vectors[0])
    if any(len(vector) != size_bytes for vector in vectors.values()):
        raise invalid("vectors of different lengths")
    usage = body.get("usage")
    millis = max(0, round((clock() - begun) * 1000))
    return GenerationResult(
        id=request.id,
        text=document(b"".join(vectors[index] for index in range(len(data))), len(data), size_bytes // 4),
        finish_reason="Stop",
        usage=read_usage(usage if isinstance(usage, Mapping) else {}),
        timings=Timings(0, millis, millis),
    )


def _vector(value: Any) -> bytes:
    try:
        if isinstance(value, str):
            packed = base64.b64decode(value, validate=True)
            numbers = struct.unpack(f"<{len(packed) // 4}f", packed)
        else:
            numbers = tuple(value)
            packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except (ValueError, TypeError, OverflowError, struct.error):
        raise invalid("an embedding is neither base64 of float32 nor a list of numbers") from None
    if not numbers or not all(map(math.isfinite, numbers)):
        raise invalid("an embedding has no numbers, or ones without bounds")
    return packed
