"""``cardiofed data formats``, and the options that it lists."""

import re

import pytest
from typer.testing import CliRunner

from core.ecg.sources import SOURCES, describe_formats
from simulations.cli import app


def said(*words: str) -> str:
    ended = CliRunner().invoke(app, [*words], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert ended.exit_code == 0, ended.output
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", ended.output))


def test_every_format_is_listed_with_its_files_and_options():
    shown = said("data", "formats")
    for name in SOURCES:
        assert f" {name} " in shown
    assert "--labels --codes --source-rate --units" in shown
    # Not taken for markup.
    assert "[dicom]" in shown


@pytest.mark.parametrize("one", describe_formats(), ids=lambda one: one.name)
def test_each_option_of_a_format_is_one_of_the_import_command(one):
    shown = said("data", "import", "--help")
    assert all(option in shown for option in one.options)
