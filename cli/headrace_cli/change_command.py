"""`headrace cancel`, `suspend` and `resume`: one member of the spec each."""

from typing import Any, Final

from headrace_cli.cluster import Cluster, ClusterError

CHANGES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "cancel": ({"cancel": True}, "cancellation asked for"),
    "suspend": ({"suspend": True}, "suspension asked for"),
    "resume": ({"suspend": False}, "resumed"),
}


async def change(cluster: Cluster, verb: str, namespace: str, name: str) -> dict[str, Any]:
    """Asks for it; a finished task is left as it is. Raises ClusterError."""
    found = await cluster.get("llmtasks", namespace, name)
    spec, told = CHANGES[verb]
    if found is not None and (outcome := (found.get("status") or {}).get("outcome")) is not None:
        return _told(namespace, name, f"unchanged: it is {outcome} already", changed=False)
    if found is not None and verb == "resume" and not found["spec"].get("suspend"):
        return _told(namespace, name, "unchanged: it is not suspended", changed=False)
    if found is not None:
        found = await cluster.change("llmtasks", namespace, name, spec)
    if found is None:
        raise ClusterError(f"there is no LLMTask {name!r} in namespace {namespace!r}; another one: -n NAMESPACE")
    return _told(namespace, name, told, changed=True)


def _told(namespace: str, name: str, message: str, *, changed: bool) -> dict[str, Any]:
    return {"namespace": namespace, "name": name, "changed": changed, "message": message}
