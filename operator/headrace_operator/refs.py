"""Keys of the work queues: an object by facts that never change, so that a key outlives its object."""

from typing import NamedTuple


def version_of(resource_version: str) -> int:
    """As a number: versions of one kind can be compared (KEP-5504). 0 for what is none."""
    return int(resource_version) if resource_version.isascii() and resource_version.isdigit() else 0


class ModelRef(NamedTuple):
    """An LLMModel by name. Not by uid: a model made again under the same name inherits the queue's keys."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class TaskRef(NamedTuple):
    """An LLMTask by uid, with what is needed to clean up behind it when it is gone: of a task that falls
    back to another model there are two, and each speaks of its own model's keys alone.
    """

    namespace: str
    name: str
    uid: str
    model: ModelRef

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
