"""The part of the preflight that looks at the coordinator: its certificates, whether it answers, and its clock."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from clients.checks import Check, Found, guarded
from core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from clients.site_file import SiteFile

COORDINATOR = "coordinator"
"""Name of the findings that the coordinator has to mend; a site may serve meanwhile."""

PATIENCE = 5.0
"""Seconds for a connection."""

AHEAD, BEHIND = 5.0, 300.0
"""Seconds that Flower's node authentication lets a site's clock be ahead of the coordinator's, and behind it."""

SOON = 14
"""Days before the end of a certificate from which on the site warns."""

_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64
"""OpenSSL's codes; every other one that a verification ends with means that the chain leads elsewhere."""


def check_coordinator(site: SiteFile, state: Path) -> Found:
    """Look at address, certificates, connection and clock."""
    settings = site.coordinator
    if not settings.address:
        yield Check(COORDINATOR, "warn", "site.toml names none yet", "set coordinator.address when you know it")
        return
    found: list[tuple[str, int]] = []

    def read_address() -> Found:
        found.append(host_and_port(settings.address, state))
        yield from ()

    yield from guarded(COORDINATOR, read_address)
    if not found:
        return
    if settings.insecure and not is_loopback(found[0][0]):
        said = f"{settings.address} is another machine and coordinator.insecure is true: everything would go in clear"
        yield Check(COORDINATOR, "FAIL", said, "set coordinator.insecure = false and ask for TLS")
        return
    if settings.insecure:
        yield from guarded(COORDINATOR, lambda: _reachable(*found[0]))
        return
    path, sound = Path(settings.certificates), False
    for finding in guarded("CA file", lambda: _certificates(path)):
        sound = finding.level != "FAIL"
        yield finding
    if sound:
        yield from guarded(COORDINATOR, lambda: _secure(*found[0], path))


def fault_seen_from_here(site: SiteFile, state: Path) -> str:
    """Return in a sentence what keeps the site from its coordinator now; empty where nothing is seen."""
    fault = next((finding for finding in check_coordinator(site, state) if finding.level == "FAIL"), None)
    if fault is None:
        return ""
    said = fault.said if fault.name == COORDINATOR else f"this machine's {fault.name} is at fault ({fault.said})"
    return f"{said}; {fault.mend}"


def host_and_port(address: str, state: Path) -> tuple[str, int]:
    """Return the two halves of ``host:port``.

    Raises
    ------
    ConfigError
        For anything else.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{state / 'site.toml'}: coordinator.address is {address!r}; write host:port, as in study.example:8000"
        )
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether an address is this very machine's."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificates(path: Path) -> Found:
    from cryptography import x509

    if not path.exists():
        yield Check("CA file", "FAIL", f"{path} is missing", f"ask the coordinator for its ca.crt and put it at {path}")
        return
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError:
        raise DataError(f"{path} holds no PEM certificate; ask the coordinator for its ca.crt") from None
    now = datetime.now(UTC)
    for certificate in certificates:
        starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now > ends:
            said, mend = f"expired on {ends:%Y-%m-%d}", "ask the coordinator for the new ca.crt"
            yield Check("CA file", "FAIL", said, mend)
        elif now < starts:
            said = f"holds only from {starts:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here"
            yield Check("CA file", "FAIL", said, "set this machine's clock, or wait")
        elif (days := (ends - now).days) < SOON:
            yield Check("CA file", "warn", f"expires in {days} days", "ask the coordinator for the next ca.crt")
        else:
            yield Check("CA file", "ok", f"{_subject(certificate)}, until {ends:%Y-%m-%d}")


def _subject(certificate: object) -> str:
    text = certificate.subject.rfc4514_string()  # type: ignore[attr-defined]
    return "".join(letter if letter.isprintable() else "?" for letter in text) or "no name"


def _connected(host: str, port: int) -> socket.socket:
    where = f"{host}:{port}"
    try:
        return socket.create_connection((host, port), timeout=PATIENCE)
    except socket.gaierror:
        raise ConfigError(
            f"the name {host} is not known here; check coordinator.address and this machine's DNS"
        ) from None
    except ConnectionRefusedError:
        raise ConfigError(f"nobody listens at {where}; ask whether the coordinator is up, and for its port") from None
    except (TimeoutError, OSError) as error:
        said = "does not answer" if isinstance(error, TimeoutError) else f"cannot be reached ({error.strerror})"
        raise ConfigError(f"{where} {said}; ask your network's firewall to let this machine connect there") from None


def _reachable(host: str, port: int) -> Found:
    with _connected(host, port):
        yield Check(COORDINATOR, "warn", f"{host}:{port} answers, without TLS", "only for trying things out")


def _secure(host: str, port: int, authority: Path) -> Found:
    context = ssl.create_default_context(cafile=str(authority))
    context.set_alpn_protocols(["http/1.1"])
    with _connected(host, port) as plain:
        try:
            connection = context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise ConfigError(_mismatch(error, host, authority)) from None
        except (ssl.SSLError, OSError):
            raise ConfigError(
                f"{host}:{port} answers but not with TLS; check the port, or ask whether the coordinator runs without TLS"
            ) from None
        with connection:
            yield Check(COORDINATOR, "ok", f"{host}:{port} answers, and {authority.name} vouches for it")
            ends = ssl.cert_time_to_seconds(str((connection.getpeercert() or {})["notAfter"]))
            if (days := (ends - time.time()) / 86400) < SOON:
                said = f"the coordinator's certificate expires in {days:.0f} days"
                yield Check(COORDINATOR, "warn", said, "ask the coordinator to renew it")
            yield _clock(connection, host)


def _mismatch(error: ssl.SSLCertVerificationError, host: str, authority: Path) -> str:
    if error.verify_code == _EXPIRED:
        return "the coordinator's certificate has expired, or this machine's clock is ahead; ask the coordinator to renew it"
    if error.verify_code == _NOT_YET:
        return "the coordinator's certificate is not valid yet, so this machine's clock is probably behind; set it"
    if error.verify_code in (_NAME, _ADDRESS):
        return (
            f"the coordinator's certificate is for another name than {host}; ask for the name in it, or for a certificate "
            "with this name"
        )
    return (
        f"the coordinator's certificate is from another CA than {authority}; ask the coordinator for its ca.crt again"
    )


def _clock(connection: ssl.SSLSocket, host: str) -> Check:
    """Compare this machine's clock with the Date of an answer, whatever else it says."""
    date = None
    try:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        date = answer.getheader("Date")
    except (OSError, http.client.HTTPException):
        pass
    return judged_clock(date, time.time())


def judged_clock(date: str | None, now: float) -> Check:
    """Say whether Flower's node authentication will take this machine's clock.

    Parameters
    ----------
    date : str or None
        Date header of the coordinator's answer.
    now : float
        Unix time here.
    """
    try:
        ahead = now - parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, TypeError, OverflowError):
        ahead = None
    if ahead is None:
        return Check("clock", "ok", "within the certificates' validity; the coordinator does not tell its time")
    # The header gives whole seconds, so half a second is the expected difference.
    ahead -= 0.5
    said = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    if ahead > AHEAD or ahead < -BEHIND:
        return Check("clock", "FAIL", said, "set it (chronyd or systemd-timesyncd): Flower refuses the site otherwise")
    if ahead > AHEAD / 2 or ahead < -BEHIND / 2:
        return Check("clock", "warn", said, "have chronyd or systemd-timesyncd set it")
    return Check("clock", "ok", said)
