"""The downloader's pure parts: spans, answers about ranges, bandwidth, pace, signatures."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_crds.hosts import AllowedHost, Refused, judge_source
from headrace_crds.source import HuggingFaceSource, S3Source
from headrace_runner.weights.bandwidth import BURST_SECONDS, Bandwidth
from headrace_runner.weights.content_range import identity_of, part_of, whole_size
from headrace_runner.weights.part_file import Identity
from headrace_runner.weights.progress import Progress
from headrace_runner.weights.ranges import Span, Spans
from headrace_runner.weights.signature_v4 import encoded_path, signed_headers
from headrace_runner.weights.source_huggingface import hugging_face_origin
from headrace_runner.weights.source_s3 import S3Origin

SIZE = 60
SPAN = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda pair: (min(pair), max(pair)))


@given(st.lists(SPAN, max_size=12), st.integers(1, SIZE))
def test_what_is_there_and_what_is_missing_make_the_file(pieces: list[Span], most: int) -> None:
    spans = Spans(pieces)
    there = {byte for start, end in pieces for byte in range(start, end)}
    assert {byte for start, end in spans for byte in range(start, end)} == there
    assert spans.covered_bytes == len(there)
    kept = list(spans)
    assert all(left[1] < right[0] for left, right in pairwise(kept)), "in order, and none touch"
    missing = spans.missing(SIZE, most)
    assert all(0 < end - start <= most for start, end in missing)
    asked = [byte for start, end in missing for byte in range(start, end)]
    assert len(asked) == len(set(asked)), "no byte twice"
    assert set(asked) == set(range(SIZE)) - there


@given(st.lists(SPAN, max_size=8), st.randoms())
def test_the_order_in_which_pieces_come_does_not_matter(pieces: list[Span], random: object) -> None:
    shuffled = list(pieces)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert list(Spans(pieces)) == list(Spans(shuffled))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes 0-9/100", ((0, 10), 100)),
        ("bytes 99-99/100", ((99, 100), 100)),
        ("bytes 0-100/100", None),
        ("bytes 5-4/100", None),
        ("bytes */100", None),
        ("bytes 0-9/*", None),
        ("items 0-9/100", None),
        ("bytes 0-9/" + "9" * 40, None),
        ("", None),
    ],
)
def test_what_a_content_range_says(text: str, found: object) -> None:
    assert part_of({"content-range": text}) == found


def test_a_weak_etag_does_not_stand_for_bytes() -> None:
    assert identity_of({"etag": '"a"', "last-modified": "Tue"}, 5) == Identity(5, '"a"')
    assert identity_of({"etag": 'W/"a"', "last-modified": "Tue"}, 5) == Identity(5, "Tue")
    assert identity_of({}, 5) == Identity(5, "")
    assert (whole_size({"content-length": "12"}), whole_size({"content-length": "-1"}), whole_size({})) == (
        12,
        None,
        None,
    )


async def test_a_rate_holds_over_all_takers() -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    bandwidth = Bandwidth(1000, monotonic=lambda: now, sleep=sleep)
    for _ in range(100):
        await bandwidth.take(100)
    assert 9.99 - BURST_SECONDS < now < 10.01
    now += 60
    before = now
    for _ in range(10):
        await bandwidth.take(100)
    assert now - before > 0.99 - BURST_SECONDS, "a pause is not saved up"


def test_pace_and_rest() -> None:
    now = 0.0
    progress = Progress(monotonic=lambda: now)
    progress.enter("Downloading")
    progress.begin_at(400, 1000)
    assert progress.document()["weights"] == {
        "doneBytes": 400,
        "totalBytes": 1000,
        "bytesPerSecond": None,
        "etaSeconds": None,
    }
    for _ in range(5):
        now += 2
        progress.done_bytes += 20
        told = progress.document()
    assert told["weights"] == {"doneBytes": 500, "totalBytes": 1000, "bytesPerSecond": 10, "etaSeconds": 50}
    assert told["state"] == "Downloading"


def test_a_signature_is_that_of_amazons_example() -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Example: GET Object"."""
    made = signed_headers(
        "GET",
        "examplebucket.s3.amazonaws.com",
        "/test.txt",
        {"Range": "bytes=0-9"},
        key_id="AKIAIOSFODNN7EXAMPLE",
        secret_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        session_token="",
        region="us-east-1",
        at=datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert made == {
        "x-amz-content-sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "x-amz-date": "20130524T000000Z",
        "Authorization": "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    }


def test_an_objects_path_is_encoded_once() -> None:
    assert encoded_path("/models/a b/ü+c%2F(1).gguf") == "/models/a%20b/%C3%BC%2Bc%252F%281%29.gguf"


def test_a_session_token_is_sent_and_signed() -> None:
    secret = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_SESSION_TOKEN": "session"}
    source = S3Source.model_validate(
        {"bucket": "models", "key": "m.gguf", "region": "eu-west-1", "credentials": {"secretName": "s"}}
    )
    origin = S3Origin.of(source, lambda name, needed=True: secret[name])
    assert origin.url == "https://s3.eu-west-1.amazonaws.com/models/m.gguf"
    sent = origin.authorize({"Range": "bytes=0-1"})
    assert sent["x-amz-security-token"] == "session"
    assert "x-amz-date;x-amz-security-token," in sent["Authorization"]
    assert "key" not in "".join(sent.values()).replace("Credential", "")


def test_a_public_bucket_is_asked_without_a_signature() -> None:
    source = S3Source.model_validate({"bucket": "models", "key": "m.gguf", "endpoint": "https://minio.example"})
    origin = S3Origin.of(source, lambda name, needed=True: "")
    assert (origin.url, origin.authorize({})) == ("https://minio.example/models/m.gguf", {})


def test_a_file_of_hugging_face() -> None:
    source = HuggingFaceSource.model_validate(
        {
            "repo": "unsloth/Qwen3-8B-GGUF",
            "file": "sub/q4.gguf",
            "revision": "refs/pr/1",
            "credentials": {"secretKeyRef": {"name": "hf", "key": "token"}},
        }
    )
    origin = hugging_face_origin(source, {"token": "hf_x"}.__getitem__, endpoint="https://huggingface.co")
    assert origin.url == "https://huggingface.co/unsloth/Qwen3-8B-GGUF/resolve/refs%2Fpr%2F1/sub/q4.gguf"
    assert origin.authorize({}) == {"Authorization": "Bearer hf_x"}


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://models.example.com/m", "not https"),
        ("https://10.1.2.3/m", "weights.allowedHosts"),
        ("https://169.254.169.254/m", "never go there"),
        ("https://user:pw@models.example.com/m", "without user"),
        ("ftp://models.example.com/m", "not an http"),
    ],
)
def test_where_weights_do_not_come_from(url: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        judge_source(url, exempt=[AllowedHost.parse("169.253.1.1")])


def test_where_weights_come_from() -> None:
    inside = [AllowedHost.parse("minio.models.svc:9000")]
    assert judge_source("https://cdn.example.com/m?sig=1", exempt=inside).trusted is False
    assert judge_source("http://minio.models.svc:9000/m", exempt=inside).trusted is True
