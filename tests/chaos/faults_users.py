"""What users do all at once: suspend, cancel and delete, while a runner dies; tasks that kill engines; webhooks."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.faults import any_pod, moment
from tests.chaos.phase import Fault, Load, Phase
from tests.chaos.tenant import Submission
from tests.chaos.webhooks import MANNERS
from tests.chaos.world import NotReached, until

SHARE: Final = 0.6
TOLD_SECONDS: Final = 60.0

Deed = Callable[[Phase, Submission], Awaitable[None]]


def storm(deed: Deed) -> Callable[[Phase], Awaitable[None]]:
    """Most tasks suffer the deed at seeded moments, and a runner is killed in the middle."""

    async def strike(phase: Phase) -> None:
        await phase.accepted()
        fresh = [each for each in phase.submissions() if not phase.tenant.finished(each.name)]
        chosen = [each for each in fresh if phase.rng.random() < SHARE]

        async def later(submission: Submission, seconds: float) -> None:
            await asyncio.sleep(seconds)
            await deed(phase, submission)

        deeds = [asyncio.create_task(later(each, phase.rng.uniform(0.0, 2.5))) for each in chosen]
        pod = any_pod(phase)
        await moment(phase, {pod.name})
        phase.strike({pod.name})
        pod.runner.kill()
        await asyncio.gather(*deeds)

    return strike


async def suspend(phase: Phase, submission: Submission) -> None:
    """And let it go on, some of them twice."""
    for _ in range(phase.rng.randint(1, 2)):
        await phase.tenant.patch(submission, {"suspend": True})
        await asyncio.sleep(phase.rng.uniform(0.05, 1.5))
        await phase.tenant.patch(submission, {"suspend": False})


async def cancel(phase: Phase, submission: Submission) -> None:
    await phase.tenant.patch(submission, {"cancel": True})


async def delete(phase: Phase, submission: Submission) -> None:
    await phase.tenant.delete(submission)


async def poison(phase: Phase) -> None:
    """One task that kills every engine that works on it."""
    phase.strike(bystanders=True)
    phase.submit(1, Load(0.2, 0.4, {"backoffLimit": 20}, "crash"), by_facade=0.0)
    await phase.accepted()


async def call_back(phase: Phase) -> None:
    """Every manner of receiver, and the leader dies while they are told."""
    receiver = phase.world.receiver
    for manner in MANNERS:
        phase.submit(6, Load(0.05, 0.4, receiver.spec(manner)), by_facade=0.0)
    await phase.accepted()
    await phase.finished()
    leader = await phase.world.leader()
    phase.strike(bystanders=True)
    if leader is not None:
        leader.kill()


async def all_told(phase: Phase) -> None:
    """Every task that named a webhook is delivered, once at least, and says so."""
    world = phase.world
    named = [each for each in phase.submissions() if "webhook" in each.spec]

    async def notified() -> bool:
        versions = (world.recorder.versions.get(each.accepted_uid, ()) for each in named)
        return all(any(version.notified for version in each) for each in versions)

    with contextlib.suppress(NotReached):  # judged below
        await until(notified, "delivered webhooks", TOLD_SECONDS)
    finals = []
    for each in named:
        versions = world.recorder.versions.get(each.accepted_uid, [])
        finals += [version for version in versions if version.outcome is not None][:1]
    phase.problems += world.receiver.judge(finals)


USER_FAULTS: Final = (
    Fault(
        "suspend-storm",
        "suspended work goes on and is not charged",
        storm(suspend),
        Load(0.5, 3.0),
        bound=None,
        deaths=1,
    ),
    Fault("cancel-storm", "cancelled once, or complete", storm(cancel), Load(0.5, 8.0), bound=None),
    Fault("delete-storm", "what is deleted ends, the rest does not", storm(delete), Load(0.5, 9.0), bound=None),
    Fault("poison", "ends after three engines that it had alone", poison, needs_victims=False, deaths=0),
    Fault("webhooks", "told at least once, never elsewhere", call_back, needs_victims=False, after=all_told),
)
