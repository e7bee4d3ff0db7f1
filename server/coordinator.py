"""The coordinator's home folder: ``server.toml``, its certificates and keys, and how its SuperLink is reached."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomli_w
from pydantic import Field, ValidationError

from core.config_sections import Settings
from core.errors import ConfigError
from server.certificates import (
    CA_DAYS,
    certificate_hosts,
    check_given,
    make_authority,
    read_certificate,
    renew_server_certificate,
    subject_name,
    write_new,
)

FILE = "server.toml"
CONNECTION = "cardiofed"
PORT = 8000
DAYS = 825
"""Of a server certificate by default: the longest that common TLS clients take."""

_THIS_MACHINE = ("localhost", "127.0.0.1")
_HEAD = (
    "# A coordinator's side of a federation, made by cardiofed-server init. hosts: names and addresses under which\n"
    "# sites reach this machine; the certificate has to hold them.\n"
)


class ServerFile(Settings):
    """``server.toml``."""

    hosts: list[str] = Field(min_length=1, description="Names and IP addresses under which sites reach the server.")
    port: int = Field(default=PORT, ge=1, le=65535, description="Of the SuperLink.")
    ca: str = Field(default="ca.crt", description="CA certificate that the sites are given, relative to this folder.")
    certificate: str = Field(default="server.crt", description="Certificate of the server, with its chain.")
    key: str = Field(default="server.key", description="Private key of the server.")


@dataclass(frozen=True)
class Home:
    """A coordinator's home folder.

    Attributes
    ----------
    path : Path
        Absolute.
    hosts : tuple of str
    port : int
    ca, certificate, key : Path
        PEM files, absolute.
    """

    path: Path
    hosts: tuple[str, ...]
    port: int
    ca: Path
    certificate: Path
    key: Path

    @property
    def superlink_home(self) -> Path:
        """FLWR_HOME of the SuperLink: what bears it is ended with the SuperLink."""
        return self.path / "flower" / "superlink"

    @property
    def command_home(self) -> Path:
        """FLWR_HOME of the coordinator's own ``flwr`` commands."""
        return self.path / "flower" / "commands"

    @property
    def database(self) -> Path:
        """What the SuperLink knows of sites and runs."""
        return self.path / "state.db"

    @property
    def inner(self) -> Path:
        """Certificates of the SuperLink itself, which listens on this machine alone."""
        return self.path / "inner"


def make_home(
    path: Path,
    hosts: list[str],
    *,
    port: int = PORT,
    days: int = DAYS,
    certificate: Path | None = None,
    key: Path | None = None,
    ca: Path | None = None,
) -> Home:
    """Make a coordinator's home with a CA and a server certificate of its own, or with the institution's.

    Parameters
    ----------
    path : Path
        Folder to make; nothing in it is overwritten.
    hosts : list of str
        Names and IP addresses that sites use.
    port : int
    days : int
        How long a certificate made here is valid.
    certificate, key, ca : Path, optional
        The institution's, all three: they are named where they lie, not copied.

    Raises
    ------
    ConfigError
        When there is a home already, a host is none, or the given files are no certificate that fits.
    """
    if (path / FILE).exists():
        raise ConfigError(
            f"{path / FILE} exists already; name another folder, or go on with: cardiofed-server up {path}"
        )
    given = [name for name, value in (("--certificate", certificate), ("--key", key), ("--ca", ca)) if value]
    if given and len(given) < 3:
        raise ConfigError(f"only {' and '.join(given)} given; give --certificate, --key and --ca together, or none")
    for host in hosts:
        subject_name(host)
    if certificate and key and ca:
        check_given(certificate, key, ca)
        hosts = hosts or certificate_hosts(certificate)
    _make_folder(path)
    (path / "inner").mkdir(mode=0o700)
    make_authority(path / "inner", list(_THIS_MACHINE), CA_DAYS)
    if not (certificate and key and ca):
        hosts = hosts or list(_THIS_MACHINE)
        make_authority(path, hosts, days)
        files = {"ca": "ca.crt", "certificate": "server.crt", "key": "server.key"}
    else:
        files = {"ca": str(ca.resolve()), "certificate": str(certificate.resolve()), "key": str(key.resolve())}
    write_new(path / FILE, (_HEAD + tomli_w.dumps({"hosts": hosts, "port": port, **files})).encode(), 0o644)
    return open_home(path)


def open_home(path: Path) -> Home:
    """Read a coordinator's home.

    Raises
    ------
    ConfigError
        When it is none, or a setting or a file of it cannot be used.
    """
    file = path / FILE
    if not file.is_file():
        raise ConfigError(
            f"{path} is no coordinator's folder (it has no {FILE}); make one with: cardiofed-server init {path}"
        )
    try:
        told = ServerFile.model_validate(tomllib.loads(file.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no valid TOML ({error}); mend it") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{file}: {where}: {first['msg']}; mend it") from None
    home = path.resolve()
    files = {name: home / getattr(told, name) for name in ("ca", "certificate", "key")}
    for name, needed in files.items():
        if not needed.is_file():
            raise ConfigError(f"{needed} is missing, which {file} names as its {name}; put it there")
    return Home(home, tuple(told.hosts), told.port, **files)


def expiry(home: Home) -> tuple[datetime, Path]:
    """Return when the first of the certificates that sites see ends, and its file."""
    return min((read_certificate(path).not_valid_after_utc, path) for path in (home.certificate, home.ca))


def check_validity(home: Home) -> str:
    """Return until when the server's certificate is valid, as a date.

    Raises
    ------
    ConfigError
        When it is not valid now.
    """
    for path in (home.certificate, home.ca):
        certificate, now = read_certificate(path), datetime.now(UTC)
        if now >= certificate.not_valid_after_utc:
            raise ConfigError(
                f"{path} expired on {certificate.not_valid_after_utc:%Y-%m-%d}; renew it, or for one made here: "
                f"cardiofed-server renew {home.path}"
            )
        if now < certificate.not_valid_before_utc:
            raise ConfigError(
                f"{path} is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC only; set this machine's clock"
            )
    return f"{read_certificate(home.certificate).not_valid_after_utc:%Y-%m-%d}"


def renew(home: Home, hosts: list[str], days: int = DAYS) -> Home:
    """Make a new server certificate under the home's own CA, which the sites keep; the old one is kept as ``.old``.

    Raises
    ------
    ConfigError
        When the CA is not the home's own.
    """
    if not (home.path / "ca.key").is_file():
        raise ConfigError(f"{home.path} has no ca.key, so its CA is not its own; ask who issued {home.certificate}")
    hosts = hosts or list(home.hosts)
    for host in hosts:
        subject_name(host)
    renew_server_certificate(home.path, hosts, days)
    (home.path / FILE).write_text(_HEAD + tomli_w.dumps(ServerFile(hosts=hosts, port=home.port).model_dump()))
    return open_home(home.path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"{path} cannot be made ({error.strerror}); name a folder that can be written") from None
    for name in ("ca.crt", "ca.key", "server.crt", "server.key", "inner"):
        if (path / name).exists():
            raise ConfigError(f"{path / name} exists already; name another folder, or move it away")
