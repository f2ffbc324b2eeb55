"""The sweep of shared models' RoleBindings: what is refused in one namespace ends nothing in another."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from operator_cases import MODEL, queued, task_body

from headrace_crds.names import shared_binding_name
from headrace_operator import bindings
from headrace_operator.context import Context, Memory
from headrace_operator.decide import sharing
from headrace_operator.errors import KubeError, KubeRefused, KubeUnavailable
from headrace_operator.refs import ModelRef
from headrace_operator.store import Store
from headrace_operator.views import task_view

SPACES = ("a", "b", "c")


def stands(namespace: str) -> dict[str, Any]:
    manifest = sharing.binding(MODEL, namespace)
    return {**manifest, "metadata": {**manifest["metadata"], "uid": f"uid-{namespace}"}}


class ApiServer:
    """RoleBindings by namespace; writes to some of them fail."""

    def __init__(self, *bodies: dict[str, Any], error: KubeError, fails: str) -> None:
        self.bodies = {body["metadata"]["namespace"]: body for body in bodies}
        self.error, self.fails = error, fails

    async def listed(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        for body in list(self.bodies.values()):
            yield body

    async def get(self, _: Any, namespace: str, __: str) -> dict[str, Any] | None:
        return self.bodies.get(namespace)

    probe = get

    async def delete(self, _: Any, namespace: str, name: str, *, uid: str) -> None:
        assert (name, uid) == (shared_binding_name(*MODEL), f"uid-{namespace}")
        if namespace == self.fails:
            raise self.error
        del self.bodies[namespace]

    async def apply(self, manifest: dict[str, Any], *, uid: str) -> None:
        namespace = manifest["metadata"]["namespace"]
        if namespace == self.fails:
            raise self.error
        self.bodies[namespace] = {**manifest, "metadata": {**manifest["metadata"], "uid": uid or f"uid-{namespace}"}}


def context(kube: ApiServer, monkeypatch: pytest.MonkeyPatch, *, admits: bool) -> Context:
    async def bound_afresh(_: ModelRef, __: str, ___: Context) -> bool:
        return admits

    monkeypatch.setattr(bindings, "admitted", lambda *_: admits)
    monkeypatch.setattr(bindings, "bound_afresh", bound_afresh)
    settings = SimpleNamespace(watch_namespaces=())
    return cast("Context", SimpleNamespace(kube=kube, store=Store(), memory=Memory(), settings=settings))


ERRORS = pytest.mark.parametrize("error", [KubeRefused("403"), KubeUnavailable("500: a webhook")], ids=str)


@ERRORS
async def test_a_refused_delete_leaves_no_right_elsewhere(error: KubeError, monkeypatch: pytest.MonkeyPatch) -> None:
    kube = ApiServer(*map(stands, SPACES), error=error, fails="a")
    ctx = context(kube, monkeypatch, admits=False)
    ctx.memory.bound = {(MODEL, namespace) for namespace in SPACES}
    await bindings.sweep(ctx)
    assert set(kube.bodies) == {"a"}
    assert ctx.memory.bound == {(MODEL, "a")}


@ERRORS
async def test_a_refused_binding_keeps_no_other_from_being_made(
    error: KubeError, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = ApiServer(error=error, fails="a")
    ctx = context(kube, monkeypatch, admits=True)
    for namespace in SPACES:
        body = task_body(queued(), modelRef={"namespace": MODEL.namespace, "name": MODEL.name})
        body["metadata"] |= {"namespace": namespace, "uid": namespace}
        ctx.store.put_task(task_view(body))
    await bindings.sweep(ctx)
    assert set(kube.bodies) == {"b", "c"}


async def test_a_look_alike_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tenants = {**stands("a"), "roleRef": {"kind": "ClusterRole", "name": "view"}}
    kube = ApiServer(tenants, stands("b"), error=KubeRefused("403"), fails="")
    await bindings.sweep(context(kube, monkeypatch, admits=False))
    assert kube.bodies == {"a": tenants}
