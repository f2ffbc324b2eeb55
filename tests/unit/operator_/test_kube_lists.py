"""A list is asked for in pages, namespace by namespace, and comes out as one."""

from typing import Any

import pytest
from kubernetes.aio.client import Configuration

from headrace_operator.kube import TASKS, Kube

PAGES = {("ns-a", ""): (["a1", "a2"], "more"), ("ns-a", "more"): (["a3"], ""), ("ns-b", ""): ([], "")}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    requests: list[tuple[str, dict[str, str]]] = []

    async def answered(_: Kube, __: str, path: str, *, query: dict[str, str], accept: str) -> dict[str, Any]:
        requests.append((accept, dict(query)))
        namespace = "" if "namespaces" not in path else path.split("/")[5]
        names, cursor = PAGES.get((namespace, query.get("continue", "")), (["everywhere"], ""))
        return {"items": [{"metadata": {"name": name}} for name in names], "metadata": {"continue": cursor}}

    monkeypatch.setattr(Kube, "_request", answered)
    return requests


async def names(*namespaces: str, **options: Any) -> list[str]:
    listed = Kube(Configuration()).listed(TASKS, namespaces, limit=2, **options)
    return [item["metadata"]["name"] async for item in listed]


async def test_pages_of_every_namespace_in_turn(asked: list[tuple[str, dict[str, str]]]) -> None:
    assert await names("ns-a", "ns-b") == ["a1", "a2", "a3"]
    assert [query.get("continue") for _, query in asked] == [None, "more", None]
    assert {query["limit"] for _, query in asked} == {"2"}


async def test_none_named_is_all(asked: list[tuple[str, dict[str, str]]]) -> None:
    assert await names() == ["everywhere"]
    assert len(asked) == 1


@pytest.mark.parametrize(("whole", "accept"), [(True, False), (False, True)])
async def test_metadata_alone_unless_the_whole_is_asked_for(
    asked: list[tuple[str, dict[str, str]]], whole: bool, accept: bool
) -> None:
    await names("ns-b", whole=whole, labels="a=b")
    assert [("PartialObjectMetadataList" in kind, query["labelSelector"]) for kind, query in asked] == [(accept, "a=b")]
