"""``cardiofed-site``: init, check, serve, status, approve and log. What is slow to load waits until it is needed."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clients.site_file import SiteFile

State = Annotated[Path, typer.Argument(metavar="STATE", help="State folder of the site.", show_default=False)]
Socket = Annotated[
    Path | None,
    typer.Option(help="Where the vault listens; by default vault.sock in STATE.", show_default=False),
]
FAILED = 1


def init(
    state: State,
    name: Annotated[str | None, typer.Option(help="Name of the site, as in reports.", show_default=False)] = None,
    data: Annotated[
        str | None, typer.Option(help="Folder of the records, from cardiofed data import.", show_default=False)
    ] = None,
    coordinator: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="The coordinator's address.", show_default=False)
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The coordinator's ca.crt, which is copied.", show_default=False)
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Most that any patient may ever spend; default 8.", show_default=False)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N; default auto.", show_default=False)
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="ask: each new campaign waits for approval; rules: site.toml decides; default ask.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing; what is not said keeps its default.")] = False,
) -> None:
    """Make a site's state folder: site.toml, key pair, ledger, systemd units. What is there is never overwritten.

    Asks for what is not said, on a terminal. Run it again to add what was missing.

    Example: `cardiofed-site init /srv/cardiofed --name "St. Anna" --data /srv/ecg --coordinator study.example:8000`
    """
    from clients.joining import Answers, join
    from clients.policy import FILE

    asks = not yes and sys.stdin.isatty() and not (state / FILE).exists()

    def said(given: str | None, question: str, default: str) -> str:
        if given is not None:
            return given
        return str(typer.prompt(question, default=default)).strip() if asks else default

    answers = Answers(
        name=said(name, "Name of the site, as in reports", state.resolve().name),
        data=said(data, "Folder of the imported records (empty: later)", ""),
        coordinator=said(coordinator, "Coordinator's host:port (empty: later)", ""),
        certificates=_path_or_none(said(str(ca) if ca else None, "Coordinator's CA file (empty: later)", "")),
        epsilon=_number(
            said(None if epsilon is None else str(epsilon), "Most epsilon that any patient may spend", "8")
        ),
        device=said(device, "Device (auto, cpu, cuda:0)", "auto"),
        mode=said(mode, "Each new campaign: ask a person, or go by the rules (ask, rules)", "ask"),
    )
    joined = join(state, answers)
    for made in joined.made:
        typer.echo(f"made   {made}")
    for kept in joined.kept:
        typer.echo(f"kept   {kept} (it was there; nothing in it is changed)")
    if FILE in joined.kept and any(given is not None for given in (name, data, coordinator, epsilon, device, mode)):
        typer.echo(f"note   to change what {state / FILE} says, edit it")
    _say_what_is_next(state)


def _say_what_is_next(state: Path) -> None:
    from clients.site_file import load_site

    site = load_site(state)
    typer.echo("\nSend the coordinator this line (node.pub), and have it read back to you, by telephone for instance:")
    typer.echo((state / "node.pub").read_text(encoding="ascii").rstrip())
    steps = []
    if not site.data.path:
        steps.append(f"import your records (cardiofed data import) and set data.path in {state / 'site.toml'}")
    if not site.coordinator.address:
        steps.append(f"set coordinator.address in {state / 'site.toml'}")
    if not site.coordinator.insecure and not Path(site.coordinator.certificates).exists():
        steps.append(f"put the coordinator's ca.crt at {site.coordinator.certificates}")
    steps.append(f"read {state / 'site.toml'}: it says what is allowed, and the defaults are strict")
    steps += [f"cardiofed-site check {state}", f"cardiofed-site serve {state}   (or install the two systemd units)"]
    typer.echo("\nNext:")
    for number, step in enumerate(steps, start=1):
        typer.echo(f"  {number}. {step}")


def check(state: State, socket: Socket = None) -> None:
    """Look at everything that serving rests on: one line each, and how to mend what is wrong.

    Settings, keys, ledger, disk, records, labels, patients, duplicates, device, certificates, the coordinator, the clock,
    Flower's version. What it prints about records is for this terminal. Exit code 1 where a line says FAIL.

    Example: `cardiofed-site check /srv/cardiofed`
    """
    raise typer.Exit(FAILED if _failed(state, _socket(state, socket)) else 0)


def _failed(state: Path, socket: Path) -> set[str]:
    """Print the table and return the names of what failed."""
    from rich.console import Console
    from rich.markup import escape

    from clients.checks import preflight
    from core import console

    screen = Console()
    screen = screen if screen.is_terminal else Console(width=1000)
    table = console.table_for(screen, "what", "", "found", "mend")
    style = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
    found_all = []
    with console.progress() as bars:
        task = bars.add_task("check", total=None)
        for found in preflight(state, socket):
            found_all.append(found)
            level = f"[{style[found.level]}]{found.level}[/]"
            table.add_row(found.name, level, escape(_line(found.said)), escape(_line(found.mend)))
            bars.update(task, advance=1, description=f"check {found.name}")
    screen.print(table)
    failed = [found.name for found in found_all if found.level == "FAIL"]
    warned = sum(found.level == "warn" for found in found_all)
    typer.echo(f"{len(found_all)} looked at, {len(failed)} to mend, {warned} to know")
    return set(failed)


def serve(
    state: State,
    socket: Socket = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of the SuperNode's own processes on 127.0.0.1; 0: a free one.")
    ] = 0,
    check_first: Annotated[
        bool,
        typer.Option(
            "--check/--no-check",
            help="Look at everything first; do not serve where a line but the coordinator's says FAIL.",
        ),
    ] = True,
) -> None:
    """Run the vault and Flower's SuperNode until Ctrl-C or SIGTERM; either is started again when it ends.

    Their output goes to STATE/logs. One line a change is printed here.

    Example: `cardiofed-site serve /srv/cardiofed`
    """
    from datetime import datetime

    from clients.coordinator_checks import COORDINATOR
    from clients.serving import serve as keep_serving

    where = _socket(state, socket)
    failed = _failed(state, where) if check_first else set()
    if failed - {COORDINATOR}:
        typer.echo("not started: mend the lines that say FAIL, or say --no-check", err=True)
        raise typer.Exit(FAILED)
    if failed:
        typer.echo("started all the same: the SuperNode tries until the coordinator answers")

    def say(line: str) -> None:
        # A terminal that was closed must not end what it started.
        with contextlib.suppress(OSError):
            typer.echo(f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S}  {line}")
            sys.stdout.flush()

    keep_serving(state, where, port, say)


def status(state: State, socket: Socket = None) -> None:
    """Say how the site is: vault, SuperNode, what is spent, what waits for approval, what was asked last.

    Example: `cardiofed-site status /srv/cardiofed`
    """
    from clients.site_file import load_site
    from clients.site_status import status_lines

    site = load_site(state)
    described = f" ({site.site.description})" if site.site.description else ""
    typer.echo(f"site:       {site.site.name}{described}, approval by {site.approval.mode}")
    for line in status_lines(state, _socket(state, socket)):
        typer.echo(line)


def approve(
    state: State,
    request: Annotated[
        str | None,
        typer.Argument(metavar="[HASH]", help="Beginning of a request's name.", show_default=False),
    ] = None,
    refuse: Annotated[bool, typer.Option("--refuse", help="Say no, also to what was approved before.")] = False,
    by: Annotated[
        str | None, typer.Option(help="Who decides; by default the user at this terminal.", show_default=False)
    ] = None,
) -> None:
    """List the campaigns that wait for a person, or approve one.

    An approval is for all the settings that are shown, under this campaign's name. The policy in site.toml still holds:
    the stricter of the two wins.

    Example: `cardiofed-site approve /srv/cardiofed 3f2a91cc --by "Dr. Weiss"`
    """
    import getpass

    from clients import approval
    from clients.audit_log import FILE, AuditLog
    from clients.site_file import load_site
    from clients.site_status import APPROVAL, described

    site = load_site(state)
    if request is None:
        _list_waiting(state, site)
        return
    filed = approval.find(state, request)
    for line in described(filed, approval.requests(state), site):
        typer.echo(line)
    who = by or getpass.getuser()
    verdict = "refused" if refuse else "approved"
    # Before the answer counts: what is not in the log was not answered.
    AuditLog(state / FILE).append(
        kind=APPROVAL, campaign=filed.campaign, request=filed.request.hash, verdict=verdict, by=who
    )
    approval.answer(state, filed.name, not refuse, who)
    typer.echo(f"{verdict} by {who}; the coordinator learns of it with its next request")


def _list_waiting(state: Path, site: SiteFile) -> None:
    from clients import approval
    from clients.site_status import described, short_name

    filed = approval.requests(state)
    waiting = [each for each in filed if each.state == "waiting"]
    for each in waiting:
        for line in described(each, filed, site):
            typer.echo(line)
    if not waiting:
        typer.echo("no request waits for approval")
        return
    typer.echo(
        f"\napprove one with: cardiofed-site approve {state} {short_name(waiting[0], filed)}   (or add --refuse)"
    )


def log(
    state: State,
    verify: Annotated[bool, typer.Option("--verify", help="Only compute the chain of hashes again.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, for other programs.")] = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only the last so many.", show_default=False)] = None,
) -> None:
    """Print what was asked of this site and what it answered. The log holds no patient and no count of them.

    The chain of hashes is always computed; exit code 2 and one sentence where a line was edited, removed or cut short.

    Example: `cardiofed-site log /srv/cardiofed --last 20`
    """
    import json

    from clients import audit_log
    from clients.site_file import load_site
    from clients.site_status import in_words

    load_site(state)
    path = state / audit_log.FILE
    if verify:
        count = audit_log.verify(path)
        typer.echo(f"{path} is intact ({count} lines); its last line has the hash {audit_log.last_hash(path)}")
        return
    entries = audit_log.read(path)
    for entry in entries[-last:] if last else entries:
        typer.echo(json.dumps(entry) if as_json else in_words(entry))
    if not entries and not as_json:
        typer.echo("nothing was ever asked")


def _socket(state: Path, given: Path | None) -> Path:
    return (given or state.resolve() / "vault.sock").absolute()


def _path_or_none(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _number(text: str) -> float:
    from core.errors import ConfigError

    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"epsilon is {text!r}; give a number above 0, such as 8") from None


def _line(text: str) -> str:
    return " ".join(text.split())
