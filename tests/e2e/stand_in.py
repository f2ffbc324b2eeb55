"""Stands in for OpenAI's API in a pod of its own, on port 8000: two keys, and it says which of them it was asked with.

Run from a ConfigMap by the runner image's Python, it imports nothing of this project.
"""

import json

from aiohttp import web

KEYS = {"sk-e2e-one": "one", "sk-e2e-two": "two"}
USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}


def _which(request: web.Request) -> str | None:
    return KEYS.get(request.headers.get("Authorization", "").removeprefix("Bearer "))


def _refused() -> web.Response:
    error = {"message": "Incorrect API key provided", "type": "invalid_request_error", "code": "invalid_api_key"}
    return web.json_response({"error": error}, status=401)


async def chat(request: web.Request) -> web.StreamResponse:
    """A document where one is asked for, else a text, as the API streams them."""
    if (which := _which(request)) is None:
        return _refused()
    body = await request.json()
    text = json.dumps({"key": which}) if "response_format" in body else f"asked with key {which}"
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    choices = [
        {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    for chunk in (*({"choices": [each]} for each in choices), {"choices": [], "usage": USAGE}):
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": body["model"]}
        await response.write(f"data: {json.dumps({**head, **chunk})}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response


async def model(request: web.Request) -> web.Response:
    """What a health check asks for."""
    if _which(request) is None:
        return _refused()
    return web.json_response({"id": request.match_info["name"], "object": "model", "created": 0, "owned_by": "e2e"})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models/{name}", model)
    web.run_app(app, port=8000, print=None)
