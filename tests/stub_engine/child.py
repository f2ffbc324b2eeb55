"""The stub engine's child: speaks the engine's protocol on its socket and generates nothing but time.

It reads requests as strictly as the real one, since it reads them with the same code.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import sys
from dataclasses import replace
from typing import Final

from headrace_runner.engine.failures import RECYCLED_EXIT, REPORT_FD_VARIABLE, Reporter, plain_kernels_note
from headrace_runner.engine.frames import ProtocolError, encode_frame, read_frame
from headrace_runner.engine.protocol import (
    Abort,
    Event,
    Failure,
    Generate,
    GenerationResult,
    Hello,
    Progress,
    Reason,
    Refusal,
    Timings,
    Usage,
)
from headrace_runner.engine.requests import decode_request
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.state import EngineModel, Stage
from tests.stub_engine.script import Execution, Journal, Script

PROGRESS_SECONDS: Final = 0.5
CRASH_EXIT: Final = 70
_PR_SET_PDEATHSIG: Final = 1
_NUMBERS: Final = itertools.count(1)


class StubEngine:
    """Accepts connections until it is told to stop."""

    def __init__(self, settings: EngineSettings) -> None:
        self.default = Script.from_environment(os.environ)
        self.journal = Journal(os.environ)
        notes = (plain_kernels_note(settings.plain_kernels_because),) if settings.plain_kernels_because else ()
        self.model = EngineModel("stub", settings.context_tokens, settings.parallelism, "none", 1, 1, notes=notes)
        self.leaves = False
        self.connections: set[Connection] = set()

    def leave_if_idle(self) -> None:
        if self.leaves and not any(connection.busy for connection in self.connections):
            for connection in self.connections:
                connection.say_goodbye()
            # After what is written has been: as soon as the event loop is back.
            asyncio.get_running_loop().call_soon(os._exit, RECYCLED_EXIT)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self, writer)
        self.connections.add(connection)
        connection.send(Hello(self.model))
        try:
            while (body := await read_frame(reader)) is not None:
                try:
                    request = decode_request(body)
                except Refusal as refusal:
                    connection.send(Failure(str(body["id"]), refusal.reason, refusal.message, refusal.retryable))
                    continue
                if isinstance(request, Abort):
                    connection.abort(request.id)
                else:
                    connection.begin(request)
        except ProtocolError as error:
            connection.send(Failure("", Reason.PROTOCOL_ERROR, str(error)))
        except OSError:
            pass  # the runner died
        finally:
            connection.end()
            self.connections.discard(connection)
            writer.close()


class Connection:
    """One runner's connection: its generations end with it."""

    def __init__(self, engine: StubEngine, writer: asyncio.StreamWriter) -> None:
        self._engine = engine
        self._writer = writer
        self._running: dict[str, tuple[asyncio.Task[None], Execution, Script]] = {}

    @property
    def busy(self) -> bool:
        return bool(self._running)

    def say_goodbye(self) -> None:
        self.send(Failure("", Reason.ENGINE_STOPPING, "as a task asked", retryable=True))

    def send(self, event: Event) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode_frame(event.to_json()))

    def begin(self, request: Generate) -> None:
        if request.id in self._running:
            raise ProtocolError(f"the id {request.id!r} is in use on this connection")
        if self._engine.leaves:
            self.send(Failure(request.id, Reason.ENGINE_STOPPING, "as a task asked", retryable=True))
            return
        content = request.messages[-1].content if request.messages else request.prompt or ""
        try:
            script = Script.of(content, self._engine.default)
        except (ValueError, TypeError) as error:
            self.send(Failure(request.id, Reason.INVALID_PARAMETERS, str(error)))
            return
        execution = Execution.of(request.id, next(_NUMBERS))
        self._engine.journal.write("start", execution)
        task = asyncio.create_task(self._generate(request.id, execution, script))
        self._running[request.id] = task, execution, script

    def abort(self, request_id: str) -> None:
        if (running := self._running.pop(request_id, None)) is not None:
            task, execution, script = running
            task.cancel()
            self._engine.journal.write("abort", execution)
            # The text says whose it is; the real engine gives what it has of it.
            self.send(replace(self._result(request_id, execution, script), finish_reason="Cancelled"))

    def end(self) -> None:
        for request_id in tuple(self._running):
            self.abort(request_id)

    async def _generate(self, request_id: str, execution: Execution, script: Script) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while (left := began + script.ms / 1000 - loop.time()) > 0:
            await asyncio.sleep(min(left, PROGRESS_SECONDS))
            done = min(1.0, (loop.time() - began) * 1000 / script.ms)
            self.send(Progress(request_id, int(script.tokens * done)))
        if script.ending == "crash":
            os._exit(CRASH_EXIT)
        del self._running[request_id]
        # Written before it is sent: a result that somebody has is a result in the file.
        if script.ending in ("text", "leave"):
            self._engine.journal.write("end", execution)
            self.send(self._result(request_id, execution, script))
            self._engine.leaves |= script.ending == "leave"
        else:
            self._engine.journal.write("fail", execution)
            retryable = script.ending == "fail"
            self.send(Failure(request_id, Reason.DECODE_FAILED, "as the task asked", retryable=retryable))
        self._engine.leave_if_idle()

    def _result(self, request_id: str, execution: Execution, script: Script) -> GenerationResult:
        return GenerationResult(
            id=request_id,
            text=execution.text(script),
            finish_reason="Stop",
            usage=Usage(prompt_tokens=8, cached_tokens=0, completion_tokens=script.tokens),
            timings=Timings(queued_ms=0, first_token_ms=0, generation_ms=int(script.ms)),
        )


async def serve(settings: EngineSettings, reporter: Reporter) -> None:
    """Until the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine = StubEngine(settings)
    settings.socket_path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(engine.accept, path=str(settings.socket_path))
    reporter.serving(engine.model)
    await stop.wait()
    server.close()


def main() -> int:
    """Run the child until it is told to stop."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    reporter = Reporter(int(os.environ.pop(REPORT_FD_VARIABLE)))
    reporter.stage(Stage.LOADING)
    settings = EngineSettings.from_environment(os.environ)
    if os.environ.get("STUB_ENGINE_FAULT") == "always" or (
        os.environ.get("STUB_ENGINE_FAULT") == "kernels" and not settings.plain_kernels_because
    ):
        # As at a warm-up with instructions that this CPU has not.
        os.kill(os.getpid(), signal.SIGILL)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(serve(settings, reporter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
