"""The other way to run a batch of things: an empty batch/v1 Job for each, on the node cluster.

The image is the pause image that the node already has, with a command that ends at once where it has one; nothing is
pulled. Jobs are created all at once; the figure is jobs over the seconds from the first create to the last completion.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from api import Api, Body
from load import spread

NAMESPACE = "headrace-bench-jobs"
_WITHIN_SECONDS = 600.0


def _job(name: str, image: str) -> Body:
    container = {"name": "empty", "image": image, "command": ["/bin/true"], "imagePullPolicy": "IfNotPresent"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [container],
                }
            },
        },
    }


async def measure(kubeconfig: Path, image: str, count: int, note: Callable[[str], None]) -> float:
    """Jobs per second."""
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    async with Api(kubeconfig) as api:
        await api.namespace(NAMESPACE)
        try:
            # The first one warms up what is cached.
            await _batch(api, path, ["warm-up"], image)
            began = time.monotonic()
            await _batch(api, path, [f"job-{n}" for n in range(count)], image)
            seconds = time.monotonic() - began
        finally:
            await api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    note(f"{count} Jobs in {seconds:.1f} s")
    return count / seconds


async def _batch(api: Api, path: str, names: list[str], image: str) -> None:
    async def create(name: str) -> None:
        await api.request("POST", path, _job(name, image))

    since = (await api.document("GET", path, query={"limit": "1"}))["metadata"]["resourceVersion"]
    await spread(names, 16, create)
    left = set(names)
    async with asyncio.timeout(_WITHIN_SECONDS):
        while left:
            async for event in api.watch(path, since):
                since = event["object"]["metadata"]["resourceVersion"]
                status = event["object"].get("status") or {}
                if status.get("failed"):
                    raise RuntimeError(f"Job {event['object']['metadata']['name']} failed")
                if status.get("completionTime"):
                    left.discard(event["object"]["metadata"]["name"])
                    if not left:
                        return
