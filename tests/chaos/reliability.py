"""`python -m tests.chaos.reliability REPORT…`: writes the figures of reports into docs/reliability.md.

Between `<!-- NAME -->` and `<!-- end of NAME -->` everything is replaced by the table of the report of that kind:
`chaos` of `make chaos`, `long chaos` of the long one, `mutants` of `make chaos-mutants`. Nothing else there is touched.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

DOCUMENT: Final = Path(__file__).parents[2] / "docs/reliability.md"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def chaos_table(report: dict[str, Any]) -> str:
    """What `tests.chaos.main` wrote."""
    periods = ", ".join(
        f"{name} {number(report[f'{name}_seconds'])} s"
        for name in ("lease", "reap", "sweep", "relist", "election_lease", "retention")
        if f"{name}_seconds" in report
    )
    faults = report["faults"]
    total = {name: sum(row[name] for row in faults) for name in ("lost", "double", "stale", "others")}
    lines = [
        f"Revision `{report['revision'] or 'unknown'}`, seed {report['seed']}, {report['tasks']} tasks "
        f"in {report['seconds']} s on {report['cpus']} CPUs; {report['runners']} runners of {report['parallelism']} "
        "sequences, two operators; "
        f"{periods.replace('_', ' ')}; the API server away for {number(report['api_away_seconds'])} s.",
        "",
        f"**{total['lost']} lost, {total['double']} double, {total['stale']} stale**, {total['others']} other.",
        "",
        "| promise | fault | tasks | strikes | hit | lost | double | stale | other | again per strike "
        "| charged | moved | recoveries | p50 s | max s (p99 from 100 on) | bound s | |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in faults:
        cells = [
            *(row[name] for name in ("promise", "fault", "tasks", "strikes", "victims", "lost", "double", "stale")),
            row["others"],
            number(row["duplicates_per_strike"]),
            # Reports from before there were other models have no such members.
            number(row.get("charged")),
            number(row.get("moved")),
            row["recovery_count"],
            *(number(row[name]) for name in ("recovery_p50", "recovery_p99", "bound")),
            "; ".join(row["problems"]),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def mutants_table(reports: list[dict[str, Any]]) -> str:
    """What `tests.chaos.mutants` wrote; a mutant in several reports is told from the last."""
    lines = ["| mutant | what is broken | fault | seed | found | |", "|---|---|---|--:|---|---|"]
    rows = {row["name"]: (row, report["seed"]) for report in reports for row in report["mutants"]}
    for row, seed in rows.values():
        found = ", ".join(f"{kind} {count}" for kind, count in sorted(row["kinds"].items())) or "nothing"
        # Reports from before a run that stopped was told apart have no such member.
        verdict = "caught" if row["caught"] else "no verdict" if row.get("stopped") else "**survived**"
        lines.append(f"| {row['name']} | {row['what']} | {row['faults']} | {seed} | {found} | {verdict} |")
    return "\n".join(lines)


def put(document: str, name: str, table: str) -> str:
    """Replace what stands between the marks. Raises ValueError where they are not there."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the document has no {begin} … {end}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    text = arguments.document.read_text()
    reports = [json.loads(path.read_text()) for path in arguments.reports]
    for report in reports:
        if "faults" in report:
            # Reports from before the long run had one of its own have no such members.
            if not report.get("whole", True):
                raise SystemExit(f"{len(report['faults'])} faults are no whole run: {report['revision']}")
            text = put(text, "long chaos" if report.get("long") else "chaos", chaos_table(report))
    if mutants := [report for report in reports if "mutants" in report]:
        text = put(text, "mutants", mutants_table(mutants))
    arguments.document.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
