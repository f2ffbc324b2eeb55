"""The request for embeddings is read strictly, and its answer can be read by anybody."""

import base64
import json
import struct

import pytest

from headrace_runner.engine.embedding_request import MAX_INPUT_BYTES, MAX_INPUTS, Embed, document
from headrace_runner.engine.protocol import Reason, Refusal
from headrace_runner.engine.requests import decode_request


def test_a_request_survives_the_wire() -> None:
    request = Embed("a", ("one", "zwei ü"))
    assert decode_request(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"input": []}, "1 to 2048"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "1 to 2048"),
        ({"input": "a"}, "1 to 2048"),
        ({"input": ["a", ""]}, "none of them empty"),
        ({"input": ["a", 1]}, "expected texts"),
        ({"input": ["a" * (MAX_INPUT_BYTES + 1)]}, "bytes together"),
        ({"model": "b"}, "unknown fields: model"),
    ],
)
def test_what_it_cannot_be_is_refused(changed: dict[str, object], words: str) -> None:
    with pytest.raises(Refusal, match=words) as info:
        decode_request({"type": "embed", "id": "a", "input": ["a"], **changed})
    assert info.value.reason is Reason.INVALID_PARAMETERS


def test_half_a_surrogate_pair_is_replaced() -> None:
    assert decode_request({"type": "embed", "id": "a", "input": ["a\ud800"]}) == Embed("a", ("a?",))


def test_the_document_has_shape_and_numbers() -> None:
    told = json.loads(document(struct.pack("<4f", 1, 2, 3, -0.5), 2, 2))
    assert (told["dtype"], told["encoding"], told["shape"]) == ("float32", "base64", [2, 2])
    assert struct.unpack("<4f", base64.b64decode(told["data"])) == (1, 2, 3, -0.5)
