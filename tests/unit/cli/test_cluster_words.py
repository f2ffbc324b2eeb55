"""What the commands say and make of objects, without a cluster."""

from datetime import UTC, datetime
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace_cli.dlq_command import letter, listing, showing
from headrace_cli.facade import HOW, place
from headrace_cli.main import app
from headrace_cli.replay import NAME_LIMIT, is_replay_of, replay_name, replay_of
from headrace_cli.tables import age, table
from headrace_crds import LLMTask

FAILED: dict[str, Any] = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "LLMTask",
    "metadata": {
        "name": "t",
        "namespace": "ns",
        "uid": "u-1",
        "resourceVersion": "7",
        "labels": {"app.kubernetes.io/instance": "release"},
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": "{}",
            "headrace.dev/idempotency-body": "sha256:x",
            "metadata.headrace.dev/order": "17",
        },
    },
    "spec": {"modelRef": {"namespace": "models", "name": "m"}, "prompt": "secret", "priority": 3, "suspend": True},
    "status": {
        "attempt": 2,
        "outcome": "Failed",
        "reason": "BackoffLimitExceeded",
        "message": "again\nand again",
        "retries": 1,
        "completionTime": "2026-01-01T00:00:00Z",
        "attempts": [{"number": 1, "outcome": "Failed", "reason": "EngineLost", "pod": "p", "message": "m"}],
    },
}


def test_a_replay_has_the_spec_and_says_of_whom() -> None:
    made = replay_of(FAILED, 2)
    assert made["metadata"] == {
        "name": "t-replay-2",
        "namespace": "ns",
        "annotations": {"metadata.headrace.dev/order": "17", "headrace.dev/replay-of": "u-1"},
    }
    assert made["spec"] == {"modelRef": {"namespace": "models", "name": "m"}, "prompt": "secret", "priority": 3}
    assert "status" not in made
    LLMTask.model_validate(made)
    assert is_replay_of(made, FAILED)
    assert not is_replay_of(FAILED, FAILED)
    assert not is_replay_of(made, {"metadata": {"uid": "u-2"}})


def test_a_replay_of_a_long_name_is_still_a_name() -> None:
    name = replay_name("a" * 240 + "." + "b" * 12, 100)
    assert len(name) <= NAME_LIMIT
    assert name.endswith("-replay-100")
    assert ".-" not in replay_name("a" * 242 + "." + "b" * 10, 1)


def test_a_dead_letter_tells_no_prompt() -> None:
    told = letter(FAILED)
    text = listing([told]) + showing({**told, "replays": []})
    assert "secret" not in text
    assert "models/m" in text
    assert "again and again" in text
    assert "headrace dlq replay t -n ns" in text
    assert listing([]) == ""


def test_a_table_is_lined_up_and_has_no_control_characters() -> None:
    assert table(("A", "LONG"), [("1", "x\x1b[31m\u202e"), ("333", "")]) == "A     LONG\n1     x [31m\n333\n"


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-01-01T00:00:00Z", "0s"),
        ("2025-12-31T23:58:01Z", "119s"),
        ("2025-12-31T23:00:00Z", "60m"),
        ("2025-12-31T20:00:00Z", "4h"),
        ("2025-12-20T00:00:00Z", "12d"),
        ("2026-01-01T00:01:00Z", "0s"),
        ("yesterday", "?"),
        (None, "?"),
    ],
)
def test_an_age(at: str | None, expected: str) -> None:
    assert age(at, datetime(2026, 1, 1, tzinfo=UTC)) == expected


@pytest.mark.parametrize(
    ("url", "token", "told"),
    [
        (None, "t", HOW),
        ("https://facade.example", None, "set HEADRACE_TOKEN"),
        ("http://facade.example", "t", "unencrypted"),
        ("facade.example", "t", "no http:// or https:// URL"),
        ("http://[::1", "t", "no URL"),
        ("http://127.0.0.1:1", "t", "cannot be asked"),
        ("http://localhost:1/", "t", "cannot be asked"),
    ],
)
async def test_a_place_that_cannot_be_asked_for_is_a_reason(url: str | None, token: str | None, told: str) -> None:
    found = await place(url, token, "ns", "t")
    assert found.position is None
    assert told in found.unknown["position"]


@pytest.mark.parametrize("arguments", [["dlq", "replay"], ["dlq", "replay", "t", "--all"]])
def test_what_to_replay_is_named_once(arguments: list[str]) -> None:
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 2
    assert "--reason" in told.output


def test_no_cluster_at_all(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for command in (["why", "t"], ["cancel", "t"], ["dlq", "list"]):
        told = CliRunner().invoke(app, [*command, "--kubeconfig", "/nowhere"])
        assert told.exit_code == 1
        assert "no cluster" in told.stderr
        assert "--kubeconfig" in told.stderr
