"""`/v1/models`: what the caller may call, running or at zero."""

from datetime import datetime

from fastapi import APIRouter, Request

from headrace_crds.model import LLMModel
from headrace_facade.anthropic_dialect.models import VERSION_HEADER, model_info, models_page
from headrace_facade.caller import Caller
from headrace_facade.identity.dependency import Authenticated
from headrace_facade.openai_dialect.errors import ModelUnknown
from headrace_facade.openai_dialect.objects import Json
from headrace_facade.openai_dialect.port import InServices, told_name

router = APIRouter(prefix="/v1", include_in_schema=False)


@router.get("/models")
async def list_models(request: Request, caller: Authenticated, services: InServices) -> Json:
    services.directory.check_synced()
    if VERSION_HEADER in request.headers:
        return models_page(services.directory.models(caller), caller, request.query_params)
    return {"object": "list", "data": [_model(each, caller) for each in services.directory.models(caller)]}


@router.get("/models/{model_id:path}")
async def get_model(request: Request, model_id: str, caller: Authenticated, services: InServices) -> Json:
    services.directory.check_synced()
    found = services.directory.model(caller, model_id)
    if found is None:
        raise ModelUnknown("there is no such model, or it is not shared with your namespace: see /v1/models")
    return model_info(found, caller) if VERSION_HEADER in request.headers else _model(found, caller)


def _model(model: LLMModel, caller: Caller) -> Json:
    metadata = model.metadata
    created = metadata.creation_timestamp
    return {
        "id": told_name(f"{metadata.namespace}/{metadata.name}", caller),
        "object": "model",
        "created": 0 if created is None else int(datetime.fromisoformat(created).timestamp()),
        "owned_by": metadata.namespace,
    }
