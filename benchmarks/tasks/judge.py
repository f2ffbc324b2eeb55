"""Whether a run kept what is promised of tasks: figures of one that did not are worth nothing."""

import json
from collections.abc import Mapping
from typing import Any


def is_terminal(task: Mapping[str, Any]) -> bool:
    """Whether the object has an outcome."""
    return (task.get("status") or {}).get("outcome") is not None


def is_good(task: Mapping[str, Any]) -> bool:
    """Whether it is complete with the result that the stub engine made for this very task and attempt."""
    status = task.get("status") or {}
    text = (status.get("result") or {}).get("text", "")
    said = json.loads(text[: text.index("}") + 1]) if "}" in text else {}
    return (
        status.get("outcome") == "Complete"
        and said.get("uid") == task["metadata"]["uid"]
        and said.get("attempt") == status.get("attempt")
    )


def broken_promise(figures: Mapping[str, Any]) -> str:
    """What is wrong; empty when every task ended with a result of its own. How fast is for the reader to judge."""
    tasks, terminal, lost = figures["tasks"], figures["terminal"], figures["lost"]
    if lost or terminal != tasks:
        return f"{terminal} of {tasks} tasks have an outcome, {lost} are lost"
    return ""
