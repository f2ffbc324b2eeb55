"""A parked result: what a runner writes comes out whole, what anybody else writes does not come out at all."""

import base64
import hashlib
import json
import random
import zlib
from typing import Any

import pytest
from pydantic import ValidationError

from headrace_crds.inputs import KeyRef
from headrace_crds.outcome import timestamp
from headrace_crds.parked import Parked
from headrace_crds.reasons import Reason
from headrace_crds.result import LARGE_RESULT_LIMIT_BYTES, Enforcement, Timings, Usage
from headrace_crds.task import Outcome

BUS_LIMIT_BYTES = 1024 * 1024


def parked(text: str, finish_reason: Any = "Stop") -> Parked:
    return Parked.of(
        text,
        finish_reason,
        Enforcement.GRAMMAR,
        Usage(prompt_tokens=3, completion_tokens=9),
        Timings(queued_millis=1, first_token_millis=2, generation_millis=3),
        claimed_ms=1_767_225_600_000,
        completed_ms=1_767_225_601_000,
        pod="headrace-smol-0",
    )


def reread(one: Parked) -> Parked:
    return Parked.model_validate(json.loads(json.dumps(one.dump())))


def test_it_comes_out_as_it_went_in() -> None:
    text = 'said "Grüße" \\ 🐟\n\x00' * 4000
    one = parked(text)
    assert reread(one) == one
    assert reread(one).text == text
    assert (one.size_bytes, one.sha256) == (len(text.encode()), hashlib.sha256(text.encode()).hexdigest())
    result = one.result(KeyRef(name="headrace-u-1", key="text"))
    assert result.dump() == {
        "configMapRef": {"name": "headrace-u-1", "key": "text"},
        "finishReason": "Stop",
        "sizeBytes": one.size_bytes,
        "sha256": one.sha256,
        "enforcement": "Grammar",
    }
    assert (one.outcome, one.reason) == (Outcome.COMPLETE, Reason.SUCCEEDED)


def test_a_partial_one_is_cancelled() -> None:
    one = parked("cut", "Cancelled")
    assert (one.outcome, one.reason) == (Outcome.CANCELLED, Reason.CANCELLED)
    assert one.result(KeyRef(name="c", key="k")).partial is True


@pytest.mark.parametrize("alphabet", ["\x01", '"\\\n', "aäß🐟", "".join(map(chr, range(32, 127)))])
def test_the_largest_result_fits_the_bus_whatever_json_escapes(alphabet: str) -> None:
    generator = random.Random(7)
    text = "".join(generator.choices(alphabet, k=LARGE_RESULT_LIMIT_BYTES))
    text = text.encode()[:LARGE_RESULT_LIMIT_BYTES].decode(errors="ignore")
    document = json.dumps(parked(text).dump(), ensure_ascii=False, separators=(",", ":"))
    assert len(document.encode()) <= BUS_LIMIT_BYTES


@pytest.mark.parametrize("text", ["", "x" * (LARGE_RESULT_LIMIT_BYTES + 1)])
def test_what_is_too_small_or_too_large_is_not_parked(text: str) -> None:
    with pytest.raises(ValueError, match="size_bytes"):
        parked(text)


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"textZlib": packed(b"other")},
        {"textZlib": packed(b"\xff" * 5), "sha256": hashlib.sha256(b"\xff" * 5).hexdigest()},
        {"textZlib": packed(b"plain" + b"x" * 1000)},
        {"textZlib": packed(b"x" * 100_000_000)},
        {"textZlib": packed(b"plain")[:-8]},
        {"textZlib": base64.b64encode(zlib.compress(b"plain") + b"more").decode()},
        {"textZlib": "*"},
        {"textZlib": "\ud800"},
        {"textZlib": None},
        {"sizeBytes": 4},
        {"sizeBytes": LARGE_RESULT_LIMIT_BYTES + 1},
        {"sha256": "x"},
        {"finishReason": "Because"},
        {"enforcement": "Hope"},
        {"claimedMs": -1},
        {"completedMs": 253_402_300_800_000},
        {"completedMs": 1.5},
        {"usage": {"promptTokens": 10**30, "completionTokens": 1}},
        {"usage": None},
        {"timings": {"queuedMillis": -1, "firstTokenMillis": 1, "generationMillis": 1}},
        {"pod": "\ud800"},
        {"pod": ""},
        {"pod": "a/b"},
    ],
)
def test_what_no_runner_writes_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Parked.model_validate({**parked("plain").dump(), **wrong})
    assert parked("plain").text_zlib not in str(refused.value)


def test_the_last_instant_is_still_a_date() -> None:
    one = Parked.model_validate({**parked("plain").dump(), "completedMs": 253_402_300_799_999})
    assert timestamp(one.completed_ms) == "9999-12-31T23:59:59Z"
