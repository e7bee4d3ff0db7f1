"""What ``cardiofed-site check`` looks at before a hospital serves: each finding a line, each fault with its mend."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.errors import CardiofedError

if TYPE_CHECKING:
    from clients.site_file import SiteFile

Level = Literal["ok", "warn", "FAIL"]

LEAST_FREE = 2 * 2**30
"""Bytes of disk below which a site warns; below a tenth of it, it fails."""

LEAST_GPU = 2 * 2**30


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes
    ----------
    name : str
        What was looked at.
    level : str
        ``ok``, ``warn`` or ``FAIL``.
    said : str
        What was found.
    mend : str
        What to do about it; empty where nothing is to be done.
    """

    name: str
    level: Level
    said: str
    mend: str = ""


Found = Iterator[Check]


def preflight(state: Path, socket: Path) -> Found:
    """Look at everything, one finding after the other; what rests on a fault before it is left out.

    Parameters
    ----------
    state : Path
        State folder of the site.
    socket : Path
        Where the vault listens, if it runs.
    """
    from clients.coordinator_checks import check_coordinator
    from clients.record_checks import check_records
    from clients.site_file import load_site

    found: list[SiteFile] = []

    def read_settings() -> Found:
        found.append(load_site(state))
        yield Check("site.toml", "ok", f"{found[0].site.name}: every setting is known and possible")

    yield from guarded("site.toml", read_settings)
    if not found:
        return
    site = found[0]
    yield from guarded("state folder", lambda: _folder(state))
    yield from guarded("key pair", lambda: _keys(state))
    yield from guarded("ledger", lambda: _ledger(state))
    yield from guarded("audit log", lambda: _audit_log(state))
    yield from guarded("disk", lambda: _disk(state))
    yield from guarded("units", lambda: _units(state, site))
    yield from guarded("Flower", _flower)
    yield from guarded("device", lambda: _device(site))
    yield from guarded("vault", lambda: _vault(socket))
    yield from check_records(site)
    yield from check_coordinator(site, state)


def guarded(name: str, look: Callable[[], Found]) -> Found:
    """Give what a check finds; an error that is meant for a person becomes its last finding."""
    try:
        yield from look()
    except CardiofedError as error:
        said, _, mend = str(error).rpartition("; ")
        yield Check(name, "FAIL", said or mend, mend if said else "")
    except OSError as error:
        yield Check(name, "FAIL", f"{error.filename or name}: {error.strerror or error}", "mend its permissions")


def _folder(state: Path) -> Found:
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o077:
        yield Check("state folder", "FAIL", f"others may look into {state} ({mode:04o})", f"chmod 0700 {state}")
    elif not os.access(state, os.W_OK):
        yield Check("state folder", "FAIL", f"{state} cannot be written by this user", "run as the user who owns it")
    else:
        yield Check("state folder", "ok", f"{state} is its owner's alone")
    for name in ("node.key", "ledger.sqlite", "audit.jsonl"):
        path = state / name
        if path.exists() and (open_to := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            yield Check("state folder", "FAIL", f"others may read {path} ({open_to:04o})", f"chmod 0600 {path}")


def _keys(state: Path) -> Found:
    from clients.joining import PRIVATE_KEY, PUBLIC_KEY, public_line, read_key

    private, public = state / PRIVATE_KEY, state / PUBLIC_KEY
    if not private.exists():
        yield Check("key pair", "FAIL", f"{private} is missing", f"cardiofed-site init {state}")
        return
    expected = public_line(read_key(private)).split()[:2]
    if not public.exists():
        yield Check("key pair", "warn", f"{public} is missing", f"cardiofed-site init {state}")
    elif public.read_bytes().split()[:2] != expected:
        mend = f"delete {PUBLIC_KEY}, run cardiofed-site init {state}, and send the coordinator the new one"
        yield Check("key pair", "FAIL", f"{public} belongs to another key", mend)
    else:
        yield Check("key pair", "ok", "EC P-384, and the two halves fit")


def _ledger(state: Path) -> Found:
    from core.privacy.ledger import verify

    verdict = verify(state / "ledger.sqlite")
    if verdict.intact:
        yield Check("ledger", "ok", verdict.sentence.removeprefix(f"{state / 'ledger.sqlite'} is ").partition(";")[0])
    else:
        said, _, mend = verdict.sentence.rpartition("; ")
        yield Check("ledger", "FAIL", said or verdict.sentence, mend if said else "")


def _audit_log(state: Path) -> Found:
    from clients import audit_log

    lines = audit_log.verify(state / audit_log.FILE)
    yield Check("audit log", "ok", f"intact, {lines} lines")


def _disk(state: Path) -> Found:
    free = shutil.disk_usage(state).free
    said = f"{free / 2**30:.1f} GiB free"
    if free < LEAST_FREE:
        yield Check("disk", "FAIL" if free < LEAST_FREE / 10 else "warn", said, f"free space on the disk of {state}")
    else:
        yield Check("disk", "ok", said)


def _units(state: Path, site: SiteFile) -> Found:
    from clients.system_units import NODE_UNIT, VAULT_UNIT, node_unit, vault_unit

    for name, made in ((VAULT_UNIT, vault_unit), (NODE_UNIT, node_unit)):
        path = state / name
        if path.exists() and path.read_text(encoding="utf-8") != made(state.resolve(), site):
            mend = f"if you did not change it yourself, delete it and run cardiofed-site init {state}"
            yield Check("systemd unit", "warn", f"{name} is not what site.toml says now", mend)


def _flower() -> Found:
    try:
        installed = metadata.version("flwr")
        wanted = next(each for each in metadata.requires("cardiofed") or () if each.startswith("flwr"))
    except (metadata.PackageNotFoundError, StopIteration):
        yield Check("Flower", "FAIL", "cardiofed is not installed with its dependencies", "install it with pip")
        return
    from packaging.requirements import Requirement

    specifier = Requirement(wanted).specifier
    if specifier.contains(installed, prereleases=True):
        said = f"{installed} is installed, which this release asks for ({specifier}); the coordinator's cannot be asked"
        yield Check("Flower", "ok", said)
    else:
        said = f"{installed} is installed and this release asks for {specifier}"
        yield Check("Flower", "FAIL", said, f"pip install 'flwr{specifier}'")


def _device(site: SiteFile) -> Found:
    import torch

    from clients.device import choose_device

    device = choose_device(site.device.device, 0)
    if device.type == "cpu":
        yield Check("device", "ok", f"CPU, {site.device.threads or os.cpu_count()} threads")
        return
    free, total = torch.cuda.mem_get_info(device)
    said = f"{device}: {torch.cuda.get_device_name(device)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    if free < LEAST_GPU:
        yield Check("device", "warn", said, "end what else runs there, or name another GPU under device.device")
    else:
        yield Check("device", "ok", said)


def _vault(socket: Path) -> Found:
    from clients.vault_client import VaultError, health

    if not socket.exists():
        yield Check("vault", "ok", "not running; cardiofed-site serve starts it")
        return
    try:
        said = health(socket)
    except (VaultError, OSError):
        mend = "restart it; if none runs, cardiofed-site serve replaces the socket"
        yield Check("vault", "warn", f"nobody answers at {socket}", mend)
        return
    release = ""
    with suppress(metadata.PackageNotFoundError):
        release = metadata.version("cardiofed")
    if said.get("release") != release:
        found = f"runs release {said.get('release')} and {release} is installed"
        yield Check("vault", "warn", found, "restart the vault")
    else:
        yield Check("vault", "ok", f"running for {said.get('uptime', 0):.0f} s on {said.get('device')}")
