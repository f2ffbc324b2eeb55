"""What is bounded in time or number, while who keeps the bound is away: deadlines, TTLs, quotas, inputs."""

import asyncio
import contextlib
import time
from typing import Any, Final

from tests.chaos.control_plane import ApiError
from tests.chaos.faults import lead_anew
from tests.chaos.faults_users import all_told
from tests.chaos.judged import Violation
from tests.chaos.limits import ACTIVE, QUEUE
from tests.chaos.phase import Fault, Load, Phase
from tests.chaos.tenant import Submission
from tests.chaos.world import NotReached, until
from tests.stub_engine.script import Script

LONG: Final = 30.0
"""Of a generation that does not come to its end."""
RUN_SECONDS: Final = 14
"""Deadline and timeout of what runs: beyond an outage, so that nothing else comes to run before."""
WAIT_SECONDS: Final = 3
"""Deadlines of what waits: they run out during the outage."""
BEHIND: Final = {"priority": -100}
TTL_SECONDS: Final = 2
GONE_SECONDS: Final = 30.0
QUEUED_TASKS: Final = 6
RUNNING_TASKS: Final = 4
WAITING_SECONDS: Final = 30.0


async def _limited(phase: Phase) -> None:
    """Every sequence is taken by what runs out while it runs; behind it waits what runs out while it waits."""
    await phase.accepted()
    await phase.finished()
    sequences = phase.world.settings.replicas * phase.world.settings.parallelism
    third = sequences // 3
    over = {"activeDeadlineSeconds": RUN_SECONDS}
    slow = {"attemptTimeoutSeconds": RUN_SECONDS, "backoffLimit": 0}
    phase.submit(third, Load(LONG, LONG, over))
    phase.submit(third, Load(LONG, LONG, slow))
    phase.submit(sequences - 2 * third, Load(RUN_SECONDS + 1.0, RUN_SECONDS + 3.0), by_facade=0.0)
    await phase.accepted()
    await phase.some_run(at_least=sequences)
    phase.submit(6, Load(0.5, 1.0, {"queueDeadlineSeconds": WAIT_SECONDS, **BEHIND}))
    phase.submit(6, Load(LONG, LONG, {"activeDeadlineSeconds": WAIT_SECONDS, **BEHIND}))
    await phase.accepted()
    await asyncio.sleep(phase.rng.uniform(0.5, 1.5))


async def kill_leader(phase: Phase) -> None:
    """Until after the deadlines of what waits."""
    await _limited(phase)
    await lead_anew(phase)


async def flush(phase: Phase) -> None:
    """The clocks are in the objects."""
    await _limited(phase)
    strike = phase.strike(bystanders=True)
    await phase.world.redis.flush()
    strike.until = time.monotonic() + phase.world.settings.periods.recovery


async def all_ran_out(phase: Phase) -> None:
    """Each deadline has ended some."""
    ended = [phase.world.latest(each.accepted_uid) for each in phase.submissions()]
    reasons = {each.reason for each in ended if each is not None and each.outcome == "Failed"}
    for reason in (QUEUE, ACTIVE, "BackoffLimitExceeded"):
        phase.struck(f"none ended as {reason}, but {sorted(map(str, reasons))}", reason in reasons)


async def end_and_expire(phase: Phase) -> None:
    """The leader dies and Redis forgets everything while tasks that may not stay end, are told and go."""
    receiver = phase.world.receiver
    for manner in ("ok", "fails"):
        spec = {"ttlSecondsAfterFinished": TTL_SECONDS, **receiver.spec(manner)}
        phase.submit(5, Load(0.05, 2.5, spec))
    phase.submit(5, Load(0.05, 2.5, {"ttlSecondsAfterFinished": TTL_SECONDS}))
    await phase.accepted()
    await asyncio.sleep(phase.rng.uniform(0.2, 1.5))
    await lead_anew(phase, phase.world.redis.flush)


async def all_gone(phase: Phase) -> None:
    """Told before, and nothing in Redis names them any more."""
    world = phase.world
    due = [each for each in phase.submissions() if "ttlSecondsAfterFinished" in each.spec]
    uids = {each.accepted_uid for each in due}

    async def gone() -> bool:
        return all((latest := world.latest(uid)) is not None and latest.gone for uid in uids)

    with contextlib.suppress(NotReached):  # the checker says of them that they are overdue
        await until(gone, "tasks past their TTL that are gone", GONE_SECONDS)
    named: set[str] = set()

    async def forgotten() -> bool:
        named.clear()
        named.update(await world.redis_names(uids))
        return not named

    try:
        await until(forgotten, "a Redis that names none of them", GONE_SECONDS, poll_seconds=0.5)
    except NotReached:
        kinds = sorted({key.rpartition("}:")[2].partition(":")[0] for key in named})
        phase.problems.append(Violation("residue", phase.fault.name, f"Redis names deleted tasks in: {kinds}"))
    await all_told(phase)


async def grant(phase: Phase) -> None:
    """A quota, and a narrower one before the next strike. Returns when the operator has seen it."""
    world = phase.world
    narrower = bool(phase.quotas)
    spec: dict[str, Any] = {"maxQueuedTasks": QUEUED_TASKS, **({"maxRunningTasks": RUNNING_TASKS} if narrower else {})}
    path = f"/apis/headrace.dev/v1alpha1/namespaces/{world.tenant}/llmquotas"
    body = {"apiVersion": "headrace.dev/v1alpha1", "kind": "LLMQuota", "metadata": {"name": "default"}, "spec": spec}
    if await world.api.find(f"{path}/default") is None:
        await world.api.request("POST", path, body)
    else:
        await world.api.request("PATCH", f"{path}/default", {"spec": spec}, type_="application/merge-patch+json")

    async def seen() -> bool:
        quota = await world.api.request("GET", f"{path}/default")
        return bool((quota.get("status") or {}).get("observedGeneration") == quota["metadata"]["generation"])

    await until(seen, "a quota that the operator has seen", WAITING_SECONDS)
    phase.quotas.append((time.monotonic(), RUNNING_TASKS if narrower else QUEUED_TASKS))


async def lead_with_quota(phase: Phase) -> None:
    """Twice as many as may be handed out; first the leader is lost, then Redis with it."""
    await phase.accepted()
    await phase.some_run(at_least=2)
    await lead_anew(phase, phase.world.redis.flush if len(phase.quotas) > 1 else None)


async def quota_used(phase: Phase) -> None:
    """It was felt; and nobody feels it any more."""
    world = phase.world
    await world.api.request("DELETE", f"/apis/headrace.dev/v1alpha1/namespaces/{world.tenant}/llmquotas/default")
    waited = (
        version.reason == "QuotaExceeded"
        for each in phase.submissions()
        for version in world.recorder.versions.get(each.accepted_uid, ())
    )
    phase.struck("no task waited for the quota", any(waited))


def _from_object(phase: Phase, config_map: str, seconds: float) -> Submission:
    name = phase.next_name()
    reference = {"name": config_map, "key": name}
    spec = {"inputFrom": {"configMapKeyRef": reference}}
    return Submission(name, Script(ms=1000 * seconds, name=name), spec=spec)


async def _write(phase: Phase, config_map: str, submissions: list[Submission], mark: str) -> None:
    """Make the ConfigMap, or change it; each text names its task with this mark."""
    world = phase.world
    path = f"/api/v1/namespaces/{world.tenant}/configmaps"
    data = {}
    for each in submissions:
        told = f"{each.name}{mark}"
        data[each.name] = Script(ms=each.script.ms, name=told).line()
        each.inputs.append((time.monotonic(), told))
    body = {"apiVersion": "v1", "kind": "ConfigMap", "data": data}
    body["metadata"] = {"name": config_map, "labels": {"headrace.dev/input": "true"}}
    try:
        await world.api.request("POST", path, body)
    except ApiError as error:
        if error.status != 409:
            raise
        await world.api.request("PUT", f"{path}/{config_map}", body)


async def change_inputs(phase: Phase) -> None:
    """While nobody leads and Redis forgets what was handed out, one input appears and another changes."""
    await phase.accepted()
    await phase.finished()
    world, mark = phase.world, len(phase.strikes)
    there, late = f"there-{mark}", f"late-{mark}"
    changing = [_from_object(phase, there, 8.0) for _ in range(6)]
    missing = [_from_object(phase, late, 0.3) for _ in range(6)]
    await _write(phase, there, changing, "-before")
    for each in (*changing, *missing):
        phase.submit_as(each)
    await phase.accepted()
    await phase.some_run(at_least=len(changing))

    async def all_wait() -> bool:
        latest = [world.latest(each.accepted_uid) for each in missing]
        return all(each is not None and each.reason == "InputNotFound" for each in latest)

    await until(all_wait, "tasks that wait for their input", WAITING_SECONDS)

    async def meanwhile() -> None:
        await world.redis.flush()
        await _write(phase, there, changing, "-after")
        await _write(phase, late, missing, "")

    await lead_anew(phase, meanwhile)


async def inputs_changed(phase: Phase) -> None:
    """Some attempt had the changed one."""
    ended = [phase.world.latest(each.accepted_uid) for each in phase.submissions()]
    phase.struck("no attempt had the input that changed", any("-after" in (each.text or "") for each in ended if each))


_SHORT: Final = Load(0.1, 0.4)
_IN_TIME: Final = "a deadline ends a task once, in time and never early"
LIMIT_FAULTS: Final = (
    Fault(
        "deadline-leader", _IN_TIME, kill_leader, _SHORT, bound=None, needs_victims=False,
        after=all_ran_out, most=3,
    ),
    Fault(
        "deadline-flush", _IN_TIME, flush, _SHORT, flushes=1, needs_victims=False,
        after=all_ran_out, most=3,
    ),
    Fault(
        "ttl", "what may not stay is told, and goes", end_and_expire, _SHORT, bound=None, flushes=1,
        needs_victims=False, after=all_gone, most=3,
    ),
    Fault(
        "quota", "no more than a namespace's quota", lead_with_quota, Load(0.5, 2.0), bound=None, flushes=1,
        needs_victims=False, before=grant, after=quota_used, least=2, most=3,
    ),
    Fault(
        "inputs", "an attempt has the input of its hand-out", change_inputs, _SHORT, bound=None, flushes=1,
        needs_victims=False, after=inputs_changed, most=3,
    ),
)  # fmt: skip
