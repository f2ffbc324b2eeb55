"""The planner beside three other policies in a simulated cluster, on traces by seed. See docs/benchmarks.md.

A cell is one scale and one shape of trace. In every cell each contestant is tuned by a grid of its own, on seeds that
are not used again, and then runs on the others. The best baseline of a cell is the one that does best on those: chosen
in hindsight, for the baselines. The oracle is the planner that is told what comes within `AHEAD` seconds, at the best
setting in hindsight, or whichever contestant did better on that seed: what knowing more was seen to give, no proof of
what is possible.

The last line is one JSON object; ratios are geometric means over the cells.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.planner.baselines import FirstCome, LeastRecentlyUsed, Threshold
from benchmarks.planner.decisions import decision_ms
from benchmarks.planner.ours import Planner
from benchmarks.planner.traces import SHAPES, Scale, Trace, make
from benchmarks.planner.world import Policy, Result, World
from headrace_operator.planner.facts import Policy as Knobs

LOAD = 0.45
AHEAD = (30.0, 90.0)
Maker = Callable[[Trace], Policy]


@dataclass(frozen=True)
class Plan:
    """How much is run at one scale."""

    name: str
    scale: Scale
    tuned_on: range
    judged_on: range
    coarse: bool = False
    """A quarter of each baseline's grid, and the planner as it was tuned at the scale before."""
    tuning_horizon: float | None = None


FULL = (
    Plan("5 models, 2 GPUs", Scale(5, 2, 2, 2, 7200, 1), range(200, 202), range(300, 304)),
    Plan("50 models, 16 GPUs", Scale(50, 16, 8, 4, 2400, 3), range(200, 201), range(300, 302)),
    Plan("1000 models, 400 GPUs", Scale(1000, 400, 8, 8, 900, 5), range(200, 201), range(300, 301), True, 600.0),
)
QUICK = (Plan("5 models, 2 GPUs", Scale(5, 2, 2, 2, 1800, 3), range(200, 201), range(300, 302)),)


def grids(coarse: bool) -> dict[str, list[tuple[str, Maker]]]:
    """Every contestant's settings, with words for them; twelve each, three where they are coarse."""
    found: dict[str, list[tuple[str, Maker]]] = {"first-come": [], "lru": [], "threshold": []}
    swaps = [(480, 4), (900, 1), (900, 16)] if coarse else list(product((30, 120, 480, 900), (1, 4, 16)))
    for residency, each in swaps:
        words = f"residency {residency} s, {each} x slots"
        found["first-come"].append((words, lambda _, r=residency, e=each: FirstCome(r, e)))  # type: ignore[misc]
        found["lru"].append((words, lambda _, r=residency, e=each: LeastRecentlyUsed(r, e)))  # type: ignore[misc]
    scalers = [(30, 4), (30, 8), (120, 8)] if coarse else list(product((30, 120, 480), (2, 4, 8, 16)))
    for cooldown, each in scalers:
        words = f"cooldown {cooldown} s, {each} x slots"
        found["threshold"].append((words, lambda _, c=cooldown, e=each: Threshold(c, e)))  # type: ignore[misc]
    return found


def ours() -> list[tuple[str, Maker]]:
    found: list[tuple[str, Maker]] = []
    for gain, starvation, each in product((8.0, 50.0), (600.0, 1800.0), (None, 4, 16)):
        knobs = Knobs(swap_gain=gain, starvation_seconds=starvation)
        words = f"swap_gain {gain:.0f}, starvation {starvation:.0f} s, tasksPerReplica {each and f'{each} x slots'}"
        found.append((words, lambda trace, k=knobs, e=each: Planner(trace, k, each=e)))  # type: ignore[misc]
    return found


def default(trace: Trace) -> Policy:
    return Planner(trace, Knobs())


def run(trace: Trace, maker: Maker) -> Result:
    return World(trace).run(maker(trace))


def mean(values: Iterable[float]) -> float:
    """Geometric; a wait below a second counts as one."""
    logs = [math.log(max(1.0, value)) for value in values]
    return math.exp(sum(logs) / len(logs))


def tuned(grid: Sequence[tuple[str, Maker]], traces: Sequence[Trace]) -> tuple[str, Maker]:
    """The setting with the least p95 wait in the mean, of those that lose at most 1 % of the best one's goodput."""
    rows = []
    for words, maker in grid:
        results = [run(trace, maker) for trace in traces]
        rows.append((mean(r.p95_wait for r in results), sum(r.done for r in results), words, maker))
    enough = 0.99 * max(done for _, done, _, _ in rows)
    return min((row for row in rows if row[1] >= enough), key=lambda row: row[0])[2:]


@dataclass
class Judged:
    p95: float
    done: int
    starts: int
    each: list[float]

    @staticmethod
    def of(results: Sequence[Result]) -> "Judged":
        each = [result.p95_wait for result in results]
        return Judged(mean(each), sum(r.done for r in results), sum(r.starts for r in results), each)

    def __str__(self) -> str:
        return f"p95 {self.p95:7.1f} s, done {self.done:7}, starts {self.starts:5}"


def cell(plan: Plan, shape: str, before: dict[str, tuple[str, Maker]]) -> dict[str, float]:
    """One cell's ratios; `before` has the planner's setting by shape, and is told of it."""
    scale = plan.scale
    judged_on = [make(scale, shape, seed, LOAD) for seed in plan.judged_on]
    short = Scale(**{**scale.__dict__, "horizon": plan.tuning_horizon or scale.horizon})
    tuned_on = [make(short, shape, seed, LOAD) for seed in plan.tuned_on]
    print(f"\n{plan.name}, {shape}: {sum(len(t.arrivals) for t in judged_on)} tasks", flush=True)
    rivals = {}
    for name, grid in grids(plan.coarse).items():
        words, maker = tuned(grid, tuned_on)
        rivals[name] = Judged.of([run(trace, maker) for trace in judged_on])
        print(f"  {name:12} {rivals[name]}  ({words})", flush=True)
    if not (plan.coarse and shape in before):
        before[shape] = tuned(ours(), tuned_on)
    words, maker = before[shape]
    planner = Judged.of([run(trace, maker) for trace in judged_on])
    print(f"  {'planner':12} {planner}  ({words})", flush=True)
    untuned = Judged.of([run(trace, default) for trace in judged_on])
    print(f"  {'by default':12} {untuned}", flush=True)
    best = min(rivals.values(), key=lambda judged: judged.p95)
    known = [min(waits) for waits in zip(planner.each, untuned.each, *(r.each for r in rivals.values()), strict=True)]
    if not plan.coarse:
        for index, trace in enumerate(judged_on):
            seen = (run(trace, lambda t, a=ahead: Planner(t, Knobs(), ahead=a)) for ahead in AHEAD)  # type: ignore[misc]
            known[index] = min(known[index], *(result.p95_wait for result in seen))
    print(f"  {'oracle':12} p95 {mean(known):7.1f} s", flush=True)
    return {
        "p95_wait_ratio_best_baseline": planner.p95 / best.p95,
        "p95_wait_ratio_by_default": untuned.p95 / best.p95,
        "goodput_ratio": planner.done / best.done,
        "swaps_ratio": planner.starts / best.starts,
        "p95_wait_ratio_oracle": planner.p95 / max(1.0, mean(known)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest scale alone, and short")
    began, quick = time.monotonic(), parser.parse_args().quick
    cells: dict[str, dict[str, float]] = {}
    before: dict[str, tuple[str, Maker]] = {}
    for plan in QUICK if quick else FULL:
        for shape in SHAPES:
            cells[f"{plan.name}, {shape}"] = cell(plan, shape, before)
    figures: dict[str, object] = {
        name: round(statistics.geometric_mean(each[name] for each in cells.values()), 3)
        for name in next(iter(cells.values()))
    }
    figures["p95_wait_ratio_best_baseline_by_cell"] = {
        name: round(each["p95_wait_ratio_best_baseline"], 3) for name, each in cells.items()
    }
    figures["decision_ms_1000_models"] = round(decision_ms(), 1)
    figures["load"] = LOAD
    figures["took_s"] = round(time.monotonic() - began)
    print()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
