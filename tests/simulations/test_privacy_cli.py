import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core.errors import CardiofedError
from simulations.privacy_cli import app

CAMPAIGN = ("--patients", 400, "--epsilon", 8, "--delta", "1e-5", "--rounds", 20, "--local-epochs", 1, "--batch", 64)
NOISE = ("--patients", 400, "--noise", 1, "--rounds", 2, "--batch", 64)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["plan", *(str(word) for word in words)], env={"COLUMNS": "120", "TERM": "dumb"})


def rows(*words: object) -> list[list[str]]:
    """What was printed, line by line and word by word."""
    result = call(*words)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return [line.split() for line in result.stdout.splitlines()]


def test_it_prints_the_plan_the_unit_and_the_epsilon_after_each_round():
    printed = rows(*CAMPAIGN)
    for row in (
        "budget epsilon 8",
        "delta 1e-05",
        "unit patient",
        "neighbouring add-remove: one patient more or less",
        "patients 400",
        "sampling rate 0.16",  # 64 / 400
        "expected batch 64",
        "steps a round 7",  # 1 / 0.16 = 6.25
        "steps in all 140",
        "noise multiplier 1.468",  # Opacus' get_noise_multiplier: 1.46753
    ):
        assert row.split() in printed
    by_round = {int(row[0]): row[1:] for row in printed if row and row[0].isdigit()}
    assert list(by_round) == list(range(1, 21))
    # Opacus' RDPAccountant with noise 1.468, rate 0.16: 2.167, 5.619 and 7.996; printed rounded up.
    assert (by_round[1], by_round[10], by_round[20]) == (["7", "2.17"], ["70", "5.62"], ["140", "8.00"])
    assert " ".join(printed[-1]).startswith("epsilon 8.00 at delta 1e-05 per patient (add-remove), by RDP")


def test_it_says_what_a_noise_costs():
    printed = rows(*NOISE)
    assert ["noise", "multiplier", "1"] in printed
    assert not [row for row in printed if row[:1] == ["budget"]]
    # Opacus' RDPAccountant with noise 1, rate 0.16, 14 steps: 5.4587; printed rounded up.
    assert ["2", "14", "5.46"] in printed


def test_noise_that_nothing_bounds_costs_infinity():
    assert ["1", "7", "∞"] in rows("--patients", 400, "--noise", 0.005, "--rounds", 1, "--batch", 64)


def test_the_tighter_figure_stands_beside_the_enforced_one_when_asked_for():
    assert "PRV" not in call(*NOISE).stdout
    last = " ".join(rows(*NOISE, "--prv")[-1])
    # Opacus' PRVAccountant at the same: 4.7229; printed rounded up.
    assert last.endswith("by RDP, which is enforced; PRV, tighter, not enforced: 4.73")
    unbounded = " ".join(rows("--patients", 400, "--noise", 0.005, "--rounds", 1, "--batch", 64, "--prv")[-1])
    assert unbounded.endswith("PRV, tighter, not enforced: none found")


def test_a_delta_that_could_publish_a_patient_is_warned_of_beside_the_plan():
    result = call(*NOISE, "--delta", 0.0025)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: delta 0.0025 is not below 1/n for a cohort of n = 400")
    assert call(*NOISE, "--delta", 0.0024).stderr == ""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((*NOISE, "--batch", 500), "a batch of 500 cannot be drawn from 400 patients"),
        ((*NOISE, "--epsilon", 8), "give one of the two"),
        (NOISE[:2] + NOISE[4:], "give one of the two"),
        ((*NOISE, "--noise", 0), "noise multiplier 0.0 supports no claim of privacy"),
        ((*NOISE, "--rounds", 0), "0 rounds"),
        ((*CAMPAIGN, "--epsilon", "1e-6"), "no noise keeps 140 more steps within epsilon 1e-06"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(words, named):
    result = call(*words)
    assert isinstance(result.exception, CardiofedError), repr(result.exception)
    assert named in str(result.exception)
    assert "\n" not in str(result.exception)
    assert result.stdout == ""


def test_help_teaches_with_an_example():
    shown = " ".join(call("--help").stdout.replace("│", " ").split())
    assert "cardiofed privacy plan --patients 400 --epsilon 8 --delta 1e-5" in shown


def test_help_loads_nothing_heavy_and_the_plan_no_torch():
    script = (
        "import sys; from simulations.privacy_cli import app\n"
        "def loaded(words, libraries):\n"
        "    try: app(words)\n"
        "    except SystemExit as ending: assert not ending.code\n"
        "    return sorted(libraries & set(sys.modules))\n"
        "light = loaded(['plan', '--help'], {'torch', 'numpy', 'scipy', 'pandas', 'flwr', 'opacus'})\n"
        f"heavy = loaded({['plan', *(str(word) for word in CAMPAIGN)]}, {{'torch', 'pandas', 'flwr', 'opacus'}})\n"
        "sys.exit(str(light + heavy) if light + heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
