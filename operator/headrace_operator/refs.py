"""Keys of the work queues: an object by facts that never change, so that a key outlives its object."""

from typing import NamedTuple


class ModelRef(NamedTuple):
    """An LLMModel by name. Not by uid: a model made again under the same name inherits the queue's keys."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class TaskRef(NamedTuple):
    """An LLMTask by uid, with what is needed to clean up behind it when it is gone: `modelRef` is immutable."""

    namespace: str
    name: str
    uid: str
    model: ModelRef

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
