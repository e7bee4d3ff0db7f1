"""Three hospitals and a coordinator on one machine, as they would be on four: what ``make deploy-demo`` runs.

Every step goes through the command lines that the partners use, over TLS on 127.0.0.1 with node keys: a coordinator makes
its folder and serves, three hospitals join, look at themselves and serve, a campaign is approved and runs. On the way one
hospital's processes are killed and started again, and the SuperLink is killed with -9 and the campaign resumed. At the end
every ledger must verify, and say the epsilon that the coordinator's results say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from core.ecg.dataset import EcgDataset
from core.privacy.accountant import epsilon
from core.privacy.ledger import Ledger, verify
from core.synthetic.hospitals import simulated_hospitals
from server.flower_commands import free_port

SITES = ("north", "east", "south")
BIN = Path(sys.executable).parent
CONFIG = Path(__file__).parents[1] / "configs" / "deploy-demo.toml"
STEP_SECONDS = 300.0


class DemoError(Exception):
    """A step that did not do what it should."""


@dataclass
class Demo:
    """Where everything is, and what runs.

    Attributes
    ----------
    out : Path
        New folder for the coordinator, the hospitals and their records.
    say : callable
        Told in a line what happens.
    processes : dict of str to Popen
        By name.
    """

    out: Path
    say: Callable[[str], object]
    port: int = 0
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Folder of the coordinator."""
        return self.out / "coordinator"

    def state(self, site: str) -> Path:
        """State folder of a hospital."""
        return self.out / site

    def run(self, *words: object) -> str:
        """Run a command to its end and return what it printed.

        Raises
        ------
        DemoError
            With its last line, when it fails.
        """
        command = [str(word) for word in words]
        self.say("$ " + " ".join(command))
        ended = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=_environment(),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=STEP_SECONDS,
            check=False,
        )
        (self.out / "commands.log").open("a").write(f"$ {' '.join(command)}\n{ended.stdout}{ended.stderr}\n")
        if ended.returncode:
            raise DemoError(f"{command[0]} {command[1]} ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
        return ended.stdout

    def start(self, name: str, *words: object, variables: Mapping[str, str] | None = None) -> None:
        """Start a command that goes on, with further variables in its environment; its output goes to ``<name>.log``."""
        command = [str(word) for word in words]
        self.say("$ " + " ".join(command) + " &")
        with (self.out / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                env={**_environment(), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_all_of(self, name: str, folder: Path) -> None:
        """End with -9 a command and every process that was started for its folder, as a failing machine would."""
        self.processes.pop(name).kill()
        for pid in processes_naming(f"{folder}/"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """End what still runs, in the order of a hospital's evening."""
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
        self.processes.clear()
        for pid in processes_naming(f"{self.out}/"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def demonstrate(out: Path, records: Path | None, say: Callable[[str], object] = print) -> Path:
    """Run the demonstration in a new folder.

    Parameters
    ----------
    out : Path
    records : Path, optional
        PTB-XL, or a part of it, in its official layout; without it the hospitals' records are simulated.
    say : callable
        Told in a line what happens.

    Returns
    -------
    Path
        Of the campaign's run folder, with its report.

    Raises
    ------
    DemoError
        When a step does not do what it should.
    """
    demo = Demo(out, say, free_port())
    try:
        make_records(demo, records)
        _begin_serving(demo)
        run = _campaign(demo)
    finally:
        demo.end()
    _check_ledgers(demo, run)
    return run


def make_records(demo: Demo, records: Path | None) -> None:
    """Give each hospital a third of the patients."""
    demo.out.mkdir(parents=True)
    if records is None:
        whole = simulated_hospitals(hospitals=1, patients=480, seed=0)
    else:
        demo.run("cardiofed", "data", "import", "ptbxl", records, demo.out / "all")
        whole = EcgDataset.open(demo.out / "all")
    patients = whole.records["patient"].to_numpy()
    place = np.unique(patients, return_inverse=True)[1]
    for number, site in enumerate(SITES):
        whole.select(np.flatnonzero(place % len(SITES) == number)).write(demo.out / f"records-{site}")


def _begin_serving(demo: Demo) -> None:
    address = f"127.0.0.1:{demo.port}"
    demo.run("cardiofed-server", "init", demo.home, "--port", demo.port)
    demo.start("coordinator", "cardiofed-server", "up", demo.home, "--host", "127.0.0.1")
    wait("the SuperLink to listen", partial(is_up, demo))
    for site in SITES:
        state = demo.state(site)
        demo.run(
            *("cardiofed-site", "init", state, "--yes", "--name", site, "--data", demo.out / f"records-{site}"),
            *("--coordinator", address, "--ca", demo.home / "ca.crt", "--device", "cpu", "--mode", "ask"),
        )
        _allow_public_records(state / "site.toml")
        demo.run("cardiofed-server", "sites", demo.home, "add", state / "node.pub", site)
        demo.run("cardiofed-site", "check", state)
        _serve(demo, site)
    for site in SITES:
        wait(f"{site} to be connected", partial(is_connected, demo, site))


def _campaign(demo: Demo) -> Path:
    run = demo.out / "run"
    demo.run("cardiofed-server", "run", demo.home, CONFIG, "--out", run, "--detach")
    wait("every hospital to be asked", lambda: all(_waiting(demo.state(site)) for site in SITES))
    for site in SITES:
        name = _waiting(demo.state(site))[0]
        demo.run("cardiofed-site", "approve", demo.state(site), name, "--by", "the demonstration")
    wait("the campaign to stop for want of approval", lambda: _status(run) == "failed")
    demo.run("cardiofed-server", "resume", demo.home, run, "--detach")
    wait("a round of pretraining", lambda: _rounds(run, "pretrain") >= 1)
    demo.say("kill -9 of all that east runs")
    demo.kill_all_of("east", demo.state("east"))
    _serve(demo, "east")
    wait("a round of fine-tuning", lambda: _rounds(run, "finetune") >= 1)
    demo.say("kill -9 of the SuperLink")
    for pid in processes_naming("flower-superlink", str(demo.home)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait("the campaign to be interrupted", lambda: _standing(run) in ("interrupted", "failed"))
    wait("the SuperLink to listen again", partial(is_up, demo))
    for site in SITES:
        wait(f"{site} to be connected again", partial(is_connected, demo, site))
    demo.say(demo.run("cardiofed-server", "resume", demo.home, run))
    return run


def _check_ledgers(demo: Demo, run: Path) -> None:
    """Compare each ledger's own sum with what the coordinator was told."""
    told = {site["name"]: site for site in json.loads((run / "results.json").read_text())["privacy"]["sites"]}
    for site in SITES:
        path = demo.state(site) / "ledger.sqlite"
        if not verify(path).intact:
            raise DemoError(f"{site}'s ledger does not verify")
        entries = Ledger.open(path).entries()
        spent = epsilon([entry.mechanism for entry in entries], told[site]["delta"])
        demo.say(f"{site}: ledger verifies, {len(entries)} entries, epsilon {spent:.4f}")
        if abs(spent - told[site]["epsilon"]) > 1e-6 or spent > 8.0:
            raise DemoError(f"{site}'s ledger says epsilon {spent} and the results say {told[site]['epsilon']}")


def _serve(demo: Demo, site: str) -> None:
    demo.start(site, "cardiofed-site", "serve", demo.state(site), "--no-check")


def _allow_public_records(path: Path) -> None:
    """Change a hospital's file as its staff would for public records."""
    text = path.read_text()
    for name, value in (
        ("evaluation", '"clear"'),
        ("counts", '"clear"'),
        ("loss", '"clear"'),
        ("min_patients", "20"),
        ("threads", "1"),
    ):
        text, changed = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        if changed != 1:
            raise DemoError(f"{path} has {changed} lines {name}")
    path.write_text(text)


def _waiting(state: Path) -> list[str]:
    found = []
    for path in sorted((state / "requests").glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text())["state"] == "waiting":
                found.append(path.stem)
    return found


def is_connected(demo: Demo, site: str) -> bool:
    """Whether the coordinator sees a hospital."""
    from server.coordinator import open_home
    from server.joined_sites import joined, statuses

    home = open_home(demo.home)
    nodes = {each.name: each.node for each in joined(home)}
    return statuses(home).get(nodes[site]) == "online"


def is_up(demo: Demo) -> bool:
    """Whether the SuperLink listens."""
    from core.errors import CardiofedError
    from server.coordinator import open_home
    from server.superlink import require_up

    try:
        require_up(open_home(demo.home))
    except CardiofedError:
        return False
    return True


def _status(run: Path) -> str:
    from server.run_folder import RunFolder

    return str(RunFolder(run).record().get("status"))


def _standing(run: Path) -> str:
    from server.deploying import standing
    from server.run_folder import RunFolder

    return standing(RunFolder(run))


def _rounds(run: Path, phase: str) -> int:
    from server.run_folder import RunFolder

    return sum(line["phase"] == phase for line in RunFolder(run).metrics())


def wait(what: str, holds: Callable[[], bool]) -> None:
    """Wait until something holds, or say in vain for what."""
    deadline = time.monotonic() + STEP_SECONDS
    while time.monotonic() < deadline:
        if holds():
            return
        time.sleep(0.5)
    raise DemoError(f"waited {STEP_SECONDS:.0f} s for {what}")


def processes_naming(*words: str) -> Iterator[int]:
    """Give the living processes whose command lines hold all these words."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in line for word in words) and int(folder.name) != os.getpid():
                yield int(folder.name)


def _environment() -> dict[str, str]:
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}


def main() -> None:
    """Run it from a shell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="PTB-XL in its official layout; default: simulated patients")
    parser.add_argument("--out", type=Path, help="new folder to keep; default: a temporary one, deleted at the end")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="cardiofed-demo-")) / "demo"
    began = time.monotonic()
    try:
        run = demonstrate(out.absolute(), options.data)
        print(f"all of it in {(time.monotonic() - began) / 60:.1f} minutes")
        if options.out:
            print(f"report: {run / 'report.html'}")
    except DemoError as error:
        sys.exit(f"error: {error}; what the commands said is in {out}")
    if not options.out:
        shutil.rmtree(out.parent)


if __name__ == "__main__":
    main()
