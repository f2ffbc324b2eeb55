"""Results too large for an object: they are parked in Redis until a leader commits them, and there is none."""

from typing import Final

from tests.chaos.control_plane import ApiError
from tests.chaos.faults import TAKE_OVER_SECONDS
from tests.chaos.judged import Violation
from tests.chaos.phase import Fault, Load, Phase
from tests.chaos.world import until

PAD_BYTES: Final = 40 * 1024
RUNNING: Final = 6
PARKED: Final = 2


async def _park_without_a_leader(phase: Phase, *, flush: bool) -> None:
    """The leader dies for good until results are parked; `flush`: then Redis forgets them, and they are made again."""
    world = phase.world
    await phase.accepted()
    await phase.some_run(at_least=RUNNING)
    leader = await world.leader()
    assert leader is not None, "nobody leads"
    phase.strike()
    leader.hold_back()
    leader.kill()
    try:
        await until(lambda: world.parked_at_least(PARKED), "parked results", TAKE_OVER_SECONDS)
        if flush:
            await world.redis.flush()

        async def another_leads() -> bool:
            return await world.leader() not in (None, leader)

        await until(another_leads, "another leader", TAKE_OVER_SECONDS)
    finally:
        leader.let_go()


async def kill_leader(phase: Phase) -> None:
    await _park_without_a_leader(phase, flush=False)


async def kill_leader_and_flush(phase: Phase) -> None:
    await _park_without_a_leader(phase, flush=True)


async def all_whole(phase: Phase) -> None:
    """Reads what the objects refer to; the checker judges it as it judges a text, and all of it has to be there."""
    world = phase.world
    for each in phase.submissions():
        latest = world.latest(each.accepted_uid)
        if latest is None or not latest.config_map:
            continue
        name, key = latest.config_map
        try:
            found = await world.api.request("GET", f"/api/v1/namespaces/{world.tenant}/configmaps/{name}")
            text = found["data"][key]
        except (ApiError, KeyError) as error:
            phase.problems.append(Violation("lost", each.name, f"its result is not in {name}: {error}"))
            continue
        phase.texts[each.accepted_uid] = text
        if not text.endswith("}" + "x" * PAD_BYTES):
            phase.problems.append(Violation("foreign", each.name, f"{len(text)} characters are not what was made"))
    phase.struck("no result was large", phase.texts)


_LOAD: Final = Load(0.3, 1.0, pad_bytes=PAD_BYTES)
LARGE_FAULTS: Final = (
    Fault("parked-leader-kill", "a large result outlives a leader", kill_leader, _LOAD, bound=None, after=all_whole),
    Fault(
        "parked-flush",
        "a large result that was lost is made again",
        kill_leader_and_flush,
        _LOAD,
        bound=None,
        flushes=1,
        after=all_whole,
    ),
)
