"""How a site is, in words: vault, SuperNode, what is spent, what was asked lately, what waits for a person."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients import approval, audit_log
from clients.approval import Filed, beside_policy, printable, short_name
from clients.serving import SERVE_LOCK
from core.errors import CardiofedError
from core.supervising import holder

if TYPE_CHECKING:
    from clients.site_file import SiteFile


def status_lines(state: Path, socket: Path) -> list[str]:
    """Return a short account of a site; whatever cannot be told says why, on a line of its own."""
    lines = [f"vault:      {_vault(socket)}", f"SuperNode:  {_node(state, socket)}"]
    for name, tell in (("spent", _spent), ("waiting", _waiting), ("last", _last)):
        try:
            first, *others = tell(state)
        except CardiofedError as error:
            first, others = str(error), []
        lines += [f"{name + ':':<12}{first}", *(f"{'':<12}{line}" for line in others)]
    return lines


def in_words(entry: dict[str, Any]) -> str:
    """Return a line of the audit log as a person reads it."""
    time = str(entry.get("time", "")).removesuffix("+00:00").replace("T", " ")
    campaign = printable(str(entry.get("campaign", "")))
    verdict = printable(str(entry.get("verdict", "")))
    if entry.get("kind") == APPROVAL:
        words = f"{printable(str(entry.get('by', '')))} {verdict} {str(entry.get('request', ''))[:8]} of campaign {campaign}"
    else:
        asked = printable(str(entry.get("kind", "")))
        number = entry.get("round")
        words = f"{asked}{f' round {number}' if number else ''}{f' of {campaign}' if campaign else ''}: {verdict}"
        if released := entry.get("released"):
            words += f", sent {_listed([printable(str(name)) for name in released])}"
        if "bytes_in" in entry and "bytes_out" in entry:
            words += f", {_size(entry['bytes_in'])} in, {_size(entry['bytes_out'])} out"
        if entry.get("cached"):
            words += ", an answer given before"
        elif isinstance(entry.get("seconds"), (int, float)):
            words += f", {entry['seconds']:.1f} s"
    if entry.get("cut_bytes"):
        words += f" (before it, {entry['cut_bytes']} bytes of an unfinished line were taken away)"
    return f"{time}  {words}"


APPROVAL = "approval"
"""Kind under which a person's answer stands in the audit log."""


def described(filed: Filed, among: list[Filed], site: SiteFile) -> list[str]:
    """Return a filed request with all that it asks, and where the site's own policy is stricter."""
    state = filed.state if filed.state == "waiting" else f"{filed.state} by {printable(filed.by)} at {filed.answered}"
    head = f"{short_name(filed, among)}  campaign {printable(filed.campaign)}, asked {filed.asked}, {state}"
    stricter = [f"    note: {line}" for line in beside_policy(site, filed.request)]
    return [head, *(f"    {line}" for line in filed.request.lines()), *stricter]


def _vault(socket: Path) -> str:
    from clients.vault_client import VaultError, health, progress

    try:
        said, doing = health(socket), progress(socket)
    except (VaultError, OSError):
        return f"nobody answers at {socket}; start it with: cardiofed-site serve"
    words = f"running for {_duration(said.get('uptime', 0))} on {said.get('device')}, release {said.get('release')}"
    if not doing.get("kind"):
        return f"{words}; nothing to do"
    steps = f", {doing['steps']} steps" if doing.get("steps") else ""
    return (
        f"{words}; doing {printable(str(doing['kind']))} round {doing.get('round')} of {doing.get('rounds')}{steps} "
        f"for {printable(str(doing.get('campaign')))} since {doing.get('since')}"
    )


def _node(state: Path, socket: Path) -> str:
    """Look among this machine's processes: the SuperNode may run under ``serve`` or under systemd."""
    wanted = f'vault="{socket.absolute()}"'.encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if any(wanted in word for word in words) and b"clients.supernode" in words:
                return f"running (process {folder.name})"
    if server := holder(state / SERVE_LOCK):
        return f"not running now; serve (process {server}) starts it again, and {state / 'logs' / 'supernode.log'} says why"
    return "not running; start it with: cardiofed-site serve"


def _spent(state: Path) -> list[str]:
    from clients.ledger_cli import spent_lines
    from core.privacy.ledger import Ledger

    return spent_lines(Ledger.open(state / "ledger.sqlite"), prv=False) or ["nothing"]


def _waiting(state: Path) -> list[str]:
    filed = approval.requests(state)
    waiting = [each for each in filed if each.state == "waiting"]
    if not waiting:
        return ["no request waits for approval"]
    return [
        f"{short_name(each, filed)}  campaign {printable(each.campaign)}, asked {each.asked}; see it with: "
        f"cardiofed-site approve {state}"
        for each in waiting
    ]


def _last(state: Path) -> list[str]:
    entries = audit_log.read(state / audit_log.FILE)
    return [in_words(entry) for entry in entries[-10:]] or ["nothing was ever asked"]


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} others"


def _size(count: object) -> str:
    number = float(count) if isinstance(count, (int, float)) else 0.0
    for unit in ("B", "kB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} MB"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    return (
        f"{days} d {hours} h"
        if days
        else f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {int(seconds) % 60} s"
    )
