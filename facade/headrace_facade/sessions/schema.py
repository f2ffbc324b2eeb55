"""Requests and answers about sessions."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from headrace_facade.schema import ChatMessage, Namespace, Text

SESSION_ID: str = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class NewSession(_Body):
    """A chat that goes on."""

    system: Annotated[Text, Field(min_length=1, max_length=65_536)] | None = None
    """System message, in front of all that is said; it is never trimmed away."""
    namespace: Namespace | None = None
    """The tenant; absent: that of the ServiceAccount or API key, else the facade's default."""


class SessionView(_Answer):
    """A session, without what was said."""

    session_id: str
    """Names it in requests, for the identity that made it."""
    namespace: str
    """The tenant that it was made for."""
    version: int
    """How often something was appended."""
    exchanges: int
    """Requests with their answers that it holds; the oldest go beyond 256 KiB."""
    size_bytes: int
    """That it takes."""
    created_at: str
    """RFC 3339, UTC."""
    expires_at: str
    """RFC 3339, UTC; later with each answer."""


class SessionHistory(SessionView):
    """A session with what was said."""

    system: str | None
    """In front of all of it."""
    messages: list[ChatMessage]
    """Oldest first."""


class SessionViews(_Answer):
    """Sessions of the caller in one namespace."""

    items: list[SessionView]
    """The one that was used last comes first; a hundred at most."""
