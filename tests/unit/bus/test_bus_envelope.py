import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_bus import ENVELOPE_MAX_BYTES, Envelope, EnvelopeInvalid, EnvelopeTooNew, PayloadTooLarge, WorkClass
from headrace_bus.envelope import ENVELOPE_VERSION, decode, encode

ENVELOPE = Envelope("u-1", WorkClass.TASK, "team-a", "report", 1, 1_700_000_000_000, 0, 300, {"prompt": "Grüße 🌊"})

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(payload=st.dictionaries(st.text(), json_values, max_size=4), kind=st.sampled_from(WorkClass))
def test_what_is_encoded_is_decoded(payload: dict[str, Any], kind: WorkClass) -> None:
    envelope = replace(ENVELOPE, payload=payload, kind=kind)
    assert decode(encode(envelope)) == envelope


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(encode(ENVELOPE)), **fields}).encode()


def test_unknown_fields_are_ignored() -> None:
    assert decode(changed(trace="00-ab", deadline=7)) == ENVELOPE


def test_the_version_before_is_read() -> None:
    assert decode(changed(version=ENVELOPE_VERSION - 1)) == ENVELOPE


def test_a_later_version_is_told_apart() -> None:
    with pytest.raises(EnvelopeTooNew) as caught:
        decode(changed(version=ENVELOPE_VERSION + 1, payload=None))
    assert (caught.value.version, caught.value.supported) == (ENVELOPE_VERSION + 1, ENVELOPE_VERSION)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"\xff", b"{}", changed(payload="x"), changed(kind="Batch"), changed(attempt=0), changed(uid="a:b")],
)
def test_what_is_no_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeInvalid):
        decode(data)


def test_the_bound_counts_bytes_not_characters() -> None:
    fits = replace(ENVELOPE, payload={"p": "x" * (ENVELOPE_MAX_BYTES - 500)})
    assert len(encode(fits)) <= ENVELOPE_MAX_BYTES
    with pytest.raises(PayloadTooLarge, match="envelope has 2"):
        encode(replace(ENVELOPE, payload={"p": "ü" * (ENVELOPE_MAX_BYTES - 500)}))


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": ""},
        {"uid": "a}b"},
        {"uid": "a b"},
        {"namespace": "*"},
        {"name": ""},
        {"attempt": 0},
        {"priority": 101},
        {"priority": -101},
        {"cost_tokens": -1},
        {"created_ms": -1},
    ],
)
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(ENVELOPE, **fields)
