"""stand-in until the planner is merged"""
from collections.abc import Sequence

from headrace_operator.planner.facts import ModelFacts, NodeFacts, Plan, Policy


def plan(models: Sequence[ModelFacts], nodes: Sequence[NodeFacts], now_ms: int, policy: Policy = Policy()) -> Plan:
    raise NotImplementedError
