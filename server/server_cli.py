"""``cardiofed-server``: the coordinator's home, its SuperLink, and who may join."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from core.console import table_for

HomeArgument = Annotated[Path, typer.Argument(metavar="HOME", help="Coordinator's folder.", show_default=False)]

sites_app = typer.Typer(
    name="sites",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Let sites in, list them, shut them out: `sites HOME add KEY.pub NAME`, `sites HOME list`, "
    "`sites HOME remove NAME`. The SuperLink has to be up.",
)


def init(
    home: HomeArgument,
    hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="Name or IP address under which sites reach this machine; may be repeated. Default: this machine alone.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Under which sites reach it.")] = 8000,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long the server's certificate is valid.")] = 825,
    certificate: Annotated[
        Path | None, typer.Option(help="The institution's server certificate (PEM).", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Its private key.", show_default=False)] = None,
    ca: Annotated[
        Path | None, typer.Option(help="The CA certificate that sites check it by.", show_default=False)
    ] = None,
) -> None:
    """Make a coordinator's folder: a CA and a server certificate, or the institution's own. Overwrites nothing.

    Examples:

    `cardiofed-server init fed --host ecg.example.org --host 10.0.0.5`

    `cardiofed-server init fed --certificate server.pem --key server.key --ca institution.crt`
    """
    from server.coordinator import make_home

    made = make_home(home, hosts or [], port=port, days=days, certificate=certificate, key=key, ca=ca)
    typer.echo(f"{made.path} is ready for: {', '.join(made.hosts)}")
    typer.echo(f"start the server:  cardiofed-server up {home}")
    _print_joining(made.ca, made.hosts[0], made.port)
    if (made.path / "ca.key").is_file():
        typer.echo("keep ca.key secret, best offline: whoever has it can pose as this server", err=True)


def renew(
    home: HomeArgument,
    hosts: Annotated[
        list[str] | None,
        typer.Option("--host", help="Names and addresses; default: those of before.", show_default=False),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it is valid.")] = 825,
) -> None:
    """Make a new server certificate under the same CA; the sites change nothing. Then start `up` again.

    Example: `cardiofed-server renew fed`
    """
    from server.coordinator import check_validity, open_home
    from server.coordinator import renew as renew_certificate

    renewed = renew_certificate(open_home(home), hosts or [], days)
    typer.echo(f"{renewed.certificate} is valid until {check_validity(renewed)}")


def up(
    home: HomeArgument,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all of this machine.")] = "0.0.0.0",
    port: Annotated[int | None, typer.Option(help="Default: the one in server.toml.", show_default=False)] = None,
) -> None:
    """Run the server until Ctrl-C or SIGTERM: Flower's SuperLink on this machine alone, and a door to it for sites.

    The door speaks TLS and lets through what registered sites say, nothing else: runs are started on this machine only.
    What dies is started again; the logs are in `HOME/logs`.

    Example: `cardiofed-server up fed --host 127.0.0.1`
    """
    from core.supervising import stopped_by_signals
    from server.coordinator import open_home
    from server.superlink import serve_superlink

    opened = open_home(home)
    _print_joining(opened.ca, opened.hosts[0], port or opened.port)
    with stopped_by_signals() as stop:
        serve_superlink(opened, host, port or opened.port, lambda line: typer.echo(line), stop)


@sites_app.callback()
def sites(context: typer.Context, home: HomeArgument) -> None:
    """Read the coordinator's folder."""
    context.obj = home


@sites_app.command()
def add(
    context: typer.Context,
    key: Annotated[Path, typer.Argument(metavar="KEY.pub", help="The site's public key.", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What reports call the site.", show_default=False)],
) -> None:
    """Let a site in by the public key that it sent.

    Example: `cardiofed-server sites fed add node.pub st-elsewhere`
    """
    from server.coordinator import open_home
    from server.joined_sites import add_site

    opened = open_home(context.obj)
    site = add_site(opened, key, name)
    typer.echo(f"{site.name} may join with the key {site.key}")
    typer.echo("read that fingerprint to the site on the telephone: ssh-keygen -lf node.pub shows the same one there")
    _print_joining(opened.ca, opened.hosts[0], opened.port)


@sites_app.command("list")
def list_sites(context: typer.Context) -> None:
    """List the sites that may join, and which are connected.

    Example: `cardiofed-server sites fed list`
    """
    from rich.console import Console

    from server.coordinator import open_home
    from server.joined_sites import joined, statuses

    home = open_home(context.obj)
    known, told = joined(home), statuses(home)
    # A fingerprint that is cut in two compares badly.
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = table_for(console, "site", "status", "added", "key")
    for site in known:
        status = told.get(site.node, "unknown to the SuperLink: remove it and add it again")
        table.add_row(site.name, status, site.added[:10], site.key)
    console.print(table)


@sites_app.command()
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in the list.", show_default=False)],
) -> None:
    """Shut a site out.

    Example: `cardiofed-server sites fed remove st-elsewhere`
    """
    from server.coordinator import open_home
    from server.joined_sites import remove_site

    remove_site(open_home(context.obj), name)
    typer.echo(f"{name} may no longer join")


def _print_joining(ca: Path, host: str, port: int) -> None:
    typer.echo(f"what a site needs:  the address {host}:{port}  and the file {ca}")
