"""What the facade counts, and the port where Prometheus reads it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """Labels are bounded: the route's template, never a path; of the methods those that exist."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("headrace_facade_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "headrace_facade_request_duration_seconds",
            "From the request's first byte to the answer's last.",
            ("method", "route"),
            registry=self.registry,
        )
        self.active = Gauge("headrace_facade_active_requests", "Requests being answered.", registry=self.registry)
        self.sockets = Gauge(
            "headrace_facade_sockets", "WebSockets that are open or being opened.", registry=self.registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "OTHER"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


@asynccontextmanager
async def published(metrics: Metrics, host: str, port: int) -> AsyncIterator[None]:
    """Serves /metrics on a port of its own; 0 does nothing."""
    if port == 0:
        yield
        return

    async def expose(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.router.add_get("/metrics", expose)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()
