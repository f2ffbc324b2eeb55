"""Asks the engine for one generation, and has it aborted there when the attempt is to end early."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol

from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.cut import Cut
from headrace_runner.engine.client import EngineError
from headrace_runner.engine.embedding_request import Embed
from headrace_runner.engine.protocol import Generate, GenerationResult

ANSWER_SECONDS: Final = 5.0
"""So long the engine may take to answer an abort: a long step, or it is dead. The operator waits for ten."""


class Engine(Protocol):
    """What generates: an EngineClient."""

    async def generate(
        self, request: Generate | Embed, *, on_progress: Callable[[int], None] | None = None
    ) -> GenerationResult: ...

    async def abort(self, generation_id: str) -> None: ...


async def generate(
    attempt: Attempt, engine: Engine, request: Generate | Embed, curb: Curb, on_progress: Callable[[int], None]
) -> GenerationResult | Cut:
    """The generation, or what was cut off of it. One that had ended when the abort arrived is whole.

    Raises EngineError and ProtocolError. Cancelling it aborts the generation and gives nothing.
    """
    if (why := curb.why(attempt)) is not None:
        return Cut(why)
    seen_tokens = 0

    def progress(tokens: int) -> None:
        nonlocal seen_tokens
        seen_tokens = tokens
        on_progress(tokens)

    asking = asyncio.create_task(engine.generate(request, on_progress=progress), name="generation")
    try:
        why = await curb.first(attempt, asking)
        if why is None:
            return asking.result()
        partial = await _aborted(engine, request.id, asking)
        if partial is not None and partial.finish_reason != "Cancelled":
            return partial
        # A stronger reason may have come up meanwhile.
        return Cut(curb.why(attempt) or why, partial, seen_tokens)
    finally:
        if not asking.done():
            asking.cancel()
            await asyncio.wait({asking})


async def _aborted(
    engine: Engine, generation_id: str, asking: asyncio.Task[GenerationResult]
) -> GenerationResult | None:
    """What the engine still says; None where it says nothing."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            await engine.abort(generation_id)
            await asyncio.wait({asking})
    if not asking.done():
        return None
    with contextlib.suppress(EngineError):
        return asking.result()
    return None
