"""The engine's side of the template helper: starts it, waits with a deadline, kills it where it overruns.

Also keeps what users write from speaking for the template: see ``guard``.
"""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import IO, Any, Final

from headrace_runner.engine.chat_template import CHATML, HEAD, MAX_OUTPUT_CHARS, write_message
from headrace_runner.engine.protocol import Reason, Refusal

CPU_SECONDS: Final = 5.0
WALL_SECONDS: Final = 30.0
"""A bound for the engine's sake; it says nothing of a template: the node may be busy."""
_MAX_ANSWER_BYTES: Final = 12 * MAX_OUTPUT_CHARS + 1024  # \uXXXX\uXXXX for a character beyond the BMP

# A private-use character and a nonce: nothing a user's text or a template contains by accident or by guess.
SPLIT: Final = "\ue00c" + "".join(chr(0xE100 + byte) for byte in secrets.token_bytes(8))


class TemplateRenderer:
    """Renders one model's chat template in a helper process. Thread-safe; one rendering at a time."""

    def __init__(self, source: str | None, *, bos_token: str, eos_token: str, cpu_seconds: float = CPU_SECONDS) -> None:
        self.is_fallback = source is None
        self.source = source
        self._cpu_seconds = cpu_seconds
        self._template = {
            "source": CHATML if source is None else source,
            "bos_token": bos_token,
            "eos_token": eos_token,
        }
        self._lock = threading.Lock()
        self._helper: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the helper ahead of the first request, which then need not wait for an interpreter."""
        with self._lock:
            self._ensure()

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> str:
        """Render a conversation in OpenAI's form. Raises Refusal with ChatTemplateFailed; blocks up to WALL_SECONDS."""
        body = {"template": self._template, "messages": messages, "tools": tools}
        with self._lock:
            answer = self._exchange(self._ensure(), body)
        if "error" in answer:
            raise Refusal(Reason.CHAT_TEMPLATE_FAILED, str(answer["error"]))
        return str(answer["text"])

    def close(self) -> None:
        """End the helper."""
        with self._lock:
            self._kill()

    def _ensure(self) -> subprocess.Popen[bytes]:
        if self._helper is None or self._helper.poll() is not None:
            self._kill()
            command = [sys.executable, "-P", "-m", "headrace_runner.engine.chat_template", str(self._cpu_seconds)]
            self._helper = subprocess.Popen(  # noqa: S603  a constant command
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_bare_environment()
            )
        return self._helper

    def _exchange(self, helper: subprocess.Popen[bytes], body: dict[str, Any]) -> dict[str, Any]:
        assert helper.stdin is not None  # noqa: S101  both are pipes
        assert helper.stdout is not None  # noqa: S101
        deadline = time.monotonic() + WALL_SECONDS
        try:
            # The helper reads whole requests before it works, so this write waits for no template.
            write_message(helper.stdin, body)
            size_bytes = HEAD.unpack(_read_exactly(helper.stdout, HEAD.size, deadline))[0]
            if size_bytes > _MAX_ANSWER_BYTES:
                raise OSError("an oversized answer")
            answer = json.loads(_read_exactly(helper.stdout, size_bytes, deadline))
        except TimeoutError:
            self._kill()
            message = f"the chat template gave nothing within {WALL_SECONDS:.0f} s"
            raise Refusal(Reason.CHAT_TEMPLATE_FAILED, message) from None
        except (OSError, ValueError) as error:
            self._kill()
            if helper.returncode == -signal.SIGPROF:
                message = f"the chat template did not finish within {self._cpu_seconds:g} s of CPU time"
            else:
                message = f"the chat template ended its process ({type(error).__name__})"
            raise Refusal(Reason.CHAT_TEMPLATE_FAILED, message) from error
        if not isinstance(answer, dict):
            raise Refusal(Reason.CHAT_TEMPLATE_FAILED, "the chat template's process answered nonsense")
        return answer

    def _kill(self) -> None:
        if self._helper is not None:
            self._helper.kill()
            self._helper.communicate()
            self._helper = None


def guard(text: str, special_texts: Iterable[str]) -> str:
    """Break every control token's text in what a user wrote.

    ``<|im_end|>`` in a message would otherwise be tokenized as the token that ends the turn, and the user could speak
    as the system. The break is SPLIT after the first character; ``segments`` cuts there again after rendering.
    """
    text = text.replace(SPLIT, "")
    for special in special_texts:
        if special in text:
            text = text.replace(special, special[0] + SPLIT + special[1:])
    return text


def segments(rendered: str) -> list[str]:
    """Cut a rendered prompt where ``guard`` put breaks; each piece is tokenized on its own."""
    return [piece for piece in rendered.split(SPLIT) if piece]


def _bare_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}


def _read_exactly(stream: IO[bytes], count: int, deadline: float) -> bytes:
    # On the descriptor and not the buffer: select knows nothing of bytes that Python holds already.
    parts: list[bytes] = []
    while count:
        ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimeoutError
        part = os.read(stream.fileno(), min(count, 1 << 20))
        if not part:
            raise OSError("the helper ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
