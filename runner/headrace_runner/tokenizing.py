"""Counts and tokenizes with vocabularies alone, one helper process for each: also where no engine runs.

Vocabularies are named by the sha256 of the weights that they are from. Whoever gives one vouches for it; here it is
hostile input, and a helper dies alone of it.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

from headrace_runner.engine.chat_template import HEAD

MAX_PROCESSES: Final = 4
MAX_VOCABULARIES: Final = 64
MAX_EXTRACT_BYTES: Final = 64 * 1024 * 1024
WALL_SECONDS: Final = 30.0
_MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class TokenizerError(Exception):
    """No answer. ``reason``: VocabularyNotFound (give it first), VocabularyUnreadable, TokenizerFailed (it broke or ran
    out of time or memory), or what the engine would refuse the request with."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Tokenizers:
    """At most ``MAX_PROCESSES`` helpers, those used last; ``folder`` holds at most ``MAX_VOCABULARIES`` files.

    Use as ``async with Tokenizers(folder) as tokenizers``.
    """

    def __init__(self, folder: Path, *, max_processes: int = MAX_PROCESSES, wall_seconds: float = WALL_SECONDS) -> None:
        self._folder = folder
        self._max_processes = max_processes
        self._wall_seconds = wall_seconds
        self._helpers: OrderedDict[str, _Helper] = OrderedDict()
        self._start = asyncio.Lock()

    def has(self, sha256: str) -> bool:
        """Whether the vocabulary is there."""
        return self._path(sha256).exists()

    def add(self, sha256: str, extract: bytes) -> None:
        """Keep a vocabulary (``vocabulary_extract.extract``). Raises TokenizerError, VocabularyUnreadable."""
        if len(extract) > MAX_EXTRACT_BYTES or not extract.startswith(b"GGUF"):
            raise TokenizerError("VocabularyUnreadable", f"not a GGUF of at most {MAX_EXTRACT_BYTES} bytes")
        path = self._path(sha256)
        kept = sorted(self._folder.glob("*.gguf"), key=lambda each: each.stat().st_mtime)
        for oldest in kept[: max(0, len(kept) - MAX_VOCABULARIES + 1)]:
            oldest.unlink(missing_ok=True)
        part = path.with_suffix(".part")
        part.write_bytes(extract)
        part.rename(path)

    async def tokenize(self, sha256: str, text: str) -> list[int]:
        """Give the tokens that the engine would make of ``text``; control tokens' texts are text."""
        return list((await self._ask(sha256, {"type": "tokenize", "text": text}))["tokens"])

    async def count(self, sha256: str, request: dict[str, Any]) -> int:
        """Give the tokens of the prompt of an engine's request: ``prompt`` or ``messages``, ``tools``."""
        return int((await self._ask(sha256, {**request, "type": "count"}))["count"])

    async def aclose(self) -> None:
        """End all helpers."""
        while self._helpers:
            await self._helpers.popitem()[1].end()

    async def __aenter__(self) -> "Tokenizers":
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def _ask(self, sha256: str, question: dict[str, Any]) -> dict[str, Any]:
        helper = await self._helper(sha256)
        try:
            async with asyncio.timeout(self._wall_seconds), helper.lock:
                answer = await helper.ask(question)
        except (OSError, EOFError, ValueError) as error:  # TimeoutError is an OSError
            await self._drop(sha256, helper)
            raise TokenizerError("TokenizerFailed", await helper.why(error)) from error
        except asyncio.CancelledError:
            # Its answer would be read as the next one's.
            await self._drop(sha256, helper)
            raise
        if "error" in answer:
            raise TokenizerError(str(answer.get("reason", "TokenizerFailed")), str(answer["error"])[:1000])
        return answer

    async def _helper(self, sha256: str) -> "_Helper":
        path = self._path(sha256)
        async with self._start:
            helper = self._helpers.get(sha256)
            if helper is None:
                if not path.exists():
                    raise TokenizerError("VocabularyNotFound", f"no vocabulary of {sha256} is here")
                while len(self._helpers) >= self._max_processes:
                    await self._helpers.popitem(last=False)[1].end()
                self._helpers[sha256] = helper = await _Helper.start(path, self._wall_seconds)
            self._helpers.move_to_end(sha256)
            return helper

    async def _drop(self, sha256: str, helper: "_Helper") -> None:
        if self._helpers.get(sha256) is helper:
            del self._helpers[sha256]
        await helper.end()

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise TokenizerError("VocabularyNotFound", "a vocabulary is named by 64 hexadecimal digits")
        return self._folder / f"{sha256}.gguf"


class _Helper:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a helper is talked to through pipes")
        self.lock = asyncio.Lock()
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, path: Path, wall_seconds: float) -> "_Helper":
        """Raises TokenizerError with VocabularyUnreadable."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "headrace_runner.engine.tokenizer_process",
            str(path),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # No credentials and no addresses: it needs none.
            env={"PYTHONPATH": os.pathsep.join(each for each in sys.path if each), "PATH": os.environ.get("PATH", "")},
            start_new_session=True,
        )
        helper = cls(process)
        try:
            async with asyncio.timeout(wall_seconds):
                answer = await helper.read()
        except (OSError, EOFError, ValueError) as error:
            await helper.end()
            raise TokenizerError("VocabularyUnreadable", await helper.why(error)) from error
        if "error" in answer:
            await helper.end()
            raise TokenizerError("VocabularyUnreadable", str(answer["error"])[:1000])
        return helper

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        raw = json.dumps(question).encode()
        self._stdin.write(HEAD.pack(len(raw)) + raw)
        await self._stdin.drain()
        return await self.read()

    async def read(self) -> dict[str, Any]:
        size_bytes = HEAD.unpack(await self._stdout.readexactly(HEAD.size))[0]
        if size_bytes > _MAX_ANSWER_BYTES:
            raise ValueError("an oversized answer")
        answer = json.loads(await self._stdout.readexactly(size_bytes))
        if not isinstance(answer, dict):
            raise ValueError("its answer makes no sense")
        return answer

    async def why(self, error: Exception) -> str:
        """What to say of a helper that has ended."""
        code = await self._process.wait()
        if code == -signal.SIGPROF:
            return "the tokenizer used up its CPU time: the text or the vocabulary is beyond it"
        return f"the tokenizer broke: {type(error).__name__}, exit code {code}"

    async def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._stdin.close()
        await asyncio.shield(self._process.wait())
