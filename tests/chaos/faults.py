"""The faults of processes: each strikes once, at a seeded moment while tasks run."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.phase import Fault, Load, Phase, Strike, leader_lost
from tests.chaos.pods import FAKETIME, Pod
from tests.chaos.processes import Kept
from tests.chaos.tenant import Submission
from tests.chaos.world import until

TAKE_OVER_SECONDS: Final = 30.0
HALF_AN_HOUR: Final = 1800.0


async def moment(phase: Phase, pods: set[str] | None = None) -> None:
    """A seeded while after tasks began to run."""
    await phase.some_run(pods, at_least=2 if pods else 6)
    await asyncio.sleep(phase.rng.uniform(0.0, 0.4))
    await phase.some_run(pods)


def any_pod(phase: Phase) -> Pod:
    return phase.rng.choice(phase.world.pods)


async def nothing(phase: Phase) -> None:
    phase.strike(bystanders=True)
    await phase.some_run()


async def contend(phase: Phase) -> None:
    """Every runner asks for work all the time."""
    phase.strike(bystanders=True)
    phase.submit(100, Load(0.01, 0.05), by_facade=0.0)
    await phase.accepted()


async def kill_runner(phase: Phase) -> None:
    pod = any_pod(phase)
    await moment(phase, {pod.name})
    phase.strike({pod.name})
    pod.runner.kill()


async def kill_engine(phase: Phase) -> None:
    pod = any_pod(phase)
    await moment(phase, {pod.name})
    phase.strike({pod.name})
    assert pod.engine is not None
    for pid in pod.engine.children():
        os.kill(pid, signal.SIGKILL)


async def kill_leader(phase: Phase) -> None:
    """What suffers is a task that is submitted at that moment: nobody accepts it."""
    await moment(phase)
    await lead_anew(phase)


async def lead_anew(phase: Phase, meanwhile: Callable[[], Awaitable[object]] | None = None) -> Strike:
    """Kill the leader and hold it back until another has accepted a task; `meanwhile` is done while nobody leads."""
    leader = await phase.world.leader()
    assert leader is not None, "nobody leads"
    strike = phase.strike(bystanders=True)
    leader.hold_back()
    leader.kill()
    try:
        if meanwhile is not None:
            await meanwhile()
        await _taken_over(phase, strike, leader)
    finally:
        leader.let_go()
    strike.until = time.monotonic()
    return strike


async def _taken_over(phase: Phase, strike: Strike, dead: Kept) -> None:
    """While nobody starts the dead one again."""
    (probe,) = phase.submit(1, by_facade=0.0)
    await phase.accepted()
    uid = (await probe).accepted_uid

    async def taken() -> bool:
        return any(version.attempt for version in phase.world.recorder.versions.get(uid, []))

    async def another_leads() -> bool:
        return await phase.world.leader() not in (None, dead)

    await until(another_leads, "another leader", TAKE_OVER_SECONDS)
    await until(taken, "a task that the other leader accepts", TAKE_OVER_SECONDS)
    first = next(version for version in phase.world.recorder.versions[uid] if version.attempt)
    strike.recoveries.append(first.at - strike.since)


async def kill_facade(phase: Phase) -> None:
    """While requests are under way: whoever got no answer asks again."""
    await phase.accepted()
    phase.submit(40, Load(0.05, 0.2), by_facade=1.0)
    await asyncio.sleep(0)  # the submissions begin
    asked = {each.name: each for each in phase.submissions() if not each.accepted.is_set()}

    async def one_is_written() -> bool:
        seen = phase.world.recorder.versions.values()
        return any(version.submission in asked for versions in seen for version in versions[:1])

    await until(one_is_written, "an object of a request under way", TAKE_OVER_SECONDS, poll_seconds=0.002)
    strike = phase.strike(bystanders=True)
    phase.world.facade.kill()
    unanswered = [each for each in asked.values() if not each.accepted.is_set()]

    async def answered(submission: Submission) -> None:
        await submission.accepted.wait()
        strike.recoveries.append(time.monotonic() - strike.since)

    await asyncio.gather(phase.accepted(), *map(answered, unanswered))
    phase.struck("every request was answered", any(each.unanswered for each in unanswered))


async def freeze_runner(phase: Phase) -> None:
    """Beyond its lease, with the engine going on: it wakes with results in hand that are nobody's any more."""
    periods, pod = phase.world.settings.periods, any_pod(phase)
    await moment(phase, {pod.name})
    phase.strike({pod.name})
    pod.runner.signal(signal.SIGSTOP)
    await asyncio.sleep(periods.recovery + 0.5)
    pod.runner.signal(signal.SIGCONT)


def skew(offset: str) -> Fault:
    """A runner whose wall clock is wrong, killed while it works: its leases must end as everybody's."""

    async def strike(phase: Phase) -> None:
        world = phase.world
        pod = world.pods[0]
        right, kubeconfig = pod.runner.environment, f"{pod.name}.skewed.kubeconfig"
        path = world.settings.folder / kubeconfig
        account = "headrace-" + right["HEADRACE_MODEL"].partition("/")[2]
        # The certificates of a run are minutes old: a clock that lies an hour back refuses them.
        await world.api.kubeconfig(world.tenant, account, path, verified=not offset.startswith("-"))
        wrong = {"LD_PRELOAD": FAKETIME, "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
        pod.runner.environment = {**right, **wrong, "HEADRACE_KUBECONFIG": str(path)}
        starts = pod.runner.starts
        pod.runner.kill()

        async def skewed() -> bool:
            return pod.runner.starts > starts and pod.serves

        await until(skewed, "a runner with a wrong clock", TAKE_OVER_SECONDS)
        told = pod.runner.clock_offset_seconds()
        phase.struck(f"the runner's clock is {told} s ahead", told is not None and abs(told) > HALF_AN_HOUR)
        await phase.accepted()
        # Long ones: its leases are renewed before it goes.
        phase.submit(world.settings.replicas * world.settings.parallelism, Load(7.0, 8.0))
        await phase.some_run({pod.name}, at_least=2)
        await asyncio.sleep(world.settings.periods.lease * phase.rng.uniform(1.0, 1.2))
        await phase.some_run({pod.name})
        phase.strike({pod.name})
        pod.runner.environment = right
        pod.runner.kill()

    name = "clock-ahead" if offset.startswith("+") else "clock-behind"
    return Fault(name, "a runner's wall clock is never looked at", strike, most=3)


ONE_OUTCOME: Final = "one outcome of the attempt in the object"
PROCESS_FAULTS: Final = (
    Fault("none", "nothing runs twice", nothing, needs_victims=False),
    Fault("contention", "nothing runs twice", contend, Load(0.01, 0.05), needs_victims=False),
    Fault("runner-kill", ONE_OUTCOME, kill_runner, least=3),
    Fault("engine-kill", ONE_OUTCOME, kill_engine, least=4),
    Fault("leader-kill", "another leader goes on", kill_leader, bound=leader_lost, needs_victims=False, least=2),
    Fault("facade-kill", "what was answered is accepted", kill_facade, bound=None, needs_victims=False),
    Fault("zombie", "a late commit is refused", freeze_runner, Load(0.5, 6.0), least=2),
    skew("+1h"),
    skew("-1h"),
)
