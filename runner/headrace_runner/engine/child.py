"""The engine child: verifies, loads, serves. Started by the supervisor, which watches it and reads its reports.

Crash-only: whatever it cannot handle ends the process, and the supervisor starts another.
"""

import asyncio
import ctypes
import os
import signal
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from headrace_runner.engine.admission import admit, planned_bytes
from headrace_runner.engine.failures import (
    RECYCLED_EXIT,
    REFUSED_EXIT,
    REPORT_FD_VARIABLE,
    EngineRefusal,
    Reporter,
    plain_kernels_note,
)
from headrace_runner.engine.gpu import Telemetry, telemetry_path
from headrace_runner.engine.heartbeat import Heartbeat
from headrace_runner.engine.memory import compare
from headrace_runner.engine.recycling import anonymous_bytes, limit_bytes, recycle
from headrace_runner.engine.rendering import TemplateRenderer
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.state import EngineModel, Stage
from headrace_runner.engine.verification import VerifiedModel, verify

if TYPE_CHECKING:
    from headrace_runner.engine.dispatch import Dispatch
    from headrace_runner.engine.embedding import EmbeddingLoop
    from headrace_runner.engine.loop import DecodeLoop
    from headrace_runner.engine.model import LoadedModel
    from headrace_runner.engine.server import EngineServer

_PR_SET_PDEATHSIG: Final = 1
_CRASH_EXIT: Final = 70


def main() -> int:
    """Run the child until it is told to stop."""
    _die_with_parent()
    # The decode thread waits for the GIL after every step; 5 ms, the default, is as long as a step of a small model.
    sys.setswitchinterval(0.0005)
    reporter = Reporter(int(os.environ.pop(REPORT_FD_VARIABLE)))
    settings = EngineSettings.from_environment(os.environ)
    try:
        model, file, renderer = _load(settings, reporter)
        dispatch = _contexts(settings, reporter, model, file, renderer)
    except EngineRefusal as refusal:
        reporter.refusal(refusal)
        return REFUSED_EXIT
    exit_code = asyncio.run(_serve(settings, reporter, model, file, renderer, dispatch))
    renderer.close()
    sys.stderr.flush()
    # Straight out: llama.cpp's destructors have nothing to save and GPU libraries are slow and crash-prone at exit.
    os._exit(exit_code)


def _load(settings: EngineSettings, reporter: Reporter) -> tuple["LoadedModel", VerifiedModel, TemplateRenderer]:
    # The native libraries take longer to import than a small model to load; hashing leaves them a core.
    importing = threading.Thread(target=_import_native, name="import")
    importing.start()
    reporter.stage(Stage.VERIFYING)
    file = verify(settings, lambda percent: reporter.stage(Stage.VERIFYING, percent))
    admit(file, settings, os.environ)
    importing.join()
    reporter.stage(Stage.LOADING)
    from headrace_runner.engine.model import LoadedModel

    model = LoadedModel(
        file.load_paths, settings, lambda percent: reporter.stage(Stage.LOADING, percent), file.adapters
    )
    renderer = TemplateRenderer(file.header.chat_template, bos_token=model.bos_text, eos_token=model.eos_text)
    renderer.start()
    return model, file, renderer


async def _serve(
    settings: EngineSettings,
    reporter: Reporter,
    model: "LoadedModel",
    file: VerifiedModel,
    renderer: TemplateRenderer,
    dispatch: "Dispatch",
) -> int:
    from headrace_runner.engine.server import EngineServer

    engine = _describe(settings, model, file, renderer)
    executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prepare")
    server = EngineServer(engine, dispatch, executor)
    threads = [threading.Thread(target=_work, args=(loop,), name=type(loop).__name__) for loop in dispatch.loops]
    for thread in threads:
        thread.start()
    stops = _install_stops(server.drain)
    await server.listen(settings.socket_path)
    if settings.gpu_layers is not None:
        Telemetry(telemetry_path(settings.state_path), os.environ).start()
    reporter.serving(engine)
    warmed = executor.submit(dispatch.warm_up)
    ends = [asyncio.create_task(server.drained.wait()), asyncio.create_task(stops.wait())]
    recycling = asyncio.create_task(_recycle(settings, server, warmed))
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    recycling.cancel()
    dispatch.stop()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    # What the threads emitted last is still to be written.
    await asyncio.sleep(0)
    executor.shutdown(wait=False, cancel_futures=True)
    return RECYCLED_EXIT if server.said_goodbye else 0


async def _recycle(settings: EngineSettings, server: "EngineServer", warmed: Future[None]) -> None:
    limit = limit_bytes(settings.recycle_mib)
    if limit is None:
        return
    # What every engine takes is no growth.
    await asyncio.wait({asyncio.wrap_future(warmed)})
    try:
        await recycle(limit, anonymous_bytes, server.leave_when_idle, server.refuse_from_now_on)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"the engine's memory is not watched: {error}\n")


def _contexts(
    settings: EngineSettings,
    reporter: Reporter,
    model: "LoadedModel",
    file: VerifiedModel,
    renderer: TemplateRenderer,
) -> "Dispatch":
    """What the model is for, each in a context. Raises EngineRefusal."""
    from headrace_runner.engine.counting import Counter
    from headrace_runner.engine.dispatch import Dispatch
    from headrace_runner.engine.embedding import EmbeddingLoop
    from headrace_runner.engine.loop import DecodeLoop
    from headrace_runner.engine.preparation import Preparation

    decode_loop = preparation = embedding_loop = None
    if settings.generates:
        decode_loop = DecodeLoop(model, Heartbeat(reporter.beat))
        decode_loop.warm_up()
        preparation = Preparation(model, renderer)
    if settings.embeds:
        heartbeat = None if settings.generates else Heartbeat(reporter.beat)
        embedding_loop = EmbeddingLoop(model, file.header, settings, heartbeat)
    counter = Counter(model, None if preparation is None else preparation.prompts)
    return Dispatch(preparation, decode_loop, embedding_loop, counter)


def _describe(
    settings: EngineSettings, model: "LoadedModel", file: VerifiedModel, renderer: TemplateRenderer
) -> EngineModel:
    notes = []
    if renderer.is_fallback and settings.generates:
        notes.append("The GGUF has no chat template: messages are formatted as ChatML, prompts are completed raw.")
    if settings.plain_kernels_because:
        notes.append(plain_kernels_note(settings.plain_kernels_because))
    trained = file.header.context_length
    if trained and model.context_tokens > trained:
        notes.append(f"contextTokens {model.context_tokens} exceeds the {trained} the model was trained for.")
    planned, measured = planned_bytes(file, settings), model.buffer_bytes()
    notes.append(compare(planned, measured))
    if model.no_prefixes_because:
        notes.append(f"Prompts share no prefixes in the KV cache: {model.no_prefixes_because}.")
    return EngineModel(
        architecture=file.header.architecture,
        context_tokens=model.context_tokens,
        parallelism=model.parallelism,
        quantization=file.header.quantization,
        parameters=model.parameters,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        gpu_layers=model.gpu_layers,
        planned_bytes=planned,
        memory_bytes=measured,
        adapters=len(file.adapters),
        notes=tuple(notes),
    )


def _install_stops(drain: object) -> asyncio.Event:
    """Drain at the first SIGTERM or SIGINT, stop at the second."""
    stop = asyncio.Event()
    asked = False

    def ask() -> None:
        nonlocal asked
        if asked:
            stop.set()
        elif callable(drain):
            asked = True
            drain()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ask)
    return stop


def _work(loop: "DecodeLoop | EmbeddingLoop") -> None:
    try:
        loop.run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        # The other threads would go on accepting work that nobody does.
        os._exit(_CRASH_EXIT)


def _import_native() -> None:
    import headrace_runner.engine.loop
    import headrace_runner.engine.preparation  # noqa: F401


def _die_with_parent() -> None:
    # PID 1's death ends a container; under `headrace run` a killed parent must not leave a model in memory.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
