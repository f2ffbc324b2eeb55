"""The certificate that a provider's server is shown, from files that the kubelet replaces when their Secret changes.

It knows no connections. No message quotes a file.
"""

import os
import ssl
from pathlib import Path
from typing import Final

from headrace_runner.providers.transport_errors import CertificateRefused

CERTIFICATE_FILE: Final = "tls.crt"
KEY_FILE: Final = "tls.key"
_WHERE: Final = "the Secret of spec.remote.clientCertificate"
_ALERTS: Final = {
    "CERTIFICATE_REQUIRED": "asks for a client certificate, and was shown none",
    "CERTIFICATE_EXPIRED": "refuses the client certificate, as it has expired",
    "CERTIFICATE_REVOKED": "refuses the client certificate, as it is revoked",
    "UNKNOWN_CA": "refuses the client certificate, as it does not know its authority",
    "BAD_CERTIFICATE": "refuses the client certificate",
    "UNSUPPORTED_CERTIFICATE": "refuses the client certificate, as it is of another kind than it takes",
    "CERTIFICATE_UNKNOWN": "refuses the client certificate",
    "ACCESS_DENIED": "refuses whom the client certificate names",
}
"""By the ends of OpenSSL's reasons for alerts (RFC 8446, section 6.2)."""


class ClientCertificate:
    """``refresh`` it for every request: it reads only what has changed. ``folder`` has ``tls.crt`` and ``tls.key``."""

    def __init__(self, folder: Path, bundle: str | None) -> None:
        """``bundle`` are the servers' authorities, as in ``trusting``."""
        self._certificate, self._key, self._bundle = folder / CERTIFICATE_FILE, folder / KEY_FILE, bundle
        self._seen: object = None
        self.context: ssl.SSLContext | None = None
        """Of connections that begin from now on; another one after the files have changed."""

    def version(self) -> object:
        """Another one after a file has changed; None while one is missing."""
        try:
            return tuple(
                (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
                for found in map(os.stat, (self._certificate, self._key))
            )
        except OSError:
            return None

    def refresh(self) -> None:
        """Raises CertificateRefused for files that make no certificate; the last that did is then not used on."""
        seen = self.version()
        if self.context is not None and seen is not None and seen == self._seen:
            return
        self.context = None
        made = trusting(self._bundle)
        try:
            made.load_cert_chain(self._certificate, self._key, password=lambda: b"")
        except ssl.SSLError as error:
            raise CertificateRefused(_words(error)) from None
        except (OSError, ValueError) as error:
            raise CertificateRefused(
                f"the client certificate cannot be read ({type(error).__name__}): does {_WHERE} have "
                f"{CERTIFICATE_FILE} and {KEY_FILE}, the key without a password?"
            ) from None
        # What was looked at before it was read: a change in between is read again.
        self.context, self._seen = made, seen


def trusting(bundle: str | None) -> ssl.SSLContext:
    """Trusts the authorities of ``bundle`` in PEM; None: the usual ones. Raises ValueError."""
    try:
        return ssl.create_default_context(cadata=bundle)
    except (ssl.SSLError, ValueError):
        raise ValueError("spec.remote.caBundle: not certificates in PEM; each begins with BEGIN CERTIFICATE") from None


def alert(host: str, error: BaseException | None, *, shown: bool) -> str | None:
    """What ``host`` has against the client's certificate; None where the error tells of nothing like that.

    ``shown``: the client has one.
    """
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if isinstance(error, ssl.SSLCertVerificationError) or "ALERT" not in reason:
        return None
    if not shown:
        # Without one there is nothing to refuse.
        missing = reason.endswith("CERTIFICATE_REQUIRED")
        return f"{host} asks for a client certificate: set spec.remote.clientCertificate" if missing else None
    found = next((words for end, words in _ALERTS.items() if reason.endswith(end)), None)
    return None if found is None else f"{host} {found}: look at {_WHERE}"


def _words(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"{KEY_FILE} is not the key of {CERTIFICATE_FILE}: put the pair into {_WHERE}"
    return (
        f"the client certificate cannot be used: {_WHERE} needs {CERTIFICATE_FILE} with the certificate and "
        f"{KEY_FILE} with its key, in PEM, the key without a password"
    )
