"""Decision tables of the planner: what one model wants, and who gets a GPU."""

from dataclasses import replace

import pytest
from planner_facts import GPU, NOW, a_model, node, serving, waiting

from headrace_operator.planner.facts import (
    Backlog,
    ModelFacts,
    NodeFacts,
    Plan,
    Policy,
    Replica,
    ReplicaState,
    Verdict,
)
from headrace_operator.planner.planning import plan

DRAINING, STARTING = ReplicaState.DRAINING, ReplicaState.STARTING


EAGER = Policy(residency_seconds=60, starvation_seconds=600, swap_gain=1.5, age_seconds=60, turn_starts=2)


def decided(models: list[ModelFacts], nodes: list[NodeFacts] | None = None, policy: Policy = EAGER) -> Plan:
    return plan(models, nodes or [node(gpus=8)], NOW, policy)


def starting(pod: str, node: str = "n0", *, seconds: float = 5) -> Replica:
    return serving(pod, node, seconds=seconds, busy=0, state=STARTING)


@pytest.mark.parametrize(
    ("model", "replicas", "verdict"),
    [
        pytest.param(a_model("a", gpus=0), 0, Verdict.IDLE, id="no-work-nothing-there"),
        pytest.param(a_model("a", waiting(1), gpus=0), 1, Verdict.BACKLOG, id="one-task-starts-one"),
        # 4 slots x twice 20 s of start / 5 s of service: 32 tasks a replica
        pytest.param(a_model("a", waiting(32), gpus=0, most=9), 1, Verdict.BACKLOG, id="what-one-serves-meanwhile"),
        pytest.param(a_model("a", waiting(33), gpus=0, most=9), 2, Verdict.BACKLOG, id="one-task-more"),
        pytest.param(a_model("a", waiting(100), gpus=0, most=9), 4, Verdict.BACKLOG, id="in-one-step"),
        pytest.param(a_model("a", waiting(100), gpus=0, most=3), 3, Verdict.MAXIMUM, id="max"),
        pytest.param(a_model("a", waiting(10), gpus=0, most=9, each=2), 5, Verdict.BACKLOG, id="tasksPerReplica"),
        pytest.param(
            a_model("a", waiting(49), gpus=0, most=9, service_ms=None, start_ms=None),
            2,
            Verdict.BACKLOG,
            id="unmeasured",
        ),
        pytest.param(a_model("a", waiting(0, calls=1), gpus=0), 1, Verdict.BACKLOG, id="a-call"),
        pytest.param(a_model("a", gpus=0, least=2, most=4), 2, Verdict.MINIMUM, id="min-without-work"),
        pytest.param(a_model("a", waiting(1), gpus=0, least=2, most=4), 2, Verdict.MINIMUM, id="min-with-work"),
        pytest.param(a_model("a", waiting(50), gpus=0, manual=0), 0, Verdict.MANUAL, id="manual-none"),
        pytest.param(a_model("a", gpus=0, manual=3), 3, Verdict.MANUAL, id="manual-without-work"),
        pytest.param(
            a_model("a", None, serving("p", busy=0), gpus=0, last_work_seconds=299), 1, Verdict.WARM, id="warm"
        ),
        pytest.param(
            a_model("a", None, serving("p", busy=0), gpus=0, last_work_seconds=300), 0, Verdict.IDLE, id="idle"
        ),
        pytest.param(
            a_model("a", None, serving("p", busy=0, seconds=10), gpus=0, last_work_seconds=900),
            1,
            Verdict.WARM,
            id="began-a-moment-ago",
        ),
        pytest.param(
            a_model("a", None, *(serving(f"p{n}") for n in range(3)), gpus=0, most=3, in_flight=1),
            1,
            Verdict.BACKLOG,
            id="little-work-later",
        ),
        pytest.param(
            a_model("a", None, *(serving(f"p{n}", seconds=100) for n in range(3)), gpus=0, most=3, in_flight=1),
            3,
            Verdict.BACKLOG,
            id="little-work-too-soon",
        ),
        pytest.param(
            a_model("a", waiting(40), serving("p0"), serving("p1"), serving("p2"), gpus=0, most=3, in_flight=0),
            3,
            Verdict.BACKLOG,
            id="more-than-half-full",
        ),
    ],
)
def test_what_one_model_wants(model: ModelFacts, replicas: int, verdict: Verdict) -> None:
    decision = decided([model]).decisions["team/a"]
    assert (decision.replicas, decision.wanted, decision.verdict) == (replicas, replicas, verdict)
    assert any(letter.isdigit() for letter in decision.message)


def test_the_least_busy_and_youngest_go_first() -> None:
    replicas = (serving("old", busy=0), serving("busy", busy=3), serving("young", busy=0, seconds=400))
    decision = decided([a_model("a", None, *replicas, gpus=0, most=3, in_flight=1)]).decisions["team/a"]
    assert (decision.replicas, decision.drains) == (1, ("young", "old"))


def test_a_gpu_in_use_is_not_given_and_a_draining_one_neither() -> None:
    for state in ReplicaState:
        holder = a_model("a", waiting(40), serving("p", seconds=10, state=state))
        decision = decided([holder, a_model("b", waiting(40))], [node()]).decisions["team/b"]
        assert (decision.replicas, decision.verdict) == (0, Verdict.WAITING_FOR_GPU), state


def test_it_makes_room_by_draining_and_gives_the_gpu_when_the_pod_has_ended() -> None:
    idle = a_model("a", None, serving("p", busy=0), last_work_seconds=10)
    plan = decided([idle, a_model("b", waiting(3))], [node()])
    assert (plan.decisions["team/a"].replicas, plan.decisions["team/a"].drains) == (0, ("p",))
    assert plan.decisions["team/a"].verdict is Verdict.MAKING_ROOM
    assert "team/b" in plan.decisions["team/a"].message
    assert plan.decisions["team/b"].replicas == 0
    assert "team/a" in plan.decisions["team/b"].message
    ended = a_model("a", last_work_seconds=10)
    assert decided([ended, a_model("b", waiting(3))], [node()]).decisions["team/b"].replicas == 1


@pytest.mark.parametrize(
    ("seconds", "holder", "taker", "room"),
    [
        pytest.param(59, waiting(1), waiting(50), False, id="residency"),
        pytest.param(61, waiting(1), waiting(500, age_seconds=30), True, id="after-residency"),
        pytest.param(61, waiting(50), waiting(50), False, id="as-much-claimed"),
        pytest.param(61, waiting(50), waiting(50, age_seconds=120), True, id="older"),
        pytest.param(61, waiting(50), waiting(50, age_seconds=10), False, id="not-much-older"),
        pytest.param(61, waiting(500, age_seconds=300), waiting(1, age_seconds=600), True, id="starving"),
        pytest.param(59, waiting(500, age_seconds=300), waiting(1, age_seconds=600), False, id="starving-residency"),
        pytest.param(61, waiting(1, age_seconds=600), waiting(500, age_seconds=300), False, id="turn-of-who-starved"),
        pytest.param(41, waiting(500), waiting(calls=1), True, id="a-call-before-tasks"),
        pytest.param(14, waiting(500), waiting(calls=1), False, id="a-call-and-residency"),
        pytest.param(41, waiting(50, calls=2), waiting(calls=1), False, id="calls-and-calls"),
        pytest.param(61, waiting(50, age_seconds=600), waiting(calls=1), False, id="a-call-and-who-starved"),
        pytest.param(61, waiting(50, age_seconds=600), waiting(calls=1, age_seconds=30), True, id="a-call-starves"),
    ],
)
def test_who_makes_room_for_whom(seconds: int, holder: Backlog, taker: Backlog, *, room: bool) -> None:
    holding = a_model("a", holder, serving("p", seconds=seconds, busy=4))
    decision = decided([holding, a_model("b", taker)], [node()]).decisions["team/a"]
    assert decision.replicas == (0 if room else 1)
    assert decision.drains == (("p",) if room else ())


def test_residency_grows_with_the_time_to_start() -> None:
    holding = a_model("a", waiting(1), serving("p", seconds=100, busy=4), start_ms=60_000)
    assert decided([holding, a_model("b", waiting(90))], [node()]).decisions["team/a"].replicas == 1


def test_nothing_that_is_busy_is_taken_by_default_for_work_that_does_not_starve() -> None:
    holding = a_model("a", waiting(1), serving("p", seconds=1000, busy=4))
    models = [holding, a_model("b", waiting(500, age_seconds=300))]
    assert decided(models, [node()], Policy()).decisions["team/a"].replicas == 1


def test_one_more_replica_takes_no_place_that_it_would_not_fill() -> None:
    idle = a_model("idle", None, serving("p", "n0", busy=0), last_work_seconds=10)
    for tasks, taken in ((40, False), (100, True)):
        busy = a_model("busy", waiting(tasks), serving("q", "n0", busy=4), most=4, each=16)
        assert (decided([idle, busy], [node(gpus=2)]).decisions["team/idle"].replicas == 0) is taken, tasks


def test_first_replicas_by_age_and_further_ones_by_a_part_of_it() -> None:
    models = [
        a_model("few-old", waiting(1, age_seconds=300)),
        a_model("many", waiting(500, age_seconds=60), most=4),
        a_model("young", waiting(90, age_seconds=30)),
    ]
    for gpus, expected in ((1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 2, 0]), (4, [1, 2, 1])):
        plan = decided(models, [node(gpus=gpus)])
        got = [plan.decisions[f"team/{name}"].replicas for name in ("few-old", "many", "young")]
        assert got == expected, gpus


def test_a_minimum_and_manual_replicas_are_never_taken() -> None:
    for holding in (
        a_model("a", None, serving("p", busy=0), least=1),
        a_model("a", None, serving("p", busy=0), manual=1),
    ):
        plan = decided([holding, a_model("b", waiting(500, age_seconds=3600))], [node()])
        assert [plan.decisions[ref].replicas for ref in ("team/a", "team/b")] == [1, 0]


def test_a_manual_model_keeps_its_number_and_is_told_what_is_short() -> None:
    plan = decided([a_model("a", waiting(9), serving("p", seconds=1)), a_model("b", manual=2)], [node()])
    decision = plan.decisions["team/b"]
    assert (decision.replicas, decision.verdict) == (2, Verdict.MANUAL)
    assert "0 of 2 replicas" in decision.message


def test_gpus_are_set_aside_for_a_manual_model_first() -> None:
    plan = decided([a_model("a", waiting(500, age_seconds=3600)), a_model("b", manual=1)], [node()])
    assert plan.decisions["team/a"].replicas == 0


def test_of_the_idle_the_least_recently_used_goes() -> None:
    models = [
        a_model("a", None, serving("pa", busy=0), last_work_seconds=20),
        a_model("b", None, serving("pb", busy=0), last_work_seconds=200),
        a_model("c", waiting(1)),
    ]
    plan = decided(models, [node(gpus=2)])
    assert {ref: decision.drains for ref, decision in plan.decisions.items() if decision.drains} == {"team/b": ("pb",)}


def test_among_the_starving_whoever_was_longest_without_a_turn() -> None:
    old = waiting(9, age_seconds=3600)
    models = [a_model("a", old, served_ms=NOW - 50_000), a_model("b", old, served_ms=NOW - 90_000)]
    plan = decided(models, [node()])
    assert [plan.decisions[ref].replicas for ref in ("team/a", "team/b")] == [0, 1]


def test_what_no_node_has_is_told() -> None:
    models = [
        a_model("a", waiting(1), gpus=4),
        a_model("b", waiting(1), nodes=("elsewhere",)),
        a_model("c", waiting(1)),
    ]
    plan = decided(models, [node(gpus=2)])
    assert [plan.decisions[f"team/{name}"].verdict for name in "abc"] == [
        Verdict.NO_SUCH_GPU,
        Verdict.NO_SUCH_GPU,
        Verdict.BACKLOG,
    ]
    assert f"4 {GPU}" in plan.decisions["team/a"].message


def test_several_gpus_come_from_one_node() -> None:
    nodes = [node("n0", 2), node("n1", 2)]
    spread = [a_model(name, waiting(90), serving(name, f"n{n}"), nodes=("n0", "n1")) for n, name in enumerate("xy")]
    pair = a_model("pair", waiting(4), gpus=2, nodes=("n0", "n1"))
    assert decided([*spread, pair], nodes).decisions["team/pair"].replicas == 0
    on_one = [a_model(name, waiting(90), serving(name, "n0"), nodes=("n0", "n1")) for name in "xy"]
    assert decided([*on_one, pair], nodes).decisions["team/pair"].replicas == 1


def test_a_node_is_kept_for_who_starves_and_needs_all_of_it() -> None:
    old = waiting(4, age_seconds=600)
    holders = [
        a_model("x", waiting(1), serving("px", seconds=100)),
        a_model("y", waiting(1), serving("py", seconds=30)),
    ]
    models = [*holders, a_model("pair", old, gpus=2), a_model("small", waiting(500, age_seconds=300))]
    plan = decided(models, [node(gpus=2)])
    assert [plan.decisions[f"team/{name}"].replicas for name in ("x", "y", "pair", "small")] == [1, 1, 0, 0]
    later = [holders[0], a_model("y", waiting(1), serving("py", seconds=61)), *models[2:]]
    drained = decided(later, [node(gpus=2)])
    assert [drained.decisions[f"team/{name}"].replicas for name in ("x", "y", "pair", "small")] == [0, 0, 0, 0]


def test_a_pod_that_the_scheduler_has_yet_to_place_keeps_its_gpu() -> None:
    pending = a_model("a", waiting(1), starting("p", ""))
    plan = decided([pending, a_model("b", waiting(500, age_seconds=300))], [node()])
    assert [plan.decisions[ref].replicas for ref in ("team/a", "team/b")] == [1, 0]


def test_a_pod_for_which_there_is_no_gpu_is_withdrawn() -> None:
    pending = a_model("a", waiting(1), starting("p", ""))
    holder = a_model("b", waiting(90), serving("q"))
    decision = decided([pending, holder], [node()]).decisions["team/a"]
    assert (decision.replicas, decision.drains, decision.verdict) == (0, ("p",), Verdict.WAITING_FOR_GPU)


def test_a_pod_that_is_never_placed_holds_no_gpu_for_ever() -> None:
    pending = a_model("a", waiting(1), starting("p", "", seconds=120))
    plan = decided([pending, a_model("b", waiting(500, age_seconds=300))], [node()])
    assert [plan.decisions[ref].replicas for ref in ("team/a", "team/b")] == [0, 1]


@pytest.mark.parametrize(
    ("models", "seconds"),
    [
        pytest.param([a_model("a")], 60, id="nothing-to-do"),
        pytest.param([a_model("a", waiting(1))], 5, id="something-waits"),
        pytest.param([a_model("a", None, serving("p", busy=0), last_work_seconds=290)], 10, id="soon-idle"),
        pytest.param(
            [a_model("a", waiting(1), serving("p", seconds=58)), a_model("b", waiting(50))], 2, id="residency-ends"
        ),
    ],
)
def test_when_to_look_again(models: list[ModelFacts], seconds: int) -> None:
    assert decided(models, [node()]).look_again_ms == NOW + seconds * 1000


def test_a_policys_bounds_are_seen_at_the_next_bucket() -> None:
    holding = a_model("a", waiting(500), serving("p", busy=4))
    taker = a_model("b", waiting(1, age_seconds=60))
    for seconds, room in ((31, True), (60, True), (61, False)):
        decision = plan([holding, taker], [node()], NOW, replace(EAGER, starvation_seconds=seconds)).decisions["team/a"]
        assert (decision.replicas == 0) is room, seconds
