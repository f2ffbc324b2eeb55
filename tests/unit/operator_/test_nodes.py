"""Which nodes a model's pods may run on, and what is left there."""

from typing import Any

import pytest

from headrace_crds.runner_template import RunnerTemplate
from headrace_operator.decide.nodes import NodeView, Taint, admits, left
from headrace_operator.views import node_view, taken_resources

TAINT = Taint("nvidia.com/gpu", "present", "NoSchedule")


def template(**members: Any) -> RunnerTemplate:
    return RunnerTemplate.model_validate(members)


@pytest.mark.parametrize(
    ("node", "of", "may"),
    [
        (NodeView("n"), None, True),
        (NodeView("n", takes_pods=False), None, False),
        (NodeView("n", {"a": "b", "c": "d"}), template(nodeSelector={"a": "b"}), True),
        (NodeView("n", {"a": "c"}), template(nodeSelector={"a": "b"}), False),
        (NodeView("n"), template(nodeSelector={"a": "b"}), False),
        (NodeView("n", taints=(TAINT,)), None, False),
        (NodeView("n", taints=(Taint("x", "", "PreferNoSchedule"),)), None, True),
        (NodeView("n", taints=(TAINT,)), template(tolerations=[{"key": TAINT.key, "operator": "Exists"}]), True),
        (NodeView("n", taints=(TAINT,)), template(tolerations=[{"key": TAINT.key, "value": "present"}]), True),
        (NodeView("n", taints=(TAINT,)), template(tolerations=[{"key": TAINT.key, "value": "absent"}]), False),
        (NodeView("n", taints=(TAINT,)), template(tolerations=[{"key": "other", "operator": "Exists"}]), False),
        (
            NodeView("n", taints=(TAINT,)),
            template(tolerations=[{"key": TAINT.key, "operator": "Exists", "effect": "NoExecute"}]),
            False,
        ),
        (
            NodeView("n", taints=(TAINT, Taint("y", "", "NoExecute"))),
            template(tolerations=[{"key": TAINT.key, "operator": "Exists"}]),
            False,
        ),
    ],
    ids=range(13),
)
def test_admission(node: NodeView, of: RunnerTemplate | None, may: bool) -> None:
    assert admits(node, of) is may


def test_a_taint_by_the_resources_name_is_tolerated() -> None:
    assert admits(NodeView("n", taints=(TAINT,)), None, "nvidia.com/gpu")
    assert not admits(NodeView("n", taints=(TAINT,)), None, "amd.com/gpu")


def test_a_node_is_read() -> None:
    body = {
        "metadata": {"name": "n", "labels": {"a": "b"}},
        "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"nvidia.com/gpu": "8", "cpu": "4", "amd.com/gpu": "two", "nvidia.com/mig-1g.5gb": "7"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    assert node_view(body) == NodeView(
        "n",
        {"a": "b"},
        (Taint("k", "", "NoSchedule"),),
        True,
        {"nvidia.com/gpu": 8, "amd.com/gpu": 0, "nvidia.com/mig-1g.5gb": 7},
    )
    assert not node_view(body | {"spec": {"unschedulable": True}}).takes_pods
    assert not node_view({"metadata": {"name": "n"}}).takes_pods


def test_what_others_take() -> None:
    def asks(count: str) -> dict[str, Any]:
        return {"resources": {"requests": {"nvidia.com/gpu": count, "cpu": "1"}}}

    pod = {"spec": {"containers": [asks("1"), asks("2")], "initContainers": [asks("4"), asks("1")]}}
    assert taken_resources(pod) == {"nvidia.com/gpu": 4}
    assert taken_resources(pod | {"status": {"phase": "Succeeded"}}) == {}
    node = NodeView("n", allocatable={"nvidia.com/gpu": 5, "amd.com/gpu": 1})
    assert left(node, [taken_resources(pod)]) == {"nvidia.com/gpu": 1, "amd.com/gpu": 1}
    assert left(node, [{"nvidia.com/gpu": 9}, {"other/gpu": 1}]) == {"nvidia.com/gpu": 0, "amd.com/gpu": 1}
