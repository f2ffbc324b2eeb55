"""A batch's ConfigMap and what it says. Pure.

| member of data | written | holds |
|---|---|---|
| `request` | with the object | what was asked for, when, and how many lines the file has |
| `customIds` | with the object | the lines' ids, by their numbers |
| `problems` | with the object | what is wrong with the file as a whole; such a batch has failed |
| `refused` | when all tasks are made | lines that no task could be made of |
| `made` | when all tasks are made | `true` |
| `cancelling` | by a cancellation | when, in Unix time |
| `ended` | by who first sees the end | the last tally |
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from headrace_facade.kube import KubeObject
from headrace_facade.openai_batches.lines import Problem
from headrace_facade.openai_batches.names import LABEL_BATCH, LABEL_RECORD, record_name
from headrace_facade.openai_batches.tally import Tally

KEPT_S: Final = 30 * 86_400
"""How long results are kept where the request does not say: the tasks' ttlSecondsAfterFinished."""
_MESSAGE_CHARS: Final = 300


@dataclass(frozen=True)
class Asked:
    """What a batch was made of. Times are whole seconds of Unix time."""

    file: str
    """The file's number."""
    endpoint: str
    window: str
    window_s: int
    created_at: int
    lines: int
    ttl_s: int = KEPT_S
    metadata: dict[str, str] | None = None

    @property
    def expires_at(self) -> int:
        return self.created_at + self.window_s

    def with_ttl(self, seconds: int) -> "Asked":
        return replace(self, ttl_s=seconds)


@dataclass(frozen=True)
class RefusedLine:
    """A line that no task could be made of, in the words of an error of OpenAI's."""

    code: str
    message: str
    param: str | None = None

    def shortened(self) -> "RefusedLine":
        return RefusedLine(self.code[:64], self.message[:_MESSAGE_CHARS], (self.param or "")[:128] or None)


@dataclass(frozen=True)
class Batch:
    """`custom_ids` and `refused` by the lines' numbers."""

    number: str
    uid: str
    asked: Asked
    custom_ids: dict[int, str]
    problems: list[Problem] = field(default_factory=list)
    refused: dict[int, RefusedLine] = field(default_factory=dict)
    made: bool = False
    cancelling_at: int | None = None
    ended: Tally | None = None

    @property
    def name(self) -> str:
        return record_name(self.number)

    def owner(self) -> dict[str, Any]:
        """For its tasks: they go with it. It does not block the deletion, which would need rights on finalizers."""
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": self.name, "uid": self.uid}


def manifest(number: str, asked: Asked, custom_ids: Mapping[int, str], problems: list[Problem]) -> KubeObject:
    """The ConfigMap as it is created."""
    data = {"request": _text(asdict(asked))}
    if problems:
        data["problems"] = _text([asdict(each) for each in problems])
    else:
        data["customIds"] = _text(custom_ids)
    metadata = {"name": record_name(number), "labels": {LABEL_BATCH: number, LABEL_RECORD: "true"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def made(refused: Mapping[int, RefusedLine]) -> dict[str, str]:
    """The change when all tasks are there."""
    return {"made": "true", "refused": _text({line: asdict(why.shortened()) for line, why in refused.items()})}


def cancelling(at: int) -> dict[str, str]:
    return {"cancelling": str(at)}


def ended(tally: Tally) -> dict[str, str]:
    return {"ended": _text(asdict(tally))}


def read(item: KubeObject) -> Batch | None:
    """None: no batch, or what somebody has written into it."""
    data, metadata = item.get("data") or {}, item["metadata"]
    try:
        asked = Asked(**json.loads(data["request"]))
        numbers = (asked.window_s, asked.created_at, asked.lines, asked.ttl_s)
        if not all(type(each) is int and each >= 0 for each in numbers):
            return None
        batch = Batch(
            number=str(metadata["labels"][LABEL_BATCH]),
            uid=metadata["uid"],
            asked=asked,
            custom_ids={int(line): str(text) for line, text in _members(data, "customIds").items()},
            problems=[Problem(**each) for each in json.loads(data.get("problems", "[]"))],
            refused={int(line): RefusedLine(**why) for line, why in _members(data, "refused").items()},
            made=data.get("made") == "true",
            cancelling_at=int(data["cancelling"]) if "cancelling" in data else None,
            ended=Tally(**_members(data, "ended")) if "ended" in data else None,
        )
        # Anybody may label a ConfigMap with the number of somebody's batch.
        return batch if batch.name == metadata["name"] else None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _members(data: Mapping[str, str], name: str) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(data.get(name, "{}"))
    return members


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
