"""What a user names on the command line, judged before a cluster is asked. Raises typer.BadParameter: exit code 2."""

import re
from collections.abc import Sequence
from typing import Final

import typer

_PART: Final = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
_TASK: Final = re.compile(rf"(?:{_PART}/)?{_PART}")


def task(name: str) -> str:
    """NAME or NAMESPACE/NAME."""
    if not _TASK.fullmatch(name):
        raise typer.BadParameter(f"{name!r} is no task: write NAME or NAMESPACE/NAME")
    return name


def tasks(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else [task(name) for name in names]


def reason(word: str | None) -> str | None:
    """A word of the vocabulary; a misspelt one would find nothing and look like good news."""
    from headrace_crds.manifest_schema import suggestion
    from headrace_crds.reasons import Reason

    if word is not None and word not in list(Reason):
        raise typer.BadParameter(f"{word!r} is no reason: {suggestion(word, [str(each) for each in Reason])}")
    return word
