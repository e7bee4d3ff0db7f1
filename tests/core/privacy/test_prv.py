import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from opacus.accountants import PRVAccountant
from scipy.stats import norm

from core.privacy import prv
from core.privacy.accountant import Mechanism, epsilon
from core.privacy.prv import prv_epsilon

DELTA = 1e-5
ROUNDS = Mechanism(1.0, 1 / 32, 1600)
MIXED = [Mechanism(1.468, 0.16, 140), Mechanism(4.0, 0.05, 1000), Mechanism(10.0, 1.0, 3)]
ENDLESS = Mechanism(2.0, 0.9, 2000)  # ten seconds of work in little memory


@pytest.fixture
def childless(monkeypatch):
    """No child process can be started: fails the test where one is."""

    def start(*_, **__):
        pytest.fail("a child process was started")

    monkeypatch.setattr(prv, "_in_child", start)


# The pessimistic PLDAccountant of dp-accounting 0.6.0, another library. Opacus adds its error of 0.01 to what it finds.
@pytest.mark.parametrize(
    ("history", "pld"),
    [([ROUNDS], 8.2905), ([Mechanism(1.0, 1 / 32, 32)], 1.5117), (MIXED, 7.6180), ([Mechanism(10.0, 1.0, 3)], 0.6200)],
)
def test_it_agrees_with_another_library_below_the_enforced_bound(history, pld):
    found = prv_epsilon(history, DELTA)
    assert pld - 1e-3 <= found <= pld + 0.02
    assert found < epsilon(history, DELTA)


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:Optimal order")
def test_it_is_opacus_own_figure():
    reference = PRVAccountant()
    reference.history = [(each.noise_multiplier, each.sampling_rate, each.steps) for each in MIXED]
    assert prv_epsilon(MIXED, DELTA) == pytest.approx(reference.get_epsilon(DELTA), abs=1e-2)


def test_pieces_and_order_of_the_history_make_no_difference(monkeypatch):
    asked = []
    monkeypatch.setattr(prv, "_in_child", lambda history, *_: asked.append(history))
    prv_epsilon(MIXED, DELTA)
    prv_epsilon([Mechanism(4.0, 0.05, 1)] * 990 + MIXED[::2] + [Mechanism(4.0, 0.05, 10)], DELTA)
    assert asked[0] == asked[1]


def test_small_epsilons_are_composed_more_finely():
    # dp-accounting 0.6.0: 0.0226; an error of 0.01 would exceed the accountant's 0.0261.
    assert prv_epsilon([Mechanism(20.0, 0.16, 1)], DELTA) == pytest.approx(0.0226, abs=1e-3)


def test_empty_history_has_spent_nothing_and_starts_no_process(childless):
    assert prv_epsilon([], DELTA) == 0.0


class TestWithoutSampling:
    def test_sigma_of_balle_and_wang_costs_an_epsilon_of_one(self, childless):
        # Their calibration of the analytic Gaussian mechanism: epsilon 1, delta 1e-5 need sigma 3.7306.
        assert prv_epsilon([Mechanism(3.7306316, 1.0, 1)], DELTA) == pytest.approx(1.0, abs=1e-6)

    @pytest.mark.parametrize("delta", [1e-3, 1e-7])
    def test_several_gaussians_are_one(self, childless, delta):
        # 1 / 3^2 + 4 / 8^2 = 0.1736 = 1 / 2.4^2
        found = prv_epsilon([Mechanism(3.0, 1.0, 1), Mechanism(8.0, 1.0, 4)], delta)
        assert found == pytest.approx(prv_epsilon([Mechanism(2.4, 1.0, 1)], delta))
        exact = norm.cdf(1 / 4.8 - 2.4 * found) - math.exp(found) * norm.cdf(-1 / 4.8 - 2.4 * found)
        assert exact == pytest.approx(delta, rel=1e-6)

    @pytest.mark.parametrize("mechanism", [Mechanism(0.01, 1.0, 10_000), Mechanism(1e5, 1.0, 1)])
    def test_extreme_noise_gives_a_figure_below_the_bound(self, childless, mechanism):
        assert 0 <= prv_epsilon([mechanism], DELTA) <= epsilon([mechanism], DELTA)


class TestGuards:
    @pytest.mark.parametrize(
        "mechanism",
        [
            Mechanism(0.05, 0.16, 10_000),  # an array of 963 GB
            pytest.param(Mechanism(1.0, 0.5, 10_000), marks=pytest.mark.slow),  # several of 0.9 GB
        ],
    )
    def test_a_composition_that_would_eat_all_memory_is_given_up(self, mechanism):
        begun = time.monotonic()
        assert prv_epsilon([mechanism], DELTA, gigabytes=1.0) is None
        assert time.monotonic() - begun < 22

    def test_memory_is_limited(self):
        assert prv_epsilon([ROUNDS], DELTA, gigabytes=0.05) is None

    def test_a_child_that_hangs_is_killed_in_time(self, monkeypatch, tmp_path):
        # It uses no processor time, which has a limit of its own.
        sleeper = tmp_path / "sleeper"
        sleeper.write_text("#!/bin/sh\nexec sleep 30\n")
        sleeper.chmod(0o700)
        monkeypatch.setattr(prv.sys, "executable", str(sleeper))
        begun = time.monotonic()
        assert prv_epsilon([ROUNDS], DELTA, seconds=0.5) is None
        assert time.monotonic() - begun < 3
        assert not [child for child in psutil.Process().children() if child.name() == "sleep"]

    def test_the_child_ends_by_itself_where_nobody_is_left_to_kill_it(self, monkeypatch):
        def forgetful(*words, timeout, **options):
            return run(*words, **options)

        run = subprocess.run
        monkeypatch.setattr(prv.subprocess, "run", forgetful)
        before = sum(psutil.Process().cpu_times()[2:4])
        assert prv_epsilon([ENDLESS], DELTA, seconds=2) is None
        assert sum(psutil.Process().cpu_times()[2:4]) - before < 3.5  # seconds of children

    @pytest.mark.parametrize("program", ["no-such-program", "false", "echo"])
    def test_a_child_that_fails_or_talks_nonsense_gives_no_figure(self, monkeypatch, program):
        monkeypatch.setattr(prv.sys, "executable", program)
        assert prv_epsilon([ROUNDS], DELTA) is None

    @pytest.mark.parametrize("answer", [None, 0.0, -0.1, math.nan, math.inf, 9.06])
    def test_no_figure_that_is_not_finite_above_zero_and_within_the_bound_is_given(self, monkeypatch, answer):
        monkeypatch.setattr(prv, "_in_child", lambda *_: answer)
        assert prv_epsilon([ROUNDS], DELTA) is None  # the bound is 9.05

    def test_a_figure_that_no_bound_confirms_is_not_looked_for(self, childless):
        assert epsilon([Mechanism(0.005, 0.1, 1)], DELTA) == math.inf
        assert prv_epsilon([Mechanism(0.005, 0.1, 1)], DELTA) is None
        assert epsilon([Mechanism(100.0, 0.01, 1)], 1e-3) == 0.0
        assert prv_epsilon([Mechanism(100.0, 0.01, 1)], 1e-3) is None

    @pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
    def test_impossible_delta_gives_no_figure(self, childless, delta):
        assert prv_epsilon([ROUNDS], delta) is None

    def test_what_lies_in_the_working_directory_is_not_imported(self, monkeypatch, tmp_path):
        (tmp_path / "numpy.py").write_text("raise SystemExit(1)\n")
        monkeypatch.chdir(tmp_path)
        assert prv_epsilon([Mechanism(1.0, 1 / 32, 32)], DELTA) is not None

    def test_the_child_loads_no_torch(self):
        script = "import sys; from core.privacy import prv; prv._opacus_accountant(); sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=False)
        assert done.returncode == 0
