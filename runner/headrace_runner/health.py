"""``/healthz``, ``/readyz`` and ``/metrics`` on the pod's port."""

from collections.abc import Callable

from aiohttp import web

from headrace_runner.metrics import Metrics
from headrace_runner.slots import Slots


class HealthServer:
    """``not_ready`` gives None or the reason why the pod does not serve."""

    def __init__(self, port: int, metrics: Metrics, slots: Slots, not_ready: Callable[[], str | None]) -> None:
        self._metrics = metrics
        self._slots = slots
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
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        reason = self._not_ready()
        return web.Response(status=200 if reason is None else 503, text=f"{reason or 'ok'}\n")

    async def _expose(self, _request: web.Request) -> web.Response:
        self._metrics.generating.set(self._slots.generating)
        self._metrics.parked.set(self._slots.parked)
        return web.Response(body=self._metrics.expose(), content_type="text/plain", charset="utf-8")
