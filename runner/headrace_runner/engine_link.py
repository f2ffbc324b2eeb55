"""Keeps one connection to the engine and says in which state the model is."""

import asyncio
import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from headrace_crds.reasons import Reason
from headrace_runner.engine.client import EngineClient, EngineLost, EngineState, Stage, read_state

_LOOK_EVERY_SECONDS: Final = 0.2

_log = structlog.get_logger()


@dataclass(frozen=True)
class EngineFiles:
    """Where the supervisor tells its state and the engine listens."""

    socket: Path
    state: Path


class EngineLink:
    """Connects whenever the engine serves. Run ``keep`` as a task; ``serving`` is set while ``client`` is connected."""

    def __init__(self, files: EngineFiles) -> None:
        self._files = files
        self._client: EngineClient | None = None
        self._ever_connected = False
        self.serving = asyncio.Event()

    @property
    def client(self) -> EngineClient:
        """The connection. Raises EngineLost while there is none."""
        if self._client is None:
            raise EngineLost("the engine does not serve")
        return self._client

    def state(self) -> EngineState:
        """The supervisor's word, except that ``Serving`` is only said of an engine that answers."""
        try:
            told = read_state(self._files.state)
        except (OSError, ValueError) as error:
            return EngineState(Stage.STARTING, Reason.ENGINE_STATE_UNREADABLE, type(error).__name__)
        if told.state is not Stage.SERVING or self.serving.is_set():
            return told
        if not self._ever_connected:
            return replace(told, state=Stage.LOADING)
        message = "the engine does not answer on its socket"
        return replace(told, state=Stage.RESTARTING, reason=Reason.ENGINE_LOST.value, message=message)

    async def keep(self) -> None:
        """Connect, wait for the end of the connection, connect again; endless."""
        while True:
            try:
                client = await EngineClient.connect(self._files.socket)
            except EngineLost:
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
                continue
            self._client, self._ever_connected = client, True
            self.serving.set()
            _log.info("engine connected", architecture=client.info.architecture)
            try:
                await client.closed.wait()
                if client.goodbye is None:
                    _log.warning("engine lost")
                else:
                    _log.info("engine left", message=client.goodbye)
            finally:
                self.serving.clear()
                self._client = None
                with contextlib.suppress(OSError):
                    await client.aclose()
