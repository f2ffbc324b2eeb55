"""What the checker is told of a task and of a phase, and what it says of them."""

from dataclasses import dataclass

Problem = tuple[str, str]
"""Kind and detail."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is known of a task from its submission. `ending` as the script's; `cancelled`: that was asked for. Limits as
    in its spec, in seconds; `webhook`: somebody wants to be told. `inputs`: from when on (CLOCK_MONOTONIC) the object
    that its input comes from named whom; empty where the prompt is the task's own. `models`: whose it may be, in order,
    as namespace/name; empty where nobody looks."""

    name: str
    uid: str
    withdrawn: bool
    ending: str
    cancelled: bool = False
    queue_deadline_seconds: int | None = None
    active_deadline_seconds: int | None = None
    attempt_timeout_seconds: int | None = None
    ttl_seconds: int | None = None
    webhook: bool = False
    inputs: tuple[tuple[float, str], ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """`recovery_seconds`: what a lost worker may cost. `forgets`: a fault of the phase takes a claim back, so that an
    attempt may run twice. `flushes`: how often the bus lost everything. `settled`: the phase is over, and every task
    should be. `faults`: how many retries a provider that fails may cost altogether. `deaths`: how many runners were
    killed, where nothing else can cost a retry; `parallelism`: what each of them ran at most. `outages`: from when to
    when (CLOCK_MONOTONIC) nobody can have kept time. `quotas`: how many tasks may be handed out at once, from when on.
    """

    lease_seconds: float
    recovery_seconds: float
    forgets: bool = False
    flushes: int = 0
    settled: bool = True
    faults: int = 0
    deaths: int | None = None
    parallelism: int = 4
    outages: tuple[tuple[float, float], ...] = ()
    quotas: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Violation:
    kind: str
    name: str
    detail: str
