"""A file written atomically is the old one or the new one, never a part."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.atomic_write import write_atomically


def test_a_file_is_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "study.json"
    write_atomically(path, "one\r\nö")
    write_atomically(path, "two\r\nä")
    assert path.read_bytes() == "two\r\nä".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "study.json"
    write_atomically(path, "old")

    def no_space(self, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_while_it_writes_leaves_one_whole_version(tmp_path):
    path = tmp_path / "study.json"
    write_atomically(path, "0" * 1_000_000)
    code = (
        "import sys; from pathlib import Path; from core.atomic_write import write_atomically\n"
        "print('begun', flush=True)\n"
        "n = 0\n"
        "while True: n += 1; write_atomically(Path(sys.argv[1]), str(n % 10) * 1_000_000)\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
        text = path.read_text()
        assert len(text) == 1_000_000
        assert len(set(text)) == 1
