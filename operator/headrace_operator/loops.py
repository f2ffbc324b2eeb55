"""What repeats until it is cancelled, and whose failure stays whose."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from headrace_bus import BusError, BusUnavailable
from headrace_crds.reasons import Reason
from headrace_operator import announce
from headrace_operator.context import Context
from headrace_operator.decide.plans import Announcement
from headrace_operator.refs import ModelRef

_log = structlog.get_logger()


async def every(seconds: float, what: str, once: Callable[[], Awaitable[None]]) -> None:
    """Again and again; what the bus refuses is logged once per kind until it works again."""
    problem = ""
    while True:
        try:
            await once()
            problem = ""
        except BusError as error:
            if error.reason != problem:
                _log.warning("loop is held up", loop=what, reason=error.reason, error=str(error))
            problem = error.reason
        await asyncio.sleep(seconds)


@asynccontextmanager
async def contained(ref: ModelRef, what: str, ctx: Context) -> AsyncIterator[None]:
    """Ends the look at one model, not at those after it: its runners' credentials suffice to write nonsense into its
    keys. Raises what says that Redis itself is away or full: not a connection that ends whenever this model is read,
    while Redis answers. Told once per kind and model, until a look succeeds.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BusError) and error.retryable:
            if not isinstance(error, BusUnavailable) or not await _answers(ctx):
                raise
            # Once may be chance; whatever it was, the next model can be read.
            if (ref, what) not in ctx.memory.unanswered:
                ctx.memory.unanswered.add((ref, what))
                return
        ctx.metrics.model_failures.labels(what).inc()
        kind = error.reason if isinstance(error, BusError) else type(error).__name__
        if (what, kind) in ctx.memory.complaints.setdefault(ref, set()):
            return
        ctx.memory.complaints[ref].add((what, kind))
        # The text quotes what a stranger wrote: it stays in the log.
        _log.error("what Redis holds for a model is not understood", model=str(ref), look=what, error=repr(error)[:500])
        model = ctx.store.model(ref)
        if model is not None:
            note = f"what Redis holds for this model is not understood ({what}: {kind}); other models are not affected"
            await announce.publish(
                "LLMModel", model.metadata, Announcement("Warning", Reason.QUEUE_UNREADABLE, note), ctx
            )
    else:
        ctx.memory.unanswered.discard((ref, what))
        complaints = ctx.memory.complaints.get(ref)
        if complaints:
            ctx.memory.complaints[ref] = {(where, kind) for where, kind in complaints if where != what}


async def _answers(ctx: Context) -> bool:
    try:
        await ctx.bus.server_time_ms()
    except BusError:
        return False
    return True
