"""Judges documents against the task's own JSON Schema, in helper processes that may be killed.

Schema and pattern come from tenants: compiling or matching them may take for ever or eat memory. Neither may reach the
process that renews leases, so a helper gets a time limit and an address-space limit, and dies alone.
"""

import asyncio
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.validation_helper import HEADER_BYTES, LIMIT_VARIABLE

TIME_LIMIT_SECONDS: Final = 5
HELPERS: Final = 2
_START_LIMIT_SECONDS: Final = 10
_MESSAGE_CHARS: Final = 600


class Finding(StrEnum):
    VALID = "Valid"
    INVALID = "InvalidOutput"
    BAD_SCHEMA = "InvalidSchema"
    UNSUPPORTED = "UnsupportedSchema"

    @property
    def reason(self) -> Reason:
        return Reason(self.value)


@dataclass(frozen=True)
class Judgement:
    """``message`` says what is wrong and where, for the task's author; it may quote the document."""

    finding: Finding
    message: str = ""


class Validator:
    """Up to ``HELPERS`` warm helper processes. Use as ``async with Validator() as validator``."""

    def __init__(self, *, time_limit_seconds: int = TIME_LIMIT_SECONDS) -> None:
        self._time_limit_seconds = time_limit_seconds
        self._free = asyncio.Semaphore(HELPERS)
        self._idle: list[_Helper] = []

    async def check_schema(self, schema: str) -> Judgement:
        """Whether the schema (JSON text) can be used at all."""
        return await self._ask({"schema": schema})

    async def validate(self, schema: str, text: str) -> Judgement:
        """Whether ``text`` is a JSON document that the schema admits."""
        return await self._ask({"schema": schema, "text": text})

    async def aclose(self) -> None:
        """End the idle helpers; a busy one is ended by who waits for it."""
        for helper in self._idle:
            await helper.end()
        self._idle.clear()

    async def __aenter__(self) -> "Validator":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _ask(self, question: dict[str, Any]) -> Judgement:
        async with self._free:
            helper = self._idle.pop() if self._idle else await self._start()
            answered = False
            try:
                async with asyncio.timeout(self._time_limit_seconds):
                    reply = await helper.ask(json.dumps(question).encode())
                answered = True
            except (TimeoutError, asyncio.IncompleteReadError, OSError):
                return Judgement(Finding.UNSUPPORTED, self._given_up())
            finally:
                if answered:
                    self._idle.append(helper)
                else:
                    await helper.end()
        return Judgement(Finding(reply["finding"]), str(reply["message"])[:_MESSAGE_CHARS])

    async def _start(self) -> "_Helper":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "headrace_runner.validation_helper",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # No credentials and no addresses: it needs none.
            env={LIMIT_VARIABLE: str(self._time_limit_seconds + 1), "PYTHONPATH": _import_path()},
            # Ctrl-C in a terminal is the parent's to handle.
            start_new_session=True,
        )
        helper = _Helper(process)
        try:
            async with asyncio.timeout(_START_LIMIT_SECONDS):
                await helper.ask(b'{"schema": "true"}')
        except BaseException:
            await helper.end()
            raise
        return helper

    def _given_up(self) -> str:
        return (
            f"output.jsonSchema could not be judged within {self._time_limit_seconds} s and its memory bound: "
            "simplify its patterns and references"
        )


def _import_path() -> str:
    """Where this process found its modules: a checkout's need not be installed."""
    return os.pathsep.join(path for path in sys.path if path)


class _Helper:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a helper is talked to through pipes")
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    async def ask(self, question: bytes) -> dict[str, Any]:
        self._stdin.write(len(question).to_bytes(HEADER_BYTES, "big") + question)
        await self._stdin.drain()
        size = int.from_bytes(await self._stdout.readexactly(HEADER_BYTES), "big")
        reply: dict[str, Any] = json.loads(await self._stdout.readexactly(size))
        return reply

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await asyncio.shield(self._process.wait())
