"""The documents are true: samples are requests and answers, and what migration.md calls there is there."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import WebSocketRoute

from headrace_crds import LLMTask
from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.errors import FacadeError
from headrace_facade.routes import sockets
from headrace_facade.schema import CreateTask, Why
from headrace_facade.settings import Settings
from headrace_facade.submission import manifest

DOCS = Path(__file__).parents[3] / "docs"
FACADE = (DOCS / "facade.md").read_text(encoding="utf-8")
MIGRATION = (DOCS / "migration.md").read_text(encoding="utf-8")


def samples(kind: str) -> list[str]:
    found = re.findall(rf"^```json{kind}\n(.*?)^```", FACADE, re.DOTALL | re.MULTILINE)
    assert found
    return found


@pytest.mark.parametrize("sample", samples(""))
def test_a_sample_request_is_one(sample: str) -> None:
    LLMTask.model_validate(manifest(CreateTask.model_validate_json(sample)))


@pytest.mark.parametrize("sample", samples(" why"))
def test_a_sample_of_why_is_one(sample: str) -> None:
    assert json.loads(Why.model_validate_json(sample).model_dump_json()) == json.loads(sample)


def test_every_field_of_a_request_is_explained() -> None:
    missing = [name for name in CreateTask.model_fields if f"`{name}" not in FACADE]
    assert missing == []


def test_every_error_code_of_the_documents_exists() -> None:
    def codes(error: type[FacadeError]) -> set[str]:
        return {error.code}.union(*map(codes, error.__subclasses__()))

    told = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+|THROTTLED|UNAVAILABLE)`", FACADE))
    assert told <= codes(FacadeError)
    assert len(told) >= 5


@pytest.fixture
async def calls() -> AsyncIterator[set[str]]:
    async with open_context(Settings(kube_url="http://127.0.0.1:1", kube_ca_file=None)) as context:
        transport = httpx.ASGITransport(create_app(context))
        async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
            document = (await http.get("/openapi.json")).json()
        found = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
        # OpenAPI has no words for WebSockets; tests/contract/facade_/test_sockets.py opens them.
        yield found | {f"WS {route.path}" for route in sockets.router.routes if isinstance(route, WebSocketRoute)}


async def test_a_call_that_migration_calls_kept_is_there_and_the_others_are_not(calls: set[str]) -> None:
    rows = re.findall(r"^\| `((?:GET|POST|DELETE|WS) [^`]+)` \| (kept|mapped|not yet) \|", MIGRATION, re.MULTILINE)
    assert len(rows) > 15
    assert {call for call, state in rows if state == "kept"} <= calls
    assert {call for call, state in rows if state != "kept"} & calls == set()


def test_a_field_that_migration_calls_kept_is_there_and_the_others_are_not() -> None:
    section = MIGRATION.split("### Request fields")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+?) \| (kept|not yet) \|", section, re.MULTILINE)
    known = set(CreateTask.model_fields) | {"temperature", "max_tokens", "top_p", "stop", "seed"}
    assert len(rows) >= 6
    for names, state in rows:
        for name in re.findall(r"`([a-z_]+)`", names):
            assert (name in known) is (state == "kept"), name
