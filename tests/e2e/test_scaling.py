"""Three models with work and one GPU on a real node: they take turns by themselves, and nobody scales anything."""

from typing import Any

import pytest

from tests.e2e.conftest import Cluster, condition, eventually, model, task

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# The node only pretends to have a GPU, so no layer is asked to go there; holding it is what this is about.
PRETEND_GPU = {"count": 1, "layers": "0"}
TASKS_EACH = 3


def scaled(name: str, weights: str) -> dict[str, Any]:
    manifest = model(name, weights, gpu=PRETEND_GPU)
    manifest["spec"]["scaling"] = {"idleSeconds": 120, "drainSeconds": 20}
    return manifest


def test_three_models_share_one_gpu(headrace: Cluster, namespace: str, weights: str) -> None:
    names = ["one", "two", "three"]
    headrace.apply(namespace, *(scaled(name, weights) for name in names))
    work = [task(f"{name}-{number}", name) for name in names for number in range(TASKS_EACH)]
    headrace.apply(namespace, *work)
    waiting = eventually(
        lambda: [headrace.get("llmmodel", name, namespace) for name in names],
        lambda seen: sum((each.get("status") or {}).get("phase") == "WaitingForGPU" for each in seen) == 2,
        what="two of three wait for the GPU",
    )
    for each in waiting:
        if each["status"]["phase"] == "WaitingForGPU":
            assert "nvidia.com/gpu" in (condition(each, "Placed") or {})["message"]

    served: list[str] = []

    def all_ended() -> list[dict[str, Any]]:
        for name in names:
            found = headrace.get("llmmodel", name, namespace)
            if (condition(found, "Available") or {}).get("status") == "True" and served[-1:] != [name]:
                served.append(name)
        return [headrace.get("llmtask", each["metadata"]["name"], namespace) for each in work]

    ended = eventually(
        all_ended,
        lambda tasks: all((each.get("status") or {}).get("outcome") for each in tasks),
        what="all tasks of all models end",
        within=240,
    )
    assert {each["status"]["outcome"] for each in ended} == {"Complete"}
    # One turn each would be three; to try the weights of a model that is created takes one, too.
    assert sorted(set(served)) == sorted(names)
    assert len(served) < len(work)
