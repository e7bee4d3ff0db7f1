"""The certificates of a coordinator: a CA and a server certificate of its own, or the institution's, looked at closely."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from core.errors import ConfigError

CA_DAYS = 3650


def make_authority(path: Path, hosts: list[str], days: int) -> None:
    """Write ``ca.key``, ``ca.crt`` (EC P-384, ten years), ``server.key`` and ``server.crt`` (``days``) into a folder."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "cardiofed federation CA"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, hosts[0][:64]),
        ]
    )
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        _dated(x509.CertificateBuilder(), max(CA_DAYS, days))
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(identity, critical=False)
        .sign(key, hashes.SHA384())
    )
    write_new(path / "ca.key", _pem(key), 0o600)
    write_new(path / "ca.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    _make_server_certificate(path, key, certificate, hosts, days)


def renew_server_certificate(path: Path, hosts: list[str], days: int) -> None:
    """Write a new ``server.key`` and ``server.crt`` under the CA in the folder; the old ones are kept as ``.old``."""
    ca_key = serialization.load_pem_private_key((path / "ca.key").read_bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    for name in ("server.key", "server.crt"):
        if (path / name).exists():
            (path / name).replace(path / f"{name}.old")
    _make_server_certificate(path, ca_key, read_certificate(path / "ca.crt"), hosts, days)


def _make_server_certificate(
    path: Path, ca_key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, hosts: list[str], days: int
) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = (
        _dated(x509.CertificateBuilder(), days)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]))
        .issuer_name(ca.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([subject_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA384())
    )
    write_new(path / "server.key", _pem(key), 0o600)
    write_new(path / "server.crt", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _dated(builder: x509.CertificateBuilder, days: int) -> x509.CertificateBuilder:
    # An hour back: a site's clock may be slow.
    start = datetime.now(UTC) - timedelta(hours=1)
    end = start + timedelta(days=days, hours=1)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _usage(**used: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


def subject_name(host: str) -> x509.GeneralName:
    """Return a host as a certificate holds it.

    Raises
    ------
    ConfigError
        When it is neither a host name nor an IP address.
    """
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.split(".")
    fits = len(host) <= 253 and all(
        0 < len(label) <= 63 and label.isascii() and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
    if not fits:
        raise ConfigError(f"--host {host} is neither a host name nor an IP address; write it without https:// and port")
    return x509.DNSName(host)


def certificate_hosts(path: Path) -> list[str]:
    """Return the names and IP addresses that a certificate holds.

    Raises
    ------
    ConfigError
        When the file is no PEM certificate.
    """
    try:
        names = read_certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def check_given(certificate: Path, key: Path, ca: Path) -> None:
    """Refuse an institution's files that would only fail once sites connect.

    Raises
    ------
    ConfigError
        When one cannot be read, or they do not belong together.
    """
    held, issuer = read_certificate(certificate), read_certificate(ca)
    try:
        own = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{key} is no private key in PEM without a passphrase; give --key such a file") from None
    if own.public_key() != held.public_key():
        raise ConfigError(f"{key} is not the key of {certificate}; give the pair that belongs together")
    if not certificate_hosts(certificate):
        raise ConfigError(
            f"{certificate} has no subject alternative name, which TLS clients need; have it issued with one"
        )
    chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    if not any(_issued(part, issuer) for part in chain):
        raise ConfigError(f"{certificate} was not issued by {ca}; give the CA that issued it")


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of a PEM file.

    Raises
    ------
    ConfigError
        When it holds none.
    """
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; name a certificate in PEM") from None
    except (OSError, ValueError):
        raise ConfigError(f"{path} is no certificate in PEM; name one") from None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that does not exist yet, with its mode from the first byte on."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
