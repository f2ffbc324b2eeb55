"""Models to fall back to, and tasks that may."""

from collections.abc import Sequence
from typing import Any

from operator_cases import NOW_MS, condition, model, queued, snapshot, task

from headrace_crds.model import LLMModel
from headrace_crds.outcome import timestamp
from headrace_operator.decide.snapshots import Held, Target, TaskSnapshot
from headrace_operator.refs import ModelRef

GPT, LLAMA = ModelRef("team-a", "gpt"), ModelRef("team-a", "llama")
LISTED = [{"name": "gpt"}, {"name": "llama"}]


def available(status: str, reason: str, *, since_seconds: int = 3600) -> dict[str, Any]:
    return {
        **condition("Available", status, reason),
        "lastTransitionTime": timestamp(NOW_MS - since_seconds * 1000),
    }


def named(reason: str = "", *, since_seconds: int = 3600, fallback: Any = None, **spec: Any) -> LLMModel:
    """The model of modelRef: serving, or not for that reason and so long."""
    told = available("False", reason, since_seconds=since_seconds) if reason else available("True", "Serving")
    found = model(condition("Ready", "True", "Serving"), told, **spec)
    return LLMModel.model_validate({**found.dump(), "spec": {**found.spec.dump(), "fallback": fallback}})


def target(ref: ModelRef = GPT, reason: str = "", *, ready: bool = True, admitted: bool = True, **spec: Any) -> Target:
    told = available("False", reason) if reason else available("True", "Serving")
    found = model(condition("Ready", str(ready), "Serving" if ready else reason), told)
    body = {**found.dump(), "metadata": {"namespace": ref.namespace, "name": ref.name}}
    return Target(ref, LLMModel.model_validate({**body, "spec": {**body["spec"], **spec}}), admitted)


def own(*models: str, when: Sequence[str] = ("Unavailable",), after: int = 60) -> dict[str, Any]:
    listed = [{"name": each} for each in models or ("gpt", "llama")]
    return {"policy": "List", "models": listed, "when": list(when), "afterSeconds": after}


def falling(
    status: dict[str, Any] | None = None,
    *,
    of: LLMModel | None = None,
    held: Held | None = None,
    targets: Sequence[Target] = (),
    **spec: Any,
) -> TaskSnapshot:
    """A task with a list of its own, unless `fallback` says otherwise."""
    of = of or named("CircuitOpen")
    spec.setdefault("fallback", own())
    found = targets or (target(GPT), target(LLAMA))
    seen = task(queued() if status is None else status, **spec)
    return snapshot(seen, model=of, held=held, named_model=of, targets=found)
