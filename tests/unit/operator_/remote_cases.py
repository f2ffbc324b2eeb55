"""Builders for tests of remote models."""

from dataclasses import replace
from typing import Any

from operator_cases import MODEL, NOW_MS, RUNNER, deployment, pod

from headrace_crds.model import Breaker, LLMModel
from headrace_operator.decide import access, children
from headrace_operator.decide.access import Access
from headrace_operator.decide.snapshots import CredentialsView, ModelSnapshot, ProviderView, Report, RunnerSettings

OPENAI: dict[str, Any] = {
    "provider": "OpenAI",
    "model": "gpt-x",
    "credentials": {"secretKeyRef": {"name": "openai", "key": "token"}},
}
OWN: dict[str, Any] = {"provider": "OpenAICompatible", "model": "m", "baseURL": "https://llm.example.com/v1"}
ALLOWS = CredentialsView(True, "api.openai.com")
SETTINGS = replace(RUNNER, resources={"remote": {"limits": {"memory": "256Mi"}}})


def remote_model(
    *conditions: dict[str, Any],
    replicas: int = 1,
    generation: int = 1,
    remote: dict[str, Any] | None = None,
    spec: dict[str, Any] | None = None,
    **status: Any,
) -> LLMModel:
    """With the spec of OPENAI where `remote` gives no other."""
    return LLMModel.model_validate(
        {
            "metadata": {
                "name": MODEL.name,
                "namespace": MODEL.namespace,
                "uid": "model-uid",
                "resourceVersion": "7",
                "generation": generation,
            },
            "spec": {"remote": remote or OPENAI, "replicas": replicas, **(spec or {})},
            "status": {"conditions": list(conditions), **status} if conditions or status else None,
        }
    )


def granted(
    of: LLMModel,
    seen: CredentialsView | None = ALLOWS,
    settings: RunnerSettings = SETTINGS,
    certificate: CredentialsView | None = None,
) -> Access:
    found = access.of(of, settings, seen, certificate)
    assert found is not None
    return found


def remote_snapshot(of: LLMModel, **more: Any) -> ModelSnapshot:
    more.setdefault("credentials", ALLOWS if of.spec.remote and of.spec.remote.credentials else None)
    settings = more.pop("runner", SETTINGS)
    if "deployment" not in more:
        digest = children.spec_hash(of, granted(of, more["credentials"], settings, more.get("client_certificate")))
        more["deployment"] = deployment(of, spec_hash=digest)
    return ModelSnapshot(ref=MODEL, now_ms=NOW_MS, model=of, runner=settings, redis_password="s3cret", **more)


def told(
    breaker: str = "Closed", reason: str = "", message: str = "", *, state: str = "Serving", **more: Any
) -> Report:
    """A runner's report about its provider."""
    provider = ProviderView(Breaker(breaker), reason, message, **more)
    return Report(state, since_ms=NOW_MS - 4_000, generation=1, provider=provider)


def serves(report: Report) -> dict[str, Any]:
    return {"pods": [pod(ready=True)], "reports": {"pod-a": report}}
