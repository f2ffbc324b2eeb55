"""What a table's cells say, in words and with a meaning; templates and script draw the same from it. Pure.

Texts are tenants' and runners' own words: they are shown as text, in HTML by escaping, by the script as text nodes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

Tone = Literal["", "ok", "busy", "warn", "bad", "idle"]
NOTHING: Final = "–"
_MESSAGE_MOST: Final = 400
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


@dataclass(frozen=True)
class Cell:
    text: str
    tone: Tone = ""
    """With one the text is a pill."""
    href: str = ""
    """A path of the page."""
    note: str = ""
    """A second line."""
    share: float | None = None
    """From 0 to 1: a bar beside the text."""


@dataclass(frozen=True)
class Row:
    key: str
    """Of the table alone: by it a row is known again."""
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    empty: str
    """Told where there are no rows."""
    numbers: Sequence[int] = ()
    """Columns that are set flush right."""


@dataclass(frozen=True)
class State:
    """All of a page that changes."""

    tables: dict[str, Table] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    """By id; an empty one is hidden."""

    def document(self) -> dict[str, Any]:
        """As JSON for the script."""
        return {
            "tables": {
                name: {"rows": [asdict(row) for row in table.rows], "empty": "" if table.rows else table.empty}
                for name, table in self.tables.items()
            },
            "texts": self.texts,
        }


def plain(text: str | None, most: int = _MESSAGE_MOST) -> str:
    """One line, without what changes the direction of text or cannot be seen."""
    if not text:
        return ""
    line = "".join(each if each.isprintable() else " " for each in text[: most + 1]).strip()
    return line if len(line) <= most else line[: most - 1] + "…"


def number(value: int | None) -> Cell:
    return Cell(NOTHING if value is None else f"{value:,}")


def duration(seconds: float | None) -> str:
    """120 ms, 3.2 s, 12 s, 5 min, 3 h, 2 d."""
    if seconds is None:
        return NOTHING
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    if 0 < seconds < 1:
        return f"{int(seconds * 1000)} ms"
    return f"{seconds:.1f} s" if 0 < seconds < 10 else f"{int(seconds)} s"


def _moment(text: str | None) -> datetime | None:
    """Of RFC 3339."""
    try:
        then = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return then.replace(tzinfo=UTC) if then.tzinfo is None else then.astimezone(UTC)


def moment(text: str | None) -> str:
    then = _moment(text)
    return NOTHING if then is None else f"{then:%Y-%m-%d %H:%M:%S} UTC"


def age_s(since: str | None, now: datetime) -> float | None:
    """Seconds since an RFC 3339 time; a clock that is behind tells 0."""
    then = _moment(since)
    return None if then is None else max((now - then).total_seconds(), 0.0)


def ago(since: str | None, now: datetime) -> str:
    seconds = age_s(since, now)
    return NOTHING if seconds is None else f"{duration(int(seconds))} ago"


def size(value: int) -> str:
    return f"{value / (1 << 30):.1f} GiB"
