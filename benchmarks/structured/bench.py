"""How many schemas a small model is made to answer: by the engine and the runner's own way through an attempt.

Half of the schemas are SchemaStore's, the other half made by chance; both drawn from ``--seed``. Whatever could not be
answered counts as not served: refused, cut off, out of time, refused by the runner's own judge. What was returned is
judged by another validator. The last line is JSON.
"""

import argparse
import asyncio
import collections
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from engine_process import engine
from generator import Generator

from headrace_crds.inputs import Output
from headrace_crds.task import Message, Outcome, Parameters, Role
from headrace_crds.work import Work
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.engine.client import EngineClient
from headrace_runner.execute import execute
from headrace_runner.validate import Validator
from headrace_runner.verdict import GivenBack, Setback, Verdict


@dataclass(frozen=True)
class Case:
    name: str
    schema: str


class Judge:
    """The other validator's process."""

    def __init__(self, python: str) -> None:
        script = __file__.replace("bench.py", "judge_side.py")
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, question: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Ending:
    """A sink that keeps the verdict."""

    def __init__(self) -> None:
        self.verdict: Verdict | Setback | GivenBack | None = None

    def progress(self, completion_tokens: int) -> None: ...

    def generated(self) -> None: ...

    async def conclude(self, verdict: Verdict) -> None:
        self.verdict = verdict

    async def give_back(self, setback: Setback) -> None:
        self.verdict = setback

    async def release(self, reason: str) -> None:
        self.verdict = GivenBack(reason)


def cases(judge: Judge, seed: int, count: int) -> list[Case]:
    stored = [Case(each["name"], each["text"]) for each in judge.ask({"corpus": True})]
    chosen = random.Random(seed).sample(stored, min(count - count // 2, len(stored)))
    generator = Generator(seed)
    made = [Case(f"generated-{number}", json.dumps(generator.schema())) for number in range(count - len(chosen))]
    return [*chosen, *made]


def attempt_at(case: Case, arguments: argparse.Namespace) -> Attempt:
    title = json.loads(case.schema).get("title") or "an example"
    work = Work(
        model="bench/smollm2",
        generation=1,
        messages=[Message(role=Role.USER, content=f"Write a JSON document: {str(title)[:200]}.")],
        parameters=Parameters(max_tokens=arguments.max_tokens, temperature=arguments.temperature, seed=arguments.seed),
        output=Output(json_schema=case.schema),
        attempt_timeout_ms=arguments.timeout_seconds * 1000,
    )
    return Attempt(case.name, "bench", case.name, 1, work, "bench", 0, 0, time.monotonic())


async def answer(case: Case, client: EngineClient, validator: Validator, arguments: argparse.Namespace) -> Any:
    ending = Ending()
    await execute(attempt_at(case, arguments), client, validator, ending, Curb())
    return ending.verdict


async def run(chosen: list[Case], arguments: argparse.Namespace) -> dict[str, Any]:
    verdicts: dict[str, Any] = {}
    places = asyncio.Semaphore(arguments.parallelism)

    async def one(case: Case) -> None:
        async with places:
            began = time.monotonic()
            verdicts[case.name] = await answer(case, client, validator, arguments)
            word = verdicts[case.name].reason
            print(
                f"{len(verdicts)}/{len(chosen)} {case.name}: {word} in {time.monotonic() - began:.0f} s",
                file=sys.stderr,
            )

    with engine(arguments.model, arguments.parallelism, arguments.max_tokens + 1024) as socket:
        client = await EngineClient.connect(socket)
        async with Validator() as validator:
            await asyncio.gather(*(one(case) for case in chosen))
        await client.aclose()
    return verdicts


def report(chosen: list[Case], verdicts: dict[str, Any], judge: Judge) -> dict[str, Any]:
    reasons: collections.Counter[str] = collections.Counter()
    served, invalid, tokens = 0, 0, 0
    for case in chosen:
        verdict = verdicts[case.name]
        text = None
        if isinstance(verdict, Verdict) and verdict.outcome is Outcome.COMPLETE:
            text = verdict.result.text if verdict.result is not None else verdict.large and verdict.large.text
        if text is None:
            reasons[str(verdict.reason)] += 1
            print(f"not served: {case.name}: {verdict.reason}: {getattr(verdict, 'message', '')[:300]}")
            continue
        tokens += 0 if verdict.usage is None else verdict.usage.completion_tokens
        if wrong := judge.ask({"schema": case.schema, "text": text}):
            invalid += 1
            print(f"invalid: {case.name}: {wrong}")
            continue
        served += 1
        kind = verdict.result or verdict.large
        reasons[f"{kind.finish_reason}/{kind.enforcement}" + (f"/{kind.repairs} repairs" if kind.repairs else "")] += 1
    print(f"{len(chosen)} schemas, {tokens} tokens; {dict(reasons.most_common())}")
    return {"served_pct": round(100 * served / len(chosen), 1), "invalid_returned": invalid}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--judge-python", required=True, help="interpreter of the second validator's environment")
    parser.add_argument("--seed", type=int, default=7919, help="of schemas and sampling; the default one is held out")
    parser.add_argument("--schemas", type=int, default=60)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--parallelism", type=int, default=8)
    parser.add_argument("--temperature", default="0.2")
    parser.add_argument("--timeout-seconds", type=int, default=1800)
    parser.add_argument("--extra", help="a file of further schemas, one JSON text a line")
    arguments = parser.parse_args()
    judge = Judge(arguments.judge_python)
    try:
        chosen = cases(judge, arguments.seed, arguments.schemas)
        if arguments.extra:
            with open(arguments.extra, encoding="utf-8") as file:
                chosen += [Case(f"line-{number}", line) for number, line in enumerate(file, 1)]
        result = report(chosen, asyncio.run(run(chosen, arguments)), judge)
    finally:
        judge.close()
    print(json.dumps(result))
    return 0 if result["served_pct"] >= 95 and result["invalid_returned"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
