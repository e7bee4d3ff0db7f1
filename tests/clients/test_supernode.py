"""The SuperNode's process: it ends when Flower's own is through, whatever that leaves running."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# As Flower 1.41: a server for its client processes in a thread that nobody ends.
PROGRAM = """
import sys, threading
from flwr.supernode import cli
from clients import supernode


def flower_supernode():
    threading.Thread(target=threading.Event().wait).start()
    print("was here")
    {ends}


cli.flower_supernode = flower_supernode
supernode.main()
"""


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("return", 1),
        ("sys.exit(0)", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('a sentence')", 1),
        ("raise OSError('broken')", 1),
    ],
)
def test_the_process_ends_with_its_connection_so_that_it_is_started_again(ends, code):
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ends=ends)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (code, "was here\n")
    assert ("OSError: broken" in ended.stderr) == ("OSError" in ends)
