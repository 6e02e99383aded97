"""Certificates of a cluster's authority, on disk as streams read them."""

from __future__ import annotations

from pathlib import Path

from deployments.cli.certificates import Issued, issue, make_authority
from deployments.link import LinkSettings, StreamTls, TlsFiles

__all__ = ["Issued", "issue", "make_authority", "settings_with", "write_files"]


def write_files(folder: Path, authority: Issued, own: Issued) -> TlsFiles:
    """The three files of one process."""
    folder.mkdir(exist_ok=True)
    files = TlsFiles(folder / "ca.crt", folder / "tls.crt", folder / "tls.key")
    files.ca_file.write_bytes(authority.pem)
    files.cert_file.write_bytes(own.pem)
    files.key_file.write_bytes(own.key_pem)
    return files


def settings_with(folder: Path, authority: Issued, own: Issued) -> LinkSettings:
    """Links that show `own` and trust whoever `authority` has signed."""
    return LinkSettings(tls=StreamTls(write_files(folder, authority, own)), handshake_timeout_s=2.0)
