"""`outrider certificates`: an authority and one certificate for the streams of a trial cluster.

On a lasting cluster a certificate manager does this, and renews them; the files are the same.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deployments.cli.arguments import days as valid_days

_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key; `pem` is the certificate as TLS reads it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def make_authority(days: float) -> Issued:
    """A self-signed authority that may sign replicas' certificates and nothing else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Outrider streams authority")
    usage = x509.KeyUsage(
        False, False, False, False, False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False
    )
    builder = (
        _builder(name, name, key, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Issued(builder.sign(key, hashes.SHA256()), key)


def issue(authority: Issued, days: float) -> Issued:
    """A certificate for both ends of a stream, good until `days` from now; negative days have passed already."""
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _builder(_name("Outrider streams"), authority.certificate.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    return Issued(builder.sign(authority.key, hashes.SHA256()), key)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("folder", type=Path, help="where ca.crt, ca.key, tls.crt and tls.key are written")
    parser.add_argument("--days", type=valid_days, default=365.0, help="how long they are good (default 365)")


def run(args: argparse.Namespace) -> int:
    """Write a set, or with the authority already there one more certificate of it; returns the exit status."""
    folder: Path = args.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        authority = _authority_in(folder, args.days)
        issued = issue(authority, args.days)
        _write(folder / "tls.crt", issued.pem)
        _write(folder / "tls.key", issued.key_pem)
    except (OSError, ValueError, TypeError) as error:
        print(f"outrider certificates: {error}", file=sys.stderr)
        return 1
    print(
        f"""Keep {folder}/ca.key away from the cluster; every node needs the other three:

streams:
  host: node
  tls:
    ca_file: {folder.resolve()}/ca.crt
    cert_file: {folder.resolve()}/tls.crt
    key_file: {folder.resolve()}/tls.key"""
    )
    return 0


def _authority_in(folder: Path, days: float) -> Issued:
    """The authority of an earlier call, so that what it signed stays good; else a new one."""
    certificate, key = folder / "ca.crt", folder / "ca.key"
    if certificate.exists() or key.exists():
        loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key} is no key that this command made; choose another folder")
        return Issued(x509.load_pem_x509_certificate(certificate.read_bytes()), loaded)
    made = make_authority(days)
    _write(key, made.key_pem)
    _write(certificate, made.pem)
    return made


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, end - timedelta(days=1)) - _CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _write(file: Path, content: bytes) -> None:
    """Replace a file in one step, readable by its owner alone."""
    written = file.with_name(f".{file.name}.new")
    written.unlink(missing_ok=True)
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    written.replace(file)
