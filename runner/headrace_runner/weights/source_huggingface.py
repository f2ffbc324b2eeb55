"""A file in a repository of Hugging Face: its `resolve` URL, which redirects to a store of theirs."""

from collections.abc import Callable
from urllib.parse import quote

from headrace_crds.source import HuggingFaceSource
from headrace_runner.weights.source_http import HttpOrigin


def hugging_face_origin(source: HuggingFaceSource, secret: Callable[..., str], *, endpoint: str) -> HttpOrigin:
    """``endpoint`` is the hub's or a mirror's address, without a path. A revision with a slash is one segment."""
    url = f"{endpoint}/{source.repo}/resolve/{quote(source.revision, safe='')}/{quote(source.file)}"
    return HttpOrigin.of(url, source.credentials, secret)
