"""Two programs kept running together: started in order, started again, and ended with all that they started."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core import supervising
from core.errors import ConfigError
from core.processes import processes_with
from core.supervising import MARK, Patience, Program, holder, only_one, supervise

PYTHON = sys.executable
QUICK = Patience(first=0.1, most=0.4, lasting=30, ready=60, ending=5, tick=0.01)

LIVES = "import time\nwhile True: time.sleep(0.05)"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\n" + LIVES
GRANDCHILD = (
    "import subprocess, sys\n"
    f"child = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=%s, stdout=subprocess.PIPE)\n"
    "child.stdout.readline()\nprint('born', flush=True)\n"
)


class StandingClock:
    """The supervisor's time: it passes where a test says so, and while the supervisor sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.now += seconds

    def pass_the_wait(self, line: str) -> None:
        self.now += sum(float(wait) for wait in waits([line]))


@pytest.fixture
def clock(monkeypatch):
    standing = StandingClock()
    monkeypatch.setattr(supervising, "time", standing)
    return standing


class Story:
    """What a supervisor said; stops it when enough was said, or when a test took too long."""

    def __init__(self, until: str, times: int = 1, heard: Callable[[str], None] = lambda line: None) -> None:
        self.lines, self.stop, self._heard = [], threading.Event(), heard
        self._until, self._left = re.compile(until), times
        self._timer = threading.Timer(120, self.stop.set)
        self._timer.daemon = True
        self._timer.start()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._heard(line)
        if self._until.search(line):
            self._left -= 1
            if self._left == 0:
                self.stop.set()
                self._timer.cancel()

    def run(self, *programs: Program, mark: str, patience: Patience = QUICK) -> list[str]:
        supervise(programs, mark, self.stop, self, patience)
        assert self._left <= 0, self.lines
        return self.lines


@pytest.fixture
def mark(tmp_path):
    yield str(tmp_path)
    assert processes_with(MARK, str(tmp_path)) == []


def program(tmp_path: Path, code: str, name: str = "one", **more) -> Program:
    return Program(name, [PYTHON, "-c", code], tmp_path / "logs" / f"{name}.log", **more)


def waits(lines: list[str]) -> list[str]:
    return [found[1] for line in lines if (found := re.search(r"starts again in (\S+) s", line))]


class TestStarting:
    def test_the_second_waits_until_the_first_is_ready(self, tmp_path, mark):
        flag = tmp_path / "ready"
        first = program(
            tmp_path, f"import time; time.sleep(0.5); open({str(flag)!r}, 'w')\n" + LIVES, ready=flag.exists
        )
        second = program(
            tmp_path,
            f"import os; print(os.path.exists({str(flag)!r}), flush=True)\n" + LIVES,
            "two",
            events={"True": "it was there", "False": "too early"},
        )
        lines = Story("it was there|too early").run(first, second, mark=mark)
        assert [line.split(" (")[0] for line in lines[:4]] == [
            "one started",
            "one is ready",
            "two started",
            "it was there",
        ]

    def test_one_that_never_becomes_ready_is_started_again(self, tmp_path, mark):
        never = program(tmp_path, LIVES, ready=lambda: False)
        lines = Story("one started", 2).run(
            never, program(tmp_path, LIVES, "two"), mark=mark, patience=Patience(0.1, 0.4, 30, 0.3, 5, 0.01)
        )
        assert any("was not ready after" in line for line in lines)
        assert not any("two" in line for line in lines)

    def test_a_program_that_is_not_installed_is_one_sentence(self, tmp_path, mark):
        with pytest.raises(ConfigError, match="/no/such cannot be started"):
            supervise(
                [Program("x", ["/no/such"], tmp_path / "x.log")], mark, threading.Event(), lambda line: None, QUICK
            )

    def test_it_runs_in_its_folder_with_its_environment(self, tmp_path, mark):
        code = "import os; print(os.getcwd(), os.environ['FLAG'], flush=True)\n" + LIVES
        there = program(
            tmp_path,
            code,
            environment={"FLAG": "up"},
            folder=tmp_path / "home",
            events={f"{tmp_path / 'home'} up": "right"},
        )
        Story("right").run(there, mark=mark)
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


class TestStartingAgain:
    def test_each_time_it_waits_twice_as_long_up_to_the_most(self, tmp_path, mark, clock):
        patience = Patience(first=1, most=4, lasting=30, ready=60, ending=5, tick=0.01)
        story = Story("starts again", 5, lambda line: clock.pass_the_wait(line))
        lines = story.run(program(tmp_path, "raise SystemExit(3)"), mark=mark, patience=patience)
        assert waits(lines) == ["1", "2", "4", "4", "4"]
        assert all("one ended with code 3 after" in line for line in lines if "again" in line)

    def test_after_a_long_life_it_begins_with_the_shortest(self, tmp_path, mark, clock):
        patience = Patience(first=1, most=60, lasting=10, ready=60, ending=5, tick=0.01)
        tally, grown = tmp_path / "tally", tmp_path / "grown"
        tally.write_text("")
        # The first two die at once; the third lives until it is twenty.
        code = (
            f"import os, time; n = os.path.getsize({str(tally)!r}); open({str(tally)!r}, 'a').write('x')\n"
            "if n == 2: print('old', flush=True)\n"
            f"while n == 2 and not os.path.exists({str(grown)!r}): time.sleep(0.01)\n"
        )

        def heard(line: str) -> None:
            clock.pass_the_wait(line)
            if line == "it is old":
                clock.now += 20
                grown.write_text("")

        lives = program(tmp_path, code, events={"old": "it is old"})
        lines = Story("starts again", 4, heard).run(lives, mark=mark, patience=patience)
        assert waits(lines) == ["1", "2", "1", "2"]

    def test_one_that_was_killed_is_told_by_the_signal(self, tmp_path, mark):
        lines = Story("starts again").run(
            program(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), mark=mark
        )
        assert "one was killed by SIGKILL" in lines[-1]

    def test_the_other_one_goes_on(self, tmp_path, mark):
        dies = program(tmp_path, "raise SystemExit(1)", "two")
        lines = Story("two ended with", 3).run(program(tmp_path, LIVES), dies, mark=mark)
        assert sum("one started" in line for line in lines) == 1

    def test_a_person_is_told_why_where_it_is_known_and_where_to_look_where_not(self, tmp_path, mark):
        code = "print('line'); print('Failed: 2004'); raise SystemExit(1)"
        known = program(tmp_path, code, explain=lambda tail: "send the key" if "2004" in tail else "")
        assert Story("starts again").run(known, mark=mark)[-1].endswith(": send the key")
        assert str(tmp_path / "logs" / "one.log") in Story("starts again").run(program(tmp_path, code), mark=mark)[-1]


class TestEnding:
    def test_the_first_one_ends_last(self, tmp_path, mark):
        lines = Story("two started").run(program(tmp_path, LIVES), program(tmp_path, LIVES, "two"), mark=mark)
        assert lines[-2:] == ["two ended", "one ended"]

    def test_one_that_does_not_listen_is_killed(self, tmp_path, mark):
        deaf = program(tmp_path, STUBBORN, events={"deaf": "it is deaf"})
        patience = Patience(first=0.1, most=0.4, lasting=30, ready=20, ending=0.3, tick=0.01)
        assert Story("it is deaf").run(deaf, mark=mark, patience=patience)[-1] == "one ended"

    @pytest.mark.parametrize("own_session", [False, True])
    def test_what_it_started_ends_with_it_even_in_a_session_of_its_own(self, tmp_path, mark, own_session):
        patience = Patience(first=0.1, most=0.4, lasting=30, ready=20, ending=0.3, tick=0.01)
        parent = program(tmp_path, GRANDCHILD % own_session + LIVES, events={"born": "born"})
        Story("born").run(parent, mark=mark, patience=patience)

    @pytest.mark.parametrize("own_session", [False, True])
    def test_a_child_that_outlives_its_program_is_gone_before_the_next_start(self, tmp_path, mark, own_session):
        patience = Patience(first=0.1, most=0.4, lasting=30, ready=20, ending=0.3, tick=0.01)
        counted: list[int] = []

        class Counting(Story):
            def __call__(self, line: str) -> None:
                if "one started" in line:
                    counted.append(len(processes_with(MARK, mark)))
                super().__call__(line)

        Counting("starts again", 3).run(program(tmp_path, GRANDCHILD % own_session), mark=mark, patience=patience)
        assert max(counted) <= 1, counted

    def test_a_supervisor_that_is_killed_leaves_nothing(self, tmp_path, mark):
        code = f"""
import threading
from pathlib import Path
from core.supervising import Program, supervise
programs = [Program(name, [{PYTHON!r}, "-c", {LIVES!r}], Path({str(tmp_path)!r}) / name) for name in ("a", "b")]
supervise(programs, {mark!r}, threading.Event(), lambda line: print(line, flush=True))
"""
        root = Path(supervising.__file__).parents[1]
        process = subprocess.Popen([PYTHON, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process:
            assert "a started" in process.stdout.readline()
            assert "b started" in process.stdout.readline()
            assert len(processes_with(MARK, mark)) == 2
            process.kill()
        deadline = time.monotonic() + 20
        while processes_with(MARK, mark) and time.monotonic() < deadline:
            time.sleep(0.05)

    def test_what_a_killed_supervisor_left_is_ended_before_the_first_start(self, tmp_path, mark):
        left = subprocess.Popen([PYTHON, "-c", LIVES], env={**os.environ, supervising.MARK: mark})
        while not processes_with(MARK, mark):
            time.sleep(0.01)
        ended = []
        Story("one started", 1, lambda line: ended.append(left.poll())).run(program(tmp_path, LIVES), mark=mark)
        assert ended[0] == -signal.SIGTERM

    def test_only_its_own_are_ended(self, tmp_path, mark):
        other = subprocess.Popen([PYTHON, "-c", LIVES], env={**os.environ, supervising.MARK: f"{mark}x"})
        try:
            Story("one started").run(program(tmp_path, LIVES), mark=mark)
            assert other.poll() is None
        finally:
            other.kill()
            other.wait()


class TestOutput:
    def test_it_is_rotated_and_no_more_is_kept_than_said(self, tmp_path, mark, monkeypatch):
        monkeypatch.setattr(supervising, "LOG_BYTES", 2000)
        code = "for n in range(1000): print(f'line {n:05d}')\nprint('all', flush=True)\n" + LIVES
        Story("all said").run(program(tmp_path, code, events={"all": "all said"}), mark=mark)
        files = sorted(path.name for path in (tmp_path / "logs").iterdir())
        assert files == ["one.log", "one.log.1", "one.log.2", "one.log.3", "one.log.4"]
        assert all((tmp_path / "logs" / name).stat().st_size <= 2000 for name in files)
        assert "line 00999" in (tmp_path / "logs" / "one.log").read_text()
        assert (tmp_path / "logs").stat().st_mode & 0o777 == 0o700

    def test_a_sentence_is_said_once_until_another_one_is(self, tmp_path, mark):
        code = "for word in 'down down down up down done'.split(): print(word, flush=True)\n" + LIVES
        events = {"down": "it is down", "up": "it is up", "done": "it is done"}
        lines = Story("it is done").run(program(tmp_path, code, events=events), mark=mark)
        assert [line for line in lines if line.startswith("it is")] == [
            "it is down",
            "it is up",
            "it is down",
            "it is done",
        ]

    def test_bytes_that_are_no_text_and_lines_without_end_are_taken(self, tmp_path, mark):
        code = (
            "import sys; sys.stdout.buffer.write(b'\\xff\\xfe' * 200_000 + b'\\nover\\n'); sys.stdout.flush()\n" + LIVES
        )
        Story("it is over").run(program(tmp_path, code, events={"over": "it is over"}), mark=mark)


class TestLock:
    def test_a_second_supervisor_of_the_folder_is_refused_and_told_by_whom(self, tmp_path):
        assert holder(tmp_path / "lock") is None
        with only_one(tmp_path / "lock", "end it"):
            assert holder(tmp_path / "lock") == os.getpid()
            with (
                pytest.raises(ConfigError, match=f"served by process {os.getpid()} already"),
                only_one(tmp_path / "lock", "end it"),
            ):
                raise AssertionError("never")
        assert holder(tmp_path / "lock") is None
        with only_one(tmp_path / "lock", "end it"), contextlib.suppress(OSError):
            assert holder(tmp_path / "lock") == os.getpid()

    def test_a_lock_of_a_process_that_is_gone_does_not_hold(self, tmp_path):
        (tmp_path / "lock").write_text("999999\n")
        assert holder(tmp_path / "lock") is None
        with only_one(tmp_path / "lock", "end it"):
            pass
