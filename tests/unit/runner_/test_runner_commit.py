"""The committer against an API server that answers as scripted."""

from collections.abc import Sequence
from typing import Any

import pytest

from headrace_runner.attempt import Attempt
from headrace_runner.commit import FORBIDDEN_SECONDS, PATIENCE_SECONDS, REFUSALS, Committer, Ending, announce_running
from headrace_runner.kube import Answer, Operation
from headrace_runner.verdict import Verdict

OPEN = Answer(200, body={"status": {"attempt": 1}})
ANOTHERS = Answer(
    403,
    message="llmtasks.headrace.dev \"t\" is forbidden: ValidatingAdmissionPolicy 'headrace-task-status' with binding "
    "'headrace-task-status' denied request: only the operator and the runner that the task is assigned to (ns/other) "
    "may write its status, not system:serviceaccount:ns:headrace-smol",
)
TOO_LARGE = Answer(500, message="etcdserver: request is too large")


class Script:
    """Answers in order, the last one for ever; keeps what was sent."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.sent: list[list[Operation]] = []

    async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
        assert (namespace, name) == ("ns", "t")
        self.sent.append(operations)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    @property
    def kinds(self) -> str:
        """``c`` for a commit, ``r`` for a patch that only tests."""
        return "".join("r" if len(each) == 1 else "c" for each in self.sent)


def values(operations: Sequence[Operation]) -> dict[str, Any]:
    return {each["path"]: each["value"] for each in operations}


@pytest.mark.parametrize(
    ("answers", "ending", "kinds"),
    [
        ([Answer(200)], Ending.COMMITTED, "c"),
        ([Answer(409), OPEN, Answer(200)], Ending.COMMITTED, "crc"),
        ([Answer(422), OPEN, Answer(200)], Ending.COMMITTED, "crc"),
        ([Answer(0), Answer(0), OPEN, Answer(200)], Ending.COMMITTED, "crrc"),
        ([Answer(503), Answer(404)], Ending.FINISHED, "cr"),
        ([Answer(422), Answer(422)], Ending.FINISHED, "cr"),
        ([Answer(422), Answer(200, body={"status": {"attempt": 2}})], Ending.MOVED, "cr"),
        ([Answer(403), Answer(403), Answer(200)], Ending.COMMITTED, "ccc"),
        ([Answer(422), Answer(403), Answer(200)], Ending.COMMITTED, "crc"),
        ([ANOTHERS], Ending.NOT_ASSIGNED, "c"),
        ([Answer(0), ANOTHERS], Ending.NOT_ASSIGNED, "cr"),
        ([Answer(404), OPEN, Answer(200)], Ending.COMMITTED, "crc"),
        ([TOO_LARGE, Answer(200)], Ending.COMMITTED, "cc"),
        ([TOO_LARGE, Answer(0), OPEN, Answer(200)], Ending.COMMITTED, "ccrc"),
    ],
)
async def test_what_is_sent_until_it_ends(
    clock: Any, attempt: Attempt, verdict: Verdict, answers: list[Answer], ending: Ending, kinds: str
) -> None:
    script = Script(*answers)
    committed = await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    assert committed.ending is ending
    assert script.kinds == kinds


async def test_the_patch_is_fenced_and_whole(clock: Any, attempt: Attempt, verdict: Verdict) -> None:
    script = Script(Answer(200))
    clock.now += 2.5
    await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    (operations,) = script.sent
    assert operations[:2] == [
        {"op": "test", "path": "/metadata/uid", "value": "u-1"},
        {"op": "test", "path": "/status/attempt", "value": 1},
    ]
    assert {each["op"] for each in operations[2:]} == {"add"}
    written = values(operations[2:])
    assert written["/status/outcome"] == written["/status/phase"] == "Complete"
    assert written["/status/startTime"] == "2026-01-01T00:00:00Z"
    assert written["/status/completionTime"] == "2026-01-01T00:00:02Z"
    assert written["/status/runner/pod"] == "p-0"
    assert written["/status/observedGeneration"] == 2
    assert [each["number"] for each in written["/status/attempts"]] == [1]
    assert {each["type"]: each["status"] for each in written["/status/conditions"]} == {
        "Finished": "True",
        "Ready": "True",
    }
    assert written["/status/result"]["text"] == "hi"


async def test_a_commit_that_is_sent_again_is_the_same(clock: Any, attempt: Attempt, verdict: Verdict) -> None:
    script = Script(Answer(0), Answer(0), OPEN, Answer(200))
    await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    assert clock.slept
    assert script.sent[0] == script.sent[-1]


async def test_a_result_that_does_not_fit_becomes_a_failure_without_it(
    clock: Any, attempt: Attempt, verdict: Verdict
) -> None:
    script = Script(TOO_LARGE, Answer(200))
    committed = await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    written = values(script.sent[1])
    assert (written["/status/outcome"], written["/status/reason"]) == ("Failed", "ResultTooLarge")
    assert "/status/result" not in written
    assert written["/status/usage"]["promptTokens"] == 3
    assert committed.verdict.reason == "ResultTooLarge"


async def test_an_object_that_is_full_does_not_hold_the_runner_for_ever(
    clock: Any, attempt: Attempt, verdict: Verdict
) -> None:
    class Full(Script):
        async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
            await super().patch(namespace, name, operations)
            return OPEN if len(operations) == 1 else TOO_LARGE

    script = Full(OPEN)
    committed = await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    assert committed.ending is Ending.REFUSED
    assert script.kinds.count("c") == REFUSALS + 1


async def test_a_commit_that_is_always_refused_ends(clock: Any, attempt: Attempt, verdict: Verdict) -> None:
    class Refusing(Script):
        async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
            await super().patch(namespace, name, operations)
            return OPEN if len(operations) == 1 else Answer(422, message="status.x: Invalid value")

    script = Refusing(OPEN)
    committed = await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    assert committed.ending is Ending.REFUSED
    assert script.kinds == "cr" * REFUSALS


@pytest.mark.parametrize("answer", [Answer(0), Answer(500, message="etcdserver: no leader"), Answer(429)])
async def test_patience_ends_after_ten_minutes(clock: Any, attempt: Attempt, verdict: Verdict, answer: Answer) -> None:
    script = Script(answer)
    began = clock()
    committed = await Committer(script, sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    assert committed.ending is Ending.UNANSWERED
    assert PATIENCE_SECONDS <= clock() - began < PATIENCE_SECONDS + 10
    # Ten minutes of silence are no storm: about one request in eight seconds.
    assert len(script.sent) < 120


async def test_a_right_that_does_not_come_back_ends_a_commit_after_two_minutes(
    clock: Any, attempt: Attempt, verdict: Verdict
) -> None:
    script = Script(Answer(403, message="cannot patch resource"))
    committer = Committer(script, sleep=clock.sleep, monotonic=clock)
    began = clock()
    committed = await committer.commit(attempt, verdict)
    assert committed.ending is Ending.FORBIDDEN
    assert FORBIDDEN_SECONDS <= clock() - began < FORBIDDEN_SECONDS + 10
    assert committer.forbidden


async def test_two_minutes_without_a_right_are_two_minutes_in_a_row(
    clock: Any, attempt: Attempt, verdict: Verdict
) -> None:
    class Flapping(Script):
        async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
            await super().patch(namespace, name, operations)
            return Answer(403) if int(clock() / 60) % 2 else Answer(0)

    committed = await Committer(Flapping(OPEN), sleep=clock.sleep, monotonic=clock).commit(attempt, verdict)
    assert committed.ending is Ending.UNANSWERED


@pytest.mark.parametrize(("last", "forbidden"), [(200, False), (422, False), (403, True), (0, True), (503, True)])
async def test_a_missing_right_is_known_until_the_server_says_otherwise(
    clock: Any, attempt: Attempt, verdict: Verdict, last: int, forbidden: bool
) -> None:
    seen: list[bool] = []

    class Watched(Script):
        async def patch(self, namespace: str, name: str, operations: list[Operation]) -> Answer:
            seen.append(committer.forbidden)
            return await super().patch(namespace, name, operations)

    committer = Committer(Watched(Answer(403), Answer(last), OPEN, Answer(200)), sleep=clock.sleep, monotonic=clock)
    await committer.commit(attempt, verdict)
    # Before the first, after the first, after the second.
    assert [*seen, committer.forbidden][:3] == [False, True, forbidden]


async def test_running_keeps_what_conditions_know(clock: Any, attempt: Attempt) -> None:
    then = "2025-12-31T23:00:00Z"
    accepted = {"type": "Finished", "status": "False", "lastTransitionTime": then, "reason": "Queued", "message": ""}
    script = Script(Answer(200, body={"status": {"attempt": 1, "conditions": [accepted]}}), Answer(200))
    clock.now += 1
    await announce_running(script, attempt)
    written = values(script.sent[1])
    assert written["/status/phase"] == written["/status/reason"] == "Running"
    conditions = {each["type"]: each for each in written["/status/conditions"]}
    assert conditions["Finished"]["lastTransitionTime"] == then
    assert conditions["Running"]["status"] == "True"
    assert conditions["Running"]["lastTransitionTime"] == "2026-01-01T00:00:01Z"


@pytest.mark.parametrize("status", [{"attempt": 2}, {"attempt": 1, "outcome": "Failed"}, {}])
async def test_running_is_not_said_of_what_moved_on(attempt: Attempt, status: dict[str, Any]) -> None:
    script = Script(Answer(200, body={"status": status}))
    await announce_running(script, attempt)
    assert script.kinds == "r"
