"""What a remote model's runner needs beyond the others' settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from headrace_crds.hosts import AllowedHost, parse_hosts
from headrace_crds.model import Capability
from headrace_crds.remote import Remote

CREDENTIAL_FILE: Final = Path("/etc/headrace/credentials/key")
CLIENT_CERTIFICATE_DIR: Final = Path("/etc/headrace/client-certificate")
_DEFAULT_CAPABILITIES: Final = frozenset({Capability.CHAT, Capability.COMPLETION})


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """``allowed`` are the hosts that the key may be sent to, ``exempt`` those that need not be public."""

    remote: Remote
    capabilities: frozenset[Capability] = _DEFAULT_CAPABILITIES
    allowed: tuple[AllowedHost, ...] = ()
    exempt: tuple[AllowedHost, ...] = ()
    credential_file: Path = CREDENTIAL_FILE
    client_certificate_dir: Path = CLIENT_CERTIFICATE_DIR
    extra_body: dict[str, Any] | None = field(default=None)


def read_remote(environment: Mapping[str, str]) -> RemoteSettings | None:
    """None where ``HEADRACE_REMOTE`` is not set: the model is a local one. Raises ValueError that names the variable
    and quotes none of its content.
    """
    if not (raw := environment.get("HEADRACE_REMOTE")):
        return None
    try:
        remote = Remote.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "spec.remote"
        raise ValueError(f"HEADRACE_REMOTE: expected spec.remote as JSON: {where}: {first['type']}") from error
    return RemoteSettings(
        remote=remote,
        capabilities=_capabilities(environment.get("HEADRACE_CAPABILITIES", "")),
        allowed=_hosts(environment, "HEADRACE_ALLOWED_HOSTS"),
        exempt=_hosts(environment, "HEADRACE_EXEMPT_HOSTS"),
        credential_file=Path(environment.get("HEADRACE_CREDENTIAL_FILE") or CREDENTIAL_FILE),
        client_certificate_dir=Path(environment.get("HEADRACE_CLIENT_CERTIFICATE_DIR") or CLIENT_CERTIFICATE_DIR),
        extra_body=_extra_body(remote.extra_body),
    )


def _capabilities(raw: str) -> frozenset[Capability]:
    words = [word.strip() for word in raw.split(",") if word.strip()]
    try:
        return frozenset(map(Capability, words)) or _DEFAULT_CAPABILITIES
    except ValueError as error:
        there = ", ".join(Capability)
        raise ValueError(f"HEADRACE_CAPABILITIES: expected some of {there}, with commas between") from error


def _hosts(environment: Mapping[str, str], name: str) -> tuple[AllowedHost, ...]:
    try:
        return parse_hosts(environment.get(name, ""))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _extra_body(raw: str | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError("spec.remote.extraBody: expected a JSON object as text") from error
    if not isinstance(body, dict):
        raise ValueError("spec.remote.extraBody: expected a JSON object as text")
    return body
