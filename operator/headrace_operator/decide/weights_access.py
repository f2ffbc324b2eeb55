"""Where a model's weights may come from, and with which Secret: the Secret owner's word, and the chart's.

As for remote models, whoever may write an LLMModel names any Secret of the namespace; only one that is annotated with
the host is ever mounted.
"""

from dataclasses import dataclass
from typing import Final

from headrace_crds.hosts import DEFAULT_PORTS, AllowedHost, Refused, Target, judge_source, parse_hosts
from headrace_crds.model import LLMModel
from headrace_crds.names import ANNOTATION_ALLOWED_HOSTS
from headrace_crds.reasons import Reason
from headrace_crds.source import Source
from headrace_operator.decide.access import Door
from headrace_operator.decide.placement import Finding, Rank
from headrace_operator.decide.snapshots import CredentialsView, WeightsSettings

_USUAL_PORTS: Final = (80, 443, 8443)
"""Of an allowed host without a port; `AllowedHost.names`."""


@dataclass(frozen=True, slots=True)
class SourceAccess:
    """What the weights Job is given; nothing while there is a refusal."""

    exempt: tuple[str, ...] = ()
    doors: tuple[Door, ...] = ()
    refusal: Finding | None = None


def of(model: LLMModel, source: Source, settings: WeightsSettings, seen: CredentialsView | None) -> SourceAccess:
    """Of a source that is fetched."""
    exempt = tuple(AllowedHost.parse(entry) for entry in settings.allowed_hosts)
    try:
        target = judge_source(first_url(source, settings), exempt=exempt)
    except Refused as error:
        return _refused(Reason.HOST_NOT_ALLOWED, f"spec.local.source: {error}")
    if source.secret_name is not None and (no := _secret(model, source.secret_name, target, seen)) is not None:
        return no
    # Whatever it redirects to: public hosts under https, and those that the chart names.
    ports = {port for entry in exempt for port in ((entry.port,) if entry.port is not None else _USUAL_PORTS)}
    doors = [Door(443, public_only=True), Door(target.port, public_only=not target.trusted)]
    doors += [Door(port, public_only=False) for port in sorted(ports)]
    return SourceAccess(settings.allowed_hosts, tuple(dict.fromkeys(doors)))


def first_url(source: Source, settings: WeightsSettings) -> str:
    """Whose host the credentials go to."""
    if source.http is not None:
        return source.http.url
    if source.s3 is not None:
        return source.s3.endpoint or f"https://s3.{source.s3.region}.amazonaws.com"
    return settings.hugging_face


def _secret(model: LLMModel, name: str, target: Target, seen: CredentialsView | None) -> SourceAccess | None:
    namespace = model.metadata.namespace
    host = f"{target.host}" if target.port == DEFAULT_PORTS[target.scheme] else f"{target.host}:{target.port}"
    if seen is None or not seen.exists:
        told = f"create it, with the annotation {ANNOTATION_ALLOWED_HOSTS}: {host}"
        message = f"Secret {name!r} does not exist in namespace {namespace!r}: {told}"
        return _refused(Reason.CREDENTIALS_NOT_FOUND, message)
    how = f"kubectl annotate secret {name} -n {namespace} --overwrite {ANNOTATION_ALLOWED_HOSTS}={host}"
    try:
        allowed = parse_hosts(seen.allowed_hosts or "")
    except ValueError:
        allowed = ()
    if not any(entry.names_exactly(target.host, target.port, target.scheme) for entry in allowed):
        message = f"Secret {name!r} does not say that its keys may be sent to {host}: its owner allows it by {how}"
        return _refused(Reason.HOST_NOT_ALLOWED, message)
    return None


def _refused(reason: Reason, message: str) -> SourceAccess:
    return SourceAccess(refusal=Finding(Rank.NONE, reason, message))
