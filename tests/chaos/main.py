"""`python -m tests.chaos.main`: runs faults one after the other and writes what they came to.

Exit code 0: nothing was lost, double or stale, and recovery kept its bounds; 1: something was not, and the report says
what; the run's folder with every log is kept then.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.chaos.faults import PROCESS_FAULTS
from tests.chaos.faults_large import LARGE_FAULTS
from tests.chaos.faults_limits import LIMIT_FAULTS
from tests.chaos.faults_remote import REMOTE_FAULTS
from tests.chaos.faults_store import STORE_FAULTS
from tests.chaos.faults_users import USER_FAULTS
from tests.chaos.phase import Fault, Phase
from tests.chaos.report import FaultFigures, document, figures
from tests.chaos.settings import RunSettings
from tests.chaos.tenant import Tenant
from tests.chaos.world import World, world

CHECKOUT: Final = Path(__file__).parents[2]
FAULTS: Final = (*PROCESS_FAULTS, *STORE_FAULTS, *LARGE_FAULTS, *USER_FAULTS, *LIMIT_FAULTS, *REMOTE_FAULTS)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def strike_all(
    settings: RunSettings, faults: tuple[Fault, ...], told: Callable[[list[FaultFigures]], object]
) -> list[FaultFigures]:
    """Every fault on one installation, in this order; `told` is called after each with those that are over."""
    rows: list[FaultFigures] = []
    isolate = any(fault.needs_partition for fault in faults)
    remote = any(fault.needs_remote for fault in faults)
    began = time.monotonic()
    async with world(settings, clock_offsets={}, isolate=isolate, remote=remote) as built:
        say(f"installed and serving after {time.monotonic() - began:.0f} s")
        tenant = Tenant(built)
        for fault in faults:
            rows.append(await one(fault, built, tenant, max(1, settings.tasks // len(faults))))
            say(rows[-1].row())
            for problem in rows[-1].problems:
                say(f"    {problem}")
            told(rows)
            if settings.clears:
                await tenant.clear()
    return rows


async def one(fault: Fault, built: World, tenant: Tenant, tasks: int) -> FaultFigures:
    """One fault's rounds and what they came to."""
    # A fault's schedule depends on the seed and its name: the same alone as among others.
    rng = random.Random(f"{built.settings.seed}/{fault.name}")
    phase, began = Phase(fault, built, tenant, rng, tasks), time.monotonic()
    await phase.run(fault.rounds(tasks), lambda done, of: say(f"  {fault.name} {done}/{of}") if of > 1 else None)
    return figures(phase, phase.finding(), time.monotonic() - began, late_fails=built.settings.late_fails)


def chosen(names: str) -> tuple[Fault, ...]:
    """By their names. Raises SystemExit."""
    if not names:
        return FAULTS
    known = {fault.name: fault for fault in FAULTS}
    unknown = set(names.split(",")) - set(known)
    if unknown:
        raise SystemExit(f"no such fault: {', '.join(sorted(unknown))} (there are: {', '.join(known)})")
    return tuple(known[name] for name in names.split(","))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True, help="folder of a control plane without a node")
    parser.add_argument("--kube", required=True, help="the program of tests/cluster/kube/build")
    parser.add_argument("--report", type=Path, help="where the JSON report goes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=480, help="over all faults together")
    parser.add_argument("--api-away-seconds", type=float, default=8.0)
    parser.add_argument("--faults", default="", help="names with commas between them; all when absent")
    parser.add_argument("--tree", type=Path, default=CHECKOUT, help="checkout whose product is run")
    parser.add_argument("--settle-seconds", type=float, default=90.0, help="what has no outcome by then is lost")
    parser.add_argument("--late", choices=("fail", "tell"), default="fail", help="what a late recovery does to the run")
    parser.add_argument("--keep-logs", action="store_true", help="also of a run that passed")
    parser.add_argument("--drop-logs", action="store_true", help="also of a run that failed")
    parser.add_argument("--long", action="store_true", help="the report is that of the long run")
    parser.add_argument("--revision", default="", help="what the report calls the product")
    arguments = parser.parse_args()
    faults = chosen(arguments.faults)
    # Short: the path of a Unix socket has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="hr-chaos-"))
    settings = RunSettings(
        seed=arguments.seed,
        tasks=arguments.tasks,
        api_away_seconds=arguments.api_away_seconds,
        checkout=CHECKOUT,
        tree=arguments.tree.resolve(),
        state=arguments.state.resolve(),
        kube=arguments.kube,
        folder=folder,
        settle_seconds=arguments.settle_seconds,
        late_fails=arguments.late == "fail",
        clears=arguments.long,
    )
    # So that what was started is ended then, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()

    def write(rows: list[FaultFigures]) -> dict[str, Any]:
        told = {
            "seed": settings.seed,
            "revision": arguments.revision,
            "cpus": os.cpu_count(),
            "long": arguments.long,
            "whole": len(rows) == len(FAULTS),
            "tasks": sum(row.tasks for row in rows),
            "seconds": round(time.monotonic() - began),
            "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "api_away_seconds": settings.api_away_seconds,
            "runners": settings.replicas,
            "parallelism": settings.parallelism,
            **settings.periods.dump(),
        }
        report = document(rows, told)
        if arguments.report:
            arguments.report.parent.mkdir(parents=True, exist_ok=True)
            arguments.report.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        return report

    report = write(asyncio.run(strike_all(settings, faults, write)))
    say(f"{report['tasks']} tasks in {report['seconds']} s; the harness had {report['rss_mib']} MiB at most")
    if arguments.report:
        say(f"report: {arguments.report}")
    # Once more at the end: whoever reads a log's last lines sees what failed.
    for row in report["faults"]:
        for problem in row["problems"]:
            say(f"FAILED {row['fault']}: {problem}")
    if arguments.drop_logs or (report["passed"] and not arguments.keep_logs):
        shutil.rmtree(folder)
        return 0 if report["passed"] else 1
    say(f"logs: {folder}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
