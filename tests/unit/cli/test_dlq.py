"""Dead letters and their replays, with objects in memory in the place of a cluster."""

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace_cli.cluster import Body, Cluster, ClusterError, Forbidden, Taken
from headrace_cli.main import app


@dataclass
class Objects:
    """What the commands ask a Cluster for; one task per page. A ceiling is refused in the API server's words."""

    bodies: dict[str, Body] = field(default_factory=dict)
    ceiling: int = 100
    may_list: bool = True
    namespace: str = "ns"

    def put(self, name: str, reason: str | None = None, last: str | None = None, **metadata: Any) -> None:
        ended = {
            "outcome": "Failed",
            "reason": reason,
            "completionTime": "2026-01-01T00:00:00Z",
            "attempts": [{"number": 1, "reason": "Poison"}, {"number": 2, "reason": last}] if last else [],
        }
        self.bodies[name] = {
            "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{name}", **metadata},
            "spec": {"modelRef": {"name": "m"}, "prompt": "p", "priority": 7},
            "status": ended if reason else {},
        }

    async def get(self, plural: str, namespace: str, name: str) -> Body | None:
        return self.bodies.get(name)

    async def pages(self, plural: str, namespace: str | None) -> AsyncIterator[list[Body]]:
        if not self.may_list:
            raise Forbidden("may not list")
        for body in list(self.bodies.values()):
            yield [body]

    async def create(self, plural: str, namespace: str, body: Mapping[str, Any]) -> Body:
        name = body["metadata"]["name"]
        if name in self.bodies:
            raise Taken(name)
        if body["spec"]["priority"] > self.ceiling:
            raise ClusterError("the API server answered 422: lower it, or ask for a higher priorityCeiling")
        self.bodies[name] = {**body, "status": {}}
        return self.bodies[name]

    def replay(self, name: str, of: str, made: str = "2026-01-02T00:00:00Z") -> None:
        self.put(name, creationTimestamp=made, annotations={"headrace.dev/replay-of": f"uid-{of}"})


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Objects:
    found = Objects()

    @contextlib.asynccontextmanager
    async def connect(kubeconfig: str | None, context: str | None) -> AsyncIterator[Objects]:
        yield found

    monkeypatch.setattr(Cluster, "connect", connect)
    return found


def dlq(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["dlq", *arguments])


@pytest.mark.parametrize("chosen", [("--all",), ("--reason", "EngineLost"), ("a", "b", "c")])
def test_one_that_is_refused_does_not_keep_the_others(objects: Objects, chosen: tuple[str, ...]) -> None:
    for name in ("a", "b", "c"):
        objects.put(name, "EngineLost")
    objects.bodies["b"]["spec"]["priority"] = 8
    objects.ceiling = 7
    told = dlq("replay", *chosen)
    assert told.exit_code == 1
    assert "ns/a: replayed as a-replay-1" in told.stdout
    assert "ns/c: replayed as c-replay-1" in told.stdout
    assert "ns/b is not replayed" in told.stderr
    assert "--priority N" in told.stderr
    assert dlq("replay", "b", "--priority", "7").exit_code == 0
    assert objects.bodies["b-replay-1"]["spec"]["priority"] == 7
    assert dlq("replay", *chosen, "--again", "--priority", "101").exit_code == 2


@pytest.mark.parametrize(
    ("reason", "names"), [("EngineLost", ["a", "b"]), ("BackoffLimitExceeded", ["b"]), ("Poison", [])]
)
def test_a_reason_is_the_tasks_or_its_last_attempts(objects: Objects, reason: str, names: list[str]) -> None:
    objects.put("a", "EngineLost")
    objects.put("b", "BackoffLimitExceeded", "EngineLost")
    objects.put("c", "InvalidOutput", "InvalidOutput")
    assert [each["name"] for each in json.loads(dlq("list", "--reason", reason, "-o", "json").stdout)] == names


@pytest.mark.parametrize("word", ["EngineLst", "enginelost"])
@pytest.mark.parametrize("command", ["list", "replay"])
def test_a_misspelt_reason_is_refused(objects: Objects, command: str, word: str) -> None:
    told = dlq(command, "--reason", word)
    assert told.exit_code == 2
    assert "EngineLost" in told.output


def test_nothing_to_replay_is_said(objects: Objects) -> None:
    objects.put("open")
    told = dlq("replay", "--all")
    assert (told.exit_code, told.stdout) == (0, "nothing to replay in ns\n")
    told = dlq("replay", "--reason", "Poison")
    assert (told.exit_code, told.stdout) == (0, "nothing to replay in ns with reason Poison\n")
    assert json.loads(dlq("replay", "--all", "-o", "json").stdout) == []


@pytest.mark.parametrize("name", ["", "ns/", "/t", "ns/t/t", "/", "..", "T"])
@pytest.mark.parametrize("command", [["why"], ["cancel"], ["resume", "t"], ["dlq", "show"], ["dlq", "replay"]])
def test_what_is_no_name_is_refused_before_a_cluster_is_asked(command: list[str], name: str) -> None:
    told = CliRunner().invoke(app, [*command, name, "--kubeconfig", "/nowhere"])
    assert told.exit_code == 2
    assert "NAMESPACE/NAME" in told.output


def test_replays_are_found_behind_gaps(objects: Objects) -> None:
    objects.put("t", "EngineLost")
    objects.replay("t-replay-10", "t", "2026-01-03T00:00:00Z")
    objects.replay("t-replay-2", "t")
    objects.replay("u-replay-1", "u")
    assert json.loads(dlq("show", "t", "-o", "json").stdout)["replays"] == ["t-replay-2", "t-replay-10"]
    told = dlq("replay", "t")
    assert told.exit_code == 1
    assert "replayed before as t-replay-10: --again makes another one" in told.stdout
    assert "t-replay-1" not in objects.bodies
    assert "replayed as t-replay-1\n" in dlq("replay", "t", "--again").stdout


def test_who_may_not_list_still_sees_the_letter(objects: Objects) -> None:
    objects.put("t", "EngineLost")
    objects.may_list = False
    told = dlq("show", "t")
    assert told.exit_code == 0
    assert "you may not list" in told.stdout
