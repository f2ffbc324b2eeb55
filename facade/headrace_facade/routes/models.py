"""`/api/v1/models`: what the caller may call, and how many replicas it has."""

from typing import Any, Final

from fastapi import APIRouter

from headrace_crds.model import LLMModel
from headrace_facade.caller import Caller
from headrace_facade.calls.failures import ModelNotFound
from headrace_facade.context import Context
from headrace_facade.errors import Conflict, Forbidden
from headrace_facade.identity.dependency import SCHEMES, Authenticated
from headrace_facade.native.models import view
from headrace_facade.native.schema import ModelName, ModelView, ModelViews
from headrace_facade.routes.tasks import InContext
from headrace_facade.schema import Problem

_WORDS: Final = {
    401: "No token or API key, or one that is not accepted",
    403: "The token's owner may not scale that model, or the caller is an API key",
    404: "No such model, or it does not serve the caller's namespace",
    409: "It scales itself by the work that waits",
    422: "`details.fields` says which field and what to do",
    503: "The API server is away; see Retry-After",
}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": _WORDS[status]} for status in statuses}


router = APIRouter(tags=["models"], dependencies=list(SCHEMES))


@router.get("/api/v1/models", summary="List models", responses=_problems(401, 503))
async def list_models(caller: Authenticated, context: InContext) -> ModelViews:
    """All that the caller may call, those at zero replicas among them."""
    return ModelViews(items=[view(each, caller) for each in context.directory.models(caller)])


# Before the route with a name: the first that fits is taken.
@router.get("/api/v1/models/status", summary="The state of all models", responses=_problems(401, 503))
async def status_of_all(caller: Authenticated, context: InContext) -> ModelViews:
    """The same list, by the name that single-host services have for it."""
    return await list_models(caller, context)


@router.post(
    "/api/v1/models/load",
    status_code=202,
    summary="Load a model",
    responses=_problems(401, 403, 404, 409, 422, 503),
)
async def load(body: ModelName, caller: Authenticated, context: InContext) -> ModelView:
    """As POST /api/v1/models/{model}/load, with the model in the body."""
    return await _scaled(context, caller, body.model, body.replicas)


@router.post(
    "/api/v1/models/unload",
    status_code=202,
    summary="Unload a model",
    responses=_problems(401, 403, 404, 409, 422, 503),
)
async def unload(body: ModelName, caller: Authenticated, context: InContext) -> ModelView:
    """As POST /api/v1/models/{model}/unload, with the model in the body."""
    return await _scaled(context, caller, body.model, 0)


@router.get(
    "/api/v1/models/{model:path}/status", summary="The state of a model", responses=_problems(401, 404, 422, 503)
)
async def model_status(model: str, caller: Authenticated, context: InContext) -> ModelView:
    """`model` is a name of the caller's namespace, or namespace/name."""
    return view(_found(context, caller, model), caller)


@router.post(
    "/api/v1/models/{model:path}/load",
    status_code=202,
    summary="Load a model",
    responses=_problems(401, 403, 404, 409, 422, 503),
)
async def load_named(model: str, caller: Authenticated, context: InContext) -> ModelView:
    """Sets its replicas to 1 through /scale, with the caller's own token; the pod follows. One that has replicas keeps
    them."""
    return await _scaled(context, caller, model, None)


@router.post(
    "/api/v1/models/{model:path}/unload",
    status_code=202,
    summary="Unload a model",
    responses=_problems(401, 403, 404, 409, 422, 503),
)
async def unload_named(model: str, caller: Authenticated, context: InContext) -> ModelView:
    """Sets its replicas to 0 through /scale: its tasks wait, its GPU is free."""
    return await _scaled(context, caller, model, 0)


def _found(context: Context, caller: Caller, named: str) -> LLMModel:
    found = context.directory.model(caller, named)
    if found is None:
        context.directory.check_synced()
        raise ModelNotFound(f"no LLMModel {named[:128]!r} serves namespace {caller.namespace!r}: see /api/v1/models")
    return found


async def _scaled(context: Context, caller: Caller, named: str, replicas: int | None) -> ModelView:
    """None: at least one."""
    model = _found(context, caller, named)
    if caller.token is None:
        raise Forbidden("replicas are changed with a token that the cluster's API server takes: an API key makes calls")
    if model.spec.scales_itself:
        name = model.metadata.name
        raise Conflict(f"LLMModel {name!r} scales itself by the work that waits: send some, or change its spec.scaling")
    if replicas is None:
        # Those that it has stay: load says that it is to serve.
        replicas = max(model.spec.replicas, 1)
    await context.kube.scale_model(model.metadata.namespace, model.metadata.name, replicas, caller.token)
    return view(model.model_copy(update={"spec": model.spec.model_copy(update={"replicas": replicas})}), caller)
