"""The shared shell of the command lines, tried as real processes, and progress without a terminal."""

import io
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.console import PlainProgress

APP = """
import sys, time, typer
from core.console import progress, run
from core.errors import ConfigError, DataError

app = typer.Typer()

@app.command()
def fail():
    raise DataError("records.csv has no column\\npatient; add it")

@app.command()
def wait():
    print("waiting", flush=True)
    time.sleep(60)

@app.command()
def count(to: int):
    for number in range(to):
        print(number)

@app.command()
def fault():
    raise ZeroDivisionError("a fault of ours")

@app.command()
def leave(code: int):
    raise typer.Exit(code)

@app.command()
def work():
    with progress() as bar:
        task = bar.add_task("pretrain [shared]", total=4)
        for _ in range(4):
            bar.advance(task)
            bar.update(task, description="pretrain [shared]")
    print("result")

@app.command()
def rich():
    print("rich" in sys.modules)

run(app)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("app") / "app.py"
    path.write_text(APP, encoding="utf-8")
    return [sys.executable, str(path)]


def call(app: list[str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*app, *words], capture_output=True, text=True, timeout=60)


class TestRun:
    def test_an_error_for_people_is_one_line_and_exit_code_2(self, app):
        done = call(app, "fail")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: records.csv has no column patient; add it\n"

    @pytest.mark.parametrize("words", [["nothing"], ["fail", "--nothing"], ["count"], ["count", "x"], []], ids=" ".join)
    def test_wrong_usage_is_exit_code_2_without_a_traceback(self, app, words):
        done = call(app, *words)
        assert done.returncode == 2
        assert "Usage" in done.stderr
        assert "Traceback" not in done.stderr

    def test_success_is_0_and_a_chosen_code_is_kept(self, app):
        assert call(app, "count", "2").returncode == 0
        assert call(app, "--help").returncode == 0
        assert call(app, "leave", "3").returncode == 3

    def test_a_fault_of_the_program_keeps_its_plain_traceback(self, app):
        done = call(app, "fault")
        assert done.returncode == 1
        assert done.stderr.startswith("Traceback (most recent call last):")
        assert done.stderr.endswith("ZeroDivisionError: a fault of ours\n")

    def test_an_interrupt_is_one_line_and_130(self, app):
        with subprocess.Popen([*app, "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (130, "interrupted\n")

    @pytest.mark.parametrize("to", ["3", "1000000"], ids=["short", "long"])
    def test_a_reader_that_goes_away_is_met_with_silence(self, app, to):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*app, "count", to], stdout=writing, stderr=subprocess.PIPE, timeout=60)
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, b"")

    def test_no_command_pays_for_rich_unless_it_draws(self, app):
        assert call(app, "rich").stdout == "False\n"


class TestProgress:
    def test_off_a_terminal_it_writes_plain_lines_to_stderr(self, app):
        done = call(app, "work")
        assert done.stdout == "result\n"
        assert done.stderr == "pretrain [shared]: 100 % (4 of 4), 0:00:00 elapsed\n"

    def test_on_a_terminal_it_draws_bar_share_and_times(self, app):
        screen, terminal = pty.openpty()
        with subprocess.Popen(
            [*app, "work"],
            stdout=subprocess.PIPE,
            stderr=terminal,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"},
        ) as process:
            os.close(terminal)
            drawn = b""
            try:
                while piece := os.read(screen, 4096):
                    drawn += piece
            except OSError:  # the terminal's other end is closed
                pass
            os.close(screen)
            assert process.stdout is not None
            assert process.stdout.read() == b"result\n"
        assert process.wait() == 0
        last = drawn.decode()
        for part in ("pretrain [shared]", "━", "100%", "0:00:00", "elapsed,", "left"):
            assert part in last


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestPlainProgress:
    def test_a_fast_task_speaks_only_at_its_end(self):
        out, clock = io.StringIO(), Clock()
        with PlainProgress(out, clock) as bar:
            task = bar.add_task("import", total=1000)
            for _ in range(1000):
                clock.now += 0.003
                bar.advance(task)
        assert out.getvalue() == "import: 100 % (1000 of 1000), 0:00:03 elapsed\n"

    def test_a_slow_task_speaks_at_each_tenth_with_the_time_left(self):
        out, clock = io.StringIO(), Clock()
        bar = PlainProgress(out, clock)
        task = bar.add_task("pretrain", total=20)
        for _ in range(20):
            clock.now += 20
            bar.advance(task)
        lines = out.getvalue().splitlines()
        # 20 steps of 20 s: the first line comes with the first step, then one for each tenth, two steps.
        assert len(lines) == 11
        # 4 of 20 steps took 80 s, so 16 more take 320 s.
        assert lines[2] == "pretrain: 20 % (4 of 20), 0:01:20 elapsed, 0:05:20 left"
        assert lines[-1] == "pretrain: 100 % (20 of 20), 0:06:40 elapsed"

    def test_a_very_slow_task_speaks_each_minute(self):
        out, clock = io.StringIO(), Clock()
        bar = PlainProgress(out, clock)
        task = bar.add_task("train", total=10_000)
        for _ in range(100):
            clock.now += 6
            bar.advance(task)
        # 600 s in all: the first step (tenth 0) at 6 s, then at 66, 126, ... 546 s.
        assert len(out.getvalue().splitlines()) == 10

    def test_a_task_at_its_end_is_silent_however_often_it_is_told(self):
        stream, now = io.StringIO(), [0.0]
        bar = PlainProgress(stream, clock=lambda: now[0])
        task = bar.add_task("measure", total=4)
        for seconds in (10.0, 100.0, 1000.0):
            now[0] = seconds
            bar.update(task, completed=4)
        assert stream.getvalue().count("\n") == 1

    def test_steps_done_before_a_resumed_task_do_not_make_it_look_faster(self):
        out, clock = io.StringIO(), Clock()
        bar = PlainProgress(out, clock)
        task = bar.add_task("finetune", total=8, completed=6)
        clock.now += 30
        bar.advance(task)
        assert out.getvalue() == "finetune: 88 % (7 of 8), 0:00:30 elapsed, 0:00:30 left\n"

    def test_a_task_without_a_known_end_says_how_far_it_is(self):
        out, clock = io.StringIO(), Clock()
        bar = PlainProgress(out, clock)
        task = bar.add_task("download", total=None)
        clock.now += 61
        bar.update(task, completed=12)
        assert out.getvalue() == "download: 12 done, 0:01:01 elapsed\n"

    def test_a_log_that_is_gone_does_not_end_the_work(self):
        class Gone(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError

        bar = PlainProgress(Gone(), Clock())
        task = bar.add_task("train", total=1)
        bar.advance(task)


def test_help_answers_within_a_second(app):
    fastest = min(_seconds(app) for _ in range(3))
    assert fastest < 1


def _seconds(app: list[str]) -> float:
    start = time.perf_counter()
    assert call(app, "--help").returncode == 0
    return time.perf_counter() - start


def test_the_shared_shell_knows_nothing_heavy():
    script = "import sys, core.console; print({'torch', 'numpy', 'rich', 'typer'} & set(sys.modules))"
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert out.stdout.strip() == "set()"
