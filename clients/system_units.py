"""The two systemd units of a hospital: one user holds the records, another talks to the coordinator.

Only a socket lies between them. The vault has no network at all; the SuperNode, which runs whatever code a coordinator
ships, sees neither the state folder nor the records.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError

if TYPE_CHECKING:
    from clients.site_file import SiteFile

VAULT_UNIT, NODE_UNIT = "cardiofed-vault.service", "cardiofed-node.service"
VAULT_USER, NODE_USER = "cardiofed", "cardiofed-node"
SOCKET = "/run/cardiofed/vault.sock"
"""Where the units keep the vault's socket: the state folder is closed to the SuperNode's user."""

_HARDENING = """\
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
CapabilityBoundingSet=
SystemCallArchitectures=native
UMask=0077"""


def vault_unit(state: Path, site: SiteFile) -> str:
    """Return the unit of the vault.

    Raises
    ------
    ConfigError
        For a path that no unit can hold.
    """
    command = _command(sys.executable, "-P", "-m", "clients.vault", state, "--socket", SOCKET)
    return f"""\
# Made by cardiofed-site init. Install both units:
#   useradd --system {VAULT_USER}; useradd --system --groups {VAULT_USER} {NODE_USER}
#   chown -R {VAULT_USER}: {_comment(state)}
#   cp {VAULT_UNIT} {NODE_UNIT} /etc/systemd/system/; systemctl daemon-reload
#   systemctl enable --now {VAULT_UNIT} {NODE_UNIT}
[Unit]
Description=cardiofed vault of {_plain(site.site.name)}: records, policy, ledger and device
After=local-fs.target

[Service]
User={VAULT_USER}
Group={VAULT_USER}
ExecStart={command}
Restart=always
RestartSec=2
TimeoutStopSec=60
RuntimeDirectory=cardiofed
RuntimeDirectoryMode=0750
ReadWritePaths={_path(state)}
# It answers on its socket and needs no network.
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
{_HARDENING}

[Install]
WantedBy=multi-user.target
"""


def node_unit(state: Path, site: SiteFile) -> str:
    """Return the unit of the SuperNode.

    Raises
    ------
    ConfigError
        For a path that no unit can hold.
    """
    # Flower takes a key only together with TLS.
    secured = ["--root-certificates", "%d/ca.crt", "--auth-supernode-private-key", "%d/node.key"]
    tls = ["--insecure"] if site.coordinator.insecure else secured
    command = _command(sys.executable, "-P", "-m", "clients.supernode", "--superlink", site.coordinator.address)
    rest = " ".join([*tls, "--node-config", _quoted(node_config(site, SOCKET))])
    named = {"node.key": state / "node.key", "ca.crt": Path(site.coordinator.certificates)}
    credentials = "\n".join(f"LoadCredential={name}:{_path(path, quote=False)}" for name, path in named.items())
    if site.coordinator.insecure:
        credentials = "# Without TLS there is no key either."
    hidden = [_path(Path(path)) for path in (str(state), site.data.path, site.data.synthetic) if path]
    programs = Path(sys.executable).parent
    return f"""\
# Made by cardiofed-site init; see {VAULT_UNIT}.
[Unit]
Description=cardiofed SuperNode of {_plain(site.site.name)}: carries messages, sees no record
After=network-online.target {VAULT_UNIT}
Wants=network-online.target {VAULT_UNIT}
StartLimitIntervalSec=0

[Service]
User={NODE_USER}
SupplementaryGroups={VAULT_USER}
ExecStart={command} {rest}
Restart=always
RestartSec=10
TimeoutStopSec=30
KillMode=control-group
StateDirectory=cardiofed-node
Environment=FLWR_HOME=%S/cardiofed-node HOME=%S/cardiofed-node
Environment=FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.1
Environment={_quoted(f"PATH={programs}:/usr/local/bin:/usr/bin:/bin")}
{credentials}
# What a coordinator ships runs here: it finds no record, even where permissions are lax.
InaccessiblePaths={" ".join(f"-{path}" for path in hidden)}
PrivateDevices=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{_HARDENING}

[Install]
WantedBy=multi-user.target
"""


def node_config(site: SiteFile, socket: str | os.PathLike[str]) -> str:
    """Return what a SuperNode hands to the client app: the site's name and where its vault listens.

    Raises
    ------
    ConfigError
        For a socket that Flower's command line cannot carry.
    """
    path = str(socket)
    if any(letter in path for letter in "\"'\\") or not path.isprintable():
        raise ConfigError(f"{path!r} cannot name a socket, since Flower cannot pass it on; use a path without quotes")
    return f'site="{site.site.name}" vault="{path}"'


def _command(*words: object) -> str:
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    """Return a word as a unit's command line holds it: neither %, $ nor quotes mean anything in it."""
    if not word.isprintable():
        raise ConfigError(f"{word!r} cannot stand in a systemd unit; use a path of printable letters")
    safe = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{safe}"' if any(letter in safe for letter in " \t'\";") else safe


def _path(path: Path, quote: bool = True) -> str:
    text = str(path)
    if not text.isprintable() or any(letter in text for letter in "\"'\\:"):
        raise ConfigError(f"{text!r} cannot stand in a systemd unit; use a path without quotes, colons and backslashes")
    text = text.replace("%", "%%")
    return f'"{text}"' if quote and " " in text else text


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _comment(path: Path) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in str(path))
