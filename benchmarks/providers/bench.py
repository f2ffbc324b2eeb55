"""LLMTasks of a remote model against OpenAI's own SDK by itself, with a provider that takes half a second.

One runner process with its ServiceAccount's token and its Redis user, a real API server with the chart's policies, a
real Redis, a stub of the provider in a process of its own; the SDK in another. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import latency
import rates
import throughput
from installation import Api, installation
from stub import POLICIES

PHASES = ("runner", "latency", "objects", "rates")


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    stubs: dict[str, list[str]] = {"remote": ["--deltas", str(arguments.deltas)]}
    specs: dict[str, dict[str, Any]] = {"remote": {"maxConcurrency": arguments.in_flight}}
    if "rates" in arguments.only:
        for policy in POLICIES:
            name = rates.model_of(policy)
            stubs[name] = ["--policy", policy, "--per-minute", str(rates.PER_MINUTE)]
            specs[name] = {"maxConcurrency": arguments.in_flight, "limits": {"requestsPerMinute": rates.PER_MINUTE}}
    figures: dict[str, Any] = {}
    kubeconfig = arguments.state / "kubeconfig"
    async with Api(kubeconfig) as api, installation(api, folder, stubs) as running:
        await running.prepare(arguments.helm, kubeconfig, specs)
        await running.start_runner("remote")
        if {"runner", "latency"} & set(arguments.only):
            await running.end_process("operator")
            async with throughput.sdk(running.stubs["remote"].port) as sdk:
                await throughput.warm_up(running)
                if "runner" in arguments.only:
                    figures |= await throughput.of_runner(running, sdk, arguments)
                if "latency" in arguments.only:
                    figures |= await latency.measure(running, sdk, arguments.pairs)
            await running.operate()
        if "objects" in arguments.only:
            figures |= await throughput.of_objects(running, arguments)
        figures["rss_mib"] = round(throughput.peak_rss_mib(running.processes["runner-remote"].pid), 1)
        if "rates" in arguments.only:
            await running.end_process("runner-remote")
            figures |= await rates.measure(running, arguments.rate_seconds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of a control plane that tests/cluster/up made"
    )
    parser.add_argument("--helm", required=True)
    parser.add_argument("--only", default=",".join(PHASES), help="some of them, with commas between")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--deltas", type=int, default=32, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=60, help="tasks by themselves, each beside a call of the SDK")
    parser.add_argument("--rate-seconds", type=float, default=120.0)
    parser.add_argument("--log", type=Path, help="keep the processes' logs in this folder")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(arguments.only) - set(PHASES):
        parser.error(f"--only: {', '.join(sorted(unknown))} is none of {', '.join(PHASES)}")
    # Whatever ends it, the processes it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if arguments.log is not None:
        arguments.log.mkdir(parents=True, exist_ok=True)
        print(json.dumps(asyncio.run(measure(arguments, arguments.log))))
        return
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
        print(json.dumps(asyncio.run(measure(arguments, Path(folder)))))


if __name__ == "__main__":
    main()
