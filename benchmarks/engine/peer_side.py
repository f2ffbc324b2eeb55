"""The peer's side: llama.cpp's server as xllamacpp ships it, in this process. Runs in an environment of its own.

One configuration a process; JSON lines in, JSON lines out.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import xllamacpp
from workload import STOP, Task, measured


def serve(settings: dict[str, Any]) -> xllamacpp.Server:
    given = xllamacpp.CommonParams()
    given.model.path = settings["model"]
    given.n_parallel = settings["slots"]
    given.n_ctx = settings["cells"]
    given.kv_unified = settings["kv_unified"]
    given.cache_prompt = settings["cache_prompt"]
    given.cache_ram_mib = settings["cache_ram_mib"]
    given.n_ubatch = settings["ubatch"]
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = settings["threads"]
    given.fit_params = False
    given.n_gpu_layers = 0
    given.verbosity = -1
    return xllamacpp.Server(given)


def complete(server: xllamacpp.Server, task: Task, piece: Callable[[], None]) -> tuple[int, int]:
    usage: dict[str, int] = {}

    def receive(chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise RuntimeError(chunk["error"])
        if chunk["choices"][0]["text"]:
            piece()
        usage.update(chunk.get("usage") or {})

    body = {
        "prompt": task.prompt,
        "max_tokens": task.max_tokens,
        "stream": True,
        "stop": [STOP],
        "ignore_eos": True,
        "seed": task.seed,
        "samplers": ["top_k", "top_p", "min_p", "temperature"],
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "temperature": 0.7,
    }
    server.handle_completions(body, receive)
    return usage["completion_tokens"], usage["prompt_tokens"]


def main() -> None:
    # llama.cpp writes to stdout; the answers keep it for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = serve(json.loads(sys.argv[1]))
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        tasks = [Task(**each) for each in asked["tasks"]]
        done = measured(tasks, asked["in_flight"], lambda task, piece: complete(server, task, piece))
        print(json.dumps(done), file=answers)
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
