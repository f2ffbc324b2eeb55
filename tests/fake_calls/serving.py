"""The facade's application on a real server at loopback, with the fake service behind it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn

from headrace_facade.app import create_app
from headrace_facade.context import Context
from headrace_facade.middleware import App
from headrace_facade.sockets.protocol import OPTIONS, SocketProtocol
from tests.fake_calls.service import FakeContext


def application(context: FakeContext) -> App:
    return create_app(cast("Context", context))


@asynccontextmanager
async def served(context: FakeContext) -> AsyncIterator[str]:
    """Gives the base address, without a path. As the facade itself serves: see headrace_facade.main."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        cast("Any", application(context)),
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        http="h11",
        timeout_graceful_shutdown=1,
        ws=SocketProtocol,
        **OPTIONS,
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listening.close()
