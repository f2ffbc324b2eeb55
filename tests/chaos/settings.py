"""What a run is made of."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Periods:
    """Seconds. Shorter than a production's, so that a run waits less; they stand in every report."""

    lease: int = 5
    reap: float = 0.5
    sweep: float = 1.0
    relist: float = 5.0
    election_lease: float = 6.0
    retention: float = 1.0

    @property
    def recovery(self) -> float:
        """What a lost worker may cost."""
        return self.lease + self.reap + 1.0

    @property
    def take_over(self) -> float:
        """What a lost leader may cost: candidates look every fifth of the Lease."""
        return self.election_lease * 1.2 + 2.0

    def environment(self) -> dict[str, str]:
        """Of the operator."""
        return {
            "HEADRACE_LEASE_SECONDS": str(self.lease),
            "HEADRACE_REAP_SECONDS": str(self.reap),
            "HEADRACE_SWEEP_SECONDS": str(self.sweep),
            "HEADRACE_RELIST_SECONDS": str(self.relist),
            "HEADRACE_RETENTION_SECONDS": str(self.retention),
            "HEADRACE_ELECTION_LEASE_SECONDS": str(self.election_lease),
        }

    def dump(self) -> dict[str, Any]:
        return {f"{name}_seconds": value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class RunSettings:
    """`tasks` over all faults together; `tree` holds the product, `checkout` this harness; `state` is the control
    plane's folder, `folder` the run's own. What has no outcome `settle_seconds` after a fault counts as lost."""

    seed: int
    tasks: int
    api_away_seconds: float
    checkout: Path
    tree: Path
    state: Path
    kube: str
    folder: Path
    periods: Periods = Periods()
    replicas: int = 3
    parallelism: int = 4
    settle_seconds: float = 90.0
    late_fails: bool = True
    """A recovery above its bound fails the run. Where others use the machine too it is told alone."""
    clears: bool = False
    """Tasks that were judged are deleted: with so short a `relist` thousands of them would take all of the machine."""
