"""`headrace dlq`: the dead letters are the Failed tasks that are there; a replay is another task with the same spec."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from headrace_cli.cluster import Body, Cluster, ClusterError, Forbidden, Taken
from headrace_cli.replay import is_replay_of, replay_name, replay_of
from headrace_cli.tables import age, plain, table
from headrace_crds.names import ANNOTATION_REPLAY_OF
from headrace_crds.task import Outcome

REPLAYS_MOST: Final = 100


async def failed_tasks(cluster: Cluster, namespace: str | None, reason: str | None) -> AsyncIterator[Body]:
    """Of one namespace, or of all; page by page, so that no more than a page is held."""
    async for page in cluster.pages("llmtasks", namespace):
        for body in page:
            status = body.get("status") or {}
            if status.get("outcome") == Outcome.FAILED and _failed_by(status, reason):
                yield body


def _failed_by(status: Mapping[str, Any], reason: str | None) -> bool:
    """The task's own reason may be that its retries are used up; what used them up is its last attempt's."""
    last = (status.get("attempts") or [{}])[-1]
    return reason in (None, status.get("reason"), last.get("reason"))


def letter(body: Mapping[str, Any]) -> dict[str, Any]:
    """A Failed task without prompt and result."""
    metadata, spec, status = body["metadata"], body["spec"], body["status"]
    ref = spec["modelRef"]
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "model": "/".join(part for part in (ref.get("namespace"), ref["name"]) if part),
        "reason": status.get("reason") or "",
        "message": status.get("message") or "",
        "attempts": status.get("attempts") or [],
        "retries": status.get("retries") or 0,
        "losses": status.get("losses") or 0,
        "completionTime": status.get("completionTime"),
        "replayOf": (metadata.get("annotations") or {}).get(ANNOTATION_REPLAY_OF),
    }


def listing(letters: list[dict[str, Any]]) -> str:
    """A table of what `letter` gave."""
    head = ("NAMESPACE", "NAME", "REASON", "MODEL", "RETRIES", "AGE", "MESSAGE")
    rows = [
        (
            each["namespace"],
            each["name"],
            each["reason"],
            each["model"],
            str(each["retries"]),
            age(each["completionTime"]),
            each["message"][:80],
        )
        for each in letters
    ]
    return table(head, rows) if rows else ""


async def show(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    """One dead letter with the replays that exist, oldest first; None where they may not be listed.

    Raises ClusterError.
    """
    body = await _failed(cluster, namespace, name)
    try:
        found: list[str] | None = (await replays(cluster, namespace)).get(body["metadata"]["uid"], [])
    except Forbidden:
        found = None
    return {**letter(body), "replays": found}


def showing(told: Mapping[str, Any]) -> str:
    """What `show` gave, for people."""
    facts = [
        ("task", f"{told['namespace']}/{told['name']}"),
        ("model", told["model"]),
        ("ended", f"{told['completionTime']} ({age(told['completionTime'])} ago)"),
        ("reason", told["reason"]),
        ("message", told["message"]),
        ("charged", f"{told['retries']} retries, {told['losses']} lost runners or engines"),
        ("replay of", told["replayOf"] or "-"),
        ("replays", _replays_told(told)),
    ]
    attempts = [
        tuple(str(each.get(member) or "-") for member in ("number", "outcome", "reason", "pod", "message"))
        for each in told["attempts"]
    ]
    text = "".join(f"{name + ':':<11}{plain(value)}\n" for name, value in facts)
    return text + ("\n" + table(("ATTEMPT", "OUTCOME", "REASON", "POD", "MESSAGE"), attempts) if attempts else "")


def _replays_told(told: Mapping[str, Any]) -> str:
    if told["replays"] is None:
        return "unknown: you may not list the tasks of this namespace"
    return ", ".join(told["replays"]) or f"none: headrace dlq replay {told['name']} -n {told['namespace']}"


async def replays(cluster: Cluster, namespace: str) -> dict[str, list[str]]:
    """Names of the replays that exist, oldest first, by the uid of whom they replay: some may be deleted meanwhile, so
    that their numbers have gaps. Raises ClusterError."""
    found: dict[str, list[tuple[str, int, str]]] = {}
    async for page in cluster.pages("llmtasks", namespace):
        for body in page:
            metadata = body["metadata"]
            uid = (metadata.get("annotations") or {}).get(ANNOTATION_REPLAY_OF)
            if uid is not None:
                made = (metadata.get("creationTimestamp") or "", len(metadata["name"]), metadata["name"])
                found.setdefault(uid, []).append(made)
    return {uid: [name for _, _, name in sorted(each)] for uid, each in found.items()}


class Replaying:
    """Replays tasks, each once unless `again`. A namespace's replays are listed once for all of its tasks."""

    def __init__(self, cluster: Cluster, *, again: bool, priority: int | None) -> None:
        self._cluster = cluster
        self._again = again
        self._priority = priority
        self._before: dict[str, dict[str, list[str]]] = {}

    async def replay(self, namespace: str, name: str) -> dict[str, Any]:
        """Raises ClusterError."""
        body = await _failed(self._cluster, namespace, name)
        before = await self._replays_of(body)
        if before and not self._again:
            return _told(body, before[-1], _before(before[-1]), made=False)
        try:
            return await self._create(body)
        except ClusterError as error:
            remedy = "; or replay it with --priority N" if "priorityCeiling" in str(error) else ""
            raise ClusterError(f"{namespace}/{name} is not replayed: {error}{remedy}") from error

    async def _replays_of(self, body: Mapping[str, Any]) -> list[str]:
        namespace = body["metadata"]["namespace"]
        if namespace not in self._before:
            self._before[namespace] = await replays(self._cluster, namespace)
        return self._before[namespace].get(body["metadata"]["uid"], [])

    async def _create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The next replay; the API server decides who made it first."""
        namespace = body["metadata"]["namespace"]
        for number in range(1, REPLAYS_MOST + 1):
            name = replay_name(body["metadata"]["name"], number)
            try:
                await self._cluster.create("llmtasks", namespace, replay_of(body, number, self._priority))
            except Taken:
                other = await self._cluster.get("llmtasks", namespace, name)
                if not self._again and (other is None or is_replay_of(other, body)):
                    return _told(body, name, _before(name), made=False)
                continue
            return _told(body, name, f"replayed as {name}", made=True)
        raise ClusterError(f"it has {REPLAYS_MOST} replays: delete some")


def _before(name: str) -> str:
    return f"replayed before as {name}: --again makes another one"


def _told(body: Mapping[str, Any], name: str, message: str, *, made: bool) -> dict[str, Any]:
    metadata = body["metadata"]
    return {
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "replay": name,
        "created": made,
        "message": message,
    }


async def _failed(cluster: Cluster, namespace: str, name: str) -> Body:
    body = await cluster.get("llmtasks", namespace, name)
    if body is None:
        raise ClusterError(f"there is no LLMTask {name!r} in namespace {namespace!r}; another one: -n NAMESPACE")
    outcome = (body.get("status") or {}).get("outcome")
    if outcome != Outcome.FAILED:
        told = "has not ended" if outcome is None else f"is {outcome}"
        raise ClusterError(f"{namespace}/{name} {told}: only Failed tasks are dead letters; see headrace why {name}")
    return body
