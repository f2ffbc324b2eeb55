"""What is asked: the upstream itself, our facade before a runner, and the peers, each with its processes' CPU."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Side:
    """``cpu_of``: names of its parts and what gives their CPU seconds."""

    name: str
    port: int
    path: str
    headers: dict[str, str]
    model: str
    cpu_of: dict[str, Callable[[], float]] = field(default_factory=dict)

    def cpu(self) -> dict[str, float]:
        return {name: seconds() for name, seconds in self.cpu_of.items()}


def process_seconds(pid: int) -> float:
    """Of the process and its children that have ended or live."""
    total = 0.0
    for each in (pid, *_children(pid)):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def litellm(python: Path, folder: Path, upstream: int, port: int) -> subprocess.Popen[bytes]:
    """One worker, no database, a master key: its smallest set-up that asks who calls."""
    config = {
        "model_list": [
            {
                "model_name": "bench",
                "litellm_params": {
                    "model": "openai/gpt-bench",
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                    "api_key": "sk-bench",
                },
            }
        ],
        "general_settings": {"master_key": "sk-master"},
        "litellm_settings": {"telemetry": False},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))
    # The script that pip makes names the folder in which it was made.
    start = "from litellm import run_server; run_server()"
    command = [str(python), "-c", start, "--config", str(folder / "litellm.yaml"), "--port", str(port)]
    # It would fetch a list of prices from elsewhere.
    own = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": "", "NO_PROXY": "*"}
    log = (folder / "litellm.log").open("wb")
    return subprocess.Popen([*command, "--host", "127.0.0.1"], env={**os.environ, **own}, stdout=log, stderr=log)


def portkey(script: Path, folder: Path, upstream: int, port: int) -> subprocess.Popen[bytes]:
    own = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost", "NODE_ENV": "production"}
    log = (folder / "portkey.log").open("wb")
    command = ["node", str(script), f"--port={port}", "--headless"]
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)


def answers(port: int, path: str, headers: dict[str, str], model: str, within_seconds: float = 120) -> None:
    """Returns when it has answered one request as it should."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}).encode()
    deadline = time.monotonic() + within_seconds
    while True:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json", **headers}
        )
        told: Any = None
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                if json.loads(answer.read())["choices"]:
                    return
        except urllib.error.HTTPError as error:
            told = error.read()[:500]
        except (OSError, ValueError) as error:
            told = error
        if time.monotonic() > deadline:
            raise TimeoutError(f"port {port} does not answer: {told}")
        time.sleep(0.3)
