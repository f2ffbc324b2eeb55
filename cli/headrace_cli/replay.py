"""A replay: another task with the spec of one that failed. Pure."""

import copy
from collections.abc import Mapping
from typing import Any, Final

from headrace_crds import GROUP, VERSION, LLMTask
from headrace_crds.names import ANNOTATION_REPLAY_OF

NAME_LIMIT: Final = 253
_METADATA_PREFIX: Final = f"metadata.{GROUP}/"
"""The facade's callers put their own words there."""


def replay_name(name: str, number: int) -> str:
    tail = f"-replay-{number}"
    return name[: NAME_LIMIT - len(tail)].rstrip("-.") + tail


def replay_of(body: Mapping[str, Any], number: int, priority: int | None = None) -> dict[str, Any]:
    """The manifest; a `priority` of None is the failed one's.

    Labels stay behind: by them a GitOps tool would take the replay for its own and delete it.
    """
    metadata = body["metadata"]
    words = {
        name: text for name, text in (metadata.get("annotations") or {}).items() if name.startswith(_METADATA_PREFIX)
    }
    # What the failed one was told meanwhile is not meant for this one.
    spec = {name: copy.deepcopy(value) for name, value in body["spec"].items() if name not in ("cancel", "suspend")}
    if priority is not None:
        spec["priority"] = priority
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": LLMTask.__name__,
        "metadata": {
            "name": replay_name(metadata["name"], number),
            "namespace": metadata["namespace"],
            "annotations": {**words, ANNOTATION_REPLAY_OF: metadata["uid"]},
        },
        "spec": spec,
    }


def is_replay_of(body: Mapping[str, Any], failed: Mapping[str, Any]) -> bool:
    annotations = body["metadata"].get("annotations") or {}
    return bool(annotations.get(ANNOTATION_REPLAY_OF) == failed["metadata"]["uid"])
