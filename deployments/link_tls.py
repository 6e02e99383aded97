"""Mutual TLS for streams: either side shows a certificate that the cluster's own authority has signed.

Names in certificates are not compared with addresses: replicas come and go on any node, and the
authority is private to the cluster, so whoever holds one of its certificates belongs to it. Which
replica a peer is, its one-time token says (link_tokens.py).
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

from deployments.watched import Watched


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the authority's certificate, and this process's own certificate with its key."""

    ca_file: Path
    cert_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class _Contexts:
    listening: ssl.SSLContext
    dialling: ssl.SSLContext


class StreamTls:
    """Makes TCP connections into TLS 1.3 ones; certificates that are renewed on disk serve new connections."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises ValueError that names the file if one cannot be used."""
        self._watched = Watched([files.ca_file, files.cert_file, files.key_file], lambda: _contexts(files))

    async def wrap(
        self, wire: asyncio.Transport, *, is_listening: bool, timeout_s: float
    ) -> tuple[asyncio.Transport, Early]:
        """The transport inside a connected one, and what came on it so far; OSError if either side is not convinced.

        In TLS 1.3 a dialling side is done before its own certificate is checked: it learns of a
        refusal when the connection ends.
        """
        contexts = self._watched.value()
        early = Early()
        transport = await asyncio.get_running_loop().start_tls(
            wire,
            early,
            contexts.listening if is_listening else contexts.dialling,
            server_side=is_listening,
            ssl_handshake_timeout=timeout_s,
        )
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the connection ended in the TLS handshake")
        return transport, early


class Early(asyncio.Protocol):
    """Keeps what comes between the end of the handshake and the moment a stream takes over."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


def _contexts(files: TlsFiles) -> _Contexts:
    made = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(files.ca_file)
        except OSError as error:
            raise ValueError(f"streams.tls.ca_file: {files.ca_file} holds no PEM certificate ({_why(error)})") from None
        try:
            context.load_cert_chain(files.cert_file, files.key_file, password=_no_password)
        except OSError as error:
            raise ValueError(
                f"streams.tls.cert_file, key_file: {files.cert_file} and {files.key_file} are no PEM certificate and "
                f"its unencrypted key ({_why(error)})"
            ) from None
        made.append(context)
    made[0].num_tickets = 0  # links are not resumed
    return _Contexts(*made)


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # OpenSSL would ask at the terminal


def _why(error: OSError) -> str:
    return error.strerror or str(error)
