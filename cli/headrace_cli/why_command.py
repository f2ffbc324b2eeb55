"""`headrace why`: the chain of causes by the objects that the user may read, the place in the queue by the facade."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from headrace_cli.cluster import Cluster, ClusterError
from headrace_cli.facade import Place, nowhere, place
from headrace_cli.tables import age, plain, table
from headrace_crds.base import ApiModel
from headrace_crds.model import LLMModel
from headrace_crds.quota import QUOTA_NAME, LLMQuota
from headrace_crds.task import TaskPhase
from headrace_crds.why import Link, Seen, TaskFacts, explain, since

T = TypeVar("T", bound=ApiModel)
_HOLDS: Final[Mapping[bool | None, str]] = {True: "yes", False: "no", None: "?"}


async def why(
    cluster: Cluster, namespace: str, name: str, *, facade: str | None, token: str | None, output: str
) -> str:
    """What to print. Raises ClusterError when the task cannot be read; what else cannot be is told."""
    body = await cluster.get("llmtasks", namespace, name)
    if body is None:
        raise ClusterError(f"there is no LLMTask {name!r} in namespace {namespace!r}; another one: -n NAMESPACE")
    task = TaskFacts.of(body)
    model: Seen[LLMModel] = Seen()
    quota: Seen[LLMQuota] = Seen()
    if not task.settled:
        model = await _seen(LLMModel, cluster, "llmmodels", task.model_namespace, task.model_name)
        quota = await _seen(LLMQuota, cluster, "llmquotas", namespace, QUOTA_NAME)
    chain = explain(task, model, quota)
    if task.status.phase is TaskPhase.QUEUED:
        where = await place(facade, token or await cluster.bearer_token(), namespace, name)
    else:
        where = nowhere("the task is not in the queue")
    return _json(task, chain, where) if output == "json" else _text(task, chain, where)


async def _seen(kind: type[T], cluster: Cluster, plural: str, namespace: str, name: str) -> Seen[T]:
    try:
        body = await cluster.get(plural, namespace, name)
        return Seen() if body is None else Seen(kind.model_validate(body))
    except ClusterError as error:
        return Seen(unread=f"cannot be read: {error}")
    except ValidationError:
        return Seen(unread=f"this {kind.__name__} is of a version that this command does not know")


def _json(task: TaskFacts, chain: Sequence[Link], where: Place) -> str:
    status = task.status
    told: dict[str, Any] = {
        "namespace": task.namespace,
        "name": task.name,
        "phase": status.phase,
        "outcome": status.outcome,
        "reason": chain[0].reason,
        "message": chain[0].message,
        "since": since(task),
        "chain": [asdict(link) for link in chain],
        **asdict(where),
    }
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


def _text(task: TaskFacts, chain: Sequence[Link], where: Place) -> str:
    started = since(task)
    phase = task.status.phase or "not accepted yet"
    lines = [f"llmtask {task.namespace}/{task.name}: {phase}" + (f" for {age(started)}" if started else "")]
    if task.status.phase is TaskPhase.QUEUED:
        lines += _place(where)
    rows = [(link.about.value, link.name, link.reason, _HOLDS[link.holds], link.message) for link in chain]
    parts = table(("PART", "OF", "REASON", "HOLDS", "MESSAGE"), rows, indent="  ")
    remedies = dict.fromkeys(f"  {link.about.value}: {plain(link.remedy)}" for link in chain if link.remedy)
    told = "\n".join([*lines, "", parts.rstrip("\n")])
    return told + ("\n\nWhat to do:\n" + "\n".join(remedies) if remedies else "") + "\n"


def _place(where: Place) -> list[str]:
    if where.position is None:
        return [f"  position: {plain(where.unknown.get('position', 'unknown'))}"]
    start = where.estimated_start_seconds
    told = (
        f"about {start:.0f} s" if start is not None else plain(where.unknown.get("estimated_start_seconds", "unknown"))
    )
    return [f"  position: {where.position} ({where.ahead} come first)", f"  estimated start: {told}"]
