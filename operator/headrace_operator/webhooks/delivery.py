"""The leader's loop: takes what is owed, tells it, and writes once what came of it.

At least once: what was sent and not written is sent again by the next leader, under the same webhook-id.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from headrace_bus import BusError
from headrace_crds.hosts import Refused, Target
from headrace_crds.reasons import Reason
from headrace_crds.task import LLMTask
from headrace_operator import announce, traces
from headrace_operator.context import Context
from headrace_operator.decide import webhook
from headrace_operator.decide.ended import ended_ms
from headrace_operator.decide.plans import Announcement
from headrace_operator.decide.task_status import accepted_ms, completed_ms
from headrace_operator.errors import KubeConflict, KubeError, KubeNotFound, ObjectInvalid
from headrace_operator.kube import TASKS
from headrace_operator.refs import TaskRef
from headrace_operator.views import parse_task, task_ref, task_view
from headrace_operator.webhooks import signing, target
from headrace_operator.webhooks.event import body_of
from headrace_operator.webhooks.keys import signing_keys
from headrace_operator.webhooks.outbox import Outbox
from headrace_operator.webhooks.send import Answer, Sender
from headrace_operator.webhooks.signing import KeyUnusable

LOOK_AGAIN_SECONDS: Final = 5.0
"""When the API server or Redis is away: nothing was sent, nothing is counted."""
REFUSED_AGAIN_SECONDS: Final = 300.0
"""When the API server refuses what is to be written."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Past:
    """Of one delivery, in this leadership."""

    failures: int = 0
    verdict: webhook.Verdict | None = None
    """Told already and still to be written: not sent again for that."""


@dataclass(slots=True)
class Delivery:
    """One per leadership."""

    ctx: Context
    sender: Sender = field(default_factory=Sender)
    outbox: Outbox = field(default_factory=Outbox)
    _past: dict[TaskRef, _Past] = field(default_factory=dict)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Until cancelled."""
        store = self.ctx.store
        store.owed.begin(store.tasks())
        async with asyncio.TaskGroup() as group:
            while True:
                now = _now()
                for ref, host in store.owed.take():
                    self.outbox.add(ref, host, now)
                while (due := self.outbox.take(_now())) is not None:
                    group.create_task(self._handle(due), name="webhook")
                await self._wait()

    async def _wait(self) -> None:
        """For a delivery's end, another that is owed, or the next that is due."""
        self._ended.clear()
        changed = self.ctx.store.owed.changed
        waits = [asyncio.ensure_future(each.wait()) for each in (self._ended, changed)]
        due = self.outbox.next_due()
        try:
            seconds = None if due is None else max(0.0, due - _now())
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _handle(self, ref: TaskRef) -> None:
        """One attempt. Nothing that a task or its receiver does ends the loop."""
        again: float | None = LOOK_AGAIN_SECONDS
        try:
            again = await self._attempt(ref)
        except (KubeError, BusError) as error:
            again = LOOK_AGAIN_SECONDS if error.retryable else REFUSED_AGAIN_SECONDS
            _log.warning("webhook is held up", task=str(ref), reason=error.reason)
        except Exception as error:
            # Its text may quote a URL.
            again = webhook.BACKOFF_LIMIT_SECONDS
            _log.error("webhook broke", task=str(ref), error=type(error).__name__)
        finally:
            if again is None:
                self._past.pop(ref, None)
            self.outbox.finish(ref, again=None if again is None else _now() + again)
            self._ended.set()

    async def _attempt(self, ref: TaskRef) -> float | None:
        """Seconds after which to try again; None: never. Raises KubeError, BusError."""
        task = await self._owing(ref)
        if task is None:
            return None
        with traces.followed(task, self.ctx.tracing):
            return await self._told(ref, task)

    async def _told(self, ref: TaskRef, task: LLMTask) -> float | None:
        past = self._past.setdefault(ref, _Past())
        if past.verdict is None:
            came = await self._try(task)
            verdict = webhook.verdict(
                came,
                failures=past.failures,
                since_end_seconds=await self._since_end_seconds(task),
                jitter=self.ctx.jitter(),
            )
            past.verdict = verdict
            self.ctx.metrics.webhooks.labels(verdict.reason.value).inc()
            _log.info("webhook", task=str(ref), attempt=past.failures + 1, reason=verdict.reason, status=came.status)
        verdict = past.verdict
        await self._write(ref, task, verdict, past.failures)
        past.verdict = None
        past.failures += 1
        return verdict.again_after_seconds

    async def _owing(self, ref: TaskRef) -> LLMTask | None:
        """The living object, read afresh, while it is owed something."""
        body = await self.ctx.kube.get(TASKS, ref.namespace, ref.name)
        if body is None or task_ref(body).uid != ref.uid:
            return None
        self.ctx.store.put_task(task_view(body))
        try:
            task = parse_task(body)
        except ObjectInvalid as error:
            _log.error("task is not understood", task=str(ref), error=str(error))
            return None
        return task if webhook.owed_outcome(task) is not None else None

    async def _try(self, task: LLMTask) -> webhook.Try:
        """Raises KubeUnavailable, BusError."""
        hook, status, outcome = task.spec.webhook, task.status, webhook.owed_outcome(task)
        if hook is None or status is None or outcome is None:
            raise ValueError("nothing is owed")
        try:
            where = target.parse(hook.url, self.ctx.settings.webhooks.allowed_hosts)
            keys = await signing_keys(task.metadata.namespace, hook.secret_ref, self.ctx)
            body = body_of(task, status, outcome)
            seconds = await self.ctx.clock.now_ms() // 1000
            signed = signing.headers(keys, id_=task.metadata.uid, timestamp=seconds, body=body)
            answer = await self._post(where, body, signed)
        except Refused as error:
            return webhook.Try(problem=str(error), reason=Reason.WEBHOOK_REFUSED)
        except KeyUnusable as error:
            return webhook.Try(problem=str(error), reason=Reason.SIGNING_KEY_UNAVAILABLE)
        wait = webhook.retry_after_seconds(answer.retry_after, answer.date)
        return webhook.Try(answer.status, answer.problem, retry_after_seconds=wait)

    async def _post(self, where: Target, body: bytes, headers: dict[str, str]) -> Answer:
        with traces.delivering(where.host.name) as span:
            if (context := span.context) is not None:
                headers["traceparent"] = context.traceparent
            answer = await self.sender.post(where, body, headers)
            if answer.status:
                span.set({"http.response.status_code": answer.status})
            if not 200 <= answer.status < 300:
                span.fail(str(answer.status or Reason.NOT_DELIVERED))
            return answer

    async def _since_end_seconds(self, task: LLMTask) -> float:
        now_ms = await self.ctx.clock.now_ms()
        if task.status is None:
            return now_ms / 1000
        return (now_ms - ended_ms(completed_ms(task.status), accepted_ms(task.status), now_ms)) / 1000

    async def _write(self, ref: TaskRef, task: LLMTask, verdict: webhook.Verdict, failures: int) -> None:
        """Raises KubeError; a conflict is resolved on what the object says then."""
        while True:
            patch = webhook.condition_patch(task, verdict, failures=failures, now_ms=await self.ctx.clock.now_ms())
            if patch is None:
                return
            try:
                await self._patch(task, patch)
                break
            except KubeNotFound:
                return
            except KubeConflict:
                fresh = await self._owing(ref)
                if fresh is None:
                    return
                task = fresh
        if verdict.reason not in (Reason.DELIVERED, Reason.NOT_DELIVERED):
            told = Announcement("Warning", verdict.reason, verdict.message)
            await announce.publish("LLMTask", task.metadata, told, self.ctx)

    async def _patch(self, task: LLMTask, patch: Mapping[str, Any]) -> None:
        metadata = task.metadata
        body = await self.ctx.kube.patch_status(
            TASKS, metadata.namespace, metadata.name, patch, resource_version=metadata.resource_version
        )
        self.ctx.store.put_task(task_view(body))


def _now() -> float:
    return asyncio.get_running_loop().time()
