"""What both sides are given: task lists made from a seed, the same for each, and how the answers are summed up.

Imports nothing but the standard library: it runs in the peer's environment too.
"""

import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

WORDS = """time year people way day man thing woman life child world school state family student group country problem
hand part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service friend father
power hour game line end member law car city community name president team minute idea body information back parent
face others level office door health person art war history party result change morning reason research girl guy moment
air teacher force education""".split()  # noqa: SIM905
SYSTEM_WORDS = 400
STOP = "\u2603\u2603"  # scanned for in every text, never found


@dataclass(frozen=True)
class Task:
    """``at`` is when it arrives, in seconds after the first; a schema is JSON text."""

    prompt: str
    max_tokens: int
    seed: int
    at: float = 0.0
    schema: str | None = None


def words(choose: random.Random, count: int) -> str:
    return " ".join(choose.choice(WORDS) for _ in range(count))


def distinct(seed: int, count: int, max_tokens: int, schema: str | None = None) -> list[Task]:
    """Prompts of about 20 tokens that share no beginning."""
    choose = random.Random(seed)
    return [Task(f"{words(choose, 17)}. Then", max_tokens, seed + n, schema=schema) for n in range(count)]


def shared_prefix(seed: int, count: int, max_tokens: int) -> list[Task]:
    """One system prompt of about 470 tokens, and a question each."""
    choose = random.Random(seed)
    system = ". ".join(words(choose, 8) for _ in range(SYSTEM_WORDS // 8))
    return [Task(f"{system}.\n\n{words(choose, 12)}?", max_tokens, seed + n) for n in range(count)]


def mixed(seed: int, count: int, per_second: float | None) -> list[Task]:
    """Prompts of 20 to 1,500 tokens, outputs of 10 to 300, both log-uniform; arrivals are Poisson."""
    choose = random.Random(seed)
    at, tasks = 0.0, []
    for n in range(count):
        length = round(20 * (1500 / 20) ** choose.random())
        tokens = round(10 * (300 / 10) ** choose.random())
        tasks.append(Task(words(choose, round(length * 0.9)), tokens, seed + n, at))
        at += choose.expovariate(per_second) if per_second else 0.0
    return tasks


@dataclass
class Answer:
    """Seconds since the run began. ``pieces`` are when text arrived; ``tokens`` as the side counts them."""

    began: float
    pieces: list[float]
    tokens: int
    prompt_tokens: int
    ended: float


def measured(
    tasks: Sequence[Task], in_flight: int | None, do: Callable[[Task, Callable[[], None]], tuple[int, int]]
) -> Any:
    """Perform and sum up, with the CPU seconds of this process: on a machine that others use they tell more."""
    before = time.process_time()
    done = summary(perform(tasks, in_flight, do))
    cpu_seconds = time.process_time() - before
    return {**done, "cpu_seconds": cpu_seconds, "tokens_per_cpu_s": done["tokens"] / cpu_seconds}


def perform(
    tasks: Sequence[Task], in_flight: int | None, do: Callable[[Task, Callable[[], None]], tuple[int, int]]
) -> Any:
    """Run tasks, ``in_flight`` at a time or each at its time; ``do`` blocks and calls back at each piece of text."""
    begin = time.perf_counter()
    answers: list[Answer | None] = [None] * len(tasks)
    errors: list[str] = []
    places = threading.Semaphore(in_flight or len(tasks))

    def one(number: int) -> None:
        pieces: list[float] = []
        began = time.perf_counter() - begin
        try:
            tokens, prompt_tokens = do(tasks[number], lambda: pieces.append(time.perf_counter() - begin))
            ended = time.perf_counter() - begin
            answers[number] = Answer(began, pieces, tokens, prompt_tokens, ended)
        except Exception as error:
            errors.append(repr(error))
        finally:
            places.release()

    threads = []
    for number, task in enumerate(tasks):
        if in_flight is None:
            time.sleep(max(0.0, task.at - (time.perf_counter() - begin)))
        places.acquire()
        threads.append(threading.Thread(target=one, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError(f"{len(errors)} tasks failed, the first with {errors[0]}")
    return [asdict(answer) for answer in answers if answer is not None]


def summary(answers: Sequence[dict[str, Any]]) -> dict[str, float]:
    """tokens/s and tasks/s over the whole run; 95th percentiles of the first text and of the pauses between texts."""
    seconds = max(each["ended"] for each in answers)
    first = [each["pieces"][0] - each["began"] for each in answers if each["pieces"]]
    gaps = [b - a for each in answers for a, b in zip(each["pieces"], each["pieces"][1:], strict=False)]
    return {
        "tokens": sum(each["tokens"] for each in answers),
        "prompt_tokens": sum(each["prompt_tokens"] for each in answers),
        "tokens_per_s": sum(each["tokens"] for each in answers) / seconds,
        "tasks_per_s": len(answers) / seconds,
        "first_p95_s": _p95(first),
        "gap_p95_s": _p95(gaps),
    }


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else (values[0] if values else 0.0)
