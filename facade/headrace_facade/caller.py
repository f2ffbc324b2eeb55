"""Who asks: an identity that was verified, and the namespace that it acts for."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Caller:
    """A tenant is a namespace, and never read from a header."""

    namespace: str
    name: str
    """``system:serviceaccount:ns:name``, a user's name, or ``key:<Secret>``; in logs and limits."""
    models: frozenset[str] | None = None
    """LLMModels as ``namespace/name`` that an API key may call; None: whatever its namespace may."""
    token: str | None = field(default=None, repr=False)
    """The cluster's token, for what is done with the caller's own rights; None of an API key."""
