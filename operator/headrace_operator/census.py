"""The window opens when the store knows every task that could be handed out: else a restart would hand out too many.

What a former leader wrote last is in the API server; the watches may not have told of it yet.
"""

import asyncio
from typing import Final

import structlog

from headrace_operator import quotas
from headrace_operator.context import Context
from headrace_operator.errors import KubeError
from headrace_operator.kube import TASKS
from headrace_operator.refs import version_of

LIST_CHUNK: Final = 200
LOOK_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 2.0
"""After this long what is still missing is asked for one by one: it may be gone."""

_log = structlog.get_logger()


async def open_window(ctx: Context) -> None:
    """Returns with the window open and everybody woken who asked while it was closed."""
    while True:
        try:
            missing = await _listed(ctx)
            await quotas.load(ctx)
            while missing := _unknown(missing, ctx):
                await _catch_up(missing, ctx)
            break
        except KubeError as error:
            _log.warning("tasks are not counted yet", reason=error.reason, error=str(error))
            await asyncio.sleep(PATIENCE_SECONDS)
    ctx.window.open(ctx.store.tasks())
    ctx.enqueue_everything()


async def _listed(ctx: Context) -> dict[str, tuple[str, str, int]]:
    """Every task's namespace, name and version by uid."""
    found: dict[str, tuple[str, str, int]] = {}
    async for item in ctx.kube.listed(TASKS, ctx.settings.watch_namespaces, limit=LIST_CHUNK):
        metadata = item["metadata"]
        version = version_of(metadata["resourceVersion"])
        found[metadata["uid"]] = metadata["namespace"], metadata["name"], version
    return found


def _unknown(tasks: dict[str, tuple[str, str, int]], ctx: Context) -> dict[str, tuple[str, str, int]]:
    """Those of which the store knows nothing, or something older."""
    unknown = {}
    for uid, (namespace, name, version) in tasks.items():
        view = ctx.store.task(uid)
        if view is None or view.version < version:
            unknown[uid] = namespace, name, version
    return unknown


async def _catch_up(missing: dict[str, tuple[str, str, int]], ctx: Context) -> None:
    """Until the watches told more; what they do not tell of is gone, or is looked at here."""
    deadline = ctx.monotonic() + PATIENCE_SECONDS
    while ctx.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        if len(_unknown(missing, ctx)) < len(missing):
            return
    for uid, (namespace, name, _) in list(missing.items()):
        body = await ctx.kube.probe(TASKS, namespace, name)
        if body is None or body["metadata"]["uid"] != uid:
            del missing[uid]
