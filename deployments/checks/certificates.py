"""The streams' certificates: whole, of the one authority, and good for a while."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from deployments.checks.finding import Finding, ok, problem, warning
from deployments.config import OutriderConfig

RENEWAL = timedelta(days=14)
_ISSUE = "`outrider certificates FOLDER` makes a set for a trial; docs/security.md says how to renew"


def check_certificates(config: OutriderConfig, now: datetime | None = None) -> list[Finding]:
    """Whether a replica with these files would be let in, today and in two weeks."""
    streams = config.streams
    if streams.tls.files is None:
        if streams.is_loopback:
            return [ok("certificates", "streams stay on the loopback and need none")]
        remedy = "give streams.tls the cluster's certificates; plain TCP is for networks that nobody else is on"
        return [warning("certificates", "streams leave the machine without TLS (insecure_streams)", remedy)]
    ca_file, cert_file, key_file = streams.tls.files
    for path in (ca_file, cert_file, key_file):
        if not path.is_file():
            return [problem("certificates", f"{path} is not there", f"put it there; {_ISSUE}")]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    except (ssl.SSLError, OSError) as error:
        detail = f"{cert_file} and {key_file} do not belong together ({error})"
        return [problem("certificates", detail, f"take both from one set; {_ISSUE}")]
    try:
        authority, own = _load(ca_file), _load(cert_file)
        own.verify_directly_issued_by(authority)
    except (
        Exception
    ) as error:  # the library tells a wrong issuer, a wrong signature and a wrong file by different types
        detail = f"{cert_file} is not signed by {ca_file} ({type(error).__name__}: {error})"
        return [problem("certificates", detail, f"sign it with the cluster's authority; {_ISSUE}")]
    return [
        _validity(path, certificate, now or datetime.now(UTC))
        for path, certificate in ((ca_file, authority), (cert_file, own))
    ]


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def _validity(path: Path, certificate: x509.Certificate, now: datetime) -> Finding:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= now <= end:
        return problem("certificates", f"{path} is good from {begin:%F} to {end:%F}, not now", f"renew it; {_ISSUE}")
    if end - now < RENEWAL:
        return warning("certificates", f"{path} is good until {end:%F} only", f"renew it now; {_ISSUE}")
    return ok("certificates", f"{path} is good until {end:%F}")
