"""Mutual TLS from three files, read again whenever they have been renewed."""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

log = logging.getLogger(__name__)
_LOOK = 1.0  # seconds between two looks at the files


@dataclass(frozen=True)
class Pem:
    """What was in the files, as PEM: our certificate (and those between it and the CA), its key, the CAs."""

    certificate: bytes
    key: bytes
    ca: bytes


class Files:
    """The files of a certificate, its key and the CAs that others' certificates must come from.

    Whoever renews them writes one after the other, so what is new counts from when it belongs together.
    """

    def __init__(self, certificate: str, key: str, ca: str) -> None:
        self._paths = (Path(certificate), Path(key), Path(ca))
        self._seen = self._look()
        self._pem = self._read()
        self._looked = time.monotonic()

    def current(self) -> Pem:
        """What is in them, the same object as long as nothing changes."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            try:
                if (seen := self._look()) != self._seen:
                    self._pem = self._read()
                    self._seen = seen
                    log.info("the TLS certificate is renewed")
            except (OSError, ValueError) as error:
                log.warning("the TLS certificate stays as it was: %s", error)
        return self._pem

    def context(self) -> ssl.SSLContext:
        """For a client of something that is not gRPC."""
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self._paths[2])
        self.renew(context)
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Lets new connections of a context use what is in the files now."""
        try:
            self._read()  # of a certificate without its key the context would keep the half
            context.load_verify_locations(self._paths[2])
            context.load_cert_chain(self._paths[0], self._paths[1])
        except (OSError, ValueError) as error:
            log.warning("the TLS certificate stays as it was: %s", error)

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        found = (path.stat() for path in self._paths)
        return tuple((status.st_ino, status.st_size, status.st_mtime_ns) for status in found)

    def _read(self) -> Pem:
        pem = Pem(*(path.read_bytes() for path in self._paths))
        own = x509.load_pem_x509_certificate(pem.certificate)
        if load_pem_private_key(pem.key, None).public_key() != own.public_key():
            raise ValueError("the key is not that of the certificate")
        x509.load_pem_x509_certificates(pem.ca)
        return pem


def server_credentials(files: Files) -> grpc.ServerCredentials:
    """For a server that only lets in who has a certificate of our CAs. Each new connection gets the current
    one."""
    used = files.current()

    def configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca)

    def renewed() -> Any:  # a configuration, or None for no other
        nonlocal used
        if (pem := files.current()) is used:
            return None
        used = pem
        return configuration(pem)

    return grpc.dynamic_ssl_server_credentials(
        configuration(used), renewed, require_client_authentication=True
    )


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """For a channel to such a server. They never change: a renewed certificate needs another channel."""
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def nats_context(url: str, files: Files | None) -> ssl.SSLContext | None:
    """What a NATS client needs for `tls://` servers; None for those without TLS."""
    if "tls://" not in url:
        return None
    return files.context() if files is not None else ssl.create_default_context()


def renewing(context: ssl.SSLContext | None, files: Files | None) -> Callable[[], Awaitable[None]]:
    """The callback of a lost connection that lets the next one use what is in the files by then."""

    async def renew() -> None:
        if context is not None and files is not None:
            files.renew(context)

    return renew
