"""Which GPUs are free, and which will be: counts by node and resource.

``now ≤ soon`` on every node: `soon` counts as free what drains, `now` does not. Only what is free now is given to a
replica that starts, so that no GPU is ever given twice; what is free soon is set aside for who comes next.
"""

from collections.abc import Mapping, Sequence

from headrace_operator.planner.facts import GpuNeed, NodeFacts


class _Levels:
    """One resource's free GPUs: by node, and the nodes by how many are free, so that a best fit needs no search."""

    def __init__(self) -> None:
        self.free: dict[str, int] = {}
        self._nodes: dict[int, dict[str, None]] = {}
        self._most = 0

    def put(self, node: str, count: int) -> None:
        before = self.free.get(node)
        if before == count:
            return
        if before is not None and before > 0:
            self._nodes[before].pop(node, None)
        self.free[node] = count
        if count > 0:
            self._nodes.setdefault(count, {})[node] = None
            if count > self._most:
                self._most = count

    def best_fit(self, count: int, eligible: frozenset[str]) -> str | None:
        for level in range(count, self._most + 1):
            for node in self._nodes.get(level, ()):
                if node in eligible:
                    return node
        return None


class Room:
    """GPUs of all nodes while a plan is made."""

    def __init__(self, nodes: Sequence[NodeFacts]) -> None:
        """`nodes` in the order in which equals are preferred."""
        self._capacity: dict[str, Mapping[str, int]] = {node.name: node.free for node in nodes}
        self._exists: dict[tuple[str, int, frozenset[str]], bool] = {}
        self._now: dict[str, _Levels] = {}
        self._soon: dict[str, _Levels] = {}
        for node in nodes:
            for resource, count in node.free.items():
                self._now.setdefault(resource, _Levels()).put(node.name, count)
                self._soon.setdefault(resource, _Levels()).put(node.name, count)

    def exists(self, need: GpuNeed) -> bool:
        """A node could hold it, were it empty of runners."""
        key = (need.resource, need.count, need.nodes)
        if (known := self._exists.get(key)) is None:
            known = self._exists[key] = any(
                name in need.nodes and free.get(need.resource, 0) >= need.count for name, free in self._capacity.items()
            )
        return known

    def hold(self, need: GpuNeed, node: str) -> None:
        """A replica is there and stays."""
        self._add(self._now, need.resource, node, -need.count)
        self._add(self._soon, need.resource, node, -need.count)

    def drain(self, need: GpuNeed, node: str) -> None:
        """A replica is there and goes: not counted by `hold`."""
        self._add(self._now, need.resource, node, -need.count)

    def let_go(self, need: GpuNeed, node: str) -> None:
        """A replica that was held has to go."""
        self._add(self._soon, need.resource, node, need.count)

    def take_now(self, need: GpuNeed) -> bool:
        """Give GPUs that are free, on the node where the fewest stay free."""
        levels = self._now.get(need.resource)
        node = None if levels is None else levels.best_fit(need.count, need.nodes)
        if node is None:
            return False
        self.hold(need, node)
        return True

    def take_soon(self, need: GpuNeed) -> bool:
        """Set aside GPUs that will be free when something has ended."""
        levels = self._soon.get(need.resource)
        node = None if levels is None else levels.best_fit(need.count, need.nodes)
        if node is None:
            return False
        self.set_aside(need, node)
        return True

    def set_aside(self, need: GpuNeed, node: str) -> None:
        self._add(self._soon, need.resource, node, -need.count)
        now, soon = self._now[need.resource], self._soon[need.resource]
        now.put(node, min(now.free[node], soon.free[node]))

    def close(self, need: GpuNeed, node: str) -> None:
        """Nobody is given anything there any more."""
        for side in (self._now, self._soon):
            if (levels := side.get(need.resource)) is not None and node in levels.free:
                levels.put(node, min(0, levels.free[node]))

    def soon(self, need: GpuNeed, node: str) -> int:
        levels = self._soon.get(need.resource)
        return 0 if levels is None else levels.free.get(node, 0)

    @staticmethod
    def _add(side: dict[str, _Levels], resource: str, node: str, count: int) -> None:
        levels = side.get(resource)
        if levels is not None and node in levels.free:
            levels.put(node, levels.free[node] + count)
