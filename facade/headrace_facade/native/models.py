"""An LLMModel in the words of whoever looks at models by HTTP."""

from typing import Final

from headrace_crds.base import ConditionStatus, find_condition
from headrace_crds.model import Capability, LLMModel
from headrace_facade.caller import Caller
from headrace_facade.native.schema import ModelCapability, ModelView
from headrace_facade.openai_dialect.port import told_name

_WORDS: Final = {
    Capability.CHAT: (ModelCapability.CHAT, ModelCapability.STREAMING, ModelCapability.FUNCTION_CALLING),
    Capability.COMPLETION: (ModelCapability.TEXT_GENERATION, ModelCapability.STREAMING),
    Capability.EMBEDDING: (ModelCapability.EMBEDDING,),
}


def view(model: LLMModel, caller: Caller) -> ModelView:
    status = model.status
    conditions = (status.conditions if status is not None else None) or []
    ready, available = find_condition(conditions, "Ready"), find_condition(conditions, "Available")
    serves = available is not None and available.status is ConditionStatus.TRUE
    told = next(
        (each for each in (ready, available) if each is not None and each.status is not ConditionStatus.TRUE), None
    )
    remote, engine = model.spec.remote, status.engine if status is not None else None
    words = [word for each in model.spec.capabilities for word in _WORDS[each]]
    return ModelView(
        model=told_name(f"{model.metadata.namespace}/{model.metadata.name}", caller),
        namespace=model.metadata.namespace,
        name=model.metadata.name,
        kind="local" if remote is None else str(remote.provider),
        capabilities=list(dict.fromkeys(words)),
        phase=status.phase.value if status is not None and status.phase is not None else None,
        ready=ready is not None and ready.status is ConditionStatus.TRUE,
        available=serves,
        reason="" if serves or told is None else told.reason,
        message="" if serves or told is None else told.message,
        replicas=model.wanted_replicas,
        ready_replicas=(status.ready_replicas or 0) if status is not None else 0,
        load_stage=status.load.stage if status is not None and status.load is not None else None,
        context_tokens=engine.context_tokens if engine is not None else None,
    )
