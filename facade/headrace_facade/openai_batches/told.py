"""What a batch tells of itself, in OpenAI's shape. Pure."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from headrace_facade.openai_batches.lines import Problem
from headrace_facade.openai_batches.names import ERRORS, OUTPUT, batch_id, file_id, result_id
from headrace_facade.openai_batches.record import Batch
from headrace_facade.openai_batches.tally import Tally


def is_over(batch: Batch, tally: Tally, now: float) -> bool:
    """Nothing is open, and nothing will be made any more."""
    return tally.open == 0 and (batch.made or batch.cancelling_at is not None or batch.asked.expires_at <= now)


def status_of(batch: Batch, tally: Tally, now: float) -> str:
    """OpenAI's word. A file is judged in the request that makes the batch, and nothing is left to do after the last
    task: `validating` and `finalizing` do not occur.
    """
    if batch.problems:
        return "failed"
    if not is_over(batch, tally, now):
        return "in_progress" if batch.cancelling_at is None else "cancelling"
    if batch.cancelling_at is not None:
        return "cancelled"
    never_made = not batch.made and tally.seen + len(batch.refused) < batch.asked.lines
    return "expired" if tally.expired or never_made else "completed"


def batch_object(batch: Batch, tally: Tally, now: float, waiting: Iterable[Problem] = ()) -> dict[str, Any]:
    """`waiting` is why some tasks could not be made yet. Results can be read as soon as there are some."""
    asked, status = batch.asked, status_of(batch, tally, now)
    problems = [*batch.problems, *waiting]
    over, end = is_over(batch, tally, now), tally.last_end or asked.created_at
    # A line without a task, of a batch that makes no more of them, has failed, too: refused, too late, or deleted.
    failed = asked.lines - tally.completed - (0 if over else tally.open + _unmade(batch, tally))
    failed = 0 if batch.problems else failed
    return {
        "id": batch_id(batch.number),
        "object": "batch",
        "endpoint": asked.endpoint,
        "errors": {"object": "list", "data": [asdict(each) for each in problems]} if problems else None,
        "input_file_id": file_id(asked.file),
        "completion_window": asked.window,
        "status": status,
        "output_file_id": result_id(batch.number, OUTPUT) if tally.completed else None,
        "error_file_id": result_id(batch.number, ERRORS) if failed else None,
        "created_at": asked.created_at,
        "in_progress_at": None if batch.problems else asked.created_at,
        "expires_at": asked.expires_at,
        "finalizing_at": end if status == "completed" else None,
        "completed_at": end if status == "completed" else None,
        "failed_at": asked.created_at if status == "failed" else None,
        "expired_at": max(end, asked.expires_at) if status == "expired" else None,
        "cancelling_at": batch.cancelling_at,
        "cancelled_at": max(end, batch.cancelling_at or 0) if status == "cancelled" else None,
        "request_counts": {
            "total": 0 if batch.problems else asked.lines,
            "completed": tally.completed,
            "failed": failed,
        },
        "usage": {
            "input_tokens": tally.prompt_tokens,
            "input_tokens_details": {"cached_tokens": tally.cached_tokens},
            "output_tokens": tally.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": tally.reasoning_tokens},
            "total_tokens": tally.prompt_tokens + tally.completion_tokens,
        },
        "metadata": asked.metadata,
    }


def _unmade(batch: Batch, tally: Tally) -> int:
    """Lines whose tasks are still to be made."""
    return 0 if batch.made else max(0, batch.asked.lines - tally.seen - len(batch.refused))
