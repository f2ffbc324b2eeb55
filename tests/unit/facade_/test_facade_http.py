"""What surrounds the routes, without an API server: errors, headers, limits, what is logged."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import structlog

from headrace_facade.app import create_app
from headrace_facade.context import Context, open_context
from headrace_facade.settings import Settings

# Nothing listens there.
SETTINGS = Settings(kube_url="http://127.0.0.1:1", kube_ca_file=None, body_limit_bytes=4096, bodies_limit_bytes=6000)
TOKEN = {"Authorization": "Bearer secret.to.nobody"}


@pytest.fixture
async def context() -> AsyncIterator[Context]:
    async with open_context(SETTINGS) as context:
        yield context


@pytest.fixture
async def http(context: Context) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade", headers=TOKEN) as http:
        yield http


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body, after checking the shape that every error has."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert set(body) == {"error_code", "message", "trace_id", "details"}
    assert body["error_code"] == code
    assert body["message"]
    assert body["trace_id"] == answer.headers["X-Trace-Id"]
    return body


def fields(body: dict[str, Any]) -> dict[str, str]:
    return {f["field"]: f["message"] for f in body["details"]["fields"]}


async def test_an_api_server_that_is_away_is_a_503_with_retry_after(http: httpx.AsyncClient) -> None:
    requests = [
        http.post("/api/v1/tasks", json={"model": "m", "prompt": "p"}),
        http.get("/api/v1/tasks"),
        http.get("/api/v1/tasks/ns.name"),
        http.get("/readyz"),
    ]
    for answer in await asyncio.gather(*requests):
        body = problem(answer, 503, "UNAVAILABLE")
        assert "cannot be reached" in body["message"]
        assert int(answer.headers["Retry-After"]) == body["details"]["retry_after_seconds"] > 0
    assert (await http.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize("value", [None, "Basic abc", "Bearer", "Bearer ", "Bearer a b", "Bearer ä", "Bearer x;y"])
async def test_without_a_bearer_token_nothing_is_asked(http: httpx.AsyncClient, value: str | None) -> None:
    http.headers.pop("Authorization")
    headers = {} if value is None else {"Authorization": value.encode()}
    answer = await http.get("/api/v1/tasks", headers=headers)
    problem(answer, 401, "UNAUTHENTICATED")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"prompt": "p"}, {"model": "Field required"}),
        ({"model": "m", "promt": "p"}, {"promt": "no such field: see /openapi.json"}),
        ({"model": "m", "parameters": {"topp": 1}}, {"parameters.topp": "no such field: see /openapi.json"}),
        ({"model": "m", "parameters": {"temperature": "0.7"}}, {"parameters.temperature": "valid number"}),
        ({"model": "m", "parameters": {"temperature": True}}, {"parameters.temperature": "valid number"}),
        ({"model": "m", "parameters": {"temperature": 2.1}}, {"parameters.temperature": "less than or equal to 2"}),
        ({"model": "m", "parameters": {"max_tokens": 1.5}}, {"parameters.max_tokens": "valid integer"}),
        ({"model": "m", "messages": [{"role": "bot", "content": "x"}]}, {"messages[0].role": "'user'"}),
        ({"model": "m", "json_schema": 3}, {"json_schema": "valid string, or: Input should be a valid dictionary"}),
        (
            {"model": "m", "parameters": {"stop": [1]}},
            {"parameters.stop": "valid string", "parameters.stop[0]": "string"},
        ),
        ({"model": "m", "namespace": "../x"}, {"namespace": "pattern"}),
        ([], {"": "JSON object"}),
    ],
)
async def test_what_cannot_be_read_is_told_field_by_field(
    http: httpx.AsyncClient, body: Any, told: dict[str, str]
) -> None:
    answer = problem(await http.post("/api/v1/tasks", json=body), 422, "VALIDATION_FAILED")
    found = fields(answer)
    assert set(found) == set(told)
    for field, words in told.items():
        assert words in found[field]


@pytest.mark.parametrize("field", ["prompt", "model", "name", "json_schema"])
async def test_half_a_character_is_refused_by_name(http: httpx.AsyncClient, field: str) -> None:
    text = json.dumps({"model": "m", "prompt": "p", field: "\ud800"})
    answer = await http.post("/api/v1/tasks", content=text, headers={"Content-Type": "application/json"})
    assert "surrogate" in fields(problem(answer, 422, "VALIDATION_FAILED"))[field]


@pytest.mark.parametrize(
    "text", ['{"model":', "\xff", '{"model": "m", "parameters": {"temperature": NaN}}', "[" * 4000]
)
async def test_a_body_that_is_no_json(http: httpx.AsyncClient, text: str) -> None:
    answer = await http.post(
        "/api/v1/tasks", content=text.encode("latin-1"), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    problem(answer, answer.status_code, "BAD_REQUEST" if answer.status_code == 400 else "VALIDATION_FAILED")


@pytest.mark.parametrize("declared", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonl"])
async def test_a_body_that_is_not_declared_as_json(http: httpx.AsyncClient, declared: str | None) -> None:
    headers = {} if declared is None else {"Content-Type": declared}
    answer = await http.post("/api/v1/tasks", content=b'{"model": "m", "prompt": "p"}', headers=headers)
    assert "application/json" in problem(answer, 415, "CONTENT_TYPE_NOT_JSON")["message"]


async def test_no_body_at_all(http: httpx.AsyncClient) -> None:
    body = problem(await http.post("/api/v1/tasks"), 422, "VALIDATION_FAILED")
    assert "JSON object" in fields(body)[""]


async def test_a_large_body_is_refused_whether_it_says_so_or_not(http: httpx.AsyncClient) -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1000

    for content in (b"x" * 4097, in_pieces()):
        body = problem(await http.post("/api/v1/tasks", content=content), 413, "BODY_TOO_LARGE")
        assert "4096" in body["message"]


async def never() -> AsyncIterator[bytes]:
    """A body that must not be asked for."""
    raise AssertionError("the body was read")
    yield b""


async def test_without_a_token_no_body_is_read(http: httpx.AsyncClient) -> None:
    http.headers.pop("Authorization")
    problem(await http.post("/api/v1/tasks", content=never()), 401, "UNAUTHENTICATED")
    problem(await http.post("/healthz", content=never()), 405, "METHOD_NOT_ALLOWED")
    problem(await http.post("/elsewhere", content=never()), 404, "NOT_FOUND")


async def test_bodies_share_a_budget_and_give_it_back(http: httpx.AsyncClient, context: Context) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 4000
        begun.set()
        await go_on.wait()

    holder = asyncio.create_task(http.post("/api/v1/tasks", content=slow()))
    await begun.wait()
    assert context.bodies.held_bytes == 4000
    body = problem(await http.post("/api/v1/tasks", content=b"x" * 2001), 503, "UNAVAILABLE")
    assert "request bodies" in body["message"]
    assert body["details"]["retry_after_seconds"] > 0
    problem(await http.post("/api/v1/tasks", content=b"x" * 2000), 415, "CONTENT_TYPE_NOT_JSON")
    go_on.set()
    await holder
    assert context.bodies.held_bytes == 0


async def test_too_many_requests_are_refused_and_probes_are_not(context: Context) -> None:
    few = replace(context, settings=replace(SETTINGS, requests_limit=1))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        begun.set()
        await go_on.wait()
        yield b""

    transport = httpx.ASGITransport(create_app(few))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade", headers=TOKEN) as http:
        holder = asyncio.create_task(http.post("/api/v1/tasks", content=slow()))
        await begun.wait()
        answer = await http.get("/api/v1/tasks")
        assert "under way" in problem(answer, 503, "UNAVAILABLE")["message"]
        assert answer.headers["Retry-After"]
        assert (await http.get("/healthz")).status_code == 200
        go_on.set()
        await holder
        assert "cannot be reached" in problem(await http.get("/api/v1/tasks"), 503, "UNAVAILABLE")["message"]


async def test_paths_and_methods_that_do_not_exist(http: httpx.AsyncClient) -> None:
    problem(await http.get("/api/v1/nothing"), 404, "NOT_FOUND")
    problem(await http.get("/docs"), 404, "NOT_FOUND")
    problem(await http.delete("/api/v1/tasks"), 405, "METHOD_NOT_ALLOWED")
    for task_id in ("no-dot", "UPPER.case", "ns.%2e%2e", ".x", "ns."):
        problem(await http.get(f"/api/v1/tasks/{task_id}"), 404, "NOT_FOUND")
    problem(await http.get("/api/v1/tasks", params={"limit": 101}), 422, "VALIDATION_FAILED")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/tasks"),
        ("POST", "/api/v1/tasks"),
        ("GET", "/api/v1/tasks/ns.t"),
        ("DELETE", "/api/v1/tasks/ns.t"),
    ],
)
async def test_a_query_parameter_that_is_not_there_is_refused_by_name(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    body = {"model": "m", "prompt": "p"} if method == "POST" else None
    answer = await http.request(method, path, params={"namspace": "team-a"}, json=body)
    assert "no such query parameter" in fields(problem(answer, 422, "VALIDATION_FAILED"))["namspace"]


async def test_query_parameters_that_are_there_are_taken(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/tasks", params={"namespace": "team-a", "limit": 1, "continue": "x"})
    problem(answer, 503, "UNAVAILABLE")


async def test_two_idempotency_keys_are_none(http: httpx.AsyncClient) -> None:
    body = {"model": "m", "prompt": "p"}
    for keys in (("a", "b"), ("a", "a")):
        headers = [("Idempotency-Key", key) for key in keys]
        answer = await http.post("/api/v1/tasks", json=body, headers=headers)
        assert "send it once" in fields(problem(answer, 422, "VALIDATION_FAILED"))["Idempotency-Key"]
    problem(await http.post("/api/v1/tasks", json=body, headers={"Idempotency-Key": "a"}), 503, "UNAVAILABLE")


async def test_every_answer_has_a_trace_id_and_security_headers(http: httpx.AsyncClient) -> None:
    for answer in (
        await http.get("/healthz"),
        await http.get("/nothing"),
        await http.post("/healthz", content=b"x" * 5000),
    ):
        assert len(answer.headers["X-Trace-Id"]) == 32
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_neither_tokens_nor_prompts_are_logged(http: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        answer = await http.post("/api/v1/tasks", json={"model": "m", "prompt": "secret"})
        await http.post("/api/v1/tasks", json={"model": "m", "secret": 1})
        await http.get("/api/v1/tasks?continue=secret")
        await http.get("/api/v1/tasks?secret=secret")
    assert [entry["event"] for entry in logs] == ["request"] * 4
    assert logs[0]["trace_id"] == answer.headers["X-Trace-Id"]
    assert logs[0]["status"] == 503
    assert "secret" not in repr(logs)


async def test_a_defect_is_a_500_that_says_nothing_and_is_logged_without_its_text(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("".join(("per", "haps")))  # the stack shows the line

    monkeypatch.setattr(context.kube, "check_ready", broken)
    transport = httpx.ASGITransport(create_app(context))
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
        with structlog.testing.capture_logs() as logs:
            body = problem(await http.get("/readyz"), 500, "INTERNAL")
    assert "perhaps" not in body["message"]
    assert logs[0]["error"] == "RuntimeError"
    assert "broken" in logs[0]["stack"]
    assert "perhaps" not in repr(logs)


async def test_requests_are_counted_by_route_and_not_by_path(http: httpx.AsyncClient, context: Context) -> None:
    await http.get("/api/v1/tasks/ns.some-name")
    await http.get("/wp-login.php")
    await http.request("BREW", "/api/v1/tasks")
    await http.request("PROPFIND", "/api/v1/tasks")
    text = context.metrics.exposition().decode()
    assert 'headrace_facade_requests_total{method="GET",route="/api/v1/tasks/{task_id}",status="503"} 1.0' in text
    assert 'route="unmatched"' in text
    assert "some-name" not in text
    assert 'method="OTHER",route="/api/v1/tasks",status="405"} 2.0' in text
    assert "BREW" not in text
    assert "wp-login" not in text
    assert "headrace_facade_active_requests 0.0" in text


async def test_openapi_describes_everything(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    task = "/api/v1/tasks/{task_id}"
    ways = {f"{task}/{verb}" for verb in ("cancel", "suspend", "resume", "why", "report", "events")}
    calls = {f"/api/v1/{each}" for each in ("generate", "generate/stream", "embeddings", "similarity")}
    calls |= {
        f"/api/v1/{each}" for each in ("generate/stream/{stream}", "sessions", "sessions/{session_id}", "tickets")
    }
    models = {f"/api/v1/models{each}" for each in ("", "/status", "/load", "/unload")}
    models |= {f"/api/v1/models/{{model}}/{each}" for each in ("status", "load", "unload")}
    monitor = {f"/api/v1/monitor/{each}" for each in ("status", "queue", "logs")}
    assert set(document["paths"]) == {"/api/v1/tasks", task, *ways, *calls, *models, *monitor, "/healthz", "/readyz"}
    schemas = document["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    for name, schema in schemas.items():
        for member, described in schema.get("properties", {}).items():
            assert described.get("description"), f"{name}.{member}"
    create = document["paths"]["/api/v1/tasks"]["post"]
    told = {"200", "202", "401", "403", "404", "409", "413", "415", "422", "429", "503"}
    assert told == set(create["responses"])
    for status in told - {"200", "202"}:
        content = create["responses"][status]["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
    assert create["security"] == [{"HTTPBearer": []}]
    assert schemas["CreateTask"]["additionalProperties"] is False
    assert schemas["SamplingParameters"]["properties"]["temperature"]["anyOf"][0] == {
        "type": "number",
        "minimum": 0,
        "maximum": 2,
    }
