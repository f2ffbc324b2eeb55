"""The other way to run a batch of things: an empty batch/v1 Job for each, on the node cluster.

The node has the image; nothing is pulled. Jobs are created all at once; the figure is that of the steady state, between
the first completion and the last, so that neither the first pod's way nor how many Jobs there are is counted against
them. Prints Jobs per second.
"""

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path

from api import Api, Body
from load import spread

NAMESPACE = "headrace-bench-jobs"
_WITHIN_SECONDS = 1800.0


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


async def measure(kubeconfig: Path, image: str, count: int) -> float:
    """Jobs per second."""
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    async with Api(kubeconfig) as api:
        await api.namespace(NAMESPACE)
        try:
            # The first one warms up what is cached.
            await _batch(api, path, ["warm-up"], image)
            began = time.monotonic()
            ended = await _batch(api, path, [f"job-{n}" for n in range(count)], image)
        finally:
            await api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    steady = (count - 1) / (ended[-1] - ended[0])
    note = f"{count} Jobs in {ended[-1] - began:.1f} s, the first after {ended[0] - began:.1f} s: {steady:.2f} Jobs/s"
    print(f"==> {note}", file=sys.stderr, flush=True)
    return steady


async def _batch(api: Api, path: str, names: list[str], image: str) -> list[float]:
    """When each completion was seen, in order; seconds of the monotonic clock."""

    async def create(name: str) -> None:
        await api.request("POST", path, _job(name, image))

    since = (await api.document("GET", path, query={"limit": "1"}))["metadata"]["resourceVersion"]
    ended: dict[str, float] = {}

    async def follow() -> None:
        nonlocal since
        while True:
            async for event in api.watch(path, since):
                since = event["object"]["metadata"]["resourceVersion"]
                name, status = event["object"]["metadata"]["name"], event["object"].get("status") or {}
                if status.get("failed"):
                    raise RuntimeError(f"Job {name} failed")
                if status.get("completionTime") and name in names:
                    ended.setdefault(name, time.monotonic())
                    if len(ended) == len(names):
                        return

    async with asyncio.timeout(_WITHIN_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(follow())
        await spread(names, 16, create)
    return sorted(ended.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of a cluster with a node")
    parser.add_argument("--image", required=True, help="one that the node has, with /bin/true")
    parser.add_argument("--jobs", type=int, default=200)
    arguments = parser.parse_args()
    # Whatever ends it, its namespace goes with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(asyncio.run(measure(arguments.kubeconfig, arguments.image, arguments.jobs)))


if __name__ == "__main__":
    main()
