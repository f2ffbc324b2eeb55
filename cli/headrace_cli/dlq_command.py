"""`headrace dlq`: the dead letters are the Failed tasks that are there; a replay is another task with the same spec."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from headrace_cli.cluster import Body, Cluster, ClusterError, Taken
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
            if status.get("outcome") == Outcome.FAILED and reason in (None, status.get("reason")):
                yield body


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
    """One dead letter with the replays that exist. Raises ClusterError."""
    body = await _failed(cluster, namespace, name)
    return {**letter(body), "replays": [each["metadata"]["name"] async for each in _replays(cluster, body)]}


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
        ("replays", ", ".join(told["replays"]) or f"none: headrace dlq replay {told['name']} -n {told['namespace']}"),
    ]
    attempts = [
        tuple(str(each.get(member) or "-") for member in ("number", "outcome", "reason", "pod", "message"))
        for each in told["attempts"]
    ]
    text = "".join(f"{name + ':':<11}{plain(value)}\n" for name, value in facts)
    return text + ("\n" + table(("ATTEMPT", "OUTCOME", "REASON", "POD", "MESSAGE"), attempts) if attempts else "")


async def replay(cluster: Cluster, body: Mapping[str, Any], *, again: bool) -> dict[str, Any]:
    """Creates the next replay; the API server decides who made it first. Raises ClusterError."""
    namespace = body["metadata"]["namespace"]
    for number in range(1, REPLAYS_MOST + 1):
        name = replay_name(body["metadata"]["name"], number)
        try:
            await cluster.create("llmtasks", namespace, replay_of(body, number))
        except Taken:
            other = await cluster.get("llmtasks", namespace, name)
            if not again and (other is None or is_replay_of(other, body)):
                return _told(body, name, f"replayed before as {name}: --again makes another one", made=False)
            continue
        return _told(body, name, f"replayed as {name}", made=True)
    raise ClusterError(f"{body['metadata']['name']} has {REPLAYS_MOST} replays: delete some")


async def replay_named(cluster: Cluster, namespace: str, name: str, *, again: bool) -> dict[str, Any]:
    """Raises ClusterError."""
    return await replay(cluster, await _failed(cluster, namespace, name), again=again)


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


async def _replays(cluster: Cluster, body: Mapping[str, Any]) -> AsyncIterator[Body]:
    """By their names, up to the first gap."""
    for number in range(1, REPLAYS_MOST + 1):
        namespace = body["metadata"]["namespace"]
        other = await cluster.get("llmtasks", namespace, replay_name(body["metadata"]["name"], number))
        if other is None:
            return
        if is_replay_of(other, body):
            yield other
