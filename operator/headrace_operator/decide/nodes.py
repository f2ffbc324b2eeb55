"""Nodes as the scheduler sees them, as far as models' GPUs are concerned: who may run where, and how much is left."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headrace_crds.runner_template import RunnerTemplate, TaintEffect, Toleration, TolerationOperator


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """What is kept of a node."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    takes_pods: bool = True
    """Ready, and not cordoned."""
    allocatable: Mapping[str, int] = field(default_factory=dict)
    """Extended resources alone."""


def admits(node: NodeView, template: RunnerTemplate | None, resource: str = "") -> bool:
    """Whether pods that take `resource` may run there, however full it is. They tolerate a taint by that name, as with
    Kubernetes' ExtendedResourceToleration.
    """
    template = template or RunnerTemplate()
    wanted = template.node_selector or {}
    if not node.takes_pods or any(node.labels.get(key) != value for key, value in wanted.items()):
        return False
    passed = (TaintEffect.PREFER_NO_SCHEDULE,)
    keeping = [taint for taint in node.taints if taint.effect not in passed and taint.key != resource]
    return all(any(_tolerates(each, taint) for each in template.tolerations or ()) for taint in keeping)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect is not None and toleration.effect != taint.effect:
        return False
    if toleration.operator is TolerationOperator.EXISTS:
        return toleration.key == taint.key
    return toleration.key == taint.key and (toleration.value or "") == taint.value


def left(node: NodeView, taken: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """What the node has, less what these pods take; never below nothing."""
    free = dict(node.allocatable)
    for requests in taken:
        for resource, count in requests.items():
            if resource in free:
                free[resource] = max(0, free[resource] - count)
    return free
