"""Judges results against the shape that the task asks for, in helper processes that may be killed.

Schema and pattern come from tenants: compiling or matching them may take for ever or eat memory. Neither may reach the
process that renews leases, so a helper gets limits of CPU time and address space, and dies alone.

| a helper                                  | fresh                | reused              |
|-------------------------------------------|----------------------|---------------------|
| used up its CPU time                      | UnsupportedSchema    | UnsupportedSchema   |
| used up its memory                        | UnsupportedSchema    | ask a fresh one     |
| ended or broke in any other way           | ValidationUnavailable| ask a fresh one     |
| is silent for very long, or does not start| ValidationUnavailable| ValidationUnavailable|
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headrace_crds.reasons import Reason
from headrace_runner.validation_helper import HEADER_BYTES, MEMORY_EXIT, MEMORY_LIMIT_BYTES, WALL_VARIABLE

CPU_SECONDS: Final = 5.0
WALL_SECONDS: Final = 60.0
"""A bound for the runner's sake. It says nothing about a schema: the node may be busy."""
HELPERS: Final = 2
_END_SECONDS: Final = 5.0
_MESSAGE_CHARS: Final = 600
_REPLY_BYTES: Final = 64 * 1024


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


class Share:
    """CPU time that several questions of one task have together: one after the other they must not keep the helpers
    from all other tasks."""

    def __init__(self, cpu_seconds: float) -> None:
        self.cpu_seconds = cpu_seconds
        self.left_seconds = cpu_seconds


class ValidationUnavailable(Exception):
    """Nothing is known about schema or document: the helpers broke. Another try may go better."""


class _TooMuch(Exception):
    """The question used up what a helper may use; the text says what."""


class _Memory(_TooMuch):
    pass


class _Broken(Exception):
    """The helper ended, and not for the question's sake."""


class Validator:
    """Up to ``HELPERS`` warm helper processes. Use as ``async with Validator() as validator``."""

    def __init__(self, *, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = WALL_SECONDS) -> None:
        self._cpu_seconds = cpu_seconds
        self.wall_seconds = wall_seconds
        self._free = asyncio.Semaphore(HELPERS)
        self._idle: list[_Helper] = []

    async def check_schema(self, schema: str, share: Share | None = None) -> Judgement:
        """Whether the schema (JSON text) can be used at all. Raises ValidationUnavailable."""
        return await self._ask({"schema": schema}, share)

    async def validate(self, schema: str, text: str, share: Share | None = None) -> Judgement:
        """Whether ``text`` is a JSON document that the schema admits. Raises ValidationUnavailable."""
        return await self._ask({"schema": schema, "text": text}, share)

    async def check_regex(self, regex: str) -> Judgement:
        """Whether the regular expression can be used at all. Raises ValidationUnavailable."""
        return await self._ask({"regex": regex}, None)

    async def match(self, regex: str, text: str) -> Judgement:
        """Whether the whole ``text`` matches. Raises ValidationUnavailable."""
        return await self._ask({"regex": regex, "text": text}, None)

    async def aclose(self) -> None:
        """End the idle helpers; a busy one is ended by who waits for it."""
        for helper in self._idle:
            await helper.end()
        self._idle.clear()

    async def __aenter__(self) -> "Validator":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _ask(self, question: dict[str, Any], share: Share | None) -> Judgement:
        asked = _Question(question, self._cpu_seconds, share)
        async with self._free:
            try:
                if asked.cpu_seconds <= 0:
                    raise _TooMuch(f"within {asked.limit}")
                if self._idle:
                    # What earlier questions left behind, and whoever killed it meanwhile, are not this one's fault.
                    with contextlib.suppress(_Broken, _Memory):
                        return await self._ask_helper(self._idle.pop(), asked)
                return await self._ask_helper(await self._start(), asked)
            except _TooMuch as error:
                remedy = "simplify its patterns and references"
                return Judgement(Finding.UNSUPPORTED, f"output could not be judged {error}: {remedy}")
            except (_Broken, OSError) as error:  # TimeoutError is an OSError
                raise ValidationUnavailable(f"a validation helper broke: {error or type(error).__name__}") from error

    async def _ask_helper(self, helper: "_Helper", question: "_Question") -> Judgement:
        answered = False
        try:
            async with asyncio.timeout(self.wall_seconds):
                judgement, used_seconds = await helper.ask(question.data)
            answered = True
            question.charge(used_seconds)
            return judgement
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:  # IncompleteReadError is an EOFError
            raise await self._why(helper, question) from error
        finally:
            if answered:
                self._idle.append(helper)
            else:
                await helper.end()

    async def _start(self) -> "_Helper":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "headrace_runner.validation_helper",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # No credentials and no addresses: it needs none.
            env={
                WALL_VARIABLE: str(int(self.wall_seconds) + 10),
                "PYTHONPATH": _import_path(),
            },
            # Ctrl-C in a terminal is the parent's to handle.
            start_new_session=True,
        )
        return _Helper(process)

    async def _why(self, helper: "_Helper", question: "_Question") -> Exception:
        code = await helper.exit_code()
        if code == -signal.SIGPROF:
            question.charge(question.cpu_seconds)
            return _TooMuch(f"within {question.limit}")
        if code in (MEMORY_EXIT, -signal.SIGABRT):
            return _Memory(f"within {MEMORY_LIMIT_BYTES // (1 << 20)} MiB of memory")
        return _Broken("it went silent" if code is None else f"exit code {code}")


def _import_path() -> str:
    """Where this process found its modules: a checkout's need not be installed."""
    return os.pathsep.join(path for path in sys.path if path)


class _Question:
    """What a helper is sent, and the CPU time that it may use for it."""

    def __init__(self, question: dict[str, Any], cpu_seconds: float, share: Share | None) -> None:
        self._share = share
        self.cpu_seconds, self.limit = cpu_seconds, f"{cpu_seconds:g} s of CPU time"
        if share is not None and share.left_seconds < cpu_seconds:
            self.cpu_seconds = share.left_seconds
            self.limit = f"{share.cpu_seconds:g} s of CPU time for all tools together"
        self.data = json.dumps(question | {"cpuSeconds": self.cpu_seconds}).encode()

    def charge(self, used_seconds: float) -> None:
        if self._share is not None:
            self._share.left_seconds -= used_seconds


class _Helper:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a helper is talked to through pipes")
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    async def ask(self, question: bytes) -> tuple[Judgement, float]:
        """The judgement and the seconds of CPU time that it took.

        Raises EOFError and OSError where the helper ends, _Broken where it says what a helper does not say.
        """
        self._stdin.write(len(question).to_bytes(HEADER_BYTES, "big") + question)
        await self._stdin.drain()
        size = int.from_bytes(await self._stdout.readexactly(HEADER_BYTES), "big")
        if size > _REPLY_BYTES:
            raise _Broken("its reply is too long")
        try:
            reply = json.loads(await self._stdout.readexactly(size))
            judgement = Judgement(Finding(reply["finding"]), str(reply["message"])[:_MESSAGE_CHARS])
            return judgement, float(reply["cpuSeconds"])
        except (ValueError, LookupError, TypeError) as error:
            raise _Broken("its reply makes no sense") from error

    async def exit_code(self) -> int | None:
        """How it ended; None while it has not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                return await self._process.wait()
        return None

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await asyncio.shield(self._process.wait())
