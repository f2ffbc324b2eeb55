"""Which namespaces a model serves: the rule that operator and facade share. Pure."""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from headrace_crds.model import LLMModel
from headrace_crds.sharing import LabelOperator, LabelRequirement, SharingFrom

NAMESPACE_NAME_LABEL: Final = "kubernetes.io/metadata.name"


def admits(
    model: LLMModel, namespace: str, labels: Mapping[str, str] | None, model_namespaces: Collection[str]
) -> bool:
    """Whether the model serves work of the namespace. `labels` are the Namespace's, None if there is none;
    `model_namespaces` are those whose models may be shared at all.
    """
    if namespace == model.metadata.namespace:
        return True
    if model.metadata.namespace not in model_namespaces or model.spec.sharing is None or labels is None:
        return False
    rule = model.spec.sharing.namespaces
    if rule.from_ is SharingFrom.ALL:
        return True
    if rule.from_ is not SharingFrom.SELECTOR or rule.selector is None:
        return False
    told = {**labels, NAMESPACE_NAME_LABEL: namespace}
    return all(_holds(requirement, told) for requirement in rule.selector.match_expressions)


def _holds(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    """As labels.Selector of Kubernetes has it: NotIn holds where there is no such label."""
    value, values = labels.get(requirement.key), requirement.values or []
    holds: dict[LabelOperator, Callable[[], bool]] = {
        LabelOperator.IN: lambda: value is not None and value in values,
        LabelOperator.NOT_IN: lambda: value is None or value not in values,
        LabelOperator.EXISTS: lambda: value is not None,
        LabelOperator.DOES_NOT_EXIST: lambda: value is None,
    }
    return holds[requirement.operator]()
