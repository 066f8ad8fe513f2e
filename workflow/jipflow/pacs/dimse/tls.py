"""TLS of associations (PS3.15 annex B)."""

from __future__ import annotations

import ssl
from pathlib import Path

from jipflow.pacs.credentials import private_file
from jipflow.settings.resources import ConfigError
from jipflow.settings.site import Dimse, Tls


def client_context(source: Dimse) -> ssl.SSLContext | None:
    """Return the TLS context of our associations; None without ``tls``.

    Args:
        source: an entry of ``sources`` of kind ``dimse``.

    Raises:
        ConfigError: a file is missing or no PEM file, or others can read the key.
    """
    if source.tls is None:
        return None
    return _context(source.name, source.tls, ssl.Purpose.SERVER_AUTH)


def server_context(source: Dimse) -> ssl.SSLContext | None:
    """Return the TLS context of the listener, which asks the PACS for its certificate.

    Args:
        source: an entry of ``sources`` of kind ``dimse``.

    Raises:
        ConfigError: a file is missing or no PEM file, or others can read the key.
    """
    if source.tls is None:
        return None
    if source.tls.cert_file is None:
        raise ConfigError(
            f"source {source.name!r}: C-MOVE with tls needs our certificate; add tls.cert_file "
            "and tls.key_file."
        )
    context = _context(source.name, source.tls, ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(name: str, files: Tls, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return a TLS context of the files that the configuration names, TLS 1.2 or later."""
    setting = f"source {name!r}: tls"
    try:
        context = ssl.create_default_context(purpose, cafile=files.ca_file)
        if files.cert_file is not None:
            key = private_file(Path(files.key_file or files.cert_file), f"{setting}.key_file")
            context.load_cert_chain(files.cert_file, key)
    except OSError as error:
        raise ConfigError(
            f"{setting}: {error.strerror or error}; ca_file, cert_file and key_file must be PEM "
            "files that belong together."
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
