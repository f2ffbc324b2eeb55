"""The pod of a remote model: the container `runner` alone, with the provider's key and the client certificate beside
token and Redis.
"""

from typing import Any, Final

from headrace_crds.model import LLMModel
from headrace_crds.names import runner_name
from headrace_crds.remote import Remote
from headrace_operator.decide import pod
from headrace_operator.decide.access import Access, remote_json
from headrace_operator.decide.snapshots import RunnerSettings

CREDENTIALS: Final = "/etc/headrace/credentials"
KEY_FILE: Final = "key"
CLIENT_CERTIFICATE: Final = "/etc/headrace/client-certificate"
KEY_MODE: Final = 0o440
"""The pod's group reads it, which is the runner's."""


def spec(
    model: LLMModel, remote: Remote, access: Access, settings: RunnerSettings, *, spec_generation: int
) -> dict[str, Any]:
    """A pod spec that Pod Security "restricted" admits. Without access it has no key and no host."""
    volumes = pod.shared_volumes(runner_name(model.metadata.name))
    mounts = []
    if remote.credentials is not None and access.granted:
        key = remote.credentials.secret_key_ref
        items = [{"key": key.key, "path": KEY_FILE, "mode": KEY_MODE}]
        secret = {"secretName": key.name, "items": items, "optional": False}
        volumes.append({"name": "credentials", "secret": secret})
        mounts.append({"name": "credentials", "mountPath": CREDENTIALS, "readOnly": True})
    if remote.client_certificate is not None and access.granted:
        items = [{"key": name, "path": name, "mode": KEY_MODE} for name in ("tls.crt", "tls.key")]
        secret = {"secretName": remote.client_certificate.secret_name, "items": items, "optional": False}
        volumes.append({"name": "client-certificate", "secret": secret})
        mounts.append({"name": "client-certificate", "mountPath": CLIENT_CERTIFICATE, "readOnly": True})
    environment = _environment(model, remote, access)
    runner = pod.runner(
        model,
        environment,
        settings,
        parallelism=remote.max_concurrency,
        mounts=mounts,
        resources=settings.resources.get("remote") or {},
        spec_generation=spec_generation,
    )
    return pod.enclosing(model, settings, [runner], volumes)


def _environment(model: LLMModel, remote: Remote, access: Access) -> dict[str, str]:
    environment = {
        "HEADRACE_REMOTE": remote_json(remote),
        "HEADRACE_CAPABILITIES": ",".join(model.spec.capabilities),
        "HEADRACE_ALLOWED_HOSTS": ",".join(access.allowed),
        "HEADRACE_EXEMPT_HOSTS": ",".join(access.exempt),
    }
    if remote.credentials is not None:
        environment["HEADRACE_CREDENTIAL_FILE"] = f"{CREDENTIALS}/{KEY_FILE}"
    if remote.client_certificate is not None:
        environment["HEADRACE_CLIENT_CERTIFICATE_DIR"] = CLIENT_CERTIFICATE
    return environment
