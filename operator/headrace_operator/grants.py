"""The LLMQuotas that are known, and what they grant."""

import asyncio

from headrace_crds.quota import LLMQuota, LLMQuotaSpec
from headrace_operator.decide import quota
from headrace_operator.decide.quota import Grant


class Grants:
    """By namespace; what a quota leaves out, and who has none, is granted the default."""

    def __init__(self, default: LLMQuotaSpec) -> None:
        self._default = default
        self._everybody = quota.grant(None, default)
        self._grants: dict[str, Grant] = {}
        self.quotas: dict[str, LLMQuota] = {}
        self.changed = asyncio.Event()
        """Set when somebody is granted something else; not by the status that each round writes."""

    def of(self, namespace: str) -> Grant:
        return self._grants.get(namespace, self._everybody)

    def put(self, namespace: str, found: LLMQuota) -> None:
        self.quotas[namespace] = found
        self._grant(namespace, quota.grant(found.spec, self._default))

    def drop(self, namespace: str) -> None:
        self.quotas.pop(namespace, None)
        self._grant(namespace, None)

    def _grant(self, namespace: str, granted: Grant | None) -> None:
        before = self.of(namespace)
        if granted is None:
            self._grants.pop(namespace, None)
        else:
            self._grants[namespace] = granted
        if self.of(namespace) != before:
            self.changed.set()
