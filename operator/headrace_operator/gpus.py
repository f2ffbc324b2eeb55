"""Which nodes there are, and what of their extended resources pods of others have taken. Looked at where a model asks
for a GPU, and now and then: nodes change seldom, and the scheduler has the last word anyway.
"""

from collections.abc import Set
from typing import Final

import structlog

from headrace_operator.context import Context
from headrace_operator.decide.nodes import NodeView, left
from headrace_operator.errors import KubeError, KubeRefused
from headrace_operator.kube import NODES, PODS
from headrace_operator.planner.facts import NodeFacts
from headrace_operator.views import node_view, taken_resources

LOOK_SECONDS: Final = 10.0
LIST_CHUNK: Final = 100
REFUSALS_BELIEVED: Final = 3

_log = structlog.get_logger()


class Gpus:
    """The last look that succeeded."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._looked_at = -LOOK_SECONDS
        self._refusals = 0
        self.settled = False
        """Something is known: which nodes there are, or that nobody will say."""
        self.known = False
        """False once settled: the operator may not list nodes, and the scheduler alone decides."""
        self.nodes: dict[str, NodeView] = {}
        self._pods: dict[str, dict[tuple[str, str], dict[str, int]]] = {}

    def facts(self, told: Set[tuple[str, str]]) -> list[NodeFacts]:
        """What is left beside the pods (namespace, name) that the planner is told of as replicas."""
        return [
            NodeFacts(name, left(node, [taken for pod, taken in self._pods[name].items() if pod not in told]))
            for name, node in self.nodes.items()
        ]

    async def look(self, resources: set[str]) -> None:
        """Once in a while; what was seen stays where the API server does not answer."""
        if not resources or (self.settled and self._ctx.monotonic() - self._looked_at < LOOK_SECONDS):
            return
        self._looked_at = self._ctx.monotonic()
        try:
            nodes = [node_view(body) async for body in self._ctx.kube.listed(NODES, (), limit=LIST_CHUNK, whole=True)]
            having = [node for node in nodes if resources & node.allocatable.keys()]
            pods = {node.name: await self._takers(node.name) for node in having}
        except KubeRefused as error:
            self._refusals += 1
            # A right that is being written anew is away for a moment.
            if self._refusals == REFUSALS_BELIEVED:
                self.settled, self.known = True, False
                _log.warning("nodes may not be listed: GPUs are left to the scheduler", error=str(error))
            return
        except KubeError as error:
            _log.warning("listing nodes failed", reason=error.reason, error=str(error))
            return
        self._refusals, self.settled, self.known = 0, True, True
        self.nodes, self._pods = {node.name: node for node in having}, pods

    async def _takers(self, node: str) -> dict[tuple[str, str], dict[str, int]]:
        """By namespace and name. Where the operator serves some namespaces alone it sees none of the others'."""
        listed = self._ctx.kube.listed(
            PODS,
            self._ctx.settings.watch_namespaces,
            limit=LIST_CHUNK,
            fields=f"spec.nodeName={node}",
            whole=True,
        )
        return {
            (body["metadata"]["namespace"], body["metadata"]["name"]): taken
            async for body in listed
            if (taken := taken_resources(body))
        }
