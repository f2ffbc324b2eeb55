"""Arrivals of tasks at many models, by seed: three shapes that recorded traces of inference have.

"bursty": batches of tasks at once, at moments that nobody knows. "diurnal": every model has a day of its own, an hour
and a half long. "heavy": few models have most of the work (Zipf), batches and lengths of tasks are Pareto's.

The work that arrives would keep `load` of all GPUs busy, if every model were loaded everywhere.
"""

import math
import random
from dataclasses import dataclass

SHAPES = ("bursty", "diurnal", "heavy")
DAY_SECONDS = 5400.0


@dataclass(frozen=True)
class Spec:
    """A model: GPUs of one replica, work at once in it, and seconds until it serves."""

    gpus: int
    slots: int
    service_seconds: float
    start_seconds: float
    most: int


@dataclass(frozen=True)
class Arrival:
    at: float
    model: int
    service_seconds: float


@dataclass(frozen=True)
class Scale:
    models: int
    gpus: int
    per_node: int
    most: int
    """maxReplicas of every model."""
    horizon: float
    replan_seconds: float
    """A policy is asked no sooner after it was asked; 5 s after that it is asked anyway."""


@dataclass(frozen=True)
class Trace:
    scale: Scale
    specs: list[Spec]
    arrivals: list[Arrival]


def make(scale: Scale, shape: str, seed: int, load: float) -> Trace:
    rnd = random.Random(f"{shape}/{scale.models}/{seed}")
    specs = [_spec(rnd, scale) for _ in range(scale.models)]
    popularity = [1 / (rank + 1) if shape == "heavy" else rnd.uniform(0.5, 1.5) for rank in range(scale.models)]
    rnd.shuffle(popularity)
    # No model gets more than half of what all of its replicas could do, or the trace would test maxReplicas.
    budget = load * scale.gpus
    shares = [budget * share / sum(popularity) for share in popularity]
    shares = [min(share, 0.5 * spec.most * spec.gpus) for share, spec in zip(shares, specs, strict=True)]
    arrivals: list[Arrival] = []
    for model, (spec, share) in enumerate(zip(specs, shares, strict=True)):
        rate = share / spec.gpus * spec.slots / spec.service_seconds
        for at in _times(rnd, shape, rate, scale.horizon):
            arrivals.append(Arrival(at, model, _service(rnd, shape, spec.service_seconds)))
    arrivals.sort(key=lambda arrival: (arrival.at, arrival.model))
    return Trace(scale, specs, arrivals)


def _spec(rnd: random.Random, scale: Scale) -> Spec:
    gpus = 2 if scale.per_node >= 4 and rnd.random() < 0.1 else 1
    slots, service = rnd.choice((4, 8)), rnd.uniform(8, 30)
    return Spec(gpus, slots, service, rnd.uniform(20, 90), scale.most)


def _times(rnd: random.Random, shape: str, rate: float, horizon: float) -> list[float]:
    """Moments at which a task comes, `rate` a second in the mean."""
    found: list[float] = []
    if shape == "diurnal":
        phase, at = rnd.uniform(0, 2 * math.pi), 0.0
        while (at := at + rnd.expovariate(2 * rate)) < horizon:
            if rnd.random() < (1 + math.cos(2 * math.pi * at / DAY_SECONDS + phase)) / 2:
                found.append(at)
        return found
    mean_batch, at = 30.0, 0.0
    while (at := at + rnd.expovariate(rate / mean_batch)) < horizon:
        if shape == "bursty":
            size = 1 + int(rnd.expovariate(1 / (mean_batch - 0.5)))
        else:
            size = min(1500, int(mean_batch / 3 * rnd.paretovariate(1.5)))
        # A batch is submitted within half a minute.
        found.extend(sorted(at + rnd.uniform(0, 30) for _ in range(size)))
    return [each for each in found if each < horizon]


def _service(rnd: random.Random, shape: str, mean: float) -> float:
    if shape == "heavy":
        return min(20 * mean, mean / 3 * rnd.paretovariate(1.5))
    return rnd.lognormvariate(math.log(mean) - 0.32, 0.8)
