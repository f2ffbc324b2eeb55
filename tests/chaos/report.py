"""The figures of a run, and what they have to be."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tests.chaos.checker import DOUBLE, LOST, STALE, Finding
from tests.chaos.judged import Violation
from tests.chaos.phase import Phase

SHOWN: Final = 20


def quantile(values: list[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def tail_name(count: int) -> str:
    """What the 99th percentile of so many values is."""
    return "p99" if count >= 100 else "max"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


@dataclass
class FaultFigures:
    """Of one fault. Recoveries in seconds; `bound` None: none is promised. `victims` ran where it struck; `survived`
    of them ended at the attempt that was struck. `charged` are retries, `moved` changes of the model; `models` counts
    executions by who served them."""

    fault: str
    promise: str
    tasks: int
    strikes: int
    victims: int
    survived: int
    lost: int
    double: int
    stale: int
    others: int
    executions: int
    duplicates: int
    duplicates_per_strike: float
    recovery_p50: float | None
    recovery_p99: float | None
    recovery_count: int
    bound: float | None
    seconds: float
    kinds: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    charged: int = 0
    moved: int = 0
    models: dict[str, int] = field(default_factory=dict)
    late: bool = False
    """Recovery was slower than its bound."""
    stopped: str = ""
    """What was waited for in vain: the run is no verdict."""

    @property
    def passed(self) -> bool:
        return not self.problems

    def row(self) -> str:
        bound = "" if self.bound is None else f" ≤ {self.bound}"
        verdict = "FAILED" if not self.passed else "late" if self.late else "ok"
        return (
            f"{self.fault:20} {self.tasks:5} tasks {self.strikes:2} strikes {self.victims:3} hit  "
            f"lost {self.lost} double {self.double} stale {self.stale} other {self.others}  "
            f"charged {self.charged} moved {self.moved}  again {self.duplicates_per_strike:4.1f}/strike  "
            f"recovery p50 {self.recovery_p50} {tail_name(self.recovery_count)} {self.recovery_p99}{bound} s "
            f"of {self.recovery_count}  {self.seconds:5.1f} s  {verdict}"
        )


def figures(phase: Phase, finding: Finding, seconds: float, *, late_fails: bool = True) -> FaultFigures:
    """What a phase came to."""
    fault, periods = phase.fault, phase.world.settings.periods
    recoveries, survived = phase.recoveries()
    victims = sum(len(strike.victims) + len(strike.recoveries) for strike in phase.strikes)
    bound = None if fault.bound is None or not recoveries else round(fault.bound(periods), 2)
    p99 = quantile(recoveries, 0.99)
    problems = [_sentence(violation) for violation in finding.violations[:SHOWN]]
    late = bound is not None and p99 is not None and p99 > bound
    if late and late_fails:
        problems.append(f"recovery {tail_name(len(recoveries))} {_rounded(p99)} s is above {bound} s")
    if phase.stopped:
        problems.append(f"the run stopped: {phase.stopped}")
    if fault.needs_victims and not victims:
        problems.append("no task was hit: the run proves nothing")
    return FaultFigures(
        fault=fault.name,
        promise=fault.promise,
        tasks=len(phase.submissions()),
        strikes=len(phase.strikes),
        victims=victims,
        survived=survived,
        lost=finding.count(LOST),
        double=finding.count(DOUBLE),
        stale=finding.count(STALE),
        others=finding.others,
        executions=finding.executions,
        duplicates=finding.duplicates,
        duplicates_per_strike=round(finding.duplicates / max(1, len(phase.strikes)), 2),
        recovery_p50=_rounded(quantile(recoveries, 0.5)),
        recovery_p99=_rounded(p99),
        recovery_count=len(recoveries),
        bound=bound,
        seconds=round(seconds, 1),
        kinds=dict(Counter(violation.kind for violation in finding.violations)),
        problems=problems,
        charged=finding.charged,
        moved=finding.moved,
        models={model.rpartition("/")[2]: times for model, times in sorted(finding.by_model.items())},
        late=late,
        stopped=phase.stopped,
    )


def _sentence(violation: Violation) -> str:
    return f"{violation.kind}: {violation.name}: {violation.detail}"


def document(rows: list[FaultFigures], settings: dict[str, Any]) -> dict[str, Any]:
    """The report, as JSON."""
    return {**settings, "passed": all(row.passed for row in rows), "faults": [asdict(row) for row in rows]}
