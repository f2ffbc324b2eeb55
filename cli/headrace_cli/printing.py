"""What ``headrace run`` prints of its tasks on stdout."""

import json
from collections.abc import Sequence
from typing import Any

import yaml

from headrace_cli.local_task import Finished


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def render(tasks: Sequence[Finished], output: str) -> str:
    """All tasks as ``yaml`` (documents), ``json`` (an object, or a list of several) or ``text``."""
    documents = [task.document for task in tasks]
    match output:
        case "json":
            return json.dumps(documents[0] if len(documents) == 1 else documents, ensure_ascii=False, indent=2) + "\n"
        case "text":
            return "".join(_plain(task, alone=len(tasks) == 1) for task in tasks)
    return "---\n".join(_yaml(document) for document in documents)


def _yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain(task: Finished, *, alone: bool) -> str:
    body = task.text if task.text is not None else task.message
    return f"{body}\n" if alone else f"{task.name}: {task.outcome.value}\n{body}\n\n"
