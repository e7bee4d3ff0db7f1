"""The sites that a coordinator let in: each a name and the public key that its SuperNode has to hold."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ConfigError, FederationError
from server.coordinator import Home
from server.superlink import ask_superlink

FILE = "sites.json"
NAME = r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}"
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
MOST_KEY_BYTES = 16_384


@dataclass(frozen=True)
class Joined:
    """A site that was let in.

    Attributes
    ----------
    name : str
        By which campaigns and reports call it.
    node : str
        The SuperLink's number for it.
    key : str
        Fingerprint of its public key, as ``ssh-keygen -l`` writes it.
    added : str
        When, UTC.
    """

    name: str
    node: str
    key: str
    added: str


def joined(home: Home) -> list[Joined]:
    """Return the sites of a home, by name.

    Raises
    ------
    ConfigError
        When the list cannot be read.
    """
    path = home.path / FILE
    if not path.is_file():
        return []
    try:
        return sorted((Joined(**row) for row in json.loads(path.read_text())), key=lambda site: site.name)
    except (ValueError, TypeError):
        raise ConfigError(f"{path} cannot be read; delete it, and add the sites again") from None


def add_site(home: Home, key: Path, name: str) -> Joined:
    """Let a site in.

    Parameters
    ----------
    key : Path
        Its public key, an EC key in OpenSSH's format.

    Raises
    ------
    ConfigError
        When it is no such key, or key or name are taken.
    FederationError
        When the SuperLink does not run or refuses.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{name!r} is no name for a site; give 1 to 64 letters, digits, spaces, dots, - and _, beginning with a letter "
            "or digit"
        )
    mark = fingerprint(key)
    sites = joined(home)
    for site in sites:
        if site.name == name:
            raise ConfigError(
                f"{name} is there already; for a new key: cardiofed-server sites {home.path} remove {name!r}"
            )
        if site.key == mark:
            raise ConfigError(f"{key} is the key of {site.name}; each site has one of its own")
    answer = ask_superlink(home, "supernode", "register", str(key.resolve()), "--name", name)
    site = Joined(name, str(answer["node-id"]), mark, datetime.now(UTC).isoformat(timespec="seconds"))
    _write(home, [*sites, site])
    return site


def remove_site(home: Home, name: str) -> None:
    """Shut a site out: its SuperNode is refused from now on, and its key may be added again.

    Raises
    ------
    ConfigError
        When there is no such site.
    FederationError
        When the SuperLink does not run.
    """
    sites = joined(home)
    gone = next((site for site in sites if site.name == name), None)
    if gone is None:
        known = ", ".join(site.name for site in sites) or "none"
        raise ConfigError(f"there is no site {name} here; the sites are: {known}")
    if gone.node in statuses(home):
        ask_superlink(home, "supernode", "unregister", gone.node)
    _write(home, [site for site in sites if site is not gone])


def statuses(home: Home) -> dict[str, str]:
    """Return how each node stands: "online", "offline" or "never connected".

    Raises
    ------
    FederationError
        When it does not run.
    """
    nodes = ask_superlink(home, "supernode", "list")["nodes"]
    words = {"online": "online", "offline": "offline", "registered": "never connected"}
    return {str(node["node-id"]): words[node["status"]] for node in nodes if node["status"] in words}


def fingerprint(path: Path) -> str:
    """Return the fingerprint of a site's public key.

    Raises
    ------
    ConfigError
        When the file holds no EC public key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        with path.open("rb") as file:
            text = file.read(MOST_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name the site's node.pub") from None
    if b"PRIVATE KEY" in text:
        raise ConfigError(
            f"{path} is a private key, which must not leave its site; ask for node.pub, and have the site make a new pair"
        )
    try:
        key = serialization.load_ssh_public_key(text)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} is no public key in OpenSSH's format; name the node.pub that the site sent"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ConfigError(
            f"{path} is no EC key; have the site make one with cardiofed-site init, or ssh-keygen -t ecdsa"
        )
    body = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).split()[1]
    digest = hashlib.sha256(base64.b64decode(body)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def require_sites(home: Home, least: int) -> list[Joined]:
    """Return the sites of a home, if they are enough.

    Raises
    ------
    FederationError
        When fewer than ``least`` were added.
    """
    sites = joined(home)
    if len(sites) < least:
        raise FederationError(
            f"{home.path} has {len(sites)} sites and federation.min_sites is {least}; add sites with: "
            f"cardiofed-server sites {home.path} add KEY.pub NAME"
        )
    return sites


def _write(home: Home, sites: list[Joined]) -> None:
    partial = home.path / f"{FILE}.partial"
    partial.write_text(json.dumps([asdict(site) for site in sites], indent=2) + "\n")
    partial.replace(home.path / FILE)
