"""What the LLMQuotas grant, and who is told when it changes."""

from typing import Any

from headrace_crds.quota import LLMQuota, LLMQuotaSpec
from headrace_operator.grants import Grants


def quota(version: int, status: dict[str, Any] | None = None, **spec: Any) -> LLMQuota:
    metadata = {"name": "default", "namespace": "a", "uid": "u", "resourceVersion": str(version), "generation": 1}
    return LLMQuota.model_validate({"metadata": metadata, "spec": spec, "status": status})


def test_only_another_grant_is_a_change() -> None:
    grants = Grants(LLMQuotaSpec())
    grants.put("a", quota(1, maxQueuedTasks=5))
    assert grants.changed.is_set()
    grants.changed.clear()
    grants.put("a", quota(2, {"queued": 3, "running": 0, "waiting": 0}, maxQueuedTasks=5))
    assert not grants.changed.is_set()
    assert grants.quotas["a"].metadata.resource_version == "2", "what is written next is written to this version"
    grants.put("a", quota(3, maxQueuedTasks=6))
    assert grants.changed.is_set()
    grants.changed.clear()
    grants.drop("a")
    assert grants.changed.is_set()
    assert grants.of("a").tasks is None
    grants.changed.clear()
    grants.drop("a")
    assert not grants.changed.is_set()
