"""Whose tasks a model serves."""

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from headrace_crds.base import ApiModel, Rule


class SharingFrom(StrEnum):
    SAME = "Same"
    ALL = "All"
    SELECTOR = "Selector"


class LabelOperator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class LabelRequirement(ApiModel):
    """One condition on a label, as in ``metav1.LabelSelector``."""

    rules: ClassVar = (
        Rule(
            "self.operator in ['In', 'NotIn'] == (has(self.values) && size(self.values) > 0)",
            "values are needed for In and NotIn, and for them alone",
            ".values",
        ),
    )

    key: Annotated[str, Field(min_length=1, max_length=316)]
    """Label key."""
    operator: LabelOperator
    """In, NotIn, Exists or DoesNotExist."""
    values: Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=64)] | None = None
    """Values for In and NotIn."""


class NamespaceSelector(ApiModel):
    """Namespaces by their labels; all requirements must hold."""

    match_expressions: Annotated[list[LabelRequirement], Field(min_length=1, max_length=16)]
    """Conditions on the Namespace's labels. kubernetes.io/metadata.name is its name."""


class SharingNamespaces(ApiModel):
    """Which namespaces' tasks a model serves."""

    rules: ClassVar = (
        Rule(
            "(self.from == 'Selector') == has(self.selector)",
            "selector goes with from: Selector, and only with it",
            ".selector",
        ),
    )

    from_: Annotated[SharingFrom, Field(alias="from")] = SharingFrom.SAME
    """Same: the model's own namespace. All: every namespace. Selector: those that the selector matches."""
    selector: NamespaceSelector | None = None
    """Which namespaces, with from: Selector."""


class Sharing(ApiModel):
    """Who may use the model. Beyond its own namespace only where the chart's sharing.modelNamespaces allows it."""

    namespaces: SharingNamespaces
    """Namespaces whose tasks the model serves."""
