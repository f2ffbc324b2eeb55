"""`headrace-facade`: serves until it is told to stop."""

import asyncio
import logging
import os
import signal
import socket
import sys

import structlog
import uvicorn

from headrace_bus.tracing import opened
from headrace_facade.app import create_app
from headrace_facade.context import open_context
from headrace_facade.metrics import published
from headrace_facade.settings import Settings
from headrace_facade.sockets.protocol import OPTIONS, SocketProtocol


def configure_logging() -> None:
    """JSON lines on standard output, the libraries' warnings included."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer(), foreign_pre_chain=shared)
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT; requests under way are finished first."""
    async with (
        opened(os.environ, "headrace-facade", socket.gethostname()) as tracing,
        open_context(settings, tracing) as context,
        published(context.metrics, settings.host, settings.metrics_port),
    ):
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(context),
                host=settings.host,
                port=settings.port,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=20,
                # It bounds the size of headers; httptools, which would be taken where it is installed, does not.
                http="h11",
                limit_concurrency=settings.connections_limit,
                ws=SocketProtocol,
                **OPTIONS,
            )
        )
        # When it is done uvicorn raises the signal that ended it once more; that must not end us before our clients.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
        structlog.get_logger("headrace_facade").info("serving", port=settings.port, metrics_port=settings.metrics_port)
        await server.serve()


def main() -> None:
    configure_logging()
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        sys.exit(f"headrace-facade: {error}")
    asyncio.run(serve(settings))
