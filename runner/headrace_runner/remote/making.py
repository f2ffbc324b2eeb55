"""Puts a remote model's backend together from its settings."""

import contextlib

from headrace_runner.providers import registry, transport
from headrace_runner.providers.client_certificate import ClientCertificate
from headrace_runner.providers.credential import CredentialFile
from headrace_runner.providers.protocol import Provider, Setting
from headrace_runner.remote.backend import RemoteBackend
from headrace_runner.remote.call_gate import CallGate
from headrace_runner.remote.settings import RemoteSettings


def remote_backend(settings: RemoteSettings, gate: CallGate) -> RemoteBackend:
    """Nothing is opened before it runs; a setting that nobody can serve becomes the model's state."""
    remote, clients = settings.remote, contextlib.AsyncExitStack()
    folder = None if remote.client_certificate is None else settings.client_certificate_dir
    certificate = None if folder is None else ClientCertificate(folder, remote.ca_bundle)
    key = None if remote.credentials is None else CredentialFile(settings.credential_file)

    def create() -> Provider:
        factory = registry.find(remote.provider)
        http = transport.client(remote, settings.allowed, settings.exempt, certificate=certificate)
        clients.push_async_callback(http.aclose)
        return factory(Setting(remote, http, key or (lambda: ""), extra_body=settings.extra_body))

    return RemoteBackend(
        create,
        gate,
        capabilities=settings.capabilities,
        close=clients.aclose,
        key_version=lambda: (key and key.version(), certificate and certificate.version()),
    )
