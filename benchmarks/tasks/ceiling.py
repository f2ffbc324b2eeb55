"""What the API server allows: a bare client creates the same objects and patches their status twice with the payloads
that operator and runner write, under their tokens, while one watcher follows. No queue, no operator, no runner.
"""

import asyncio
import time
from collections.abc import Iterable

from api import JSON_PATCH, MERGE_PATCH, Api
from load import MODEL, RESULT_BYTES, Follower, spread, task, tasks_path

from headrace_crds.model import LLMModel
from headrace_crds.names import METADATA_ONLY
from headrace_crds.outcome import text_result
from headrace_crds.task import LLMTask, Outcome, Timings, Usage
from headrace_crds.work import resolve
from headrace_operator.decide import task_status, waiting
from headrace_runner import patches
from headrace_runner.attempt import Attempt
from headrace_runner.verdict import Verdict


async def measure(
    api: Api, namespace: str, model: LLMModel, names: Iterable[str], count: int, at_once: int, tokens: tuple[str, str]
) -> float:
    """Seconds from the first create until the watcher saw the last outcome."""
    operator_token, runner_token = tokens

    # The payloads are made once, beside the clock: a client could have them ready.
    sample = LLMTask.model_validate({**task("sample"), "metadata": {"name": "sample", "namespace": namespace}})
    queued = task_status.queued(sample, waiting.explain(model), attempt=1, now_ms=int(time.time() * 1000))
    attempt = Attempt(
        uid="",
        namespace=namespace,
        name="sample",
        number=1,
        work=resolve(sample, model),
        pod=f"headrace-{MODEL}-0",
        claimed_ms=int(time.time() * 1000),
        enqueued_ms=int(time.time() * 1000),
        claimed_at=time.monotonic(),
    )
    verdict = Verdict(
        Outcome.COMPLETE,
        "Succeeded",
        "",
        result=text_result("x" * RESULT_BYTES, "Stop", None),
        usage=Usage(prompt_tokens=8, completion_tokens=16),
        timings=Timings(queued_millis=1, first_token_millis=1, generation_millis=1),
    )
    commit = patches.commit(attempt, attempt.terminal_status(verdict, int(time.time() * 1000)))

    async def one(name: str) -> None:
        created = await api.document(
            "POST", tasks_path(namespace), task(name), query={"fieldValidation": "Strict"}, accept=METADATA_ONLY
        )
        path, metadata = tasks_path(namespace, name) + "/status", created["metadata"]
        await api.request(
            "PATCH",
            path,
            {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": queued},
            content=MERGE_PATCH,
            token=operator_token,
            accept=METADATA_ONLY,
            query={"fieldManager": "headrace-operator", "fieldValidation": "Strict"},
        )
        await api.request(
            "PATCH",
            path,
            [{**commit[0], "value": metadata["uid"]}, *commit[1:]],
            content=JSON_PATCH,
            token=runner_token,
            accept=METADATA_ONLY,
            query={"fieldManager": "headrace-runner", "fieldValidation": "Strict"},
        )

    follower = Follower(count)
    watching = asyncio.create_task(follower.follow(api, namespace, await api.version(tasks_path(namespace))))
    began = time.monotonic()
    try:
        await spread(names, at_once, one)
        await follower.until_done(watching, within_seconds=120)
    finally:
        watching.cancel()
    return follower.last - began
