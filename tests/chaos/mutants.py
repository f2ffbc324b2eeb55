"""`python -m tests.chaos.mutants`: breaks the product on purpose and shows that the checker sees it.

Each mutant is a copy of the tree with a few lines changed, run under the faults that its defect needs. It is caught
when the run reports a violation of an expected kind; one that survives fails, and so does the unchanged tree when it
reports anything under those faults, or a mutant whose lines are not in the tree any more.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.mutations import MUTANTS, Mutant

CHECKOUT: Final = Path(__file__).parents[2]
PRODUCT: Final = ("crds", "bus", "operator", "runner", "facade", "cli", "charts")
RUN_SECONDS: Final = 420
SETTLE_SECONDS: Final = 60
TASKS_PER_FAULT: Final = 24


@dataclass(frozen=True)
class Verdict:
    """`kinds`: violations found, by kind. `stopped`: a run that stopped is no verdict, whatever it saw."""

    name: str
    what: str
    faults: str
    caught: bool
    kinds: dict[str, int]
    seconds: float
    stopped: str = ""


def copy_tree(to: Path) -> None:
    for part in PRODUCT:
        shutil.copytree(CHECKOUT / part, to / part, ignore=shutil.ignore_patterns("__pycache__"))


def mutate(tree: Path, mutant: Mutant) -> None:
    """Raises ValueError where a line to change is not there, or is there more than once."""
    for edit in mutant.edits:
        path = tree / edit.path
        text = path.read_text()
        if text.count(edit.old) != 1:
            raise ValueError(f"{mutant.name}: {edit.path} holds {text.count(edit.old)} times: {edit.old[:80]!r}")
        path.write_text(text.replace(edit.old, edit.new))
    if mutant.generates:
        environment = {"PYTHONPATH": ":".join(str(tree / part) for part in PRODUCT)}
        subprocess.run([sys.executable, "-m", "headrace_crds.generate", str(tree)], env=environment, check=True)


def run(tree: Path, faults: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The report of a run of this tree. Raises RuntimeError where there is none."""
    with tempfile.TemporaryDirectory(prefix="hr-mutant-") as folder:
        report = Path(folder) / "report.json"
        count = len(faults.split(","))
        command = [
            *(sys.executable, "-m", "tests.chaos.main", "--tree", str(tree), "--faults", faults),
            *("--state", str(arguments.state), "--kube", arguments.kube, "--seed", str(arguments.seed)),
            *(
                "--tasks",
                str(TASKS_PER_FAULT * count),
                "--settle-seconds",
                str(SETTLE_SECONDS),
                "--report",
                str(report),
                "--drop-logs",
            ),
        ]
        done = subprocess.run(command, cwd=CHECKOUT, timeout=RUN_SECONDS, check=False, stdout=sys.stderr)
        if not report.exists():
            raise RuntimeError(f"the run ended with {done.returncode} and without a report")
        found: dict[str, Any] = json.loads(report.read_text())
        return found


def judge(mutant: Mutant, arguments: argparse.Namespace) -> Verdict:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hr-mutant-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        mutate(tree, mutant)
        report = run(tree, mutant.faults, arguments)
    return verdict(mutant, report, round(time.monotonic() - began, 1))


def verdict(mutant: Mutant, report: dict[str, Any], seconds: float) -> Verdict:
    """What the report says of the mutant, or of the unchanged tree, that has no edits."""
    kinds: dict[str, int] = {}
    stopped = "; ".join(row["stopped"] for row in report["faults"] if row["stopped"])
    for row in report["faults"]:
        for kind, count in row["kinds"].items():
            if not row["stopped"] or not mutant.edits:
                kinds[kind] = kinds.get(kind, 0) + count
    # Of the unchanged tree any violation counts; a bound may be missed on a busy machine.
    caught = bool(set(kinds) & mutant.expected) if mutant.edits else bool(kinds or stopped)
    return Verdict(mutant.name, mutant.what, mutant.faults, caught, kinds, seconds, stopped)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--kube", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--only", default="", help="names with commas between them")
    arguments = parser.parse_args()
    chosen = [each for each in MUTANTS if not arguments.only or each.name in arguments.only.split(",")]
    # The same faults on the unchanged tree: what is caught below is caught because of the mutation.
    faults = ",".join(dict.fromkeys(fault for each in chosen for fault in each.faults.split(",")))
    control = judge(Mutant("unchanged", "the tree as it is", (), faults, frozenset()), arguments)
    print(
        f"{control.name:24} {'FAILED' if control.caught else 'clean'}  {control.kinds}  {control.seconds} s", flush=True
    )
    verdicts = []
    for mutant in chosen:
        verdicts.append(judge(mutant, arguments))
        told = verdicts[-1]
        word = "caught" if told.caught else "NO VERDICT" if told.stopped else "SURVIVED"
        print(f"{told.name:24} {word}  {told.kinds}  {told.seconds} s  {told.stopped}", flush=True)
    passed = not control.caught and all(each.caught for each in verdicts)
    if arguments.report:
        arguments.report.parent.mkdir(parents=True, exist_ok=True)
        rows = [{**each.__dict__} for each in verdicts]
        arguments.report.write_text(json.dumps({"seed": arguments.seed, "passed": passed, "mutants": rows}, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
