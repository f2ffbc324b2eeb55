"""The facade beside LiteLLM's proxy and Portkey's gateway before the same upstream, in one run, in rotating order.

Ours is the whole way of a call: facade, Redis, runner, upstream and back, with a token that the API server has
verified. The peers hand a request on in one process. What is added is the median over that of the upstream asked
directly. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "providers"), str(HERE.parent / "tasks")]
import installation as providers  # noqa: E402
import sides  # noqa: E402
from installation import Api, Installation, installation  # noqa: E402
from world import NAMESPACE, RELEASE, SYSTEM, free_port, is_ready  # noqa: E402

from headrace_bus import FACADE_ACL  # noqa: E402

DELTAS = 16
BODY = {
    "messages": [
        {"role": "system", "content": "You are a helpful assistant. " * 8},
        {"role": "user", "content": "Summarise the following paragraph in two sentences. " * 10},
    ],
    "max_tokens": 64,
    "temperature": 0.5,
}


class Load:
    def __init__(self) -> None:
        command = [sys.executable, "-P", str(HERE / "load.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, side: sides.Side, concurrency: int, requests: int, *, stream: bool = False) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        body = {"model": side.model, **BODY, **({"stream": True} if stream else {})}
        told = {"port": side.port, "path": side.path, "headers": side.headers, "body": body, "stream": stream}
        before = side.cpu()
        print(
            json.dumps({**told, "concurrency": concurrency, "requests": requests}), file=self._process.stdin, flush=True
        )
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        if found["wrong"]:
            raise RuntimeError(f"{side.name}: {found['wrong']} of {requests} answers were wrong: {found['sample']}")
        cpu = {name: seconds - before[name] for name, seconds in side.cpu().items()}
        millis = sorted(found["millis"])
        return {
            "p50_ms": statistics.median(millis),
            "p99_ms": millis[int(len(millis) * 0.99)],
            "rps": requests / found["seconds"],
            "cpu_ms": {name: 1000 * seconds / requests for name, seconds in cpu.items()},
        }

    def gaps(self, side: sides.Side, streams: int) -> list[float]:
        """Milliseconds between two pieces of an answer; every answer has to be whole."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        body = {"model": side.model, **BODY, "stream": True}
        told = {"port": side.port, "path": side.path, "headers": side.headers, "body": body, "stream": True}
        print(
            json.dumps({**told, "concurrency": streams, "requests": streams, "gaps": True}),
            file=self._process.stdin,
            flush=True,
        )
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        if found["wrong"]:
            raise RuntimeError(f"{side.name}: {found['wrong']} of {streams} streams were cut: {found['sample']}")
        return list(found["gaps"])

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


async def start_facade(running: Installation, api: Api) -> tuple[int, str]:
    """With the chart's rights and its Redis user; its port, and a caller's token."""
    import redis

    with redis.Redis(port=running.server.port) as direct:
        direct.execute_command("ACL", "SETUSER", "facade", "reset", "on", ">secret", *FACADE_ACL)
    token = await api.token(SYSTEM, f"{RELEASE}-headrace-facade")
    files = {"facade.redis": f"redis://facade:secret@127.0.0.1:{running.server.port}/0", "facade.token": token}
    for name, text in files.items():
        (running.folder / name).write_text(text)
    cluster = (
        json.loads(api.kubeconfig(token)) if api.kubeconfig(token).startswith("{") else _yaml(api.kubeconfig(token))
    )
    server = cluster["clusters"][0]["cluster"]
    authority = running.folder / "ca.crt"
    if "certificate-authority-data" in server:
        import base64

        authority.write_bytes(base64.b64decode(server["certificate-authority-data"]))
    else:
        authority = Path(server["certificate-authority"])
    port, metrics = free_port(), free_port()
    running.start(
        "facade",
        "-c",
        "from headrace_facade.main import main; main()",
        HEADRACE_KUBE_URL=server["server"],
        HEADRACE_KUBE_CA_FILE=str(authority),
        HEADRACE_KUBE_TOKEN_FILE=str(running.folder / "facade.token"),
        HEADRACE_REDIS_URL_FILE=str(running.folder / "facade.redis"),
        HEADRACE_DEFAULT_NAMESPACE=NAMESPACE,
        HEADRACE_HOST="127.0.0.1",
        HEADRACE_PORT=str(port),
        HEADRACE_METRICS_PORT=str(metrics),
    )
    await running.until(lambda: is_ready(port))
    for path, body in _caller():
        await api.apply(path, body)
    return port, await api.token(NAMESPACE, "bench-client")


def _yaml(text: str) -> Any:
    import yaml

    return yaml.safe_load(text)


def _caller() -> list[tuple[str, dict[str, Any]]]:
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
    rule = {"apiGroups": ["headrace.dev"], "resources": ["llmtasks"], "verbs": ["create"]}
    subject = {"kind": "ServiceAccount", "name": "bench-client", "namespace": NAMESPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bench-client"}
    named = {"metadata": {"name": "bench-client"}}
    return [
        (f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", named),
        (f"{rbac}/roles", {**named, "rules": [rule]}),
        (f"{rbac}/rolebindings", {**named, "subjects": [subject], "roleRef": role}),
    ]


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    stub = [
        "--latency-ms",
        str(arguments.latency_ms),
        "--first-ms",
        str(arguments.latency_ms / 2),
        "--deltas",
        str(DELTAS),
    ]
    remote = {"provider": arguments.provider, "maxConcurrency": 1000 if arguments.streams else 64}
    # Two tokens a second.
    slow = ["--latency-ms", "20000", "--first-ms", "500", "--deltas", "40"]
    stubs = {"remote": stub, **dict.fromkeys(_slow_models(arguments), slow)}
    kubeconfig = arguments.state / "kubeconfig"
    async with Api(kubeconfig) as api, installation(api, folder, stubs) as running:
        await running.prepare(arguments.helm, kubeconfig, dict.fromkeys(stubs, remote))
        for name in stubs:
            await running.start_runner(name)
        port, token = await start_facade(running, api)
        upstream = running.stubs["remote"].port
        peers = []
        if arguments.litellm:
            peers.append(("litellm", sides.litellm(arguments.litellm, folder, upstream, lite := free_port())))
        if arguments.portkey:
            peers.append(("portkey", sides.portkey(arguments.portkey, folder, upstream, key := free_port())))
        chat = "/v1/chat/completions"
        bearer = {"authorization": f"Bearer {token}"}
        ours = sides.Side("headrace", port, chat, bearer, "remote")
        for part, name in (("facade", "facade"), ("runner", "runner-remote")):
            pid = running.processes[name].pid
            ours.cpu_of[part] = lambda pid=pid: sides.process_seconds(pid)  # type: ignore[misc]
        ours.cpu_of["redis"] = lambda: providers.redis_seconds(running.server.port)
        found = [sides.Side("direct", upstream, chat, {}, "gpt-bench"), ours]
        for name, process in peers:
            headers = {"authorization": "Bearer sk-master"}
            if name == "portkey":
                headers = {
                    "authorization": "Bearer sk-bench",
                    "x-portkey-provider": "openai",
                    "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1",
                }
            side = sides.Side(name, lite if name == "litellm" else key, chat, headers, "bench")
            side.cpu_of[name] = lambda pid=process.pid: sides.process_seconds(pid)  # type: ignore[misc]
            found.append(side)
        load = Load()
        try:
            for side in found:
                await asyncio.to_thread(sides.answers, side.port, side.path, side.headers, side.model)
                load.ask(side, 4, 200)
            # The operator looks at nothing meanwhile that would cost anybody.
            await running.end_process("operator")
            streams = await asyncio.to_thread(_streams, found, running, arguments) if arguments.streams else {}
            rounds = [
                _round(load, found[turn % len(found) :] + found[: turn % len(found)], arguments)
                for turn in range(arguments.rounds)
            ]
        finally:
            load.end()
            for _, process in peers:
                process.terminate()
                process.wait(20)
        rss = {
            name: round(sides.rss_mib(running.processes[each].pid), 1)
            for name, each in (("facade", "facade"), ("runner", "runner-remote"))
        }
    return {**_figures(rounds, rss), **streams}


def _round(load: Load, found: list[sides.Side], arguments: argparse.Namespace) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for side in found:
        one = load.ask(side, 1, arguments.one)
        many = load.ask(side, 16, arguments.many)
        told[side.name] = {"one": one, "many": many}
        parts = ", ".join(f"{name} {ms:.2f}" for name, ms in many["cpu_ms"].items())
        print(
            f"  {side.name}: c=1 p50 {one['p50_ms']:.2f} p99 {one['p99_ms']:.2f} ms; c=16 {many['rps']:.0f}/s p99 "
            f"{many['p99_ms']:.1f} ms; CPU ms a request: {parts}",
            flush=True,
        )
    return told


def _streams(found: list[sides.Side], running: Installation, arguments: argparse.Namespace) -> dict[str, Any]:
    """Many answers that grow at once, on one facade; asked of the upstream itself it is the pace of an engine."""
    figures: dict[str, Any] = {"streams": arguments.streams}
    names = _slow_models(arguments)
    share = arguments.streams // len(names)
    for side in found[:2]:
        loads = [Load() for _ in names]
        ours = side.name == "headrace"
        try:
            with ThreadPoolExecutor(len(names)) as pool:
                slow = [
                    sides.Side(
                        name,
                        side.port if ours else running.stubs[name].port,
                        side.path,
                        side.headers,
                        name if ours else "m",
                    )
                    for name in names
                ]
                gaps = [
                    gap
                    for told in pool.map(lambda pair: pair[0].gaps(pair[1], share), zip(loads, slow, strict=True))
                    for gap in told
                ]
        finally:
            for load in loads:
                load.end()
        gaps.sort()
        figures[f"{side.name}_gap_p50_ms"] = round(statistics.median(gaps), 1)
        figures[f"{side.name}_gap_p99_ms"] = round(gaps[int(len(gaps) * 0.99)], 1)
    figures["streams_rss_mib"] = round(sides.rss_mib(running.processes["facade"].pid), 1)
    figures["redis_connections"] = providers.redis_clients(running.server.port)
    figures["gap_p99_ratio"] = round(figures["headrace_gap_p99_ms"] / figures["direct_gap_p99_ms"], 2)
    return figures


def _slow_models(arguments: argparse.Namespace) -> list[str]:
    """A model has at most 1,024 calls at a time."""
    return [f"slow{number}" for number in range(-(-arguments.streams // 1000))]


def _figures(rounds: list[dict[str, Any]], rss: dict[str, float]) -> dict[str, Any]:
    def median(of: Any) -> float:
        return round(statistics.median(of(each) for each in rounds), 3)

    def added(name: str, which: str) -> float:
        return median(lambda each: each[name]["one"][which] - each["direct"]["one"][which])

    def cpu(name: str, parts: tuple[str, ...] | None = None) -> float:
        return median(
            lambda each: sum(ms for part, ms in each[name]["many"]["cpu_ms"].items() if not parts or part in parts)
        )

    figures: dict[str, Any] = {
        "added_p50_ms": added("headrace", "p50_ms"),
        "added_p99_ms": added("headrace", "p99_ms"),
        "p99_at_16_ms": median(lambda each: each["headrace"]["many"]["p99_ms"]),
        "rps": median(lambda each: each["headrace"]["many"]["rps"]),
        "rps_per_core": round(1000 / cpu("headrace", ("facade",)), 1),
        "cpu_ms_per_request": cpu("headrace"),
        "cpu_ms_parts": {part: cpu("headrace", (part,)) for part in ("facade", "redis", "runner")},
        "direct_rps": median(lambda each: each["direct"]["many"]["rps"]),
        "rss_mib": rss,
    }
    for name in ("litellm", "portkey"):
        if name in rounds[0]:
            figures[f"{name}_added_p50_ms"] = added(name, "p50_ms")
            figures[f"{name}_rps"] = median(lambda each, name=name: each[name]["many"]["rps"])
            figures[f"{name}_cpu_ms_per_request"] = cpu(name)
            figures[f"{name}_p99_at_16_ms"] = median(lambda each, name=name: each[name]["many"]["p99_ms"])
    return {**figures, "load_average": list(os.getloadavg())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--state", type=Path, required=True, help="folder of a control plane that tests/cluster/up made"
    )
    parser.add_argument("--helm", required=True)
    parser.add_argument("--litellm", type=Path, help="python of LiteLLM's environment; absent: without it")
    parser.add_argument("--portkey", type=Path, help="start-server.js; absent: without it")
    parser.add_argument("--provider", default="OpenAICompatible", choices=("OpenAICompatible", "OpenAI"))
    parser.add_argument("--latency-ms", type=float, default=2.0, help="of the upstream")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", type=int, default=200, help="requests one after the other")
    parser.add_argument("--streams", type=int, default=0, help="answers that grow at two tokens a second at once")
    parser.add_argument("--many", type=int, default=1000, help="requests on 16 connections")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hr-facade-") as folder:
        print(json.dumps(asyncio.run(measure(arguments, Path(folder)))))


if __name__ == "__main__":
    main()
