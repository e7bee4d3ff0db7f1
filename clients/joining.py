"""What ``cardiofed-site init`` makes: site.toml, key pair, ledger and systemd units in a state folder of the hospital's own.

Nothing that is there is ever overwritten; what is missing is added.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.policy import FILE
from clients.site_file import SITE_NAME, SiteFile, load_site
from clients.system_units import NODE_UNIT, VAULT_UNIT, node_unit, vault_unit
from core.config_messages import written
from core.config_sections import DEVICE_PATTERN
from core.errors import ConfigError, DataError

LEDGER, PRIVATE_KEY, PUBLIC_KEY, CERTIFICATES = "ledger.sqlite", "node.key", "node.pub", "ca.crt"

_KNOWN = (FILE, LEDGER, PRIVATE_KEY, PUBLIC_KEY, "ledger.jsonl")


@dataclass(frozen=True)
class Answers:
    """What a hospital says when it joins.

    Attributes
    ----------
    name : str
        As in reports.
    data : str
        Folder of the imported set; empty: not yet there.
    coordinator : str
        host:port; empty: not yet known.
    certificates : Path or None
        The coordinator's CA file, which is copied; None: it comes later.
    epsilon : float
        Most that any patient may ever spend.
    device : str
    mode : str
        ``ask`` or ``rules``.
    """

    name: str
    data: str = ""
    coordinator: str = ""
    certificates: Path | None = None
    epsilon: float = 8.0
    device: str = "auto"
    mode: str = "ask"


@dataclass(frozen=True)
class Joined:
    """What was done.

    Attributes
    ----------
    made, kept : tuple of str
        Names in the state folder.
    """

    made: tuple[str, ...]
    kept: tuple[str, ...]


def join(state: Path, answers: Answers) -> Joined:
    """Make a state folder, or what one lacks.

    Raises
    ------
    ConfigError
        For an answer that is impossible, or a folder that holds other things.
    DataError
        For a file that cannot be read or written.
    PrivacyError
        If the ledger is gone and its anchor is there.
    """
    state = state.resolve()
    try:
        return _join(state, answers)
    except OSError as error:
        raise DataError(f"{error.filename or state} cannot be made ({error.strerror}); name another folder") from None


def _join(state: Path, answers: Answers) -> Joined:
    present = {path.name for path in state.iterdir()} if state.is_dir() else set()
    if present and not present & set(_KNOWN):
        raise ConfigError(
            f"{state} holds other things than a site's state; name a folder that is empty or not there yet"
        )
    if FILE not in present:
        _require_possible(answers)
    made: list[str] = []
    kept: list[str] = []
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if state.stat().st_mode & 0o077:
        state.chmod(0o700)
        made.append(f"{state.name} readable by its owner alone")

    def put(name: str, content: bytes, mode: int) -> None:
        (made if _write_new(state / name, content, mode) else kept).append(name)

    # First what checks the answers, then what cannot be made twice.
    certificates = _certificates(answers.certificates) if answers.certificates else b""
    if FILE in present:
        kept.append(FILE)
    else:
        put(FILE, site_toml(answers).encode(), 0o600)
    site = load_site(state)
    _make_keys(state, site.site.name, put)
    if certificates:
        put(CERTIFICATES, certificates, 0o644)
    if (state / LEDGER).exists():
        kept.append(LEDGER)
    else:
        from core.privacy.ledger import Ledger

        Ledger.create(state / LEDGER)
        made.append(LEDGER)
    put(VAULT_UNIT, vault_unit(state, site).encode(), 0o644)
    if site.coordinator.address:
        put(NODE_UNIT, node_unit(state, site).encode(), 0o644)
    return Joined(tuple(made), tuple(kept))


def site_toml(answers: Answers) -> str:
    """Return a ``site.toml`` with every setting, what each means, and the strict defaults."""
    given: dict[tuple[str, str], object] = {
        ("site", "name"): answers.name,
        ("data", "path"): str(Path(answers.data).expanduser().resolve()) if answers.data else "",
        ("device", "device"): answers.device,
        ("coordinator", "address"): answers.coordinator,
        ("coordinator", "certificates"): CERTIFICATES,
        ("approval", "mode"): answers.mode,
        ("budget", "epsilon"): answers.epsilon,
    }
    lines = [
        "# What this hospital is and what it allows. The stricter of this file and a campaign's request wins, item by item.",
        "# cardiofed-site check reads it; a running vault does so when it starts.",
    ]
    sections = ["site", "data", "device", "coordinator", "approval"]
    for section in [*sections, *(name for name in SiteFile.model_fields if name not in sections)]:
        kind: Any = SiteFile.model_fields[section].annotation
        lines += ["", f"[{section}]"]
        schema = kind.model_json_schema()["properties"]
        for name, field in kind.model_fields.items():
            lines.append(f"# {field.description}{_choices(schema[name])}")
            value = given.get((section, name), field.default)
            lines.append(f"# {name} = 4.0" if value is None else f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _choices(schema: dict[str, Any]) -> str:
    names = schema.get("enum", ())
    return f" One of: {', '.join(written(name) for name in names)}." if names else ""


def _toml(value: object) -> str:
    return written(list(value)) if isinstance(value, tuple) else written(value)


def _require_possible(answers: Answers) -> None:
    if not re.match(SITE_NAME, answers.name):
        raise ConfigError(
            f"--name is {answers.name!r}; give it 1 to 64 letters, digits, spaces, dots, - and _, and begin with a letter "
            "or digit"
        )
    host, _, port = answers.coordinator.rpartition(":")
    if answers.coordinator and not (host and port.isdecimal() and 0 < int(port) < 65536 and " " not in host):
        raise ConfigError(f"--coordinator is {answers.coordinator!r}; write host:port, as in study.example:8000")
    if not re.match(DEVICE_PATTERN, answers.device):
        raise ConfigError(f"--device is {answers.device!r}; say auto, cpu, cuda or cuda:0")
    if answers.mode not in ("ask", "rules"):
        raise ConfigError(f"--mode is {answers.mode!r}; say ask or rules")
    if not 0 < answers.epsilon < float("inf"):
        raise ConfigError(f"--epsilon is {answers.epsilon:g}; give a number above 0, such as 8")


def _certificates(path: Path) -> bytes:
    """Return a CA file that holds certificates and nothing else that matters, such as a key."""
    from cryptography import x509

    try:
        content = path.expanduser().read_bytes()
        x509.load_pem_x509_certificates(content)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); name the coordinator's ca.crt") from None
    except ValueError:
        raise DataError(f"{path} holds no PEM certificate; ask the coordinator for its ca.crt") from None
    if b"PRIVATE KEY" in content:
        raise DataError(f"{path} holds a private key, which nobody should have sent; ask for ca.crt alone")
    return content


def _make_keys(state: Path, name: str, put: Callable[[str, bytes, int], None]) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = state / PRIVATE_KEY, state / PUBLIC_KEY
    if public.exists() and not private.exists():
        raise DataError(
            f"{public} is there without {private}; restore {PRIVATE_KEY} from its backup, or delete {PUBLIC_KEY} and "
            "send the coordinator the new one"
        )
    key = read_key(private) if private.exists() else ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    put(PRIVATE_KEY, secret, 0o600)
    put(PUBLIC_KEY, public_line(key) + f" {name.replace(' ', '-')}\n".encode(), 0o644)


def public_line(key: Any) -> bytes:
    """Return the public half as OpenSSH writes it, without a comment."""
    from cryptography.hazmat.primitives import serialization

    encoded: bytes = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return encoded


def read_key(path: Path) -> Any:
    """Return the private key of a site.

    Raises
    ------
    DataError
        If it is none that a SuperNode takes.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise DataError(
            f"{path} is no EC P-384 key without a passphrase; restore it, or delete it with {PUBLIC_KEY} and run init again"
        )
    return key


def _write_new(path: Path, content: bytes, mode: int) -> bool:
    """Write a file whole, unless it is there already."""
    if path.exists() or path.is_symlink():
        return False
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # link, not rename: whoever made the file meanwhile keeps it.
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        partial.unlink(missing_ok=True)
    return True
