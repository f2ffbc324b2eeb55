"""Tables as kubectl prints them: columns that other programs can cut, and no control characters of anybody's."""

from collections.abc import Sequence
from datetime import UTC, datetime

GAP = "   "


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Left-aligned columns; the last one is not padded."""
    lines = [[plain(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    widths[-1] = 0
    padded = (GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{indent}{line.rstrip()}\n" for line in padded)


def plain(text: str) -> str:
    """One line without control characters and what turns the direction of writing."""
    return "".join(each if each.isprintable() else " " for each in text)


def age(timestamp: str | None, now: datetime | None = None) -> str:
    """How long ago an API timestamp was, by this machine's clock: 45s, 12m, 3h, 5d."""
    try:
        seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(timestamp or "")).total_seconds())
    except (ValueError, TypeError):
        return "?"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"
