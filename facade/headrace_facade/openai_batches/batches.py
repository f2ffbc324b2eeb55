"""Batches: each line becomes an LLMTask of the caller's namespace; status and results are read from the tasks.

Making them is idempotent, as their names follow from batch and line: what a killed replica has not made, any later look
at the batch makes. The same holds for a cancellation.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any, Final

import structlog

from headrace_bus import ModelKey
from headrace_crds import GROUP, VERSION, LLMTask
from headrace_crds.task import Outcome
from headrace_facade.caller import Caller
from headrace_facade.chunks import Lists
from headrace_facade.errors import BadRequest, Conflict, FacadeError, Invalid, NotFound
from headrace_facade.kube import AnswerTooLarge, KubeClient, KubeObject
from headrace_facade.objects import to_task
from headrace_facade.openai_batches import answers, record
from headrace_facade.openai_batches.files import Files, Owner
from headrace_facade.openai_batches.lines import Line, Problem, judge, raw_lines, read_line, spec_of
from headrace_facade.openai_batches.names import (
    ANNOTATION_CUSTOM_ID,
    LABEL_BATCH,
    LABEL_RECORD,
    batch_id,
    line_of,
    new_number,
    number_of_key,
    record_name,
    task_name,
)
from headrace_facade.openai_batches.record import Asked, Batch, RefusedLine
from headrace_facade.openai_batches.tally import Tally
from headrace_facade.openai_batches.told import batch_object, is_over
from headrace_facade.openai_dialect.errors import ObjectUnknown, Refused
from headrace_facade.room import Room
from headrace_facade.submission import in_request_words
from headrace_facade.texts import with_text

BATCHES_MOST: Final = 1000
"""Of a namespace."""
MAKING_AT_ONCE: Final = 8
_MODELS_ASKED: Final = 4
_PAGE: Final = 50
_LATE_S: Final = 120
"""So long after its window a request may still be making a batch."""
_SWEPT_AT_ONCE: Final = 20
_log = structlog.get_logger("headrace_facade")


class TooManyBatches(FacadeError):
    status = 403
    code = "TOO_MANY_BATCHES"


class CannotCancel(FacadeError):
    status = 409
    code = "BATCH_ENDED"


_ANOTHER: Final = "this idempotency key has made another batch: send that request, or another key"


class Batches:
    """Raises FacadeError; ObjectUnknown for what is not there."""

    def __init__(self, kube: KubeClient, files: Files, room: Room, clock: Callable[[], float] = time.time) -> None:
        self._kube = kube
        self._files = files
        self._room = room
        self._clock = clock
        # Each holds a whole file.
        self._making = Lists(told="too many batches are being made: try again")

    async def create(self, owner: Owner, asked: Asked, key: str | None) -> dict[str, Any]:
        """`asked` without `created_at` and `lines`. With a key the batch that it has made before, if there is one."""
        number = new_number() if key is None else number_of_key(owner.namespace, key)
        async with self._making.slot():
            if key is not None and (made_before := await self._made_before(owner, number, asked)) is not None:
                return await self._told(owner, made_before)
            head = await self._files.head(owner, asked.file)
            content = await self._files.content(owner, head)
            await self._sweep(owner)
            lines, problems, firsts = await _judged(content, asked.endpoint)
            asked = replace(asked, created_at=int(self._clock()), lines=len(lines) + len(problems))
            if not problems:
                await self._check_room(owner, asked, firsts)
            try:
                made = await self._kube.create_config_map(
                    owner.namespace, record.manifest(number, asked, lines, problems), owner.token
                )
            except Conflict:
                batch = await self._record(owner, number)
                if replace(batch.asked, created_at=asked.created_at) != asked:
                    raise Conflict(_ANOTHER) from None
                return await self._told(owner, batch, content)
            if (created := record.read(made)) is None:
                raise Conflict("the batch's ConfigMap is another than was sent: an admission webhook changes it")
            return await self._told(owner, created, content)

    async def _made_before(self, owner: Owner, number: str, asked: Asked) -> Batch | None:
        """Looked for first: what it has made by then fills the queue, and its file may be gone."""
        try:
            batch = await self._record(owner, number)
        except ObjectUnknown:
            return None
        if replace(asked, created_at=batch.asked.created_at, lines=batch.asked.lines) != batch.asked:
            raise Conflict(_ANOTHER)
        return batch

    async def look(self, owner: Owner, number: str) -> dict[str, Any]:
        return await self._told(owner, await self._record(owner, number))

    async def all(self, owner: Owner) -> list[Batch]:
        """Newest first."""
        found = [record.read(each) for each in await self._records(owner)]
        alive = [each for each in found if each is not None]
        return sorted(alive, key=lambda batch: (-batch.asked.created_at, batch.number))

    async def told(self, owner: Owner, batches: Iterable[Batch]) -> list[dict[str, Any]]:
        """OpenAI's objects, by what is there: nothing is made."""
        now = self._clock()
        return [batch_object(each, await self._counted(owner, each), now) for each in batches]

    async def cancel(self, owner: Owner, number: str) -> dict[str, Any]:
        """Raises CannotCancel of one that has ended otherwise."""
        batch = await self._record(owner, number)
        if batch.cancelling_at is None:
            if batch.problems or is_over(batch, await self._counted(owner, batch), self._clock()):
                raise CannotCancel("the batch has ended: there is nothing left to cancel")
            at = int(self._clock())
            await self._kube.change_config_map(owner.namespace, batch.name, record.cancelling(at), owner.token)
            batch = replace(batch, cancelling_at=at)
        return await self._told(owner, batch)

    async def head(self, owner: Owner, number: str) -> Batch:
        """What the names of its result files stand for."""
        return await self._record(owner, number)

    async def output(self, caller: Caller, owner: Owner, batch: Batch) -> AsyncIterator[str]:
        """A line for each task that is complete by now."""
        async for task in self._tasks(owner, batch):
            status = answers.status_of(task)
            if status.outcome is Outcome.COMPLETE:
                text, missing = await self._text(owner, task)
                line = answers.answered(batch, task, status, text, caller)
                yield line if line is not None else answers.unanswered(batch, task, status, missing)

    async def errors(self, caller: Caller, owner: Owner, batch: Batch) -> AsyncIterator[str]:
        """A line for each that has failed by now."""
        del caller
        for number, why in sorted(batch.refused.items()):
            yield answers.refused(batch, number, why)
        seen, is_open = set(batch.refused), False
        async for task in self._tasks(owner, batch):
            seen.add(line_of(str(task["metadata"]["name"])) or 0)
            status = answers.status_of(task)
            is_open |= status.outcome is None
            if status.outcome not in (None, Outcome.COMPLETE):
                yield answers.unanswered(batch, task, status)
        if batch.made or (self._is_closed(batch) and not is_open):
            for number in sorted(batch.custom_ids.keys() - seen):
                yield answers.without_task(batch, number)

    async def _told(self, owner: Owner, batch: Batch, content: bytes | None = None) -> dict[str, Any]:
        """After what is left to do was done. `content`: its file, held already."""
        waiting: list[Problem] = []
        if not (batch.problems or batch.made or self._is_closed(batch)):
            try:
                batch = await self._made(owner, batch, content)
            except FacadeError as error:
                told = f"some tasks could not be made yet, and will be when this batch is looked at: {error.message}"
                waiting.append(Problem("tasks_not_made", told))
        tally, now = await self._counted(owner, batch, insist=True), self._clock()
        # Of a batch that was cancelled while another replica made it more may come.
        is_last = batch.made or batch.asked.expires_at + _LATE_S < now
        if batch.ended is None and not batch.problems and is_last and is_over(batch, tally, now):
            # A later look is cheaper, and counts what is deleted by then.
            with contextlib.suppress(FacadeError):
                await self._kube.change_config_map(owner.namespace, batch.name, record.ended(tally), owner.token)
        return batch_object(batch, tally, now, waiting)

    def _is_closed(self, batch: Batch) -> bool:
        """No task is made for it any more."""
        return batch.ended is not None or batch.cancelling_at is not None or batch.asked.expires_at <= self._clock()

    async def _made(self, owner: Owner, batch: Batch, content: bytes | None) -> Batch:
        """With all of its tasks. Raises FacadeError where that stopped."""
        existing: set[int] = set()
        if content is not None:
            refused = await self._make(owner, batch, content, existing)
        else:
            async with self._making.slot():
                async for task in self._tasks(owner, batch):
                    existing.add(line_of(str(task["metadata"]["name"])) or 0)
                try:
                    content = await self._files.content(owner, await self._files.head(owner, batch.asked.file))
                except ObjectUnknown:
                    gone = RefusedLine("input_file_missing", "the input file was deleted before the task was made")
                    refused = dict.fromkeys(batch.custom_ids.keys() - existing, gone)
                else:
                    refused = await self._make(owner, batch, content, existing)
        changed = await self._kube.change_config_map(owner.namespace, batch.name, record.made(refused), owner.token)
        # A cancellation may have come meanwhile.
        return record.read(changed) or batch

    async def _make(self, owner: Owner, batch: Batch, content: bytes, existing: set[int]) -> dict[int, RefusedLine]:
        refused: dict[int, RefusedLine] = {}
        failures: list[FacadeError] = []
        lines = raw_lines(content)

        async def make() -> None:
            for number, raw in lines:
                if failures:
                    return
                if number in existing:
                    continue
                await asyncio.sleep(0)  # reading a line takes a while: others have their turn
                try:
                    why = await self._make_one(owner, batch, number, raw)
                except FacadeError as error:
                    failures.append(error)
                    return
                if why is not None:
                    refused[number] = why

        await asyncio.gather(*(make() for _ in range(MAKING_AT_ONCE)))
        if failures:
            _log.warning("batch not made", batch=batch.number, namespace=owner.namespace, error=failures[0].code)
            raise failures[0]
        return refused

    async def _make_one(self, owner: Owner, batch: Batch, number: int, raw: bytes) -> RefusedLine | None:
        line = read_line(number, raw, batch.asked.endpoint)
        if isinstance(line, Problem):
            return RefusedLine(line.code, line.message, line.param)
        try:
            task = self._task(batch, line)
            await self._kube.create_task(owner.namespace, task, owner.token)
        except Conflict:
            return None
        except Refused as error:
            return RefusedLine(error.kind, error.message, error.problems[0].field or None)
        except Invalid as error:
            return RefusedLine("invalid_value", in_request_words(error).message)
        except BadRequest as error:
            return RefusedLine("invalid_value", error.message)
        return None

    def _task(self, batch: Batch, line: Line) -> KubeObject:
        """Raises Refused."""
        left_s = max(1, batch.asked.expires_at - int(self._clock()))
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": LLMTask.__name__,
            "metadata": {
                "name": task_name(batch.number, line.number),
                "labels": {LABEL_BATCH: batch.number},
                "annotations": {ANNOTATION_CUSTOM_ID: line.custom_id},
                "ownerReferences": [batch.owner()],
            },
            "spec": {
                **spec_of(batch.asked.endpoint, line.body),
                "activeDeadlineSeconds": left_s,
                # Within the window a task that is gone would be taken for one that was not made.
                "ttlSecondsAfterFinished": max(batch.asked.ttl_s, left_s),
            },
        }

    async def _check_room(self, owner: Owner, asked: Asked, firsts: Iterable[Line]) -> None:
        """By each model's first line. Raises what `Room.refusal` gives, before anything is made."""
        for line in firsts:
            with contextlib.suppress(Refused):
                task = self._task(Batch("", "", asked, {}), line)
                ref = task["spec"]["modelRef"]
                model = ModelKey(ref.get("namespace", owner.namespace), ref["name"])
                full = await self._room.refusal(owner.namespace, model, owner.token, task)
                if full is not None:
                    raise full

    async def _counted(self, owner: Owner, batch: Batch, *, insist: bool = False) -> Tally:
        """`insist`: of a batch that is cancelled, open tasks that do not know it yet are told."""
        if batch.problems:
            return Tally()
        if batch.ended is not None:
            return batch.ended
        tally, untold = Tally(), []
        async for task in self._tasks(owner, batch):
            status = answers.status_of(task)
            tally = tally.with_task(status)
            if batch.cancelling_at is not None and status.outcome is None and not task["spec"].get("cancel"):
                untold.append(str(task["metadata"]["name"]))
        if insist and untold:
            await self._cancel(owner, untold)
        return tally

    async def _cancel(self, owner: Owner, names: list[str]) -> None:
        rest = iter(names)
        failures: list[FacadeError] = []

        async def tell() -> None:
            for name in rest:
                try:
                    await self._kube.change_task(owner.namespace, name, {"cancel": True}, owner.token)
                except NotFound:
                    continue
                except FacadeError as error:
                    failures.append(error)
                    return

        await asyncio.gather(*(tell() for _ in range(MAKING_AT_ONCE)))
        if failures:
            raise failures[0]

    async def _tasks(self, owner: Owner, batch: Batch) -> AsyncIterator[KubeObject]:
        """All that are there, in the order of the lines; a page is held at a time."""
        continue_, page, selector = None, _PAGE, f"{LABEL_BATCH}={batch.number}"
        while True:
            try:
                answer, _ = await self._kube.list_tasks(
                    owner.namespace, page, continue_, owner.token, selector=selector
                )
            except AnswerTooLarge:
                if page == 1:
                    raise
                page //= 2
                continue
            for item in answer.get("items") or []:
                # Whoever may label a task may not lend it to a batch.
                if str(item["metadata"]["name"]).startswith(f"batch-{batch.number}-"):
                    yield item
            continue_ = (answer.get("metadata") or {}).get("continue") or None
            if continue_ is None:
                return

    async def _text(self, owner: Owner, task: KubeObject) -> tuple[str | None, str]:
        """The text of a task's result, or why it cannot be had."""
        told = to_task(task).result
        if told is None or told.config_map is None:
            return (None, "the task has no result") if told is None else (told.text, "")
        found = (await with_text(to_task(task), self._kube, owner.token)).result
        return (None, "") if found is None else (found.text, found.text_missing or "")

    async def _record(self, owner: Owner, number: str) -> Batch:
        try:
            batch = record.read(await self._kube.get_config_map(owner.namespace, record_name(number), owner.token))
        except NotFound:
            batch = None
        if batch is None or batch.number != number:
            raise unknown_batch(batch_id(number))
        return batch

    async def _records(self, owner: Owner) -> list[KubeObject]:
        selector = f"{LABEL_RECORD}=true"
        return await self._kube.list_config_maps(owner.namespace, selector, BATCHES_MOST, owner.token)

    async def _sweep(self, owner: Owner) -> None:
        """Batches whose tasks are past their time to live are removed; too many are refused."""
        found = await self._records(owner)
        if len(found) >= BATCHES_MOST:
            told = (
                f"namespace {owner.namespace!r} has {BATCHES_MOST} batches: delete ConfigMaps with label {LABEL_RECORD}"
            )
            raise TooManyBatches(told)
        over = [each for each in map(record.read, found) if each is not None and self._is_past(each)]
        for batch in over[:_SWEPT_AT_ONCE]:
            with contextlib.suppress(FacadeError):
                await self._kube.delete_config_map(owner.namespace, batch.name, owner.token)

    def _is_past(self, batch: Batch) -> bool:
        return batch.asked.expires_at + batch.asked.ttl_s < self._clock()


def unknown_batch(told: str) -> ObjectUnknown:
    """Of another namespace, or deleted: which of them is nobody's to know."""
    return ObjectUnknown(f"there is no batch {told[:64]!r} in your namespace: create one, or list yours")


async def _judged(content: bytes, endpoint: str) -> tuple[dict[int, str], list[Problem], list[Line]]:
    """The lines' ids by their numbers, what is wrong with the file, and the first line of each of some models."""
    ids: dict[int, str] = {}
    problems: list[Problem] = []
    firsts: dict[str, Line] = {}
    for line in judge(content, endpoint):
        await asyncio.sleep(0)
        if isinstance(line, Problem):
            problems.append(line)
            continue
        ids[line.number] = line.custom_id
        if len(firsts) < _MODELS_ASKED:
            firsts.setdefault(str(line.body.get("model"))[:128], line)
    return ids, problems, list(firsts.values())
