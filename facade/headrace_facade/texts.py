"""The text of a large result: out of the ConfigMap that the task owns, with the caller's own token.

A ConfigMap can be written by whoever may do so in its namespace: what is told as the task's text is checked against the
size and the digest in the task, which nobody can change any more.
"""

import hashlib
from typing import Final

from headrace_facade.errors import Forbidden, NotFound
from headrace_facade.kube import KubeClient, KubeObject, Token
from headrace_facade.schema import ResultPlace, Task, TaskResult

TEXT_LIMIT_BYTES: Final = 1024 * 1024
"""More than a ConfigMap holds."""


async def with_text(task: Task, kube: KubeClient, token: Token) -> Task:
    """The task with its text, or with why that cannot be had. Raises FacadeError for what another try may mend."""
    result = task.result
    if result is None or result.config_map is None:
        return task
    place = result.config_map
    text, missing = None, ""
    if result.size_bytes > TEXT_LIMIT_BYTES:
        missing = (
            f"it has {result.size_bytes} bytes, and {TEXT_LIMIT_BYTES} are told at most: read ConfigMap {place.name!r}"
        )
    else:
        try:
            text = text_of(await kube.get_config_map(task.namespace, place.name, token), place, result)
        except Forbidden:
            missing = (
                f"it lies in ConfigMap {place.name!r}, which your token may not read: have an admin of namespace "
                f"{task.namespace!r} grant you get on configmaps, as the role view does"
            )
        except NotFound:
            missing = f"ConfigMap {place.name!r}, in which it lay, was deleted"
        else:
            if text is None:
                missing = f"ConfigMap {place.name!r} holds another text than the task's: it was made again by somebody"
    told = result.model_copy(update={"text": text, "text_missing": missing or None})
    return task.model_copy(update={"result": told})


def text_of(config_map: KubeObject, place: ResultPlace, result: TaskResult) -> str | None:
    """None: it is not what the task tells of."""
    text = (config_map.get("data") or {}).get(place.key)
    if not isinstance(text, str):
        return None
    data = text.encode(errors="surrogatepass")
    same = len(data) == result.size_bytes and hashlib.sha256(data).hexdigest() == result.sha256
    return text if same else None
