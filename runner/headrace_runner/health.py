"""``/healthz``, ``/readyz`` and ``/metrics`` on the pod's port."""

from collections.abc import Callable

from aiohttp import web

from headrace_runner.metrics import Metrics
from headrace_runner.slots import Slots


class HealthServer:
    """``alive`` says whether the process can go on; ``not_ready`` why the pod does not serve, None when it does."""

    def __init__(
        self,
        port: int,
        metrics: Metrics,
        slots: Slots,
        *,
        alive: Callable[[], bool],
        not_ready: Callable[[], str | None],
    ) -> None:
        self._metrics = metrics
        self._slots = slots
        self._alive = alive
        self._not_ready = not_ready
        self._port = port
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._expose)
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> None:
        """Listen on every address of the pod."""
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def aclose(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        alive = self._alive()
        return web.Response(status=200 if alive else 500, text="ok\n" if alive else "leases are not renewed\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(status=200 if reason is None else 503, text=f"{reason or 'ok'}\n")

    async def _expose(self, _request: web.Request) -> web.Response:
        self._metrics.generating.set(self._slots.generating)
        self._metrics.parked.set(self._slots.parked)
        return web.Response(body=self._metrics.expose(), content_type="text/plain", charset="utf-8")
