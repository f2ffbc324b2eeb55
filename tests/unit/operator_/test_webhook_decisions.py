"""Webhooks: what is owed, what an answer means, what is written, and that signatures are what receivers verify."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from operator_cases import NOW_MS, condition, finished, task, task_body
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTaskStatus, Outcome
from headrace_operator.decide import webhook
from headrace_operator.decide.webhook import Try, Verdict
from headrace_operator.refs import ModelRef, TaskRef
from headrace_operator.webhooks import signing
from headrace_operator.webhooks.event import body_of
from headrace_operator.webhooks.outbox import Limits, Outbox
from headrace_operator.webhooks.policy import WebhookSettings
from headrace_operator.webhooks.signing import KeyUnusable, parse_keys

HOOK: dict[str, Any] = {"url": "https://Hooks.example:8443/x?token=1", "secretRef": {"name": "keys", "key": "hook"}}
OPEN = condition("Notified", "False", "NotDelivered")
TOLD = condition("Notified", "True", "Delivered")
KEY = base64.b64encode(bytes(range(32))).decode()


def ended(*conditions: dict[str, Any], outcome: str = "Complete", **hook: Any) -> dict[str, Any]:
    status = {**finished(outcome=outcome), "conditions": list(conditions)}
    return task_body(status, webhook={**HOOK, **hook})


@pytest.mark.parametrize(
    ("body", "host"),
    [
        (task_body(finished()), ""),
        (task_body(webhook=HOOK), ""),
        (ended(OPEN), "hooks.example"),
        (ended(), "hooks.example"),
        (ended(TOLD), ""),
        (ended(OPEN, events=["Failed"]), ""),
        (ended(OPEN, events=["Failed", "Complete"]), "hooks.example"),
        (ended(OPEN, outcome="Cancelled"), "hooks.example"),
        (ended(OPEN, url="https://hooks.example/y"), "hooks.example"),
        (ended(OPEN, url="https://hooks.example:443"), "hooks.example"),
        (ended(OPEN, url="http://HOOKS.example:08080?a"), "hooks.example"),
        (ended(OPEN, url="https://[2001:DB8:0::1]:8443/"), "2001:db8::1"),
        (ended(OPEN, url="https://hooks.example.:8443/"), "?"),
        (ended(OPEN, url="https://a@hooks.example/"), "?"),
        (ended(OPEN, url="https://"), "?"),
    ],
)
def test_what_is_owed(body: dict[str, Any], host: str) -> None:
    assert webhook.owes(body) == host
    body["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert webhook.owes(body) == ""


@pytest.mark.parametrize(
    ("came", "hours", "notified", "reason", "again"),
    [
        (Try(200), 0, True, Reason.DELIVERED, None),
        (Try(204), 30, True, Reason.DELIVERED, None),
        (Try(410), 0, True, Reason.GONE, None),
        (Try(302), 0, False, Reason.NOT_DELIVERED, 4.0),
        (Try(400), 0, False, Reason.NOT_DELIVERED, 4.0),
        (Try(500), 0, False, Reason.NOT_DELIVERED, 4.0),
        (Try(503, retry_after_seconds=30), 0, False, Reason.NOT_DELIVERED, 30.0),
        (Try(503, retry_after_seconds=1e9), 0, False, Reason.NOT_DELIVERED, 3600.0),
        (Try(problem="no connection"), 23, False, Reason.NOT_DELIVERED, 4.0),
        (Try(problem="no connection"), 24, True, Reason.GIVEN_UP, None),
        (Try(problem="x", reason=Reason.WEBHOOK_REFUSED), 0, False, Reason.WEBHOOK_REFUSED, 4.0),
        (Try(problem="x", reason=Reason.SIGNING_KEY_UNAVAILABLE), 25, True, Reason.GIVEN_UP, None),
    ],
)
def test_what_an_answer_means(came: Try, hours: int, notified: bool, reason: Reason, again: float | None) -> None:
    found = webhook.verdict(came, failures=2, since_end_seconds=hours * 3600, jitter=0.0)
    assert (found.notified, found.reason, found.again_after_seconds) == (notified, reason, again)


@pytest.mark.parametrize("left_seconds", [1, 600, 3599])
def test_the_last_pause_ends_when_it_is_given_up(left_seconds: int) -> None:
    came, end = Try(503, retry_after_seconds=3600), webhook.GIVE_UP_AFTER_SECONDS
    found = webhook.verdict(came, failures=20, since_end_seconds=end - left_seconds, jitter=1.0)
    assert found.again_after_seconds == left_seconds
    assert webhook.verdict(came, failures=21, since_end_seconds=end, jitter=1.0).reason is Reason.GIVEN_UP


def test_backoff_grows_from_a_second_to_an_hour_and_chance_moves_it_up() -> None:
    plain = [webhook.backoff_seconds(n, 0.0) for n in range(1, 20)]
    assert plain[:4] == [1.0, 2.0, 4.0, 8.0]
    assert plain[-1] == 3600.0
    assert plain == sorted(plain)
    assert webhook.backoff_seconds(3, 1.0) == 6.0
    assert webhook.backoff_seconds(10**9, 9.0) == 5400.0


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("120", "", 120.0),
        ("", "", 0.0),
        ("-1", "", 0.0),
        ("soon", "", 0.0),
        ("9" * 64, "", 999_999_999.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", "Fri, 15 Jan 2027 08:00:00 GMT", 30.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", "", 0.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", "Fri, 15 Jan 2027 09:00:00 GMT", 0.0),
        ("Fri, 15 Jan 2027 08:00:30", "Fri, 15 Jan 2027 08:00:00 GMT", 0.0),
    ],
)
def test_retry_after(value: str, date: str, seconds: float) -> None:
    assert webhook.retry_after_seconds(value, date) == seconds


def patched(before: dict[str, Any] | None, found: Verdict, failures: int = 0) -> tuple[str, str] | None:
    status = {**finished(), "conditions": [before] if before is not None else []}
    patch = webhook.condition_patch(task(status, webhook=HOOK), found, failures=failures, now_ms=NOW_MS)
    if patch is None:
        return None
    now = find_condition(LLMTaskStatus.model_validate(patch).conditions, "Notified")
    assert now is not None
    return now.status.value, now.reason


FAILED = Verdict(False, Reason.NOT_DELIVERED, "503", 1.0)
REFUSED = Verdict(False, Reason.WEBHOOK_REFUSED, "not public", 1.0)


def test_one_write_per_delivery_and_few_while_it_fails() -> None:
    assert patched(OPEN, Verdict(True, Reason.DELIVERED, "200", None)) == ("True", "Delivered")
    assert [patched(OPEN, FAILED, n) is not None for n in range(6)] == [False, False, False, True, False, False]
    assert patched(None, FAILED) == ("False", "NotDelivered")
    assert patched(OPEN, REFUSED) == ("False", "WebhookRefused")
    refused = condition("Notified", "False", "WebhookRefused", "not public")
    assert patched(refused, REFUSED) is None
    assert patched(refused, REFUSED, 3) is None
    assert patched({**refused, "message": "no port"}, REFUSED) == ("False", "WebhookRefused")
    assert patched(refused, FAILED) == ("False", "NotDelivered")


def test_other_conditions_stay() -> None:
    status = {**finished(), "conditions": [condition("Finished", "True", "Succeeded"), OPEN]}
    found = webhook.condition_patch(
        task(status, webhook=HOOK), Verdict(True, Reason.GONE, "410", None), failures=0, now_ms=NOW_MS
    )
    assert found is not None
    conditions = LLMTaskStatus.model_validate(found).conditions
    assert [(c.type, c.status) for c in conditions] == [
        ("Finished", ConditionStatus.TRUE),
        ("Notified", ConditionStatus.TRUE),
    ]


def test_the_body_tells_the_end_and_no_text() -> None:
    result = {"text": "SECRET TEXT", "sizeBytes": 11, "sha256": "0" * 64, "finishReason": "Stop"}
    of = task({**finished(), "result": result}, prompt="SECRET PROMPT", webhook=HOOK)
    assert of.status is not None
    body = body_of(of, of.status, Outcome.COMPLETE)
    assert b"SECRET" not in body
    told = json.loads(body)
    assert (told["type"], told["timestamp"]) == ("llmtask.complete", "2027-01-15T08:00:00Z")
    assert told["data"]["result"] == {"sizeBytes": 11, "sha256": "0" * 64, "finishReason": "Stop"}
    members = "uid namespace name model outcome reason message attempt completionTime result"
    assert set(told["data"]) == set(members.split())


def test_every_key_signs_as_somebody_elses_verifier_wants_it() -> None:
    other = base64.b64encode(b"another key, twenty-four+").decode()
    keys = parse_keys(f"whsec_{KEY}\r\n\n whsec_{other} \n".encode())
    now = int(datetime.now(UTC).timestamp())
    body = '{"text":"grüße"}'.encode()
    headers = signing.headers(keys, id_="uid-1", timestamp=now, body=body)
    assert headers["webhook-id"] == "uid-1"
    assert headers["webhook-signature"].count("v1,") == 2
    for key in (KEY, other):
        assert Webhook(f"whsec_{key}").verify(body, headers) == {"text": "grüße"}
    with pytest.raises(WebhookVerificationError):
        Webhook(f"whsec_{base64.b64encode(bytes(32)).decode()}").verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(f"whsec_{KEY}").verify(body + b" ", headers)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "\n",
        KEY,
        "whsec_",
        "whsec_!!!!",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsk_" + KEY,
        f"whsec_{KEY}\nnonsense",
        f"whsec_{KEY}\n" * 9,
        "é",
    ],
)
def test_keys_that_are_none_and_the_error_does_not_quote_them(value: str) -> None:
    with pytest.raises(KeyUnusable) as caught:
        parse_keys(value.encode())
    assert KEY not in str(caught.value)
    assert "!!!!" not in str(caught.value)


def test_the_settings_name_their_variable() -> None:
    found = WebhookSettings.from_environment(
        {"HEADRACE_WEBHOOK_ALLOWED_HOSTS": "a.internal, b:80", "HEADRACE_WEBHOOK_SECRET_NAMESPACES": "team-a"}
    )
    assert [str(each.host) for each in found.allowed_hosts] == ["a.internal", "b"]
    assert found.secret_namespaces == ("team-a",)
    with pytest.raises(ValueError, match="HEADRACE_WEBHOOK_ALLOWED_HOSTS"):
        WebhookSettings.from_environment({"HEADRACE_WEBHOOK_ALLOWED_HOSTS": "http://a"})


def ref(namespace: str, number: int) -> TaskRef:
    return TaskRef(namespace, f"t{number}", f"{namespace}-{number}", ModelRef(namespace, "m"))


def taken(outbox: Outbox, now: float = 0.0) -> list[TaskRef]:
    found = []
    while (each := outbox.take(now)) is not None:
        found.append(each)
    return found


def test_who_hangs_holds_its_own_slots_alone() -> None:
    outbox = Outbox(Limits(total=10, namespace=4, host=5, namespace_host=2))
    for number in range(10):
        outbox.add(ref("a", number), "hangs", 0.0)
        outbox.add(ref("b", number), "fine", 0.0)
    outbox.add(ref("a", 99), "other", 0.0)
    first = taken(outbox)
    assert {each.namespace for each in first[:2]} == {"a", "b"}, "namespaces take turns"
    assert ref("a", 99) in first, "another host of the same namespace has room"
    assert sum(each.namespace == "a" for each in first) == 3
    for each in [each for each in first if each.namespace == "b"]:
        outbox.finish(each, again=None)
    assert [each.namespace for each in taken(outbox)] == ["b", "b"]


def test_the_limits_per_namespace_per_host_and_altogether() -> None:
    outbox = Outbox(Limits(total=10, namespace=4, host=5, namespace_host=2))
    for number in range(10):
        outbox.add(ref("a", number), f"h{number}", 0.0)
        for namespace in "bcd":
            outbox.add(ref(namespace, number), "shared", 0.0)
    first = taken(outbox)
    assert sum(each.namespace == "a" for each in first) == 4
    assert sum(each.namespace != "a" for each in first) == 5
    outbox.add(ref("e", 0), "e", 0.0)
    outbox.add(ref("f", 0), "f", 0.0)
    assert len(taken(outbox)) == 1, "ten altogether"


def test_again_means_later_and_once() -> None:
    outbox = Outbox()
    outbox.add(ref("a", 0), "h", 0.0)
    outbox.add(ref("a", 0), "h", 0.0)
    assert taken(outbox) == [ref("a", 0)]
    outbox.add(ref("a", 0), "h", 0.0)
    outbox.finish(ref("a", 0), again=5.0)
    assert (len(outbox), outbox.next_due()) == (1, 5.0)
    assert taken(outbox, 4.9) == []
    assert taken(outbox, 5.0) == [ref("a", 0)]
    outbox.finish(ref("a", 0), again=None)
    assert (len(outbox), outbox.next_due()) == (0, None)
    outbox.add(ref("a", 0), "h", 6.0)
    assert len(outbox) == 1
