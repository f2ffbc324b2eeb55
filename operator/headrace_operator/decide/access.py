"""Whether a remote model may have its key and its host: the Secret owner's word, and the chart's.

Who may write an LLMModel names any Secret of the namespace; only a Secret that is annotated with the hosts that its
keys may be sent to is ever mounted. Nothing here knows what a Secret holds.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from headrace_crds.hosts import AllowedHost, Refused, Target, judge_base_url, parse_hosts
from headrace_crds.model import LLMModel
from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS
from headrace_crds.reasons import Reason
from headrace_crds.remote import DEFAULT_BASE_URLS, Remote
from headrace_operator.decide.placement import Finding, Rank
from headrace_operator.decide.snapshots import CredentialsView, RunnerSettings

SPEC_LIMIT_BYTES: Final = 120_000
"""Of spec.remote as JSON: Linux starts no process with a variable of 128 KiB."""


@dataclass(frozen=True, slots=True)
class Door:
    """A way out of the pod."""

    port: int
    public_only: bool
    """False: the chart's remote.allowedHosts names the host, which may be anywhere."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the pods of a remote model are given; nothing while there is a refusal."""

    allowed: tuple[str, ...] = ()
    """`host[:port]` that the key may be sent to; without credentials, or with a client certificate, baseURL's alone."""
    exempt: tuple[str, ...] = ()
    """Of the chart's remote.allowedHosts those that are about this model's host or proxy."""
    doors: tuple[Door, ...] = ()
    refusal: Finding | None = None

    @property
    def granted(self) -> bool:
        return self.refusal is None


def of(
    model: LLMModel,
    settings: RunnerSettings,
    credentials: CredentialsView | None,
    client_certificate: CredentialsView | None = None,
) -> Access | None:
    """None: a local model. The views are what was seen of the Secrets; None where the model names none."""
    remote = model.spec.remote
    if remote is None:
        return None
    try:
        certified = _certified(model, remote, client_certificate)
        return _granted(remote, settings, _allowed(model, remote, credentials), certified, model.metadata.namespace)
    except _No as no:
        return Access(refusal=Finding(Rank.NONE, no.reason, str(no)))


def remote_json(remote: Remote) -> str:
    """spec.remote for HEADRACE_REMOTE, the same text for the same spec. Without a dollar sign, which the kubelet would
    read as a reference to another variable.
    """
    document: dict[str, Any] = remote.dump()
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.replace("$", "\\u0024")


class _No(Exception):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _base_url(remote: Remote) -> str:
    url = remote.base_url or DEFAULT_BASE_URLS.get(remote.provider)
    if url is None:
        raise _No(Reason.INVALID_SETTINGS, "spec.remote.baseURL is missing: say where the provider's API is")
    return url


def _allowed(model: LLMModel, remote: Remote, seen: CredentialsView | None) -> tuple[AllowedHost, ...] | None:
    """What the annotation of the key's Secret names; None where there is no Secret."""
    if remote.credentials is None:
        return None
    ref = remote.credentials.secret_key_ref
    return _named(model, remote, seen, ref.name, f"the provider's key as {ref.key!r}")


def _certified(model: LLMModel, remote: Remote, seen: CredentialsView | None) -> tuple[AllowedHost, ...] | None:
    """What the annotation of the client certificate's Secret names; None where there is no Secret."""
    if remote.client_certificate is None:
        return None
    return _named(model, remote, seen, remote.client_certificate.secret_name, "tls.crt and tls.key")


def _named(
    model: LLMModel, remote: Remote, seen: CredentialsView | None, name: str, content: str
) -> tuple[AllowedHost, ...]:
    namespace = model.metadata.namespace
    host = _entry_of(_base_url(remote))
    if seen is None or not seen.exists:
        told = f"create it with {content} and the annotation {ANNOTATION_ALLOWED_HOSTS}: {host}"
        raise _No(Reason.CREDENTIALS_NOT_FOUND, f"Secret {name!r} does not exist in namespace {namespace!r}: {told}")
    if seen.allowed_hosts is None:
        how = f"kubectl annotate secret {name} -n {namespace} {ANNOTATION_ALLOWED_HOSTS}={host}"
        told = f"its owner allows it by the annotation {ANNOTATION_ALLOWED_HOSTS}: {host} ({how})"
        raise _No(Reason.HOST_NOT_ALLOWED, f"Secret {name!r} names no hosts that its keys may be sent to: {told}")
    try:
        return parse_hosts(seen.allowed_hosts)
    except ValueError as error:
        told = f"{error}"[:200]
        raise _No(
            Reason.HOST_NOT_ALLOWED,
            f"annotation {ANNOTATION_ALLOWED_HOSTS} of Secret {name!r}: {told}: write host or host:port, "
            f"separated by commas, such as {host}",
        ) from None


def _entry_of(url: str) -> str:
    """How an annotation would name the URL's host."""
    authority = url.partition("://")[2].partition("/")[0].lower()
    return authority.removesuffix(":443") if url.startswith("https:") else authority.removesuffix(":80")


def _granted(
    remote: Remote,
    settings: RunnerSettings,
    allowed: tuple[AllowedHost, ...] | None,
    certified: tuple[AllowedHost, ...] | None,
    namespace: str,
) -> Access:
    size_bytes = len(remote_json(remote).encode())
    if size_bytes > SPEC_LIMIT_BYTES:
        message = f"spec.remote takes {size_bytes} bytes as JSON, at most {SPEC_LIMIT_BYTES} reach a runner"
        raise _No(Reason.INVALID_SETTINGS, f"{message}: shorten caBundle, http.body or http.headers")
    exempt = tuple(AllowedHost.parse(entry) for entry in settings.remote_allowed_hosts)
    secret = ""
    if remote.credentials is not None:
        secret = f"{remote.credentials.secret_key_ref.name!r} in namespace {namespace!r}"
    base = _judged(_base_url(remote), "baseURL", allowed, exempt, secret)
    ways = [base]
    if remote.client_certificate is not None:
        secret = f"{remote.client_certificate.secret_name!r} in namespace {namespace!r}"
        base = _judged(_base_url(remote), "baseURL", certified, exempt, secret)
        if base.scheme != "https":
            raise _No(Reason.INVALID_SETTINGS, "spec.remote.clientCertificate is shown in TLS alone: baseURL is http")
        # The hosts that one Secret names are not the other's word.
        allowed = None
    if remote.proxy_url is not None:
        proxy = _judged(remote.proxy_url, "proxyURL", None, exempt, "")
        if not proxy.trusted:
            told = f"name {_entry_of(remote.proxy_url)} in the chart's remote.allowedHosts"
            raise _No(Reason.HOST_NOT_ALLOWED, f"spec.remote.proxyURL: {proxy.host} is not an allowed proxy: {told}")
        ways.append(proxy)
    hosts = {way.host for way in ways}
    entries = allowed if allowed is not None else (AllowedHost(base.host, base.port),)
    return Access(
        allowed=tuple(dict.fromkeys(map(_text, entries))),
        exempt=tuple(dict.fromkeys(_text(entry) for entry in exempt if entry.host in hosts)),
        doors=tuple(dict.fromkeys(Door(way.port, public_only=not way.trusted) for way in ways)),
    )


def _judged(
    url: str, field: str, allowed: tuple[AllowedHost, ...] | None, exempt: tuple[AllowedHost, ...], secret: str
) -> Target:
    """`allowed` is None where no key goes along: then whatever the URL names is."""
    try:
        named = parse_hosts(_entry_of(url)) if allowed is None else allowed
        return judge_base_url(url, allowed=named, exempt=exempt, secret=secret)
    except (Refused, ValueError) as error:
        raise _No(Reason.HOST_NOT_ALLOWED, f"spec.remote.{field}: {error}") from None


def _text(entry: AllowedHost) -> str:
    return f"{entry.host}" if entry.port is None else f"{entry.host}:{entry.port}"
