"""One task executed here: the runner's own path with a sink that keeps the status instead of committing it."""

import time
import uuid
from dataclasses import dataclass
from typing import Any, Final

from headrace_cli.progress import Progress
from headrace_crds.manifest import Manifest
from headrace_crds.model import LLMModel
from headrace_crds.names import runner_service_account
from headrace_crds.outcome import text_digest
from headrace_crds.result import Result, Usage
from headrace_crds.task import LLMTask, Outcome
from headrace_crds.work import resolve
from headrace_runner.attempt import Attempt
from headrace_runner.curb import Curb
from headrace_runner.engine.client import EngineClient
from headrace_runner.execute import execute
from headrace_runner.validate import Validator
from headrace_runner.verdict import LargeText, Setback, Verdict, failed

_POD: Final = "headrace-run"


@dataclass(frozen=True)
class Finished:
    """A task as the cluster would show it."""

    name: str
    outcome: Outcome
    message: str
    text: str | None
    document: dict[str, Any]


class LocalSink:
    """Keeps the ending. A setback ends the task here: a cluster would try again, up to backoffLimit."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.verdict: Verdict | None = None
        self._name = name
        self._progress = progress

    def progress(self, completion_tokens: int) -> None:
        self._progress.tokens(self._name, completion_tokens)

    def generated(self) -> None:
        """Nothing waits for the sequence but the engine's own queue."""

    async def conclude(self, verdict: Verdict) -> None:
        self.verdict = verdict

    async def give_back(self, setback: Setback) -> None:
        self.verdict = failed(setback.reason, setback.message, usage=setback.usage)

    async def release(self, reason: str, usage: Usage | None = None) -> None:
        self.verdict = failed(reason, "ended before it was done", usage=usage)


async def run_task(
    manifest: Manifest, model: LLMModel, engine: EngineClient, validator: Validator, progress: Progress, curb: Curb
) -> Finished:
    """Execute one task manifest with its model. Its deadlines count from here."""
    task = manifest.object
    if not isinstance(task, LLMTask):
        raise TypeError("only an LLMTask can be executed")
    # What the API server would have filled in.
    metadata = task.metadata.model_copy(update={"uid": str(uuid.uuid4()), "generation": 1})
    now_ms = int(time.time() * 1000)
    deadline_ms = now_ms + task.spec.active_deadline_seconds * 1000
    work = resolve(task.model_copy(update={"metadata": metadata}), model, deadline_ms=deadline_ms)
    attempt = Attempt(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        number=1,
        work=work,
        pod=_POD,
        claimed_ms=now_ms,
        enqueued_ms=now_ms,
        claimed_at=time.monotonic(),
    )
    sink = LocalSink(metadata.name, progress)
    await execute(attempt, engine, validator, sink, curb)
    verdict = sink.verdict
    if verdict is None:
        raise RuntimeError("the execution told its sink nothing")
    tokens = verdict.usage.completion_tokens if verdict.usage else 0
    progress.finished(metadata.name, verdict.outcome.value, verdict.reason, tokens)
    status = {
        "attempt": 1,
        "retries": 0,
        "assignedModel": work.model,
        "runner": {"serviceAccount": runner_service_account(*work.model.split("/")), "pod": _POD},
        "startTime": attempt.start_time,
        **attempt.terminal_status(verdict, attempt.now_ms),
    }
    result = verdict.result if verdict.large is None else _inline(verdict.large, verdict.outcome)
    if result is not None:
        status["result"] = result.dump()
    written = {key: value for key, value in manifest.document.items() if key != "status"}
    return Finished(
        name=metadata.name,
        outcome=verdict.outcome,
        message=f"{verdict.reason}: {verdict.message}" if verdict.message else str(verdict.reason),
        text=result.text if result else None,
        document={**written, "status": status},
    )


def _inline(large: LargeText, outcome: Outcome) -> Result:
    """A text that a cluster keeps in a ConfigMap is printed where it belongs: nothing bounds a terminal."""
    size_bytes, sha256 = text_digest(large.text)
    # Unchecked: the type knows what an object holds.
    return Result.model_construct(
        text=large.text,
        partial=True if outcome is Outcome.CANCELLED else None,
        finish_reason=large.finish_reason,
        size_bytes=size_bytes,
        sha256=sha256,
        enforcement=large.enforcement,
        repairs=large.repairs,
        tool_calls=large.tool_calls,
        reasoning=large.reasoning,
    )
