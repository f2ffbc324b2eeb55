"""Which nodes there are, and what of their extended resources pods of others have taken. Looked at where a model asks
for a GPU, and now and then: nodes change seldom, and the scheduler has the last word anyway.
"""

from typing import Final

import structlog

from headrace_crds.names import LABEL_MANAGED_BY
from headrace_operator.context import Context
from headrace_operator.decide.nodes import NodeView, left
from headrace_operator.errors import KubeError, KubeRefused
from headrace_operator.kube import NODES, PODS
from headrace_operator.planner.facts import NodeFacts
from headrace_operator.views import node_view, taken_resources

LOOK_SECONDS: Final = 10.0
LIST_CHUNK: Final = 100

_log = structlog.get_logger()


class Gpus:
    """The last look. `known` is False where the operator may not list nodes: the scheduler alone decides then."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._looked_at = -LOOK_SECONDS
        self._complained = False
        self.known = False
        self.nodes: dict[str, NodeView] = {}
        self._free: dict[str, dict[str, int]] = {}

    def facts(self) -> list[NodeFacts]:
        return [NodeFacts(name, self._free[name]) for name in self.nodes]

    async def look(self, resources: set[str]) -> None:
        """Once in a while; what went before stays where the API server does not answer."""
        if not resources or self._ctx.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = self._ctx.monotonic()
        try:
            nodes = [node_view(body) async for body in self._ctx.kube.listed(NODES, (), limit=LIST_CHUNK, whole=True)]
            having = [node for node in nodes if resources & node.allocatable.keys()]
            free = {node.name: left(node, await self._taken(node.name)) for node in having}
        except KubeRefused as error:
            self.known = False
            if not self._complained:
                _log.warning("nodes may not be listed: GPUs are left to the scheduler", error=str(error))
            self._complained = True
            return
        except KubeError as error:
            _log.warning("listing nodes failed", reason=error.reason, error=str(error))
            return
        self.known, self.nodes, self._free = True, {node.name: node for node in having}, free

    async def _taken(self, node: str) -> list[dict[str, int]]:
        """By pods that are no runners. Where the operator serves some namespaces alone it sees none of the others'."""
        listed = self._ctx.kube.listed(
            PODS,
            self._ctx.settings.watch_namespaces,
            limit=LIST_CHUNK,
            labels=f"{LABEL_MANAGED_BY}!=headrace",
            fields=f"spec.nodeName={node}",
            whole=True,
        )
        return [taken async for body in listed if (taken := taken_resources(body))]
