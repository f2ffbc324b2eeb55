"""``fallback``: the models that a task may be moved to when its own cannot serve it."""

from enum import StrEnum
from typing import Annotated, ClassVar, Final

from pydantic import Field

from headrace_crds.base import ApiModel, Rule
from headrace_crds.inputs import ModelRef

MODELS_LIMIT: Final = 5
"""Fallback models of a task, and so the moves that it can make."""


class FallbackWhen(StrEnum):
    UNAVAILABLE = "Unavailable"
    RATE_LIMITED = "RateLimited"
    QUEUE_TIMEOUT = "QueueTimeout"
    REFUSED = "Refused"
    INVALID_OUTPUT = "InvalidOutput"


class ModelFallbackPolicy(StrEnum):
    NONE = "None"
    LIST = "List"


class TaskFallbackPolicy(StrEnum):
    INHERIT = "Inherit"
    NONE = "None"
    LIST = "List"


class _Fallback(ApiModel):
    """What a model's fallback and a task's have in common."""

    rules: ClassVar = (
        Rule(
            "(self.policy == 'List') == has(self.models)",
            "models go with policy List, and only with it: set policy: List or remove models",
            ".models",
        ),
        Rule(
            "!has(self.models) || self.models.all(m, self.models.exists_one(n, n == m))",
            "models names one twice: a task is never moved to the same model again, remove it",
            ".models",
        ),
    )

    models: Annotated[list[ModelRef], Field(min_length=1, max_length=MODELS_LIMIT)] | None = None
    """Where to, in order. Each has to serve the task's namespace and be capable of the task; one that cannot serve at
    the moment is passed over. Their own fallback is not followed."""
    when: Annotated[
        list[FallbackWhen], Field(min_length=1, max_length=5, json_schema_extra={"x-kubernetes-list-type": "set"})
    ] = Field(default=[FallbackWhen.UNAVAILABLE])
    """What moves a task. Unavailable: the model has not served for afterSeconds, or retries are used up by faults of
    its provider. RateLimited: it has been rate limited for afterSeconds. QueueTimeout: no runner took the task for
    afterSeconds. Refused: the provider refused the content. InvalidOutput: the output was still invalid after all
    repairs."""
    after_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    """How long Unavailable, RateLimited or QueueTimeout must have lasted."""


class ModelFallback(_Fallback):
    """Where tasks of this model go that cannot be served by it, unless they say otherwise. Not for embeddings: vectors
    of different models cannot be compared."""

    policy: ModelFallbackPolicy = ModelFallbackPolicy.NONE
    """None: tasks stay. List: they go to models."""


class TaskFallback(_Fallback):
    """Where the task goes when its model cannot serve it."""

    policy: TaskFallbackPolicy = TaskFallbackPolicy.INHERIT
    """Inherit: as the model that modelRef names has it; then when and afterSeconds are the model's too. None: it stays.
    List: it goes to models."""
