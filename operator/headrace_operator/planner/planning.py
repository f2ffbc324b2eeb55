"""The plan: facts in, replicas for each model out, each with its reason. No I/O, no clock, nothing remembered.

    facts ──► want: what each model would have, were it alone ──► share: who gets GPUs ──► decisions with their words

What it needs of the past is in the facts: since when a replica serves, when a model last had work, when it last served.
The same facts give the same plan, in whatever order they come.
"""

from collections.abc import Sequence
from typing import Final

from headrace_operator.planner.facts import (
    Decision,
    ModelFacts,
    NodeFacts,
    Plan,
    Policy,
    Replica,
    ReplicaState,
    Verdict,
)
from headrace_operator.planner.sharing import Share, Sharing
from headrace_operator.planner.wanted import Want, idle_from_ms, want

LOOK_AGAIN_MS: Final = 60_000
WORK_LOOK_AGAIN_MS: Final = 5_000
"""While something waits: it grows older."""
_NAMED: Final = 3
"""Other models that a message names."""


def plan(models: Sequence[ModelFacts], nodes: Sequence[NodeFacts], now_ms: int, policy: Policy = Policy()) -> Plan:  # noqa: B008
    """How many replicas each of `models` has from now on, and which pods go.

    Replicas of models without GPU are what their work asks for. Of models with one, those of mode Auto never ask for
    more GPUs than are free: who takes another's place is given it when the other's pod has ended. What a Manual model
    asks for is its owner's affair, pods that wait for a node included; GPUs are set aside for it before anybody else.
    """
    wants = [want(model, now_ms) for model in sorted(models, key=lambda model: model.ref)]
    sharing = Sharing(wants, sorted(nodes, key=lambda node: node.name), now_ms, policy)
    decisions = {}
    for each in wants:
        share = sharing.shares.get(each.model.ref)
        decisions[each.model.ref] = _alone(each) if share is None else _shared(share, sharing, now_ms)
    return Plan(decisions, _look_again_ms(wants, sharing, now_ms))


def _alone(each: Want) -> Decision:
    return Decision(each.wanted, each.wanted, each.verdict, each.message, _pods(each.surplus))


def _shared(share: Share, sharing: Sharing, now_ms: int) -> Decision:
    """In GPUs: what it wants, less what others have."""
    each, scaling = share.want, share.want.model.scaling
    replicas = len(share.placed) + share.granted
    withdrawn = share.pending[: max(0, len(share.pending) - share.granted)]
    drains = (*_pods(each.surplus), *(r.pod for r in withdrawn), *(pod for pod, _ in share.makes_room))
    if scaling.manual is not None:
        short = each.wanted - replicas
        message = each.message if short <= 0 else f"{each.message}; {_shortage(share, sharing, replicas, now_ms)}"
        return Decision(each.wanted, each.wanted, Verdict.MANUAL, message, _pods(each.surplus))
    if replicas >= each.wanted:
        return Decision(replicas, each.wanted, each.verdict, each.message, drains)
    if not share.exists:
        message = f"no node that it may run on has {share.need.count} {share.need.resource}; {each.message}"
        return Decision(replicas, each.wanted, Verdict.NO_SUCH_GPU, message, drains)
    draining = sum(1 for replica in each.model.replicas if replica.state is ReplicaState.DRAINING)
    if share.makes_room:
        takers = _names([ref for _, ref in share.makes_room])
        message = f"{len(share.makes_room)} of {each.wanted} replicas make room for {takers}; {each.message}"
        return Decision(replicas, each.wanted, Verdict.MAKING_ROOM, message, drains)
    message = f"{_shortage(share, sharing, replicas, now_ms)}; {each.message}"
    verdict = Verdict.MAKING_ROOM if draining and not share.awaited else Verdict.WAITING_FOR_GPU
    return Decision(replicas, each.wanted, verdict, message, drains)


def _shortage(share: Share, sharing: Sharing, replicas: int, now_ms: int) -> str:
    need, wanted = share.need, share.want.wanted
    told = f"{replicas} of {wanted} replicas with {need.count} {need.resource} each"
    if share.gets_room_of:
        return f"{told}: {_names(share.gets_room_of)} makes room"
    if share.awaited:
        return f"{told}: {share.awaited} begin when what drains has ended"
    if oldest := share.load.oldest_seconds:
        told = f"{told}, work waits for {oldest} s or longer"
    next_ms = sharing.next_ms(need.resource)
    if next_ms is None:
        return f"{told}: all are taken, by work that claims as much"
    seconds = max(0.0, next_ms - now_ms) / 1000
    return f"{told}: all are taken, the next of them has to make room in {seconds:.0f} s at the soonest"


def _look_again_ms(wants: Sequence[Want], sharing: Sharing, now_ms: int) -> int:
    due = [now_ms + LOOK_AGAIN_MS]
    for each in wants:
        if each.model.backlog.total:
            due.append(now_ms + WORK_LOOK_AGAIN_MS)
        elif each.work == 0 and len(each.live) > each.model.scaling.min_replicas:
            due.append(idle_from_ms(each.model, each.live) + each.model.scaling.idle_seconds * 1000)
    for share in sharing.shares.values():
        if share.has < share.want.need and (next_ms := sharing.next_ms(share.need.resource)) is not None:
            due.append(int(next_ms))
    return max(now_ms + 1, min(due))


def _names(refs: Sequence[str]) -> str:
    names = sorted(set(refs))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _pods(replicas: Sequence[Replica]) -> tuple[str, ...]:
    return tuple(replica.pod for replica in replicas)
