"""What holds for every plan, whatever the facts."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from planner_facts import GPU, NOW, carried_out

from headrace_operator.planner.facts import (
    AGE_STARTS_SECONDS,
    Backlog,
    GpuNeed,
    ModelFacts,
    NodeFacts,
    Plan,
    Policy,
    Replica,
    ReplicaState,
    Scaling,
)
from headrace_operator.planner.planning import plan

DRAINING = ReplicaState.DRAINING
counts = st.lists(st.sampled_from([0, 0, 0, 1, 3, 40, 500]), min_size=10, max_size=10).map(tuple)
young = st.sampled_from([1, 3, 40, 500]).map(lambda tasks: (tasks, *[0] * 9))
backlogs = st.one_of(
    st.just(Backlog()),
    st.builds(Backlog, tasks=young),
    st.builds(Backlog, tasks=counts),
    st.builds(Backlog, counts, counts),
)
policies = st.builds(
    Policy,
    residency_seconds=st.sampled_from([0.0, 30.0, 60.0]),
    starvation_seconds=st.sampled_from([60.0, 600.0]),
    swap_gain=st.sampled_from([1.0, 1.5, 8.0]),
    age_seconds=st.sampled_from([10.0, 300.0]),
    turn_starts=st.sampled_from([0.0, 2.0, 8.0]),
)


@st.composite
def models_on(draw: st.DrawFn, nodes: list[NodeFacts], *, manual: bool, sizes: tuple[int, ...]) -> list[ModelFacts]:
    """Models with replicas on GPUs that the nodes have; some pods wait for a node."""
    free = {node.name: node.free[GPU] for node in nodes}
    models = []
    for number in range(draw(st.integers(2, 6))):
        need = draw(st.sampled_from(sizes))
        everywhere = len(sizes) == 1 or draw(st.booleans())
        where = frozenset(free) if everywhere else frozenset([draw(st.sampled_from(sorted(free)))])
        least = draw(st.sampled_from([0, 0, 0, 1]))
        scaling = Scaling(
            least,
            least + draw(st.integers(1, 3)),
            draw(st.sampled_from([0, 300])),
            draw(st.sampled_from([None, 2])),
            draw(st.sampled_from([None, None, None, None, 0, 2])) if manual else None,
        )
        replicas = []
        for index in range(draw(st.integers(0, 3))):
            state = draw(st.sampled_from(list(ReplicaState)))
            name = draw(st.sampled_from([*sorted(where), ""]))
            if name and free[name] < need:
                continue
            if name:
                free[name] -= need
            elif state is not ReplicaState.STARTING:
                continue
            since = NOW - draw(st.sampled_from([0, 20, 50, 61, 130, 900])) * 1000
            busy = draw(st.integers(0, 2)) if state is not ReplicaState.STARTING else 0
            replicas.append(Replica(f"p{number}-{index}", state, since, busy, name))
        models.append(
            ModelFacts(
                ref=f"team/m{number}",
                scaling=scaling,
                slots=2,
                gpu=GpuNeed(GPU, need, where),
                backlog=draw(backlogs),
                in_flight=sum(replica.busy for replica in replicas),
                service_ms=draw(st.sampled_from([None, 500.0, 20_000.0])),
                start_ms=draw(st.sampled_from([None, 5_000.0, 90_000.0])),
                last_work_ms=NOW - draw(st.integers(0, 900)) * 1000,
                served_ms=NOW - draw(st.integers(0, 900)) * 1000,
                replicas=tuple(replicas),
            )
        )
    return models


@st.composite
def clusters(
    draw: st.DrawFn, *, manual: bool = True, sizes: tuple[int, ...] = (1, 2, 4)
) -> tuple[list[ModelFacts], list[NodeFacts]]:
    nodes = [
        NodeFacts(f"n{index}", {GPU: draw(st.sampled_from([1, 1, 2, 4]))})
        for index in range(draw(st.sampled_from([1, 1, 2, 3])))
    ]
    return draw(models_on(nodes, manual=manual, sizes=sizes)), nodes


def fits(models: list[ModelFacts], nodes: list[NodeFacts], decided: Plan) -> bool:
    """Pods of the plan that have no node yet find one beside all that is there, what drains included. Largest first in
    the fullest node is the best packing of sizes that divide each other, where all may go everywhere.
    """
    free = {node.name: node.free[GPU] for node in nodes}
    coming = []
    for model in models:
        assert model.gpu is not None
        for replica in model.replicas:
            if replica.node:
                free[replica.node] -= model.gpu.count
        decision = decided.decisions[model.ref]
        stay = [r for r in model.replicas if r.node and r.state is not DRAINING and r.pod not in decision.drains]
        coming += [model.gpu] * (decision.replicas - len(stay))
    for need in sorted(coming, key=lambda need: (len(need.nodes), -need.count)):
        nodes_left = [(free[name], name) for name in sorted(need.nodes) if free[name] >= need.count]
        if not nodes_left:
            return False
        free[min(nodes_left)[1]] -= need.count
    return True


@given(clusters(manual=False, sizes=(1,)), policies)
def test_no_gpu_is_given_twice(cluster: tuple[list[ModelFacts], list[NodeFacts]], policy: Policy) -> None:
    models, nodes = cluster
    assert fits(models, nodes, plan(models, nodes, NOW, policy))


@given(clusters(manual=False), policies)
def test_no_gpu_is_given_twice_to_models_of_several(
    cluster: tuple[list[ModelFacts], list[NodeFacts]], policy: Policy
) -> None:
    models, nodes = cluster
    anywhere = frozenset(node.name for node in nodes)
    models = [replace(m, gpu=replace(m.gpu, nodes=anywhere)) for m in models if m.gpu is not None]
    assert fits(models, nodes, plan(models, nodes, NOW, policy))


@given(clusters(), policies, st.randoms(use_true_random=False))
def test_the_order_of_facts_is_nothing(
    cluster: tuple[list[ModelFacts], list[NodeFacts]], policy: Policy, random: object
) -> None:
    models, nodes = cluster
    first = plan(models, nodes, NOW, policy)
    shuffled = [replace(m, replicas=tuple(reversed(m.replicas))) for m in models]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    second = plan(shuffled, list(reversed(nodes)), NOW, policy)
    assert dict(first.decisions) == dict(second.decisions)
    assert first.look_again_ms == second.look_again_ms


@given(clusters(), policies)
def test_a_plan_applied_twice_is_a_plan_applied_once(
    cluster: tuple[list[ModelFacts], list[NodeFacts]], policy: Policy
) -> None:
    models, nodes = cluster
    first = plan(models, nodes, NOW, policy)
    after = carried_out(models, nodes, first)
    second = plan(after, nodes, NOW, policy)
    assert {ref: d.replicas for ref, d in second.decisions.items()} == {
        ref: d.replicas for ref, d in first.decisions.items()
    }
    assert not any(decision.drains for decision in second.decisions.values())


@given(clusters(), policies)
def test_every_decision_is_whole_and_says_why(
    cluster: tuple[list[ModelFacts], list[NodeFacts]], policy: Policy
) -> None:
    models, nodes = cluster
    decided = plan(models, nodes, NOW, policy)
    assert list(decided.decisions) == sorted(model.ref for model in models)
    assert decided.look_again_ms > NOW
    for model in models:
        decision, scaling = decided.decisions[model.ref], model.scaling
        assert any(letter.isdigit() for letter in decision.message)
        assert decision.message[0] != " "
        live = {replica.pod for replica in model.replicas if replica.state is not DRAINING}
        assert set(decision.drains) <= live
        assert max(Counter(decision.drains).values(), default=1) == 1
        assert len(live) - len(decision.drains) <= decision.replicas <= decision.wanted
        if scaling.manual is None:
            assert scaling.min_replicas <= decision.wanted <= scaling.max_replicas
        else:
            assert decision.replicas == decision.wanted == scaling.manual


@given(clusters(manual=False, sizes=(1,)), policies, st.integers(1, 4))
def test_more_gpus_are_less_for_nobody(
    cluster: tuple[list[ModelFacts], list[NodeFacts]], policy: Policy, more: int
) -> None:
    models, nodes = cluster
    before = plan(models, nodes, NOW, policy)
    anywhere = frozenset([*(node.name for node in nodes), "more"])
    models = [replace(m, gpu=replace(m.gpu, nodes=anywhere)) for m in models if m.gpu is not None]
    after = plan(models, [*nodes, NodeFacts("more", {GPU: more})], NOW, policy)
    for ref, decision in before.decisions.items():
        assert after.decisions[ref].replicas >= decision.replicas


@settings(max_examples=300)
@given(clusters(manual=False, sizes=(1,)), st.sampled_from([60.0, 120.0]))
def test_who_works_keeps_its_gpu_for_its_residency(
    cluster: tuple[list[ModelFacts], list[NodeFacts]], residency: float
) -> None:
    """Whatever others claim: this is what bounds swaps."""
    models, nodes = cluster
    policy = Policy(residency_seconds=residency, call_residency_seconds=residency, swap_gain=0.1)
    decided = plan(models, nodes, NOW, policy)
    for model in models:
        decision = decided.decisions[model.ref]
        surplus = max(0, len(_live(model)) - decision.wanted)
        for replica in model.replicas:
            if replica.node and replica.pod in decision.drains[surplus:]:
                young = NOW - replica.since_ms < residency * 1000
                assert not (young and (replica.busy or model.backlog.total))


def _live(model: ModelFacts) -> list[Replica]:
    return [replica for replica in model.replicas if replica.state is not DRAINING]


@settings(max_examples=30)
@given(st.integers(0, len(AGE_STARTS_SECONDS) - 1), st.integers(1, 500))
def test_more_work_wants_no_fewer_replicas(bucket: int, work: int) -> None:
    def wanted(tasks: int) -> int:
        ages = [0] * len(AGE_STARTS_SECONDS)
        ages[bucket] = tasks
        model = ModelFacts("team/a", Scaling(0, 50), 4, None, Backlog(tasks=tuple(ages)), 0, 5_000, 20_000)
        return plan([model], [], NOW).decisions["team/a"].wanted

    assert wanted(work) <= wanted(work + 1)
