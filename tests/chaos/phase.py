"""One fault, several rounds: tasks are submitted, the fault strikes while they run, everything comes to an end."""

import asyncio
import math
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.chaos.checker import Finding, check
from tests.chaos.journal import Execution
from tests.chaos.judged import Expected, Rules, Violation
from tests.chaos.settings import Periods
from tests.chaos.tenant import Submission, Tenant
from tests.chaos.world import MODEL, NotReached, World, until
from tests.stub_engine.script import Script

STARTED_SECONDS: Final = 60.0
EMPTY_SECONDS: Final = 20.0
BY_FACADE: Final = 0.2
TASKS_PER_ROUND: Final = 24
LEAST_PER_ROUND: Final = 14
"""More than run at once, so that the fault meets work."""


@dataclass
class Strike:
    """One injection. `since` is when recovery is counted from: the strike, or the end of an outage; `until`: when
    somebody was there again who keeps deadlines. CLOCK_MONOTONIC."""

    since: float
    victims: list[Execution] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    until: float = 0.0


@dataclass(frozen=True)
class Load:
    """Tasks: how long each runs in seconds, at least and at most; more of their specs; how their scripts end and how
    much filler their texts have."""

    shortest: float = 0.2
    longest: float = 1.6
    spec: dict[str, Any] = field(default_factory=dict)
    ending: str = "text"
    pad_bytes: int = 0


def worker_lost(periods: Periods) -> float:
    """Most faults cost no more than a runner that vanishes."""
    return periods.recovery


def leader_lost(periods: Periods) -> float:
    return periods.take_over


def impossible(victims: Sequence[Execution], parallelism: Callable[[str], int]) -> str:
    """Why these cannot all have run at one moment, or nothing: a pod has one engine with so many sequences, by its
    name.
    """
    on_pod: dict[str, list[Execution]] = defaultdict(list)
    for victim in victims:
        on_pod[victim.pod].append(victim)
    for pod, those in sorted(on_pod.items()):
        if len(those) > parallelism(pod):
            return f"{len(those)} executions on the {parallelism(pod)} sequences of {pod}"
        if len({each.pid for each in those}) > 1:
            return f"executions of a dead engine on {pod}"
    return ""


def expected_of(submission: Submission, tenant: str) -> Expected:
    """What the checker is told of a submission, all of whose models are the tenant's."""
    spec = submission.spec
    models = [spec.get("modelRef", {"name": MODEL}), *spec.get("fallback", {}).get("models", [])]
    return Expected(
        submission.name,
        submission.accepted_uid,
        submission.deleted,
        submission.script.ending,
        submission.cancelled,
        spec.get("queueDeadlineSeconds"),
        spec.get("activeDeadlineSeconds"),
        spec.get("attemptTimeoutSeconds"),
        spec.get("ttlSecondsAfterFinished"),
        "webhook" in spec,
        tuple(submission.inputs),
        tuple(f"{tenant}/{each['name']}" for each in models),
    )


async def nothing_more(_: "Phase") -> None:
    """Most faults are over with their tasks."""


@dataclass(frozen=True)
class Fault:
    """`strike` injects once and returns when the fault is over; `after` looks at what follows the outcomes. `bound`:
    what its recovery has to keep, in seconds; None promises nothing. `faults`: how many retries a provider's failures
    may cost with each strike. `deaths`: how many runners a strike kills, where
    nothing else can cost a retry. `least` and `most`: how often it strikes in a short and in a long run; `before`:
    what is made before a round's tasks are submitted."""

    name: str
    promise: str
    strike: Callable[["Phase"], Awaitable[None]]
    load: Load = Load()
    bound: Callable[[Periods], float] | None = worker_lost
    forgets: bool = False
    flushes: int = 0
    needs_victims: bool = True
    needs_partition: bool = False
    needs_remote: bool = False
    faults: int = 0
    deaths: int | None = None
    after: Callable[["Phase"], Awaitable[None]] = nothing_more
    before: Callable[["Phase"], Awaitable[None]] = nothing_more
    least: int = 1
    most: int = 6

    def rounds(self, tasks: int) -> int:
        """How often it strikes where there are so many tasks for it."""
        return max(self.least, min(self.most, tasks // TASKS_PER_ROUND))


class Phase:
    """What a fault works with while it strikes."""

    def __init__(self, fault: Fault, world: World, tenant: Tenant, rng: random.Random, tasks: int) -> None:
        self.fault = fault
        self.world = world
        self.tenant = tenant
        self.rng = rng
        self.strikes: list[Strike] = []
        self.problems: list[Violation] = []
        self.stopped = ""
        self.texts: dict[str, str] = {}
        """By uid, of results that are not in their objects."""
        self.quotas: list[tuple[float, int]] = []
        """From when on (CLOCK_MONOTONIC) so many tasks may be handed out at once."""
        self._tasks = tasks
        self._names: set[str] = set()
        self._pending: list[asyncio.Task[Submission]] = []
        self._round = 0

    def strike(self, pods: set[str] | None = None, *, bystanders: bool = False) -> Strike:
        """The fault strikes at this moment those who run on `pods`; None: on all. `bystanders`: it strikes nobody."""
        victims = [] if bystanders else self.world.journal.running(pods)
        if problem := impossible(victims, self.world.parallelism):
            self.problems.append(Violation("witness", self.fault.name, problem))
        self.strikes.append(Strike(time.monotonic(), victims))
        return self.strikes[-1]

    def struck(self, what: str, happened: object) -> None:
        """The fault has to have done this; one that has not proves nothing."""
        if not happened:
            self.problems.append(Violation("idle", self.fault.name, f"the fault did not strike: {what}"))

    def submit(
        self, number: int, load: Load | None = None, *, by_facade: float = BY_FACADE
    ) -> list[asyncio.Task[Submission]]:
        """Submit so many more; they are accepted by and by. Each task gives its submission when it is."""
        load, before = load or self.fault.load, len(self._pending)
        for _ in range(number):
            name = self.next_name()
            seconds = self.rng.uniform(load.shortest, load.longest)
            script = Script(ms=1000 * seconds, ending=load.ending, name=name, pad_bytes=load.pad_bytes)
            facade = not load.spec and self.rng.random() < by_facade
            submission = Submission(name, script, by_facade=facade, spec=load.spec)
            self._pending.append(asyncio.create_task(self.tenant.submit(submission)))
        return self._pending[before:]

    def submit_as(self, submission: Submission) -> None:
        """Submit one that was made elsewhere, by the phase's `next_name`."""
        self._pending.append(asyncio.create_task(self.tenant.submit(submission)))

    def next_name(self) -> str:
        """A task's, that no other has."""
        name = f"{self.fault.name}-{len(self._names):05d}"
        self._names.add(name)
        return name

    async def accepted(self) -> None:
        """Returns when all that was submitted is accepted. Raises what submitting raised."""
        pending, self._pending = self._pending, []
        await asyncio.gather(*pending)

    async def some_run(self, pods: set[str] | None = None, at_least: int = 1) -> None:
        """Returns when so many tasks run (on these pods)."""

        async def running() -> bool:
            return len(self.world.journal.running(pods)) >= at_least

        await until(running, f"{at_least} running tasks", STARTED_SECONDS)

    async def finished(self) -> None:
        """Returns when all that was accepted has its outcome, or will not have it any more."""
        await self.tenant.all_finished(self._names, self.world.settings.settle_seconds)

    async def run(self, rounds: int, done: Callable[[int, int], None]) -> None:
        """Strike so often; `done` is called after each. `stopped` says what was waited for in vain; such a run is no
        verdict."""
        try:
            await self._run(rounds, done)
        except NotReached as error:
            self.stopped = str(error)

    async def _run(self, rounds: int, done: Callable[[int, int], None]) -> None:
        per_round = max(LEAST_PER_ROUND, math.ceil(self._tasks / rounds))
        for number in range(rounds):
            await self.world.serving()
            await self.fault.before(self)
            self.submit(per_round)
            await self.fault.strike(self)
            await self.accepted()
            left = await self.tenant.all_finished(self._names, self.world.settings.settle_seconds)
            if left:
                return  # the checker says of them that they are lost
            done(number + 1, rounds)
        await self.fault.after(self)
        try:
            await until(self.world.holds_nothing, "an empty queue", EMPTY_SECONDS)
        except NotReached:
            kinds = ", ".join(sorted(await self.world.residue()))
            self.problems.append(Violation("residue", self.fault.name, f"Redis holds of finished tasks: {kinds}"))

    def submissions(self) -> list[Submission]:
        return [self.tenant.submissions[name] for name in sorted(self._names)]

    def finding(self) -> Finding:
        """Judged by what the recorder and the journal hold."""
        self.world.journal.read()
        expected = [expected_of(each, self.world.tenant) for each in self.submissions()]
        flushes = self.fault.flushes * len(self.strikes)
        periods = self.world.settings.periods
        rules = Rules(
            periods.lease,
            periods.recovery,
            self.fault.forgets,
            flushes,
            settled=not self.stopped,
            faults=self.fault.faults * len(self.strikes),
            deaths=None if self.fault.deaths is None else self.fault.deaths * len(self.strikes),
            parallelism=self.world.settings.parallelism,
            outages=tuple((each.began, each.until) for each in self.strikes if each.until),
            quotas=tuple(self.quotas),
        )
        alive, at = {each.name for each in self.world.journal.running()}, time.monotonic()
        executions = [
            replace(each, ended=at) if each.name in alive else each for each in self.world.journal.executions.values()
        ]
        versions = dict(self.world.recorder.versions)
        for uid, text in self.texts.items():
            versions[uid] = [replace(each, text=text) if each.config_map else each for each in versions[uid]]
        finding = check(expected, versions, executions, rules)
        finding.violations += self.problems
        return finding

    def _began_again(self, victim: Execution) -> float:
        same = (each for each in self.world.journal.executions.values() if each.uid == victim.uid)
        starts = [each.began for each in same if each.attempt == victim.attempt and each.began > victim.began]
        return min(starts, default=math.inf)

    def recoveries(self) -> tuple[list[float], int]:
        """Seconds of each victim until the object said that it goes on or has ended, or until its attempt began again;
        and how many ended at the attempt that was struck.

        A victim whose attempt has ended by itself is counted from that end on: the commit alone was late.
        """
        found: list[float] = []
        survived = 0
        for strike in self.strikes:
            found += strike.recoveries
            for victim in strike.victims:
                later = self.world.recorder.versions.get(victim.uid, [])
                moved = next((v for v in later if v.outcome is not None or (v.attempt or 0) > victim.attempt), None)
                if moved is None:
                    continue
                since, at = strike.since, moved.at
                if moved.attempt == victim.attempt:
                    survived += 1
                    at = min(at, self._began_again(victim))
                    if victim.ended is not None:
                        since = max(since, victim.ended)
                found.append(max(0.0, at - since))
        return found, survived
