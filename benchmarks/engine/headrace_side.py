"""Headrace's side: the engine's decode loop in this process, in one configuration for everything.

JSON lines in, JSON lines out. Besides task lists it answers ``bare``, a decode loop without anything around it, and
``memory``, the growth over many tasks.
"""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
from workload import STOP, Task, distinct, measured, perform

from headrace_runner.engine.grammars import TokenMasks
from headrace_runner.engine.heartbeat import Heartbeat
from headrace_runner.engine.loop import DecodeLoop, StepTimes
from headrace_runner.engine.model import LoadedModel
from headrace_runner.engine.protocol import Delta, Event, Failure, Generate, GenerationResult, Parameters
from headrace_runner.engine.sequence import Job
from headrace_runner.engine.settings import EngineSettings


class Side:
    def __init__(self, settings: dict[str, Any]) -> None:
        engine = EngineSettings(
            Path(settings["model"]),
            context_tokens=settings["cells"] // settings["slots"],
            parallelism=settings["slots"],
            threads=settings["threads"],
            kv_unified=settings["kv_unified"],
        )
        self.model = LoadedModel(settings["model"], engine, lambda percent: None)
        self.masks: TokenMasks = self.model.token_masks()
        self.loop = DecodeLoop(self.model, Heartbeat(lambda busy: None))
        # Clients may be more than the queue of one engine: here they all wait in it.
        self.loop.max_waiting = 1 << 20
        self.loop.warm_up()
        # What the peer's ignore_eos does.
        self.endless = tuple((token, -100.0) for token in self.model.eog_tokens)
        self.keys = itertools.count()
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.thread.start()

    def complete(self, task: Task, piece: Callable[[], None]) -> tuple[int, int]:
        ended = threading.Event()
        last: list[Event] = []

        def emit(event: Event) -> None:
            if isinstance(event, Delta):
                piece()
            elif isinstance(event, GenerationResult | Failure):
                last.append(event)
                ended.set()

        parameters = Parameters(
            temperature=0.7,
            top_k=40,
            top_p=0.95,
            min_p=0.05,
            seed=task.seed,
            max_tokens=task.max_tokens,
            stop=(STOP,),
            logit_bias=self.endless if task.schema is None else (),
        )
        constraint = None
        if task.schema is not None:
            constraint = self.masks.constraint(Generate("", prompt="", json_schema=task.schema))
        tokens = self.model.tokenize([task.prompt])
        key = next(self.keys)
        job = Job(
            key, str(key), tokens, parameters, constraint, emit, time.monotonic(), stream=True, cache_scope="bench"
        )
        self.loop.submit(job)
        ended.wait()
        (result,) = last
        if not isinstance(result, GenerationResult):
            raise RuntimeError(str(result))
        return result.usage.completion_tokens, result.usage.prompt_tokens

    def run(self, asked: dict[str, Any]) -> dict[str, Any]:
        before = asdict(self.loop.times)
        tasks = [Task(**each) for each in asked["tasks"]]
        done = measured(tasks, asked["in_flight"], self.complete)
        return {**done, "times": {name: value - before[name] for name, value in asdict(self.loop.times).items()}}

    def bare(self, tokens: int) -> dict[str, float]:
        """One token a step, as one sequence decodes, without sampler or text; the loop has nothing to do meanwhile."""
        from headrace_runner.engine.batch import TokenBatch

        batch = TokenBatch(8)
        self.loop.places.forget_all()
        began = 0.0
        for position in range(tokens + 20):
            if position == 20:
                began = time.perf_counter()
            batch.clear()
            batch.add([100 + position], position, 0, wants_logits=True)
            if llama.llama_decode(self.model.context, batch.native) != 0:
                raise RuntimeError("llama_decode failed")
        seconds = time.perf_counter() - began
        self.loop.places.forget_all()
        return {"tokens_per_s": tokens / seconds}

    def memory(self, tasks: int, in_flight: int) -> dict[str, float]:
        """KiB a task over the last three quarters of so many tasks: the slope of the resident size."""
        sizes: list[tuple[int, float]] = []
        batch = max(1, tasks // 100)
        for done in range(0, tasks, batch):
            perform(distinct(done, batch, 3), in_flight, self.complete)
            if done >= tasks // 4:
                sizes.append((done, resident_kib()))
        mean_x = sum(x for x, _ in sizes) / len(sizes)
        mean_y = sum(y for _, y in sizes) / len(sizes)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in sizes) / sum((x - mean_x) ** 2 for x, _ in sizes)
        return {"kib_per_task": slope, "resident_mib": sizes[-1][1] / 1024}


def resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


def main() -> None:
    # As the engine's process does.
    sys.setswitchinterval(0.0005)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    side = Side(json.loads(sys.argv[1]))
    print(json.dumps({"ready": True, "times": asdict(StepTimes())}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        if "bare" in asked:
            answer: dict[str, Any] = side.bare(asked["bare"])
        elif "memory" in asked:
            answer = side.memory(asked["memory"], asked["in_flight"])
        else:
            answer = side.run(asked)
        print(json.dumps(answer), file=answers)
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
