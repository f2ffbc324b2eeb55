"""What the assigned runner may write of its task, by its own token: that it runs, how it ended, and nothing after."""

import time
from datetime import datetime
from typing import Any

import pytest

from headrace_crds import Outcome
from headrace_crds.outcome import text_result
from headrace_crds.reasons import Reason
from headrace_crds.task import Parameters
from headrace_crds.work import Work
from headrace_runner import patches
from headrace_runner.attempt import Attempt
from headrace_runner.verdict import Verdict
from tests.contract.callers import MERGE_PATCH
from tests.contract.chart.task_world import World, commit, refused

pytestmark = pytest.mark.contract

ACCEPTED = "2027-01-15T08:00:00Z"
PHASE = "/status/phase"


@pytest.mark.parametrize("phase", ["Waiting", "Suspended", "Complete", "Failed", None])
def test_a_runner_cannot_say_that_its_open_task_is_not_handed_out(world: World, phase: str | None) -> None:
    name = f"seat-{str(phase).lower()}"
    world.assigned(name)
    forged = {"op": "add", "path": "/status/phase", "value": phase} if phase else {"op": "remove", "path": PHASE}
    refused(world.patch(world.runner, name, forged), "status.phase: a runner sets Running")
    runs = world.patch(world.runner, name, {"op": "add", "path": PHASE, "value": "Running"})
    assert runs.status_code == 200, runs.text
    refused(world.patch(world.runner, name, forged), "status.phase: a runner sets Running")
    back = world.patch(world.runner, name, {"op": "add", "path": PHASE, "value": "Queued"})
    refused(back, "status.phase: a runner sets Running")
    assert world.read(name)["status"]["phase"] == "Running"


@pytest.mark.parametrize("phase", ["Running", "Queued", "Failed"])
def test_a_commit_brings_the_phase_of_its_outcome(world: World, phase: str) -> None:
    name = f"phase-{phase.lower()}"
    task = world.assigned(name)
    refused(
        world.patch(world.runner, name, *commit(task), {"op": "add", "path": PHASE, "value": phase}), "status.phase"
    )
    done = world.patch(world.runner, name, *commit(task))
    assert done.status_code == 200, done.text


def condition(type_: str, status: str) -> dict[str, Any]:
    value = {"type": type_, "status": status, "reason": "Forged", "message": "", "observedGeneration": 1}
    return {"op": "add", "path": "/status/conditions/-", "value": {**value, "lastTransitionTime": ACCEPTED}}


def test_a_runner_cannot_say_that_the_webhook_was_delivered(world: World) -> None:
    task = world.assigned("told")
    none = {"op": "add", "path": "/status/conditions", "value": []}
    for status in ("True", "Unknown"):
        told = condition("Notified", status)
        refused(world.patch(world.runner, "told", none, told), "Notified is the operator's")
        refused(world.patch(world.runner, "told", *commit(task), told), "Notified is the operator's")
    refused(world.patch(world.runner, "told", none, condition("Finished", "True")), "Finished comes together")
    done = world.patch(world.runner, "told", *commit(task), condition("Notified", "False"))
    assert done.status_code == 200, done.text


def test_after_the_end_a_runner_reads_and_writes_nothing(world: World) -> None:
    task = world.assigned("over")
    ours = [*commit(task), condition("Notified", "False")]
    assert world.patch(world.runner, "over", *ours).status_code == 200
    # Sent again, as after a lost answer: that is what the object says already.
    assert world.patch(world.runner, "over", *ours).status_code == 200
    before = world.read("over")
    forgeries = (
        [{"op": "replace", "path": "/status/conditions/2/status", "value": "True"}],
        [{"op": "replace", "path": "/status/conditions/0/status", "value": "False"}],
        [{"op": "add", "path": "/status/conditions", "value": []}],
        [{"op": "add", "path": PHASE, "value": "Running"}],
        [{"op": "add", "path": "/status/message", "value": "forged"}],
        [{"op": "add", "path": "/status/runner/pod", "value": "forged"}],
    )
    for forged in forgeries:
        done = world.patch(world.runner, "over", *forged)
        assert done.status_code == 422, done.text
        assert "finished: " in done.json()["message"]
    assert world.read("over") == before

    told = [c if c["type"] != "Notified" else {**c, "status": "True"} for c in before["status"]["conditions"]]
    patch = {"status": {"conditions": told}}
    done = world.operator.request("PATCH", world.status_path("over"), patch, MERGE_PATCH)
    assert done.status_code == 200, done.text
    # A commit that comes late does not take the delivery back, and its sender reads what there is.
    assert world.patch(world.runner, "over", *ours).status_code == 422
    read = world.patch(world.runner, "over", {"op": "test", "path": "/metadata/uid", "value": task["metadata"]["uid"]})
    assert read.status_code == 200, read.text
    assert read.json()["status"]["conditions"] == told


def test_a_task_does_not_end_before_it_was_accepted(world: World) -> None:
    task = world.assigned("early")
    patch = {"status": {"acceptTime": ACCEPTED}}
    assert world.operator.request("PATCH", world.status_path("early"), patch, MERGE_PATCH).status_code == 200
    ended = {"op": "add", "path": "/status/completionTime"}
    for time_ in ("1970-01-01T00:00:00Z", "2027-01-15T07:54:59Z", "2027-01-15T09:00:00+02:00"):
        refused(world.patch(world.runner, "early", *commit(task), {**ended, "value": time_}), "before acceptTime")
    refused(world.patch(world.runner, "early", {**ended, "value": "1970-01-01T00:00:00Z"}), "before acceptTime")
    done = world.patch(world.runner, "early", *commit(task), {**ended, "value": ACCEPTED})
    assert done.status_code == 200, done.text


def test_what_a_runner_writes_is_admitted(world: World) -> None:
    """The runner's own patches: it reads, runs, commits."""
    task = world.assigned("whole")
    patch = {"status": {"acceptTime": ACCEPTED, "conditions": [condition("Ready", "False")["value"]]}}
    assert world.operator.request("PATCH", world.status_path("whole"), patch, MERGE_PATCH).status_code == 200
    work = Work(
        model=f"{world.namespace}/a", generation=1, messages=[], parameters=Parameters(), notify=[Outcome.COMPLETE]
    )
    uid = task["metadata"]["uid"]
    accepted_ms = int(datetime.fromisoformat(ACCEPTED).timestamp() * 1000)
    attempt = Attempt(uid, world.namespace, "whole", 1, work, "pod", accepted_ms, accepted_ms, time.monotonic())
    read = world.patch(world.runner, "whole", *patches.read(uid))
    assert read.status_code == 200, read.text
    runs = world.patch(world.runner, "whole", *patches.running(attempt, read.json()["status"]))
    assert runs.status_code == 200, runs.text
    assert runs.json()["status"]["phase"] == "Running"
    verdict = Verdict(Outcome.COMPLETE, Reason.SUCCEEDED, "", result=text_result("Hi.", "Stop", None))
    final = attempt.terminal_status(verdict, attempt.now_ms)
    for _again in range(2):
        done = world.patch(world.runner, "whole", *patches.commit(attempt, final))
        assert done.status_code == 200, done.text
    assert {c["type"]: c["status"] for c in done.json()["status"]["conditions"]}["Notified"] == "False"
