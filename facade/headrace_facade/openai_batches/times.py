"""Times as OpenAI's objects have them."""

from datetime import datetime


def unix_time(timestamp: str) -> int:
    """Whole seconds, of RFC 3339."""
    return int(datetime.fromisoformat(timestamp).timestamp())
