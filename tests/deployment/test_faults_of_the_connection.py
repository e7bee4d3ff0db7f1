"""A certificate that expires and a clock that is wrong, between a real coordinator and a real hospital: a sentence each.

The clocks are those of the processes alone: libfaketime shifts them by what stands in a file.
"""

import os
import platform
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_vaults import short_folder, until

from core.privacy.ledger import verify
from core.synthetic.hospitals import simulated_hospitals
from server.flower_commands import free_port
from simulations.deploy_demo import BIN, Demo, is_up

pytestmark = [
    pytest.mark.deployment,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel of libfaketime is for x86-64"),
]

DAY, HOUR = 86_400, 3_600

eventually = partial(until, seconds=240.0)
"""Beside other work on the machine each start takes its time."""


class Clock:
    """A clock that is some seconds off, for the processes that are started with its variables."""

    def __init__(self, file: Path, ahead: int = 0) -> None:
        self.file = file
        self.set(ahead)

    def set(self, ahead: int) -> None:
        partial_file = self.file.with_suffix(".partial")
        partial_file.write_text(f"{ahead:+d}\n")
        partial_file.replace(self.file)

    @property
    def variables(self) -> dict[str, str]:
        spec = find_spec("libfaketime")
        assert spec is not None
        assert spec.origin is not None
        library = Path(spec.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        # Waits are by the monotonic clock, which nobody sets.
        more = {"FAKETIME_NO_CACHE": "1", "DONT_FAKE_MONOTONIC": "1"}
        return {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self.file), **more}


@contextmanager
def study(folder: Path) -> Iterator[Demo]:
    made = Demo(folder / "study", lambda line: None, free_port())
    made.out.mkdir()
    try:
        yield made
    finally:
        made.end()


def said(demo: Demo, name: str) -> str:
    return (demo.out / f"{name}.log").read_text()


def join(demo: Demo) -> None:
    """Have the hospital "a" join: it is registered at the coordinator, which is up."""
    simulated_hospitals(hospitals=1, patients=80, seed=0).write(demo.out / "set")
    demo.run(
        *("cardiofed-site", "init", demo.state("a"), "--yes", "--name", "a", "--data", demo.out / "set"),
        *("--coordinator", f"127.0.0.1:{demo.port}", "--ca", demo.home / "ca.crt", "--device", "cpu"),
    )
    demo.run("cardiofed-server", "sites", demo.home, "add", demo.state("a") / "node.pub", "a")


def serve(demo: Demo, folder: Path, variables: dict[str, str]) -> None:
    words = ("cardiofed-site", "serve", demo.state("a"), "--socket", folder / "v.sock", "--no-check")
    demo.start("a", *words, variables=variables)


def up(demo: Demo, name: str, variables: dict[str, str]) -> None:
    demo.start(name, "cardiofed-server", "up", demo.home, "--host", "127.0.0.1", variables=variables)
    eventually(partial(is_up, demo))


def stop(demo: Demo, name: str) -> None:
    process = demo.processes.pop(name)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def nothing_lost_or_leaked(demo: Demo) -> None:
    """No traceback at either side, no ledger entry, and a ledger that verifies."""
    logs = [*demo.out.glob("*.log"), *(demo.home / "logs").glob("*.log")]
    assert not [log.name for log in logs if "Traceback" in log.read_text(errors="replace")]
    verify(demo.state("a") / "ledger.sqlite")
    for log in logs:
        if demo.state("a") not in log.parents and log.name not in ("a.log", "commands.log"):
            assert str(demo.state("a")) not in log.read_text(errors="replace")


CONNECTED = "the coordinator knows this site: the SuperNode is connected"


def test_an_expired_certificate_is_told_at_both_sides_and_a_renewed_one_is_taken_without_a_hand_at_the_hospital(
    tmp_path,
):
    with study(tmp_path) as demo, short_folder() as short:
        # Two days ago a coordinator made a certificate for one day, and its clock has stood since.
        then = Clock(tmp_path / "then", -2 * DAY)
        demo.start(
            *("init", "cardiofed-server", "init", demo.home, "--port", demo.port, "--days", 1), variables=then.variables
        )
        assert demo.processes.pop("init").wait(60) == 0
        up(demo, "up", then.variables)
        assert f"{demo.home / 'server.crt'} expires on " in said(demo, "up")
        join(demo)
        serve(demo, short, {})
        eventually(lambda: said(demo, "a").count("SuperNode started") == 2)
        sentences = re.findall(r"it starts again in \d+ s: (.+)", said(demo, "a"))
        assert set(sentences) == {
            "the coordinator's certificate has expired, or this machine's clock is ahead; ask the coordinator to renew it"
        }
        assert CONNECTED not in said(demo, "a")
        then.set(0)
        eventually(lambda: f"{demo.home / 'server.crt'} expired on " in said(demo, "up"))
        assert f"no site can connect any more; renew it (cardiofed-server renew {demo.home} where" in said(demo, "up")
        stop(demo, "up")
        refused = subprocess.run(
            [BIN / "cardiofed-server", "up", demo.home, "--host", "127.0.0.1"],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert refused.returncode == 2
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"error: {demo.home / 'server.crt'} expired on ")
        assert line.endswith(f"cardiofed-server renew {demo.home}")
        demo.run("cardiofed-server", "renew", demo.home)
        up(demo, "again", {})
        eventually(lambda: CONNECTED in said(demo, "a"))
        assert "expires on" not in said(demo, "again")
        # A site that is removed is answered as one whose clock is wrong, and told what it is.
        demo.run("cardiofed-server", "sites", demo.home, "remove", "a")
        eventually(lambda: "no longer takes this site's signature, and the clocks agree" in said(demo, "a"))
        nothing_lost_or_leaked(demo)


def test_a_clock_that_is_an_hour_off_is_told_with_the_hour_and_the_site_connects_once_it_is_set(tmp_path):
    def told(sign: str) -> list[int]:
        """The differences that the site has named, in seconds."""
        pattern = rf"this machine's clock is at fault \((\d+) s {sign} the coordinator's\); set it"
        return [int(seconds) for seconds in re.findall(pattern, said(demo, "a"))]

    with study(tmp_path) as demo, short_folder() as short:
        demo.run("cardiofed-server", "init", demo.home, "--port", demo.port)
        up(demo, "up", {})
        join(demo)
        here = Clock(tmp_path / "here", HOUR)
        serve(demo, short, here.variables)
        eventually(lambda: told("ahead of"))
        # Within what the certificate allows, which was made a moment ago to hold from an hour before.
        here.set(120 - HOUR)
        eventually(lambda: told("behind"))
        assert CONNECTED not in said(demo, "a")
        here.set(0)
        eventually(lambda: CONNECTED in said(demo, "a"))
        here.set(HOUR)
        before = len(told("ahead of"))
        # Connected, it is shut out with its next question.
        eventually(lambda: len(told("ahead of")) > before)
        assert all(abs(seconds - HOUR) < 60 for seconds in told("ahead of"))
        assert all(abs(seconds - HOUR + 120) < 60 for seconds in told("behind"))
        nothing_lost_or_leaked(demo)
