"""What Headrace adds to the engine's own time between a task's creation and its outcome.

One task at a time on a loaded model: create → watch until `outcome` is set. The overhead is
that span less `timings.generationMillis`, which the engine measures from a task's arrival
to its last token. The start of a kubectl process is not ours and is reported beside it.
The last line is one JSON object.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import time
from typing import Any

from kubernetes.aio import client, config, watch

GROUP = ("headrace.dev", "v1alpha1")


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def one(api: client.CustomObjectsApi, namespace: str, model: str, name: str) -> tuple[float, dict[str, Any]]:
    """Create a 16-token task and follow it; seconds from the request to the event that carries the outcome."""
    body = {
        "apiVersion": "/".join(GROUP),
        "kind": "LLMTask",
        "metadata": {"name": name},
        "spec": {
            "modelRef": {"name": model},
            "prompt": "Count from one to twenty in words.",
            "parameters": {"maxTokens": 16, "temperature": "0"},
        },
    }
    listed = await api.list_namespaced_custom_object(*GROUP, namespace, "llmtasks", limit=1)
    began = time.perf_counter()
    await api.create_namespaced_custom_object(*GROUP, namespace, "llmtasks", body)
    async with watch.Watch() as stream:
        async for event in stream.stream(
            api.list_namespaced_custom_object,
            *GROUP,
            namespace,
            "llmtasks",
            field_selector=f"metadata.name={name}",
            resource_version=listed["metadata"]["resourceVersion"],
            timeout_seconds=60,
        ):
            status = event["object"].get("status", {})
            if "outcome" in status:
                return time.perf_counter() - began, status
    raise TimeoutError(f"{name} did not finish within a minute")


def kubectl_process_ms(kubectl: str, kubeconfig: str) -> float:
    """What a kubectl process costs before and after its request, for comparison."""
    spans: list[float] = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(
            [kubectl, "--kubeconfig", kubeconfig, "get", "--raw", "/readyz"], check=True, capture_output=True
        )
        spans.append((time.perf_counter() - began) * 1000)
    return statistics.median(spans)


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    api_client = await config.new_client_from_config(config_file=arguments.kubeconfig)
    async with api_client:
        api = client.CustomObjectsApi(api_client)
        overheads: list[float] = []
        queued: list[float] = []
        for n in range(arguments.warmup + arguments.tasks):
            seconds, status = await one(api, arguments.namespace, arguments.model, f"latency-{n}")
            if status["outcome"] != "Complete":
                raise RuntimeError(f"latency-{n} ended {status['outcome']}: {status.get('message')}")
            if n >= arguments.warmup:
                overheads.append(seconds * 1000 - status["timings"]["generationMillis"])
                queued.append(status["timings"]["queuedMillis"])
    return {
        "tasks": arguments.tasks,
        "apply_to_complete_overhead_ms_p50": round(statistics.median(overheads), 1),
        "p99": round(quantile(overheads, 0.99), 1),
        "queued_ms_p50": round(statistics.median(queued), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--kubectl", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=5)
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments))
    figures["kubectl_process_ms_p50"] = round(kubectl_process_ms(arguments.kubectl, arguments.kubeconfig), 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
