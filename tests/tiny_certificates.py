"""Certificate authorities and certificates for loopback, as good or as bad as a test wants them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """A CA: its certificate on disk and its key."""

    path: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @property
    def secret(self) -> bytes:
        return _pem(self.key)


def made_authority(
    folder: Path, name: str = "test CA", starts: timedelta = -DAY, ends: timedelta = 30 * DAY
) -> Authority:
    """Make a CA that holds from and to times relative to now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(subject, subject, key, starts, ends).add_extension(x509.BasicConstraints(True, None), True)
    path = folder / f"{name.replace(' ', '-')}.crt"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return Authority(path, subject, key)


def made_certificate(
    folder: Path,
    authority: Authority,
    names: tuple[str, ...] = ("localhost", "127.0.0.1"),
    starts: timedelta = -DAY,
    ends: timedelta = 30 * DAY,
) -> tuple[Path, Path]:
    """Make a server's certificate and key and return their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
    alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
    builder = _builder(subject, authority.name, key, starts, ends).add_extension(alternatives, False)
    certificate, secret = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(_pem(key))
    return certificate, secret


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, starts: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
