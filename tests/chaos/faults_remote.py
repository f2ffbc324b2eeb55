"""The faults of providers, of the runners that call them, and of tasks that go from one model to the next."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any, Final

from tests.chaos.faults import lead_anew, moment
from tests.chaos.phase import Fault, Load, Phase, leader_lost
from tests.chaos.pods import show, take_away
from tests.chaos.recorder import Version
from tests.chaos.remote_models import CONCURRENCY, FIRST, PRIMARY, SECOND, Provider
from tests.chaos.world import until
from tests.stub_provider.behaviour import Behaviour

SEEN_SECONDS: Final = 30.0
OPEN_SECONDS: Final = 60.0
"""A breaker that a refused key opened tries again after half a minute."""
STALLED_SECONDS: Final = 2
FAILURES_TO_OPEN: Final = 5
CALLS_LOST: Final = 2 * CONCURRENCY + FAILURES_TO_OPEN
"""By a provider that dies: all that were under way, those that failed until the breaker was open, and a few to see."""
ON_FIRST: Final[dict[str, Any]] = {"modelRef": {"name": FIRST}}


def falling_back(model: str, *others: str) -> dict[str, Any]:
    """Of a task's spec."""
    models = [{"name": other} for other in others]
    fallback = {"policy": "List", "models": models, "when": ["Unavailable"], "afterSeconds": 1}
    return {"modelRef": {"name": model}, "fallback": fallback}


def first(phase: Phase) -> Provider:
    return phase.world.chain.providers[FIRST]


@contextlib.contextmanager
def gone(provider: Provider) -> Iterator[None]:
    """Killed, and its port closed until the end."""
    provider.process.hold_back()
    provider.process.kill()
    try:
        yield
    finally:
        provider.process.let_go()


async def told(phase: Phase, model: str, type_: str, value: str, *reasons: str) -> None:
    """Returns when the model's condition has this value (for one of these reasons)."""
    path = f"/apis/headrace.dev/v1alpha1/namespaces/{phase.world.tenant}/llmmodels/{model}"

    async def says_so() -> bool:
        conditions = ((await phase.world.api.request("GET", path)).get("status") or {}).get("conditions") or []
        found: dict[str, str] = next((each for each in conditions if each["type"] == type_), {})
        return found.get("status") == value and (not reasons or found["reason"] in reasons)

    await until(says_so, f"{model}: {type_}={value} {' or '.join(reasons)}", OPEN_SECONDS, poll_seconds=0.2)


async def refused(phase: Phase, status: int, before: int = 0) -> None:
    """Returns when the provider has answered so with this status, more often than before."""
    journal = phase.world.journal

    async def seen() -> bool:
        journal.read()
        return journal.refused[first(phase).name, status] > before

    await until(seen, f"a request that is answered {status}", SEEN_SECONDS)


async def all_available(phase: Phase) -> None:
    """What waits for a model that nobody has seen serve says nothing of the fault."""
    for model in (PRIMARY, FIRST, SECOND):
        await told(phase, model, "Available", "True")


def latest(phase: Phase) -> list[Version]:
    """Of all that was accepted."""
    found = (phase.world.latest(each.accepted_uid) for each in phase.submissions() if each.accepted_uid)
    return [version for version in found if version is not None]


async def kill_provider(phase: Phase) -> None:
    """It comes back when everybody knows that it is away."""
    pods = phase.world.chain.names(FIRST)
    await moment(phase, pods)
    phase.strike(pods)
    with gone(first(phase)):
        await told(phase, FIRST, "Available", "False", "CircuitOpen", "ProviderUnreachable")
        await phase.accepted()
    phase.struck("no attempt was charged", any(version.retries for version in latest(phase)))
    await told(phase, FIRST, "Available", "True")


async def refuse_for_a_while(phase: Phase) -> None:
    """Storms of 429, 529 and 503, each with Retry-After, while more is submitted."""
    provider, journal = first(phase), phase.world.journal
    await moment(phase, phase.world.chain.names(FIRST))
    phase.strike(bystanders=True)
    good = provider.behaviour
    try:
        for mode, status in (("limited", 429), ("overloaded", 529), ("unavailable", 503)):
            before = journal.refused[provider.name, status]
            provider.behave(Behaviour(mode, good.key, retry_after_seconds=1))
            phase.submit(4)
            await phase.accepted()
            await refused(phase, status, before)
    finally:
        provider.behave(good)


async def break_answers(phase: Phase) -> None:
    """Streams that are cut, that become no JSON, and that stand still for longer than an attempt may take."""
    provider, journal, pods = first(phase), phase.world.journal, phase.world.chain.names(FIRST)
    good = provider.behaviour
    await phase.accepted()
    await phase.finished()
    phase.strike(bystanders=True)
    try:
        for mode in ("cut", "garbage"):
            # Fewer in a row than open the breaker; a retry may come before the provider is well again.
            provider.behave(Behaviour(mode, good.key, times=2))
            broken = phase.submit(2)
            await phase.accepted()
            uids = {each.result().accepted_uid for each in broken}

            async def failed(uids: set[str] = uids) -> bool:
                journal.read()
                return uids <= {each.uid for each in journal.executions.values() if each.ending == "fail"}

            await until(failed, f"answers that are {mode}", SEEN_SECONDS)
            provider.behave(good)
            await phase.finished()
        provider.behave(Behaviour("stall", good.key))
        phase.submit(2, Load(0.2, 0.5, {**ON_FIRST, "attemptTimeoutSeconds": STALLED_SECONDS}))
        await phase.accepted()
        await phase.some_run(pods, at_least=2)
    finally:
        provider.behave(good)


async def change_key(phase: Phase) -> None:
    """The provider takes another key; somebody puts it into the Secret when the model says that it needs one."""
    provider, journal = first(phase), phase.world.journal
    await moment(phase, phase.world.chain.names(FIRST))
    phase.strike(bystanders=True)
    before, key = journal.refused[provider.name, 401], f"{provider.behaviour.key}'"
    provider.behave(Behaviour(key=key))
    try:
        phase.submit(4)
        await phase.accepted()
        await refused(phase, 401, before)
        await told(phase, FIRST, "Ready", "False", "CredentialsRefused")
    finally:
        provider.give_key(key)
    await told(phase, FIRST, "Ready", "True")


async def kill_remote_runner(phase: Phase) -> None:
    """One of two; what it had under way at the provider ends with its connections."""
    pod = phase.rng.choice(phase.world.chain.runners[FIRST])
    await moment(phase, {pod.name})
    phase.strike({pod.name})
    pod.runner.kill()


async def flush_gate(phase: Phase) -> None:
    """Queue and gate are gone."""
    pods = phase.world.chain.names(FIRST)
    await moment(phase, pods)
    phase.strike(pods)
    await phase.world.redis.flush()


async def lose_two_models(phase: Phase) -> None:
    """The local model loses its nodes: one runner dies, the other sleeps beyond its lease. The next model's provider is
    gone. The sleeper wakes when what it held is another model's and not over: it comes with results that are
    nobody's.
    """
    world, chain = phase.world, phase.world.chain
    dead, sleeper = chain.primary
    await phase.some_run({dead.name}, at_least=2)
    await phase.some_run({sleeper.name}, at_least=2)
    strike = phase.strike({dead.name, sleeper.name})
    theirs = {victim.uid for victim in strike.victims if victim.pod == sleeper.name}
    dead.runner.hold_back()
    dead.runner.kill()
    sleeper.runner.signal(signal.SIGSTOP)
    for pod in chain.primary:
        await take_away(world.api, pod)
    try:
        with gone(first(phase)):
            await phase.accepted()

            async def left() -> bool:
                now = [world.latest(uid) for uid in theirs]
                return all(each is not None and not each.model.endswith(f"/{PRIMARY}") for each in now)

            await until(left, "tasks of the sleeper at another model", OPEN_SECONDS, poll_seconds=0.02)
            now = [world.latest(uid) for uid in theirs]
            phase.struck("they were over", any(each is not None and each.outcome is None for each in now))
            sleeper.runner.signal(signal.SIGCONT)
            await phase.finished()
        world.journal.read()
        ended = (v for v in strike.victims if v.pod == sleeper.name and v.ending == "end")
        phase.struck("the sleeper had no results", any(ended))
        tried = [record.model for version in latest(phase) for record in version.records]
        phase.struck("no task was tried by the model between", any(each.endswith(f"/{FIRST}") for each in tried))
        last = {version.model.rpartition("/")[2] for version in latest(phase)}
        phase.struck(f"not all ended on the last model, but on {sorted(last)}", last == {SECOND})
    finally:
        sleeper.runner.signal(signal.SIGCONT)
        dead.runner.let_go()
        for pod in chain.primary:
            await show(world.api, pod)
    await told(phase, PRIMARY, "Available", "True")


async def kill_leader_while_moving(phase: Phase) -> None:
    """At the first move that is seen."""
    await moment(phase, phase.world.chain.names(FIRST))
    with gone(first(phase)):
        await phase.accepted()

        async def one_moved() -> bool:
            return any(version.model.endswith(f"/{SECOND}") for version in latest(phase))

        await until(one_moved, "a task that was moved", SEEN_SECONDS, poll_seconds=0.01)
        now = latest(phase)
        phase.struck("all had moved", any(each.model.endswith(f"/{FIRST}") and not each.outcome for each in now))
        await lead_anew(phase)


IN_ORDER: Final = "another model when one cannot, once, and in order"
UNCHARGED: Final = "what the provider asks to wait for is not charged"
# What the gate learned in a storm of 429 lasts: few calls at a time, for all that follows.
REMOTE_FAULTS: Final = (
    Fault(
        "provider-kill",
        "a provider's failure is charged and tried again",
        kill_provider,
        Load(0.5, 2.0, ON_FIRST),
        before=all_available,
        needs_remote=True,
        faults=CALLS_LOST,
    ),
    Fault(
        "provider-broken",
        "a provider's failure is charged and tried again",
        break_answers,
        Load(0.2, 0.5, ON_FIRST),
        bound=None,
        needs_victims=False,
        before=all_available,
        needs_remote=True,
        faults=4,
    ),
    Fault(
        "remote-runner-kill",
        "one outcome of the attempt in the object",
        kill_remote_runner,
        Load(0.5, 2.0, ON_FIRST),
        before=all_available,
        needs_remote=True,
    ),
    Fault(
        "remote-flush",
        "the queue is rebuilt from the objects",
        flush_gate,
        Load(0.5, 3.0, ON_FIRST),
        flushes=1,
        before=all_available,
        needs_remote=True,
    ),
    Fault(
        "fallback",
        IN_ORDER,
        lose_two_models,
        Load(2.0, 4.0, falling_back(PRIMARY, FIRST, SECOND)),
        before=all_available,
        needs_remote=True,
        faults=CALLS_LOST,
        most=3,
    ),
    Fault(
        "fallback-leader-kill",
        IN_ORDER,
        kill_leader_while_moving,
        Load(0.5, 2.0, falling_back(FIRST, SECOND)),
        bound=leader_lost,
        needs_victims=False,
        before=all_available,
        needs_remote=True,
        faults=CALLS_LOST,
        most=3,
    ),
    Fault(
        "provider-key",
        UNCHARGED,
        change_key,
        Load(0.5, 1.5, ON_FIRST),
        bound=None,
        needs_victims=False,
        before=all_available,
        needs_remote=True,
        most=2,
    ),
    Fault(
        "provider-429",
        UNCHARGED,
        refuse_for_a_while,
        Load(0.5, 1.5, ON_FIRST),
        bound=None,
        needs_victims=False,
        before=all_available,
        needs_remote=True,
        most=3,
    ),
)
