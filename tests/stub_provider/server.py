"""`python -P -m tests.stub_provider.server`: an API like OpenAI's on loopback that generates nothing but time.

What a task asks of it is in its prompt, and what it writes down is in the file of the stub engines: see
`stub_engine.script`. It behaves as the file says that STUB_PROVIDER_BEHAVIOUR names; STUB_PROVIDER_PORT is its port.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tests.stub_engine.script import Execution, Journal, Script
from tests.stub_provider.behaviour import Behaviour
from tests.stub_provider.telling import HEADER, POD_HEADER

BEAT_SECONDS: Final = 0.25
REFUSALS: Final = {"limited": 429, "unavailable": 503, "overloaded": 529}
HUNG_UP: Final = (asyncio.CancelledError, ConnectionError)
"""What a handler gets when whoever asked is gone."""
_NUMBERS: Final = itertools.count(1)


class Provider:
    def __init__(self, behaviour: Path, journal: Journal) -> None:
        self._behaviour = behaviour
        self._journal = journal
        self._last = Behaviour()
        self._left = 0

    def _present(self) -> Behaviour:
        """Of this chat."""
        behaviour = Behaviour.read(self._behaviour)
        if behaviour != self._last:
            self._last, self._left = behaviour, behaviour.times
        if not behaviour.times:
            return behaviour
        self._left -= 1
        return behaviour if self._left >= 0 else replace(behaviour, mode="answer")

    async def models(self, request: web.Request) -> web.StreamResponse:
        """What a look at its health asks; such a look is no generation and is not written down."""
        behaviour = Behaviour.read(self._behaviour)
        if not _is_good(request, behaviour):
            return _error(401, "Incorrect API key provided.")
        return web.json_response({"object": "list", "data": []})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body, behaviour = await request.json(), self._present()
        if not _is_good(request, behaviour):
            self._journal.refused(401)
            return _error(401, "Incorrect API key provided.")
        if (status := REFUSALS.get(behaviour.mode)) is not None:
            self._journal.refused(status)
            return _error(status, "Slow down.", {"Retry-After": str(behaviour.retry_after_seconds)})
        script = Script.of(body["messages"][-1]["content"], Script())
        execution = Execution.of(request.headers[HEADER], next(_NUMBERS))

        def write(event: str) -> None:
            self._journal.write(event, execution, pod=request.headers[POD_HEADER])

        write("start")
        try:
            return await _generate(request, behaviour, script, execution.text(script), write)
        except HUNG_UP:
            write("abort")
            raise


async def _generate(
    request: web.Request, behaviour: Behaviour, script: Script, text: str, write: Callable[[str], None]
) -> web.StreamResponse:
    loop = asyncio.get_running_loop()
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(_event(_chunk({"role": "assistant", "content": text})))
    if behaviour.mode == "stall":
        await asyncio.Event().wait()
    ends = loop.time() + script.ms / 1000 * (0.5 if behaviour.mode in ("cut", "garbage") else 1.0)
    while (left := ends - loop.time()) > 0:
        await asyncio.sleep(min(left, BEAT_SECONDS))
        await response.write(_event(_chunk({"content": ""})))
    if behaviour.mode in ("cut", "garbage"):
        write("fail")
        with contextlib.suppress(*HUNG_UP):
            if behaviour.mode == "garbage":
                await response.write(b"data: {]\n\n")
            if request.transport is not None:
                request.transport.close()
        return response
    # Written before it is sent: a result that somebody has is a result in the file.
    write("end")
    usage = {"prompt_tokens": 8, "completion_tokens": script.tokens, "total_tokens": 8 + script.tokens}
    last = [_chunk({}, finish="stop"), {"object": "chat.completion.chunk", "choices": [], "usage": usage}]
    with contextlib.suppress(*HUNG_UP):
        await response.write(b"".join(map(_event, last)) + b"data: [DONE]\n\n")
        await response.write_eof()
    return response


def _is_good(request: web.Request, behaviour: Behaviour) -> bool:
    return not behaviour.key or request.headers.get("Authorization") == f"Bearer {behaviour.key}"


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "stub"}}, status=status, headers=headers)


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-stub",
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def application(behaviour: Path, journal: Journal) -> web.Application:
    provider, made = Provider(behaviour, journal), web.Application()
    made.router.add_post("/v1/chat/completions", provider.chat)
    made.router.add_get("/v1/models", provider.models)
    return made


def main() -> None:
    """Until SIGTERM or SIGINT."""
    web.run_app(
        application(Path(os.environ["STUB_PROVIDER_BEHAVIOUR"]), Journal(os.environ)),
        host="127.0.0.1",
        port=int(os.environ["STUB_PROVIDER_PORT"]),
        handler_cancellation=True,
        print=lambda _: print("provider listens", flush=True),
        access_log=None,
    )


if __name__ == "__main__":
    main()
