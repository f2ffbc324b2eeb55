"""The engine beside xllamacpp, llama.cpp's own server in a wheel: same machine, model file, tasks and KV memory.

Ours has one configuration for everything. The peer gets the best of a grid for each cell, found by a short run before;
then both take turns. Figures are ratios of medians over the rounds, with the range of the rounds' ratios. The last line
is JSON.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workload import Task, distinct, mixed, shared_prefix

HERE = Path(__file__).resolve().parent
SLOTS = 32
CONTEXT_TOKENS = 2048
CELLS = SLOTS * CONTEXT_TOKENS
PEER_GRID = [
    {"slots": slots, "kv_unified": unified, "ubatch": ubatch, "cache_prompt": cached, "cache_ram_mib": ram}
    for slots in (1, 4, 8, 16, 32)
    for unified in (False, True)
    for ubatch in (512, 128)
    for cached, ram in ((False, 0), (True, 0), (True, 2048))
]
LEAST_TASKS = 8
SCHEMA = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 24}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


class Side:
    """One side's process: a line of JSON in, a line of JSON out."""

    def __init__(self, python: str, script: str, settings: dict[str, Any]) -> None:
        command = [python, str(HERE / script), json.dumps(settings)]
        path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._answer()

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return self._answer()

    def tasks(self, tasks: list[Task], in_flight: int | None) -> dict[str, Any]:
        return self.ask(tasks=[asdict(task) for task in tasks], in_flight=in_flight)

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a side ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Bench:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.base = {"model": arguments.model, "cells": CELLS, "threads": arguments.threads}
        ours = {**self.base, "slots": arguments.slots, "kv_unified": arguments.kv_unified}
        self.ours = Side(sys.executable, "headrace_side.py", ours)
        self.report: dict[str, Any] = {"kv_unified": arguments.kv_unified, "cells": {}}

    @contextlib.contextmanager
    def best_peer(self, name: str, in_flight: int, tasks: list[Task], *, prefixes: bool) -> Iterator[Side]:
        """The peer in the configuration that is fastest at a short run of the cell."""
        rates = []
        for settings in PEER_GRID:
            fits = settings["slots"] in ({4, 8, 16, 32} if prefixes else {in_flight})
            # Without a common beginning there is nothing to cache, and a smaller ubatch bounds pauses alone.
            if not fits or settings["cache_prompt"] is not prefixes or (settings["ubatch"] < 512 and name != "mixed"):
                continue
            side = Side(self.arguments.peer_python, "peer_side.py", {**self.base, **settings})
            try:
                # Warmed by tasks of its own, so that a cache of prompts is as full as it is in the long run.
                side.tasks(tasks[: settings["slots"]], settings["slots"])
                rates.append((side.tasks(tasks, max(in_flight, settings["slots"]))["tasks_per_s"], settings))
            finally:
                side.close()
            print(f"  grid {name}: {rates[-1][0]:.2f} tasks/s with {settings}", file=sys.stderr, flush=True)
        _, best = max(rates, key=lambda each: each[0])
        self.report["cells"][name] = {"peer": best, "peer_grid_tasks_per_s": [round(each[0], 3) for each in rates]}
        side = Side(self.arguments.peer_python, "peer_side.py", {**self.base, **best})
        side.tasks(tasks, best["slots"])
        self.peer_slots = best["slots"]
        try:
            yield side
        finally:
            side.close()

    def rounds(
        self,
        name: str,
        peer: Side,
        make: Any,
        ours_in_flight: int | None,
        peer_in_flight: int | None,
        *,
        warm: bool = False,
    ) -> list[Any]:
        """Interleaved, who was last in one being first in the next. `warm`: either side has had as many of the round's
        tasks as it runs at once before the clock starts, as in the grid."""
        pairs = []
        for number in range(self.arguments.rounds):
            tasks = make(1000 * (number + 1))
            order = [("ours", self.ours, ours_in_flight), ("peer", peer, peer_in_flight)]
            for _, side, flight in order if warm else ():
                side.tasks(tasks[:flight], flight)
            answers = {who: side.tasks(tasks, flight) for who, side, flight in (order if number % 2 else order[::-1])}
            if answers["ours"]["tokens"] != answers["peer"]["tokens"]:
                raise RuntimeError(f"{name}: token counts differ: {answers}")
            pairs.append(answers)
            ours, theirs = answers["ours"]["tokens_per_s"], answers["peer"]["tokens_per_s"]
            print(f"  {name}: ours {ours:.1f}, peer {theirs:.1f} tokens/s", file=sys.stderr, flush=True)
        self.report["cells"][name]["rounds"] = pairs
        return pairs

    def ratio(self, name: str, pairs: list[Any], figure: str = "tokens_per_s") -> float:
        """Ratio of the medians, ours over the peer's; the range over the rounds goes into the report."""
        each = [pair["ours"][figure] / pair["peer"][figure] for pair in pairs]
        ours = statistics.median(pair["ours"][figure] for pair in pairs)
        peer = statistics.median(pair["peer"][figure] for pair in pairs)
        self.report[f"{name}_range"] = [round(min(each), 3), round(max(each), 3)]
        self.report[name] = round(ours / peer, 3)
        return ours / peer

    def throughput(self, sequences: int) -> None:
        tokens, name = self.arguments.tokens, f"distinct_{sequences}"
        with self.best_peer(name, sequences, distinct(7, sequences, tokens // 4), prefixes=False) as peer:
            # One after the other where few run at once: a second is too short to tell a twentieth.
            count = max(sequences, LEAST_TASKS)
            pairs = self.rounds(name, peer, lambda seed: distinct(seed, count, tokens), sequences, sequences)
        self.ratio(f"ratio_{sequences}", pairs)
        self.ratio(f"cpu_ratio_{sequences}", pairs, "tokens_per_cpu_s")
        times = [pair["ours"]["times"] for pair in pairs]
        total = sum(each["total"] for each in times)
        python = total - sum(each["decode"] + each["sample"] + each["mask"] for each in times)
        self.report["cells"][name]["python_share"] = round(python / total, 4)
        self.report["cells"][name]["sample_share"] = round(sum(each["sample"] for each in times) / total, 4)
        if sequences == 16:
            self.report["python_share"] = round(python / total, 4)

    def bare(self) -> None:
        ratios = []
        for number in range(self.arguments.rounds):
            bare = self.ours.ask(bare=self.arguments.tokens)["tokens_per_s"]
            (task,) = distinct(50 + number, 1, self.arguments.tokens)
            answer = self.ours.tasks([task], 1)
            # The prompt's step is no step of one token.
            ratios.append(
                (answer["tokens"] - 1) / (answer["tokens"] / answer["tokens_per_s"] - answer["first_p95_s"]) / bare
            )
        self.report["bare_loop_ratio"] = round(statistics.median(ratios), 3)
        self.report["bare_loop_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]

    def prefix(self) -> None:
        count = self.arguments.prefix_tasks
        with self.best_peer("prefix", 4, shared_prefix(3, max(16, count // 3), 32), prefixes=True) as peer:
            pairs = self.rounds(
                "prefix",
                peer,
                lambda seed: shared_prefix(seed, count, 32),
                self.arguments.prefix_in_flight,
                self.peer_slots,
                warm=True,
            )
        self.ratio("prefix_ratio", pairs, "tasks_per_s")
        self.ratio("prefix_cpu_ratio", pairs, "tokens_per_cpu_s")

    def mixed(self) -> None:
        count = self.arguments.mixed_tasks
        with self.best_peer("mixed", 16, mixed(5, count // 2, None), prefixes=False) as peer:
            capacity = peer.tasks(mixed(6, count, None), 16)["tasks_per_s"]
            # All at once: what each can do. Then at seven tenths of what the peer can: how long one waits.
            pairs = self.rounds("mixed", peer, lambda seed: mixed(seed, count, None), 16, 16)
            self.ratio("mixed_throughput_ratio", pairs)
            self.ratio("mixed_cpu_ratio", pairs, "tokens_per_cpu_s")
            self.report["cells"]["mixed_arrivals"] = {"tasks_per_s": 0.7 * capacity}
            pairs = self.rounds("mixed_arrivals", peer, lambda seed: mixed(seed, count, 0.7 * capacity), None, None)
        self.ratio("mixed_first_token_p95_ratio", pairs, "first_p95_s")
        self.ratio("mixed_inter_token_p95_ratio", pairs, "gap_p95_s")

    def constrained(self) -> None:
        pairs, masks = [], []
        for number in range(self.arguments.rounds):
            free = self.ours.tasks(distinct(90 + number, 16, self.arguments.tokens), 16)
            schema = json.dumps(SCHEMA)
            bound = self.ours.tasks(distinct(90 + number, 16, self.arguments.tokens, schema), 16)
            pairs.append({"ours": bound, "peer": free})
            masks.append(1000 * bound["times"]["mask"] / bound["tokens"])
        self.ratio("constrained_ratio", pairs)
        self.ratio("constrained_cpu_ratio", pairs, "tokens_per_cpu_s")
        self.report["mask_ms_per_token"] = round(statistics.median(masks), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--slots", type=int, default=SLOTS, help="ours: sequences at once, in the same KV memory")
    unified = argparse.BooleanOptionalAction
    parser.add_argument("--kv-unified", action=unified, default=True, help="ours: kvCache.unified, in all cells")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--sequences", default="1,4,8,16,32")
    parser.add_argument("--prefix-tasks", type=int, default=64)
    parser.add_argument("--prefix-in-flight", type=int, default=16)
    parser.add_argument("--mixed-tasks", type=int, default=48)
    parser.add_argument("--memory-tasks", type=int, default=2000)
    parser.add_argument("--only", default="throughput,bare,prefix,mixed,constrained,memory")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    chosen = set(arguments.only.split(","))
    try:
        if "throughput" in chosen:
            for sequences in arguments.sequences.split(","):
                bench.throughput(int(sequences))
        for name in ("bare", "prefix", "mixed", "constrained"):
            if name in chosen:
                getattr(bench, name)()
        if "memory" in chosen:
            grown = bench.ours.ask(memory=arguments.memory_tasks, in_flight=16)
            bench.report["memory_kib_per_task"] = round(grown["kib_per_task"], 3)
    finally:
        bench.ours.close()
    bench.report["load_average"] = os.getloadavg()
    print(json.dumps({**bench.report, "cells": bench.report["cells"]}))


if __name__ == "__main__":
    main()
