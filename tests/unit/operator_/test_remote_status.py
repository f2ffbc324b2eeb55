"""What a remote model's status says: one row per situation of Secret, runner and provider."""

from dataclasses import replace
from typing import Any

import pytest
from operator_cases import NOW_MS, condition, conditions_of, merged, pod
from operator_cases import report as plain_report
from remote_cases import OPENAI, remote_model, remote_snapshot, serves, told

from headrace_crds.model import Breaker, LLMModel, ProviderStatus
from headrace_crds.why import REMEDIES
from headrace_operator.decide import provider, waiting
from headrace_operator.decide.model import PATIENT_LOOK_SECONDS, SETTLED_LOOK_SECONDS, decide
from headrace_operator.decide.snapshots import CredentialsView, LiveChild, Ownership, ProviderView, Report
from headrace_operator.views import report

READY = condition("Ready", "True", "Serving")
OPEN = told("Open", "CircuitOpen", "5 requests failed in a row")
PAUSED = told("Closed", "RateLimited", "the provider asked to wait", retry_seconds=30)
KEY = told("Open", "CredentialsRefused", "the provider refuses the key: put a valid one into the Secret")

ROWS: list[Any] = [
    pytest.param(
        remote_model(),
        {"credentials": CredentialsView(False), "deployment": None},
        {"Ready": ("False", "CredentialsNotFound"), "Available": ("False", "CredentialsNotFound"), "Stalled": None},
        "Starting",
        id="no Secret",
    ),
    pytest.param(
        remote_model(),
        {"credentials": CredentialsView(True), "deployment": None},
        {"Ready": ("False", "HostNotAllowed"), "Stalled": None},
        "Starting",
        id="a Secret that allows nothing",
    ),
    pytest.param(
        remote_model(READY),
        {"credentials": CredentialsView(True), **serves(told())},
        {"Ready": ("False", "HostNotAllowed"), "Available": ("False", "HostNotAllowed")},
        "Starting",
        id="the annotation is taken away while it serves",
    ),
    pytest.param(
        remote_model(READY, replicas=0),
        {"credentials": CredentialsView(False)},
        {"Ready": ("False", "CredentialsNotFound")},
        "ScaledToZero",
        id="at zero it would not serve on demand either",
    ),
    pytest.param(remote_model(), {}, {"Ready": ("False", "Starting")}, "Starting", id="no pod yet"),
    pytest.param(
        remote_model(),
        {"pods": [pod()], "reports": {"pod-a": plain_report("Starting")}},
        {"Ready": ("False", "Starting"), "Placed": ("True", "Scheduled")},
        "Starting",
        id="the runner starts",
    ),
    *(
        pytest.param(
            remote_model(),
            {"pods": [pod()], "reports": {"pod-a": plain_report("Failed", reason, "what is wrong")}},
            {"Ready": ("False", reason), "Stalled": ("True", reason)},
            "Failed",
            id=f"the runner cannot serve it: {reason}",
        )
        for reason in ("ProviderNotFound", "InvalidSettings")
    ),
    pytest.param(
        remote_model(),
        serves(told()),
        {"Ready": ("True", "Serving"), "Available": ("True", "Serving"), "Stalled": None},
        "Serving",
        id="it serves",
    ),
    pytest.param(
        remote_model(),
        serves(Report("Serving", since_ms=NOW_MS, generation=1)),
        {"Ready": ("True", "Serving"), "Available": ("True", "Serving")},
        "Serving",
        id="it serves and says nothing of its provider",
    ),
    pytest.param(
        remote_model(READY),
        {"pods": [pod()], "reports": {"pod-a": plain_report("Starting")}},
        {"Ready": ("True", "ConfigurationValid"), "Available": ("False", "Starting")},
        "Starting",
        id="the runner restarts: Ready",
    ),
    pytest.param(
        remote_model(READY, replicas=0),
        {},
        {"Ready": ("True", "ScaledToZero"), "Available": ("False", "ScaledToZero")},
        "ScaledToZero",
        id="scaled to zero: Ready",
    ),
    pytest.param(
        remote_model(READY, generation=2),
        {"deployment": None},
        {"Ready": ("False", "Starting")},
        "Starting",
        id="another spec: it has to serve first",
    ),
    pytest.param(
        remote_model(READY),
        serves(OPEN),
        {"Ready": ("True", "ConfigurationValid"), "Available": ("False", "CircuitOpen"), "Stalled": None},
        "Paused",
        id="the breaker is open",
    ),
    pytest.param(
        remote_model(),
        serves(OPEN),
        {"Ready": ("True", "ConfigurationValid"), "Available": ("False", "CircuitOpen")},
        "Paused",
        id="the breaker is open from the start: the configuration is valid all the same",
    ),
    pytest.param(
        remote_model(READY),
        serves(told("Open", "ProviderUnreachable", "no answer")),
        {"Ready": ("True", "ConfigurationValid"), "Available": ("False", "ProviderUnreachable")},
        "Paused",
        id="the provider is away",
    ),
    pytest.param(
        remote_model(READY),
        serves(told("Open", "AttemptTimeout", "no answer")),
        {"Available": ("False", "CircuitOpen")},
        "Paused",
        id="a reason that no model has",
    ),
    pytest.param(
        remote_model(READY),
        serves(PAUSED),
        {"Ready": ("True", "ConfigurationValid"), "Available": ("False", "RateLimited")},
        "Paused",
        id="the provider asked for a pause",
    ),
    pytest.param(
        remote_model(READY),
        serves(told("Closed", "RateLimited", retry_seconds=1)),
        {"Ready": ("True", "Serving"), "Available": ("True", "Serving")},
        "Serving",
        id="a second's pause is ordinary",
    ),
    *(
        pytest.param(
            remote_model(READY),
            serves(told("Open", reason, "do this")),
            {"Ready": ("False", reason), "Available": ("False", reason), "Stalled": ("True", reason)},
            "Failed",
            id=f"somebody has to act: {reason}",
        )
        for reason in ("CredentialsRefused", "RemoteModelNotFound", "ProviderQuotaExhausted")
    ),
    pytest.param(
        remote_model(
            condition("Ready", "False", "CredentialsRefused"),
            condition("Available", "False", "CredentialsRefused", "the key"),
            condition("Stalled", "True", "CredentialsRefused"),
        ),
        serves(told("HalfOpen")),
        {"Ready": ("False", "CredentialsRefused"), "Available": ("False", "CredentialsRefused")},
        "Failed",
        id="one request tries: what was said stands",
    ),
    pytest.param(
        remote_model(
            condition("Ready", "False", "CredentialsRefused"),
            condition("Available", "False", "CredentialsRefused", "the key"),
            condition("Stalled", "True", "CredentialsRefused"),
        ),
        serves(told()),
        {"Ready": ("True", "Serving"), "Available": ("True", "Serving"), "Stalled": None},
        "Serving",
        id="a valid key: all is well",
    ),
]


def after(of: LLMModel, **seen: Any) -> dict[str, Any]:
    plan = decide(remote_snapshot(of, **seen))
    return dict(merged(of.status.dump() if of.status else {}, plan.status or {}))


def with_status(of: LLMModel, status: dict[str, Any]) -> LLMModel:
    return of.model_copy(update={"status": LLMModel.model_validate({"spec": of.spec, "status": status}).status})


@pytest.mark.parametrize(("of", "seen", "want", "phase"), ROWS)
def test_remote_model(of: LLMModel, seen: dict[str, Any], want: dict[str, Any], phase: str) -> None:
    status = after(of, **seen)
    found = conditions_of(status)
    assert {type_: found.get(type_) for type_ in want} == want
    assert status["phase"] == phase
    assert "engine" not in status
    assert "weights" not in str(status)


@pytest.mark.parametrize(("of", "seen", "want", "phase"), ROWS)
def test_a_second_look_at_the_same_writes_nothing(of: LLMModel, seen: dict[str, Any], want: Any, phase: str) -> None:
    again = decide(remote_snapshot(with_status(of, after(of, **seen)), **seen))
    assert again.status is None
    assert again.announcement is None


def test_what_a_runner_tells_is_in_the_status() -> None:
    of = remote_model(remote={**OPENAI, "maxConcurrency": 8})
    assert after(of, **serves(told(concurrency=40)))["provider"] == {"breaker": "Closed", "concurrency": 8}
    assert after(of, **serves(OPEN))["provider"] == {
        "breaker": "Open",
        "reason": "CircuitOpen",
        "message": "5 requests failed in a row",
    }


def test_a_remedy_is_there_where_the_runner_gives_none() -> None:
    status = after(remote_model(READY), **serves(told("Open", "CredentialsRefused")))
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Ready")
    assert "put a valid one into the Secret" in message


def test_a_countdown_writes_nothing() -> None:
    of = remote_model(READY)
    first = told("Open", "CircuitOpen", "again in 5.5 s, after 12 failures", retry_seconds=300)
    told_once = with_status(of, after(of, **serves(first)))
    for left in range(299, 0, -7):
        later = told("Open", "CircuitOpen", f"again in {left} s, after 1,2{left} failures", retry_seconds=left)
        assert decide(remote_snapshot(told_once, **serves(later))).status is None


def test_another_reason_is_written() -> None:
    of = remote_model(READY)
    told_once = with_status(of, after(of, **serves(OPEN)))
    assert conditions_of(after(told_once, **serves(KEY)))["Ready"] == ("False", "CredentialsRefused")
    plan = decide(remote_snapshot(told_once, **serves(KEY)))
    assert plan.announcement is not None
    assert plan.announcement.reason == "CredentialsRefused"


def test_a_pause_that_is_told_is_told_until_it_is_over() -> None:
    of = remote_model(READY)
    told_once = with_status(of, after(of, **serves(PAUSED)))
    ending = told("Closed", "RateLimited", "the provider asked to wait", retry_seconds=1)
    assert decide(remote_snapshot(told_once, **serves(ending))).status is None
    assert conditions_of(after(told_once, **serves(told())))["Available"] == ("True", "Serving")


@pytest.mark.parametrize(
    ("before", "seen", "want"),
    [
        (None, 20, 20),
        (20, 11, 20),
        (20, 10, 10),
        (20, 39, 20),
        (20, 40, 40),
        (63, 64, 64),
        (64, 63, 64),
        (20, None, None),
        (1, 0, 0),
    ],
)
def test_steps_of_the_concurrency_are_not_written(before: int | None, seen: int | None, want: int | None) -> None:
    stands = ProviderStatus(breaker=Breaker.CLOSED, concurrency=before)
    found = provider.status(ProviderView(Breaker.CLOSED, concurrency=seen), None, stands, most=64)
    assert found is not None
    assert found.concurrency == want


def test_a_runner_that_says_nothing_for_once_changes_nothing() -> None:
    stands = ProviderStatus(breaker=Breaker.OPEN, reason="CircuitOpen")
    assert provider.status(None, None, stands, most=64) == stands


def test_how_soon_it_looks_again() -> None:
    refused = remote_snapshot(remote_model(), credentials=CredentialsView(True), deployment=None)
    assert decide(refused).requeue_after_seconds == PATIENT_LOOK_SECONDS == 10
    assert decide(remote_snapshot(remote_model(), **serves(told()))).requeue_after_seconds == SETTLED_LOOK_SECONDS
    assert decide(remote_snapshot(remote_model(), **serves(OPEN))).requeue_after_seconds == PATIENT_LOOK_SECONDS


def test_a_refused_model_keeps_its_queue_and_has_no_children() -> None:
    live = [LiveChild(kind, "headrace-qwen", Ownership.ABSENT) for kind in ("Secret", "Deployment")]
    of = remote_model()
    plan = decide(remote_snapshot(of, credentials=CredentialsView(True), deployment=None, live=live))
    assert plan.serve
    assert plan.children == []


def test_a_key_that_the_secret_does_not_have_is_asked_about() -> None:
    waits = replace(pod(), scheduled_changed_ms=NOW_MS - 121_000)
    status = after(remote_model(), pods=[waits])
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert ready["reason"] == "VolumeNotReady"
    assert ready["message"].endswith("has Secret 'openai' the key 'token'?")


@pytest.mark.parametrize(
    ("seen", "want"),
    [
        (serves(told()), ("Queued", "queued for")),
        (serves(OPEN), ("CircuitOpen", "LLMModel 'qwen': 5 requests failed")),
        (serves(PAUSED), ("RateLimited", "LLMModel 'qwen': the provider asked")),
        (serves(KEY), ("CredentialsRefused", "LLMModel 'qwen': the provider refuses the key")),
        ({"credentials": CredentialsView(False)}, ("CredentialsNotFound", "LLMModel 'qwen': Secret 'openai'")),
        ({"credentials": CredentialsView(True)}, ("HostNotAllowed", "LLMModel 'qwen': Secret 'openai'")),
        ({}, ("ModelLoading", "")),
    ],
)
def test_a_waiting_task_names_the_models_reason(seen: dict[str, Any], want: tuple[str, str]) -> None:
    of = remote_model(READY)
    found = waiting.explain(with_status(of, after(of, **seen)))
    assert found.reason == want[0]
    assert found.message.startswith(want[1])


def test_why_knows_a_remedy_for_every_pause() -> None:
    assert set(REMEDIES) >= provider.PAUSES


@pytest.mark.parametrize(
    ("document", "want"),
    [
        (
            {
                "breaker": "Open",
                "reason": "CircuitOpen",
                "message": "m\u202e\n",
                "retryInSeconds": 4.2,
                "concurrency": 3,
            },
            ProviderView(Breaker.OPEN, "CircuitOpen", "m", 4, 3),
        ),
        ({"breaker": "Closed"}, ProviderView(Breaker.CLOSED)),
        (
            {"breaker": "HalfOpen", "reason": "", "message": None, "retryInSeconds": None, "concurrency": None},
            ProviderView(Breaker.HALF_OPEN),
        ),
        ({"breaker": "Open", "reason": "rm -rf /"}, ProviderView(Breaker.OPEN, "RunnerError")),
        ({"breaker": "Open", "concurrency": 10**30}, ProviderView(Breaker.OPEN, concurrency=2**53 - 1)),
        ({"breaker": "Ajar"}, None),
        ({"breaker": "Open", "concurrency": "many"}, None),
        ({"breaker": "Open", "retryInSeconds": float("nan")}, None),
        ({}, None),
        ("Open", None),
        (None, None),
    ],
)
def test_a_report_is_read_tolerantly(document: Any, want: ProviderView | None) -> None:
    found = report({"state": "Serving", "generation": 1, "provider": document})
    assert found is not None
    assert found.state == "Serving"
    assert found.provider == want
