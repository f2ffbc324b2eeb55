"""LLMTasks from `kubectl create` to their outcome, all at once, against what the API server itself allows.

One operator process, runner processes with ServiceAccount tokens and Redis users of their own, a stub engine that
answers at once, a real API server with the chart's policies, a real Redis. The ceiling is measured before and after, by
a bare client that writes the same payloads (ceiling.py). The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ceiling
import judge
import queued
from api import Api
from load import MODEL, Follower, spread, task, tasks_path
from world import NAMESPACE, SYSTEM, World, install, world

from headrace_crds.names import METADATA_ONLY

TERMINAL_WITHIN_SECONDS = 900.0


def note(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its ended children, after proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def peak_rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


@dataclass(frozen=True)
class ControlPlane:
    """The processes that tests/cluster/up started, by the files it leaves."""

    state: Path

    def pid(self, name: str) -> int:
        return int((self.state / "built" / f"{name}.pid").read_text())

    def etcd_bytes(self) -> float:
        """What etcd holds, old revisions included."""
        arguments = Path(f"/proc/{self.pid('etcd')}/cmdline").read_bytes().decode().split("\0")
        url = arguments[arguments.index("--listen-client-urls") + 1]
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("etcd_mvcc_db_total_size_in_use_in_bytes "):
                    return float(line.split()[1])
        raise RuntimeError("etcd does not tell its size")


def pids(plane: ControlPlane, running: World | None) -> dict[str, int]:
    found = {name: plane.pid(name) for name in ("apiserver", "etcd")} | {"bench": os.getpid()}
    if running is not None:
        assert running.server.process is not None
        found["redis"] = running.server.process.pid
        for name, process in running.processes.items():
            found[name] = process.pid
            if name == "engine":
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
                found |= {"engine-child": int(children[0])}
    return found


class Spent:
    """CPU seconds of processes since it was made."""

    def __init__(self, of: dict[str, int]) -> None:
        self._of = of
        self._before = {name: cpu_seconds(pid) for name, pid in of.items()}

    def table(self, tasks: int) -> str:
        each = {name: (cpu_seconds(pid) - self._before[name]) / tasks * 1000 for name, pid in self._of.items()}
        runners = sum(value for name, value in each.items() if name.startswith("runner"))
        shown = {name: value for name, value in each.items() if not name.startswith("runner")}
        if runners:
            shown["runners"] = runners
        return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())


async def drain(api: Api, running: World, count: int, at_once: int) -> tuple[Follower, float]:
    """Creates all of them; the follower and the seconds from the first create to the last outcome."""
    path = tasks_path(NAMESPACE)
    follower = Follower(count)
    watching = asyncio.create_task(follower.follow(api, NAMESPACE, await api.version(path)))
    began = time.monotonic()

    async def create(number: int) -> None:
        await api.request(
            "POST", path, task(f"task-{number}"), query={"fieldValidation": "Strict"}, accept=METADATA_ONLY
        )

    try:
        await spread(range(count), at_once, create)
        note(f"created within {time.monotonic() - began:.1f} s")
        await follower.until_done(watching, TERMINAL_WITHIN_SECONDS)
    except TimeoutError as error:
        # What did not end is counted as lost.
        note(str(error))
        running.alive()
    finally:
        watching.cancel()
    return follower, follower.last - began


async def judged(api: Api, count: int) -> tuple[int, int]:
    """Tasks with an outcome, and tasks that are lost: without one, or with a result that is not their own."""
    terminal = good = 0
    async for items in api.pages(tasks_path(NAMESPACE)):
        for item in items:
            terminal += judge.is_terminal(item)
            good += judge.is_good(item)
    return terminal, count - good


async def delete_all(api: Api, namespace: str) -> None:
    path = tasks_path(namespace)
    await api.request("DELETE", path)
    # A stranger's state: there is no event to wait for that costs less.
    while (await api.document("GET", path, query={"limit": "1"})).get("items"):  # noqa: ASYNC110
        await asyncio.sleep(0.2)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    plane = ControlPlane(arguments.state)
    async with Api(arguments.state / "kubeconfig") as api, world(api, folder, arguments.runners) as running:
        model = await install(api, arguments.helm, arguments.state / "kubeconfig")
        await delete_all(api, NAMESPACE)
        operator_token = await api.token(SYSTEM, "bench-headrace-operator")
        await running.start_operator(operator_token)
        if arguments.queued:
            return await queued.measure(api, running, operator_token, arguments.queued, arguments.at_once, note)
        await running.start_runners()
        runner_token = await api.token(NAMESPACE, f"headrace-{MODEL}")
        note("warming up")
        await drain(api, running, 64, arguments.at_once)
        running.end()

        half = arguments.tasks // 2

        async def of_ceiling(part: str) -> float:
            await delete_all(api, NAMESPACE)
            names = [f"ceiling-{part}-{n}" for n in range(half)]
            spent = Spent(pids(plane, None))
            seconds = await ceiling.measure(
                api, NAMESPACE, model, names, half, arguments.at_once, (operator_token, runner_token)
            )
            note(f"ceiling: {half / seconds:.0f} tasks/s; CPU ms per task: {spent.table(half)}")
            await delete_all(api, NAMESPACE)
            return seconds

        before = await of_ceiling("before")
        await running.start_operator(operator_token)
        await running.start_runners()
        bytes_before, spent = plane.etcd_bytes(), Spent(pids(plane, running))
        follower, seconds = await drain(api, running, arguments.tasks, arguments.at_once)
        note(f"ours: {arguments.tasks / seconds:.0f} tasks/s; CPU ms per task: {spent.table(arguments.tasks)}")
        etcd_bytes = (plane.etcd_bytes() - bytes_before) / arguments.tasks
        rss = peak_rss_mib(running.processes["operator"].pid)
        terminal, lost = await judged(api, arguments.tasks)
        running.end()
        after = await of_ceiling("after")
        rate, allowed = arguments.tasks / seconds, 2 * half / (before + after)
    return {
        "tasks": arguments.tasks,
        "terminal": terminal,
        "lost": lost,
        "tasks_per_s": round(rate, 1),
        "ceiling_tasks_per_s": round(allowed, 1),
        "ratio_to_ceiling": round(rate / allowed, 3),
        "jobs_per_s": round(arguments.jobs_per_s, 2) if arguments.jobs_per_s else None,
        "ratio_to_jobs": round(rate / arguments.jobs_per_s, 1) if arguments.jobs_per_s else None,
        "operator_rss_mib": round(rss, 1),
        "bytes_per_task_etcd": round(etcd_bytes),
        "writes_per_task": round(follower.writes / arguments.tasks, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of a control plane that tests/cluster/up made"
    )
    parser.add_argument("--helm", required=True)
    parser.add_argument("--tasks", type=int, default=5100)
    parser.add_argument("--runners", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=64, help="requests of the creating client in flight")
    parser.add_argument("--queued", type=int, help="measure so many queued tasks instead: memory, LIST, resync")
    parser.add_argument("--jobs-per-s", type=float, help="what jobs.py found, for the ratio")
    arguments = parser.parse_args()
    # Whatever ends it, the processes it started end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
        figures = asyncio.run(measure(arguments, Path(folder)))
    print(json.dumps(figures))
    if not arguments.queued and (broken := judge.broken_promise(figures)):
        sys.exit(f"error: {broken}")


if __name__ == "__main__":
    main()
