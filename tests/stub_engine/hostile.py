"""A child that a model file has taken over: it tries to get out, then sends its runner frames of 1 GiB."""

import asyncio
import ctypes
import json
import os
import signal
import struct
import sys
from dataclasses import asdict
from pathlib import Path

from headrace_runner.engine.failures import REPORT_FD_VARIABLE, Reporter
from headrace_runner.engine.frames import encode_frame
from headrace_runner.engine.settings import EngineSettings
from headrace_runner.engine.state import EngineModel
from tests.stub_engine.attempts import attempts


async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A greeting, so that the runner takes it for an engine, and then as much as it takes."""
    hello = {"type": "hello", "state": "Serving", "engine": asdict(EngineModel("hostile", 1, 1, "none", 1, 1))}
    writer.write(encode_frame(hello) + struct.pack(">I", 1 << 30))
    try:
        for _ in range(1 << 10):
            writer.write(b"x" * (1 << 20))
            await writer.drain()
    except OSError:
        pass
    writer.close()


async def serve(settings: EngineSettings, reporter: Reporter) -> None:
    server = await asyncio.start_unix_server(flood, path=str(settings.socket_path))
    reporter.serving(EngineModel("hostile", 1, 1, "none", 1, 1))
    async with server:
        await server.serve_forever()


def main() -> int:
    """Until it is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    reporter = Reporter(int(os.environ.pop(REPORT_FD_VARIABLE)))
    found = attempts(json.loads(os.environ["HOSTILE_TARGETS"]))
    Path(os.environ["HOSTILE_FOUND"]).write_text(json.dumps(found))
    asyncio.run(serve(EngineSettings.from_environment(os.environ), reporter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
