"""The request for embeddings, and the document that answers it: what the result of a task with ``embed`` is."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_INPUTS: Final = 2048
MAX_INPUT_BYTES: Final = 1024 * 1024
"""Of all texts of one request together."""


@dataclass(frozen=True, slots=True)
class Embed:
    """Ask for one vector for each text. The answer is a ``done`` whose text is the ``document`` of the vectors."""

    id: str
    input: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Give the frame's body."""
        return {"type": "embed", "id": self.id, "input": list(self.input)}


def read_embed(request_id: str, body: Mapping[str, Any]) -> Embed:
    """Read a request whose type is ``embed``. Raises ValueError with what is wrong."""
    unknown = sorted(set(body) - {"type", "id", "input"})
    if unknown:
        raise ValueError(f"unknown fields: {', '.join(name[:64] for name in unknown[:8])}")
    given = body.get("input")
    if not isinstance(given, list) or not 0 < len(given) <= MAX_INPUTS:
        raise ValueError(f"input: expected 1 to {MAX_INPUTS} texts")
    if not all(isinstance(text, str) and text for text in given):
        raise ValueError("input: expected texts, none of them empty")
    # JSON can carry lone surrogates ("\ud800"), which no tokenizer can read.
    texts = tuple(text.encode("utf-8", "replace").decode("utf-8") for text in given)
    if sum(len(text.encode()) for text in texts) > MAX_INPUT_BYTES:
        raise ValueError(f"input: more than {MAX_INPUT_BYTES} bytes together")
    return Embed(request_id, texts)


def document(vectors: bytes, count: int, length: int) -> str:
    """Give the JSON text for ``count`` vectors of ``length`` numbers: float32, little-endian, one after the other."""
    data = base64.b64encode(vectors).decode("ascii")
    head = {"dtype": "float32", "encoding": "base64", "shape": [count, length], "data": data}
    return json.dumps(head, separators=(",", ":"))
