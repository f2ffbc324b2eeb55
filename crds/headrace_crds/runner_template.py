"""The part of a runner pod that is the platform team's: where it may run, and by which labels others know it."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from headrace_crds.base import GROUP, ApiModel, Rule

QUALIFIED_NAME = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
NODE_ROLES = "node-role.kubernetes.io/"

LabelKey = Annotated[str, Field(min_length=1, max_length=316, pattern=QUALIFIED_NAME)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE)]


class TaintEffect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class TolerationOperator(StrEnum):
    EQUAL = "Equal"
    EXISTS = "Exists"


class Toleration(ApiModel):
    """As in a pod: a taint that does not keep the runner away."""

    rules: ClassVar = (
        Rule(
            "self.operator == 'Equal' || !has(self.value)",
            "operator Exists takes no value",
            ".value",
        ),
        Rule(
            f"!self.key.startsWith('{NODE_ROLES}')",
            "runners do not go where the control plane runs: taints of node roles stay",
            ".key",
        ),
    )

    key: LabelKey
    """The taint's key."""
    operator: TolerationOperator = TolerationOperator.EQUAL
    """Equal: key and value are the taint's. Exists: the key is."""
    value: LabelValue | None = None
    """The taint's value."""
    effect: TaintEffect | None = None
    """The taint's effect; absent: all of them."""


class RunnerTemplate(ApiModel):
    """What is added to the runner's Deployment. A change of it rolls the pods; their tasks are given back."""

    rules: ClassVar = (
        Rule(
            "!has(self.labels) || "
            f"self.labels.all(k, !k.startsWith('{GROUP}/') && !k.startsWith('app.kubernetes.io/'))",
            f"labels of {GROUP} and app.kubernetes.io are the operator's: name yours otherwise",
            ".labels",
        ),
        Rule(
            f"!has(self.nodeSelector) || self.nodeSelector.all(k, !k.startsWith('{NODE_ROLES}'))",
            "runners do not go where the control plane runs: name other labels than node roles",
            ".nodeSelector",
        ),
    )

    node_selector: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = None
    """Labels that a node must have, all of them, such as nvidia.com/gpu.product."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] | None = None
    """Taints that do not keep the pods away."""
    labels: Annotated[dict[str, LabelValue], Field(max_length=16)] | None = None
    """Of Deployment and pods, for others: Kueue's queue name, a cost centre."""
