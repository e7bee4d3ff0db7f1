"""Noised histograms and counts, and the list of everything that may leave a site."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from core.ecg.labels import SUPERCLASSES
from core.errors import DataError, PrivacyError
from core.noised_evaluation import coarse_histograms
from core.privacy.noise import SeededNoise, SystemNoise
from core.privacy.release import (
    FIELDS,
    NOISED_BINS,
    Status,
    histogram_deviation,
    noised_count,
    noised_histograms,
    require_listed,
    status_of,
    unit_weights,
)
from core.tasks import TaskKind

NOTHING: frozenset[str] = frozenset()


class Silence:
    """A source whose noise is 0, to see what it is added to; asked for is what it writes down."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def gaussian(self, size: int, deviation: float) -> np.ndarray:
        self.asked.append((size, deviation))
        return np.zeros(size)


def weighted(owners: list[str], k: int, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return coarse_histograms(logits, labels, unit_weights(owners, k))


@st.composite
def cohorts(draw):
    owners = draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))
    seed = draw(st.integers(0, 2**32 - 1))
    return np.array(owners), draw(st.integers(1, 4)), np.random.default_rng(seed)


@given(cohorts())
@settings(max_examples=150, deadline=None)
def test_a_patient_moves_the_histograms_by_the_sensitivity_at_most(cohort):
    owners, k, rng = cohort
    logits = rng.choice([-9.0, -1.0, 0.3, 8.0], (len(owners), 5))
    labels = rng.integers(0, 2, (len(owners), 5))
    whole = weighted(list(owners), k, logits, labels)
    for patient in set(owners):
        rest = owners != patient
        without = weighted(list(owners[rest]), k, logits[rest], labels[rest])
        assert np.linalg.norm(whole - without) <= histogram_deviation(1.0, k) * (1 + 1e-9)


def test_the_sensitivity_is_reached():
    # Six records of one patient, all alike: weight 2 in one cell of each of the 5 classes, 2 * sqrt(5) in L2 norm.
    histograms = weighted(["a"] * 6, 2, np.zeros((6, 5)), np.ones((6, 5)))
    assert np.linalg.norm(histograms) == pytest.approx(2 * math.sqrt(5))
    assert histogram_deviation(1.0, 2) == pytest.approx(2 * math.sqrt(5))
    assert histogram_deviation(1.5, 1) == pytest.approx(1.5 * math.sqrt(len(SUPERCLASSES)))
    # Where records are protected, each is an owner of its own: the plain count, and sqrt(5).
    assert weighted(list("abcdef"), 1, np.zeros((6, 5)), np.ones((6, 5))).max() == 6


def test_records_share_the_weight_of_their_patient():
    weights = unit_weights(["a", "b", "a", "a", "c", "c"], 2)
    assert weights == pytest.approx([2 / 3, 1, 2 / 3, 2 / 3, 1, 1])
    assert unit_weights(["a", "b", "a"], 2) == pytest.approx([1, 1, 1])
    # As in the ledger, a patient is one however a table stored the number.
    assert unit_weights([7, "7", 8], 1) == pytest.approx([0.5, 0.5, 1])
    assert unit_weights([], 1).shape == (0,)


def test_every_cell_gets_noise_of_the_stated_deviation():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(60, 5)) * 3, rng.integers(0, 2, (60, 5))
    owners = [f"p{row // 2}" for row in range(60)]
    quiet = Silence()
    options = {"records_per_unit": 1, "noise_multiplier": 1.3}
    exact = noised_histograms(logits, labels, owners, **options, noise=quiet)
    np.testing.assert_allclose(exact, weighted(owners, 1, logits, labels), atol=1e-5)
    assert exact.shape == (5, 2, NOISED_BINS)
    assert exact.sum() == pytest.approx(30 * 5, abs=1e-3)
    assert quiet.asked == [(5 * 2 * 32, pytest.approx(1.3 * math.sqrt(5)))]

    drawn = [noised_histograms(logits, labels, owners, **options, noise=SystemNoise()) - exact for _ in range(50)]
    noise = np.array(drawn) / (1.3 * math.sqrt(5))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    assert noise.std(axis=0) == pytest.approx(np.ones(exact.shape), abs=0.5)


def test_a_known_seed_gives_the_same_and_the_system_never():
    arguments = np.zeros((4, 5)), np.zeros((4, 5), int), list("abcd")
    options = {"records_per_unit": 1, "noise_multiplier": 1.0}
    seeded = [noised_histograms(*arguments, **options, noise=SeededNoise(3)) for _ in range(2)]
    np.testing.assert_array_equal(*seeded)
    fresh = [noised_histograms(*arguments, **options, noise=SystemNoise()) for _ in range(2)]
    assert not np.isclose(*fresh).any()


def test_a_site_without_test_records_sends_noise_alone():
    released = noised_histograms(
        np.zeros((0, 5)), np.zeros((0, 5), int), [], records_per_unit=1, noise_multiplier=2.0, noise=SystemNoise()
    )
    assert released.shape == (5, 2, 32)
    assert released.std() == pytest.approx(2 * math.sqrt(5), rel=0.2)


def test_a_score_that_is_not_a_number_is_refused_before_any_noise():
    with pytest.raises(DataError, match=r"no score \(NaN\) for 1 of 2 records"):
        noised_histograms(
            [[0.0], [np.nan]], [[0], [1]], ["a", "b"], records_per_unit=1, noise_multiplier=1.0, noise=Silence()
        )


def test_a_count_has_noise_of_its_deviation_and_is_never_below_one():
    quiet = Silence()
    assert noised_count(120, 10.0, quiet) == pytest.approx(120, abs=1e-4)
    assert quiet.asked == [(1, 10.0)]
    drawn = np.array([noised_count(120, 10.0, SystemNoise()) for _ in range(2000)])
    assert drawn.mean() == pytest.approx(120, abs=1.0)
    assert drawn.std() == pytest.approx(10, rel=0.1)
    assert min(noised_count(3, 10.0, SystemNoise()) for _ in range(200)) == 1.0


def test_values_have_the_status_that_their_reply_gives_them():
    assert status_of(TaskKind.DESCRIBE, "", "number", "rate") == Status.PUBLIC
    assert status_of(TaskKind.PRETRAIN, "pretrain", "number", "loss_sum") == Status.SYNTHETIC
    assert status_of(TaskKind.FINETUNE, "finetune", "number", "loss_sum") == Status.CLEAR
    assert status_of(TaskKind.FINETUNE, "finetune", "number", "epsilon") == Status.FROM_PLAN
    parameters = TaskKind.FINETUNE, "finetune", "tensor", "stages.0.norm1.weight"
    assert status_of(*parameters) == Status.CLEAR
    assert status_of(*parameters, numbers=["noise_multiplier"]) == Status.DP_TRAINED
    histograms = TaskKind.EVALUATE, "finetune", "tensor", "histograms"
    assert status_of(*histograms) == Status.CLEAR
    assert status_of(*histograms, numbers=["histogram_deviation"]) == Status.NOISED
    weight = TaskKind.FINETUNE, "finetune", "weight", "weight"
    assert status_of(*weight) == Status.CLEAR
    assert status_of(*weight, numbers=["count_deviation"]) == Status.NOISED


def test_errors_of_a_regression_are_synthetic_in_pretraining_alone():
    assert status_of(TaskKind.EVALUATE, "pretrain", "tensor", "sums") == Status.SYNTHETIC
    assert status_of(TaskKind.EVALUATE, "finetune", "tensor", "sums") is None
    assert status_of(TaskKind.EVALUATE, "pretrain", "tensor", "boundaries") == Status.SYNTHETIC
    assert status_of(TaskKind.EVALUATE, "finetune", "tensor", "boundaries") is None
    assert status_of(TaskKind.EVALUATE, "pretrain", "tensor", "histograms") is None


@pytest.mark.parametrize("sort", ["number", "text", "tensor"])
def test_a_value_that_nobody_listed_is_refused(sort):
    sent: dict[str, dict[str, float]] = {"numbers": {}, "texts": {}, "tensors": {}}
    sent[f"{sort}s"] = {"mean_age": 1.0}
    for kind in TaskKind:
        with pytest.raises(PrivacyError, match=f"{sort} 'mean_age' in the reply to .* has no privacy status; list it"):
            require_listed(kind, **sent, weight=1.0, allowed_clear={"counts", "loss", "evaluation"}, phase="finetune")


def test_a_weight_that_nobody_listed_is_refused():
    with pytest.raises(PrivacyError, match="weight 'weight' in the reply to evaluate has no privacy status"):
        require_listed(TaskKind.EVALUATE, {}, (), (), 212.0, NOTHING, phase="finetune")
    require_listed(TaskKind.EVALUATE, {}, (), (), 1.0, NOTHING, phase="finetune")


CLEAR = [
    ("counts", TaskKind.DESCRIBE, {"numbers": {"train_patients": 212.0}}),
    ("counts", TaskKind.DESCRIBE, {"numbers": {"train_HYP": 12.0}}),
    ("counts", TaskKind.FINETUNE, {"weight": 212.0}),
    ("counts", TaskKind.FINETUNE, {"numbers": {"expected_batch": 21.2}}),
    ("loss", TaskKind.FINETUNE, {"numbers": {"loss_sum": 3.0}}),
    ("evaluation", TaskKind.EVALUATE, {"tensors": ["histograms"]}),
    ("evaluation", TaskKind.EVALUATE, {"tensors": ["replicates"]}),
    ("training", TaskKind.FINETUNE, {"tensors": ["head.weight"]}),
]


@pytest.mark.parametrize(("item", "kind", "sent"), CLEAR)
def test_a_value_in_clear_needs_the_policy_to_name_it(item, kind, sent):
    reply = {"numbers": {}, "texts": (), "tensors": (), "weight": 1.0} | sent
    require_listed(kind, **reply, allowed_clear={item}, phase="finetune")
    others = {"counts", "loss", "evaluation", "training"} - {item}
    with pytest.raises(PrivacyError, match=f"would leave in clear, and the policy does not name {item}; add noise"):
        require_listed(kind, **reply, allowed_clear=others, phase="finetune")


def test_what_is_noised_or_synthetic_needs_no_leave():
    numbers = {"noise_multiplier": 1.1, "expected_batch": 21.2, "count_deviation": 10.0, "loss_noised": 3.0}
    require_listed(TaskKind.FINETUNE, numbers, ("unit",), ("head.bias",), 212.7, NOTHING, phase="finetune")
    released = {"histogram_deviation": 3.0, "epsilon_evaluation": 4.0, "void": 0.0}
    require_listed(TaskKind.EVALUATE, released, (), ("histograms",), 1.0, NOTHING, phase="finetune")
    require_listed(TaskKind.PRETRAIN, {"loss_sum": 1.0}, (), ("head.bias",), 500.0, NOTHING, phase="pretrain")


def test_replicates_in_clear_do_not_ride_along_with_noised_histograms():
    with pytest.raises(PrivacyError, match=r"tensor 'replicates' .* would leave in clear"):
        require_listed(
            TaskKind.EVALUATE,
            {"histogram_deviation": 3.0},
            (),
            ("histograms", "replicates"),
            1.0,
            NOTHING,
            phase="finetune",
        )


def test_only_values_in_clear_name_what_the_policy_must_allow():
    items = {"evaluation", "counts", "loss", "training"}
    for fields in FIELDS.values():
        for field in fields:
            assert (field.item in items) == (field.status == Status.CLEAR)


def test_the_module_needs_no_torch():
    told = subprocess.run(
        [sys.executable, "-c", "import sys, core.privacy.release; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "False"
