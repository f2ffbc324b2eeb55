"""Where a file is asked for, and what a request has to carry: one module for each kind of source.

A source knows URLs and headers and opens no connection.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

from headrace_crds.reasons import Reason
from headrace_crds.source import Source
from headrace_runner.weights.failures import WeightsFailure

SECRET_LIMIT_BYTES: Final = 16 * 1024


class Origin(Protocol):
    """The first URL. ``authorize`` gives what goes to its host, and to no host that it redirects to."""

    @property
    def url(self) -> str: ...

    def authorize(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Headers besides those that are given, for one request. Raises WeightsFailure."""


class Secret:
    """Files that the kubelet mounts and replaces; read for every request."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, key: str, *, needed: bool = True) -> str:
        """Raises WeightsFailure, which names the key and quotes nothing."""
        try:
            raw = (self._folder / key).read_bytes()
        except FileNotFoundError:
            if not needed:
                return ""
            raise WeightsFailure(Reason.CREDENTIALS_NOT_FOUND, f"the Secret has no {key!r}: add it") from None
        text = raw[: SECRET_LIMIT_BYTES + 1].decode("latin-1").strip()
        if not text or len(raw) > SECRET_LIMIT_BYTES or not (text.isascii() and text.isprintable()):
            message = f"{key!r} in the Secret is empty, or holds what no header can carry: correct it"
            raise WeightsFailure(Reason.CREDENTIALS_REFUSED, message)
        return text


def origin_of(source: Source, secret: Callable[..., str], *, hugging_face: str) -> Origin:
    """The origin of a source that is fetched. Raises ValueError for one that is not."""
    # Here, so that each source is one module that nobody else has to know.
    from headrace_runner.weights.source_http import HttpOrigin
    from headrace_runner.weights.source_huggingface import hugging_face_origin
    from headrace_runner.weights.source_s3 import S3Origin

    if source.http is not None:
        return HttpOrigin.of(source.http.url, source.http.credentials, secret)
    if source.hugging_face is not None:
        return hugging_face_origin(source.hugging_face, secret, endpoint=hugging_face)
    if source.s3 is not None:
        return S3Origin.of(source.s3, secret)
    raise ValueError("the source is not one that is fetched")
