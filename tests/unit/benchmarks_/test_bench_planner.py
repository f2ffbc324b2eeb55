"""bench-planner runs, is fair where a test can say so, and ends with its figures."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.planner.baselines import FirstCome, LeastRecentlyUsed, Threshold
from benchmarks.planner.ours import Planner
from benchmarks.planner.traces import SHAPES, Arrival, Scale, Spec, Trace, make
from benchmarks.planner.world import ASK_SECONDS, END_SECONDS, Policy, World
from headrace_operator.planner.facts import Policy as Knobs

SCALE = Scale(4, 2, 2, 2, 900, 5)
FIGURES = (
    "p95_wait_ratio_best_baseline",
    "goodput_ratio",
    "swaps_ratio",
    "p95_wait_ratio_oracle",
    "decision_ms_1000_models",
)
CONTESTANTS: dict[str, Callable[[Trace], Policy]] = {
    "planner": lambda trace: Planner(trace, Knobs()),
    "first-come": lambda _: FirstCome(120, 4),
    "lru": lambda _: LeastRecentlyUsed(120, 4),
    "threshold": lambda _: Threshold(120, 4),
}


def test_the_quick_run_ends_with_its_figures() -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "benchmarks.planner.bench", "--quick"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=110, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert all(figures[name] > 0 for name in FIGURES)
    assert figures["p95_wait_ratio_oracle"] >= 1
    assert len(figures["p95_wait_ratio_best_baseline_by_cell"]) == len(SHAPES)


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_contestant_serves_the_same_work_and_no_gpu_twice(name: str, shape: str) -> None:
    """The world asserts the GPUs; all that came is done in the end."""
    trace = make(SCALE, shape, 1, 0.3)
    world = World(trace)
    world.run(CONTESTANTS[name](trace))
    assert world.arrived == len(trace.arrivals) > 0
    assert not any(len(queue) for queue in world.queues)


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_start_and_a_swap_cost_everybody_the_same(name: str) -> None:
    """One GPU: the second model's task comes when the first has nothing to do any more."""
    specs = [Spec(1, 1, 10.0, 30.0, 1), Spec(1, 1, 10.0, 40.0, 1)]
    trace = Trace(Scale(2, 1, 1, 1, 4000, 1.0), specs, [Arrival(5.0, 0, 10.0), Arrival(700.0, 1, 10.0)])
    result = World(trace).run(CONTESTANTS[name](trace))
    assert result.done == result.starts == 2
    least = 30.0 + 40.0 + (0.0 if name == "threshold" else END_SECONDS)  # Its idle replica has gone before.
    assert least <= 2 * result.mean_wait <= least + 2 * ASK_SECONDS


def test_a_trace_is_its_seed() -> None:
    assert make(SCALE, "heavy", 1, 0.3) == make(SCALE, "heavy", 1, 0.3)
    assert make(SCALE, "heavy", 1, 0.3) != make(SCALE, "heavy", 2, 0.3)
