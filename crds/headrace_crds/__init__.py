"""The API types of the group ``headrace.dev``: the only place that knows the schema.

``task`` and ``model`` hold the kinds as pydantic models; ``crd`` turns them into
CustomResourceDefinitions; ``manifest`` judges YAML without a cluster. Nothing here
talks to a network or knows how a task is executed.
"""

from headrace_crds.base import GROUP, VERSION, Condition, ConditionStatus
from headrace_crds.model import LLMModel
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask, Outcome, TaskPhase

__all__ = [
    "GROUP",
    "VERSION",
    "Condition",
    "ConditionStatus",
    "LLMModel",
    "LLMTask",
    "Outcome",
    "Reason",
    "TaskPhase",
]
