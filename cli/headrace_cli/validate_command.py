"""``headrace validate``."""

import sys
from collections.abc import Sequence

from headrace_cli.sources import SourceError, read_sources
from headrace_crds.manifest import check


def validate(names: Sequence[str], *, quiet: bool) -> int:
    """Print what is wrong; gives the exit code."""
    try:
        checked = check(read_sources(names))
    except SourceError as error:
        print(error, file=sys.stderr)
        return 2
    if not (checked.manifests or checked.problems or checked.notes):
        print("no manifest", file=sys.stderr)
        return 2
    if not quiet:
        for note in checked.notes:
            print(f"note: {note}", file=sys.stderr)
    for problem in checked.problems:
        print(problem, file=sys.stderr)
    if checked.problems:
        count = len(checked.problems)
        print(f"{count} {'mistake' if count == 1 else 'mistakes'}", file=sys.stderr)
        return 2
    if not quiet:
        for manifest in checked.manifests:
            print(f"{manifest.source}:{manifest.line}: {manifest.kind}/{manifest.object.metadata.name} is valid")
    return 0
