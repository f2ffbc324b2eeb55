"""/healthz, /readyz and /metrics."""

from aiohttp import web

from headrace_operator.context import Context


def application(ctx: Context) -> web.Application:
    """Three routes; no decisions."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        found = problems(ctx)
        text = "".join(f"{problem}\n" for problem in found) or "ok\n"
        return web.Response(text=text, status=503 if found else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=ctx.metrics.exposition(), content_type="text/plain", charset="utf-8")

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app


def problems(ctx: Context) -> list[str]:
    """What keeps the operator from its work, in words; a replica that waits to lead has none."""
    found = []
    if not ctx.health.watching:
        found.append("the API server is not watched")
    if ctx.health.redis_problem:
        found.append(ctx.health.redis_problem)
    return found


async def serve(ctx: Context) -> web.AppRunner:
    """Starts the server; the caller cleans the runner up."""
    runner = web.AppRunner(application(ctx), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", ctx.settings.http_port).start()  # noqa: S104  the kubelet probes the pod's IP
    return runner
