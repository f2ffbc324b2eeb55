"""What a request may say about a task's life, and the key that makes it one."""

from typing import Any

import pytest

from headrace_crds import LLMTask
from headrace_facade.errors import Invalid
from headrace_facade.idempotency import ANNOTATION_BODY, fingerprint, key_of, task_name
from headrace_facade.objects import to_task
from headrace_facade.schema import CreateTask
from headrace_facade.submission import METADATA_LIMIT_BYTES, manifest, request_field


def request(**members: Any) -> CreateTask:
    return CreateTask.model_validate({"model": "m", "prompt": "p", **members})


def spec(default_ttl_seconds: int | None = None, **members: Any) -> dict[str, Any]:
    made = manifest(request(**members), default_ttl_seconds=default_ttl_seconds)
    LLMTask.model_validate(made)
    found: dict[str, Any] = made["spec"]
    return found


def refused(**members: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as refusal:
        manifest(request(**members))
    return {problem.field: problem.message for problem in refusal.value.problems}


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"model": "team-a/m"}, {"modelRef": {"namespace": "team-a", "name": "m"}}),
        ({"timeout_seconds": 60}, {"activeDeadlineSeconds": 60}),
        ({"queue_deadline_seconds": 5}, {"queueDeadlineSeconds": 5}),
        ({"attempt_timeout_seconds": 7}, {"attemptTimeoutSeconds": 7}),
        ({"ttl_seconds": 0}, {"ttlSecondsAfterFinished": 0}),
        ({"suspend": True}, {"suspend": True}),
        (
            {"webhook_url": "https://example.org/hook", "webhook_secret": {"name": "s", "key": "k"}},
            {"webhook": {"url": "https://example.org/hook", "secretRef": {"name": "s", "key": "k"}}},
        ),
    ],
)
def test_a_member_has_its_place(members: dict[str, Any], expected: dict[str, Any]) -> None:
    assert spec(**members) == {"modelRef": {"name": "m"}, "prompt": "p"} | expected


@pytest.mark.parametrize(
    ("default", "members", "expected"),
    [
        (3600, {}, 3600),
        (3600, {"ttl_seconds": 5}, 5),
        (3600, {"ttl_seconds": None}, None),
        (None, {}, None),
        (None, {"ttl_seconds": 5}, 5),
    ],
)
def test_how_long_a_task_is_kept(default: int | None, members: dict[str, Any], expected: int | None) -> None:
    assert spec(default, **members).get("ttlSecondsAfterFinished") == expected


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"webhook_url": "https://example.org"}, "webhook_secret"),
        ({"webhook_secret": {"name": "s", "key": "k"}}, "webhook_url"),
    ],
)
def test_a_webhook_needs_both(members: dict[str, Any], field: str) -> None:
    assert "go together" in refused(**members)[field]


def test_the_callers_own_words_come_back() -> None:
    words = {"customer": "Müller & Söhne", "a.b_c-d": "", "N1": "x" * 1000}
    made = manifest(request(metadata=words))
    assert made["metadata"]["annotations"]["metadata.headrace.dev/customer"] == "Müller & Söhne"
    made["metadata"] |= {"namespace": "ns", "name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}
    made["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"] = "{}"
    assert to_task(made).metadata == words


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a-", "ü", "a" * 64, "a b", "a\n"])
def test_a_name_that_no_annotation_can_have(name: str) -> None:
    assert "cannot be a name" in refused(metadata={name: "x"})["metadata"]


def test_words_are_bounded() -> None:
    told = refused(metadata={"a": "ü" * (METADATA_LIMIT_BYTES // 2)})["metadata"]
    assert f"{METADATA_LIMIT_BYTES} are allowed" in told
    with pytest.raises(ValueError, match="at most 32"):
        request(metadata={f"n{n}": "" for n in range(33)})


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("spec.activeDeadlineSeconds", "timeout_seconds"),
        ("spec.attemptTimeoutSeconds", "attempt_timeout_seconds"),
        ("spec.queueDeadlineSeconds", "queue_deadline_seconds"),
        ("spec.ttlSecondsAfterFinished", "ttl_seconds"),
        ("spec.webhook.url", "webhook_url"),
        ("spec.webhook.secretRef.key", "webhook_secret.key"),
        ("spec.modelRef.namespace", "model"),
        ("metadata.annotations", "metadata"),
    ],
)
def test_the_api_servers_words_for_them(path: str, field: str) -> None:
    assert request_field(path) == field


def test_a_key_from_header_or_body() -> None:
    assert key_of(None, None) is None
    assert key_of("a b", None) == key_of(None, "a b") == key_of("a b", "a b") == "a b"
    with pytest.raises(Invalid, match="send one of them"):
        key_of("a", "b")


@pytest.mark.parametrize("key", ["", " a", "a ", "ü", "a\tb", "x" * 256, "a\n"])
def test_what_cannot_be_a_key(key: str) -> None:
    with pytest.raises(Invalid, match="Idempotency-Key: needs"):
        key_of(key, None)
    with pytest.raises(Invalid, match="idempotency_key: needs"):
        key_of(None, key)


def test_a_key_makes_the_name_and_the_annotation() -> None:
    made = manifest(request(), namespace="ns", key="order 17")
    assert made["metadata"]["name"] == task_name("ns", "order 17")
    assert "order" not in made["metadata"]["name"]
    assert made["metadata"]["annotations"][ANNOTATION_BODY].startswith("sha256:")
    names = {task_name("ns", "a"), task_name("ns", "b"), task_name("other", "a"), task_name("n", "s\0a")}
    assert len(names) == 4


def test_a_key_and_a_name_exclude_each_other() -> None:
    with pytest.raises(Invalid, match="leave one of them out"):
        manifest(request(name="n"), key="k")


BODY = {"model": "m", "prompt": "p", "priority": 1, "parameters": {"temperature": 1, "stop": ["a"]}}


def digest(body: dict[str, Any], schema: str | None = None) -> str:
    return fingerprint(CreateTask.model_validate(body), schema)


@pytest.mark.parametrize(
    "body",
    [
        dict(reversed(BODY.items())),
        {**BODY, "parameters": {"stop": ["a"], "temperature": 1.0}},
        {**BODY, "suspend": None},
        {**BODY, "idempotency_key": "k"},
        {**BODY, "namespace": "ns"},
    ],
)
def test_the_same_body(body: dict[str, Any]) -> None:
    assert digest(body) == digest(BODY)


@pytest.mark.parametrize(
    "body",
    [
        {**BODY, "prompt": "q"},
        {**BODY, "priority": 2},
        {**BODY, "parameters": {"temperature": 1}},
        {**BODY, "metadata": {"a": "b"}},
        {**BODY, "ttl_seconds": None},
        {**BODY, "suspend": False},
    ],
)
def test_another_body(body: dict[str, Any]) -> None:
    assert digest(body) != digest(BODY)


def test_the_order_within_a_schema_counts() -> None:
    first, second = ({"properties": {"a": {}, "b": {}}}, {"properties": {"b": {}, "a": {}}})
    marks = [
        manifest(request(json_schema=schema), key="k")["metadata"]["annotations"][ANNOTATION_BODY]
        for schema in (first, second, '{"properties":{"a":{},"b":{}}}')
    ]
    assert marks[0] == marks[2] != marks[1]
