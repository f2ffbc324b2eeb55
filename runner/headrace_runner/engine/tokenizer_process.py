"""The process that counts and tokenizes with a vocabulary alone: ``python -m … PATH``, no weights, no GPU, no runner.

Frames on stdin and stdout as the chat template's helper has them: four bytes of length, then JSON. The first answer
says what was loaded. A vocabulary comes from strangers and goes into native code, so this process has no network, has
bounds of memory, CPU time and files, and dies alone; ``tokenizing.Tokenizers`` is the other side.

======== ===================================== ==========================================
``type`` fields                                answer
======== ===================================== ==========================================
tokenize ``text``                              ``tokens``: control tokens' texts are text
count    ``messages``, ``tools`` or ``prompt`` ``count``: of the prompt as the engine has it
======== ===================================== ==========================================
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO, Final

from headrace_runner.engine.chat_template import HEAD, write_message
from headrace_runner.engine.frames import ProtocolError
from headrace_runner.engine.gguf import InvalidModelFile, read_gguf
from headrace_runner.engine.header import check_vocabulary
from headrace_runner.engine.prompting import PromptMaker
from headrace_runner.engine.protocol import Generate, Refusal
from headrace_runner.engine.rendering import TemplateRenderer, guard, segments
from headrace_runner.engine.requests import decode_request
from headrace_runner.engine.seccomp import SandboxUnavailable, install_filter
from headrace_runner.engine.vocabulary_extract import MAX_EXTRACT_BYTES

MEMORY_LIMIT_BYTES: Final = 2 * 1024 * 1024 * 1024
"""Address space: llama.cpp and a vocabulary of 262,144 tokens take a quarter of it."""
MAX_TEXT_BYTES: Final = 1024 * 1024
CPU_SECONDS: Final = 10.0
_MAX_FILES: Final = 64


def main() -> int:
    """Load, say so, answer until stdin ends."""
    answers = sys.stdout.buffer
    try:
        vocabulary, prompts = _load(Path(sys.argv[1]))
    except (InvalidModelFile, OSError) as error:
        write_message(answers, {"error": str(error)[:500]})
        return 1
    write_message(answers, {"vocabulary": vocabulary.size})
    while (request := _read(sys.stdin.buffer)) is not None:
        # No handler, so it kills, also inside native code: some tokenizers are quadratic.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            answer = _answer(request, vocabulary, prompts)
        except Refusal as refusal:
            answer = {"error": refusal.message, "reason": refusal.reason}
        except ProtocolError as error:
            answer = {"error": str(error), "reason": "ProtocolError"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(answers, answer)
    return 0


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        raw = file.read(MAX_EXTRACT_BYTES + 1024)
    header = read_gguf(raw)
    check_vocabulary(header)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    from headrace_runner.engine.native_vocabulary import NativeVocabulary
    from headrace_runner.engine.vocabulary_loading import load_vocabulary

    install_filter()
    for what, limit in (
        (resource.RLIMIT_AS, MEMORY_LIMIT_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
    ):
        resource.setrlimit(what, (limit, limit))
    vocabulary = NativeVocabulary(load_vocabulary(path))
    template = header.strings.get("tokenizer.chat_template")
    renderer = TemplateRenderer(template, bos_token=vocabulary.bos_text, eos_token=vocabulary.eos_text)
    return vocabulary, PromptMaker(renderer, vocabulary.control_texts())


def _answer(request: dict[str, Any], vocabulary: Any, prompts: PromptMaker) -> dict[str, Any]:
    if request.get("type") == "tokenize":
        text = request.get("text")
        if set(request) != {"type", "text"} or not isinstance(text, str) or len(text.encode()) > MAX_TEXT_BYTES:
            raise ProtocolError(f"tokenize takes text of at most {MAX_TEXT_BYTES} bytes")
        return {"tokens": vocabulary.tokenize(segments(guard(text, prompts.controls)))}
    # Read as strictly as the engine reads it, because it is the engine's prompt that is counted.
    asked = decode_request({**request, "type": "generate", "id": "count"})
    assert isinstance(asked, Generate)  # noqa: S101  by its type
    return {"count": len(vocabulary.tokenize(prompts.make(asked).segments))}


def _read(stream: BinaryIO) -> dict[str, Any] | None:
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    body = json.loads(stream.read(HEAD.unpack(head)[0]))
    return body if isinstance(body, dict) else {}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SandboxUnavailable as error:
        write_message(sys.stdout.buffer, {"error": str(error)})
        sys.exit(1)
