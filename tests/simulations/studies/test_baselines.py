"""The baselines: what they predict, and that sites that add up sums train the model of pooled records."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from core.ecg.dataset import EcgDataset
from core.ecg.importing import import_source
from core.errors import ConfigError, DataError
from simulations.studies.baselines import BASELINES, baseline_predictions, features, federated_logistic
from simulations.studies.features import FEATURES


def made_up(count: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Broad QRS makes class 0, an unknown PR class 1, a low T in V5 class 2 and a QT far from 400 ms class 3, not always."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(count, len(FEATURES))), columns=list(FEATURES))
    table["qrs"] = 100 + 20 * table["qrs"]
    table["qt"] = 400 + 30 * table["qt"]
    table.loc[rng.random(count) < 0.2, "pr"] = np.nan
    table.loc[rng.random(count) < 0.1, "t_V5"] = np.nan
    scores = np.stack(
        [
            (table["qrs"] - 115) / 10,
            np.where(table["pr"].isna(), 2.0, -2.0),
            -2 * table["t_V5"].fillna(0),
            (table["qt"] - 400).abs() / 10 - 2.5,
            np.full(count, -1.0),
        ],
        axis=1,
    )
    return table, (rng.random((count, 5)) < 1 / (1 + np.exp(-scores))).astype(np.uint8)


def test_the_majority_is_the_share_of_each_class_whatever_the_record():
    table, labels = made_up(40)
    predicted = baseline_predictions("majority", table[:30], labels[:30], table[30:], seed=0)
    np.testing.assert_array_equal(predicted, np.tile(labels[:30].sum(axis=0) / 30, (10, 1)))
    assert roc_auc_score(labels[30:, 0], predicted[:, 0]) == 0.5


@pytest.mark.parametrize(("kind", "found"), [("logistic", (0, 1, 2)), ("boosting", (0, 1, 2, 3))])
def test_what_tells_a_class_is_found_in_intervals_amplitudes_and_what_is_unknown(kind, found):
    table, labels = made_up(900)
    predicted = baseline_predictions(kind, table[:600], labels[:600], table[600:], seed=0)
    assert predicted.shape == (300, 5)
    assert ((predicted >= 0) & (predicted <= 1)).all()
    for column in found:
        assert roc_auc_score(labels[600:, column], predicted[:, column]) > 0.75
    # Nothing tells the last class.
    assert roc_auc_score(labels[600:, 4], predicted[:, 4]) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("kind", BASELINES)
def test_a_class_that_nobody_or_everybody_has_gets_its_share(kind):
    table, labels = made_up(60)
    labels[:, 2], labels[:, 3] = 0, 1
    predicted = baseline_predictions(kind, table[:50], labels[:50], table[50:], seed=0)
    assert (predicted[:, 2] == 0).all()
    assert (predicted[:, 3] == 1).all()


@pytest.mark.parametrize("kind", ["logistic", "boosting"])
def test_a_feature_that_the_whole_set_lacks_does_no_harm(kind):
    table, labels = made_up(200)
    table["axis"] = np.nan
    predicted = baseline_predictions(kind, table[:150], labels[:150], table[150:].assign(axis=30.0), seed=0)
    assert np.isfinite(predicted).all()
    np.testing.assert_array_equal(predicted, baseline_predictions(kind, table[:150], labels[:150], table[150:], seed=0))


@pytest.mark.parametrize("kind", BASELINES)
def test_one_seed_gives_one_result(kind):
    table, labels = made_up(120)
    one, other = (baseline_predictions(kind, table[:90], labels[:90], table[90:], seed=3) for _ in range(2))
    np.testing.assert_array_equal(one, other)


@given(sites=st.lists(st.integers(0, 3), min_size=150, max_size=150), seed=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_sites_that_add_up_sums_train_the_model_of_pooled_records(sites, seed):
    table, labels = made_up(180, seed)
    site, train = np.array(sites), table[:150]
    members = [site == number for number in range(4)]
    together = federated_logistic(
        [train[member] for member in members], [labels[:150][member] for member in members], table[150:]
    )
    pooled = baseline_predictions("logistic", train, labels[:150], table[150:], seed=0)
    np.testing.assert_allclose(together, pooled, atol=1e-5)


def test_how_records_are_spread_changes_nothing():
    table, labels = made_up(150)
    alone = federated_logistic([table[:120]], [labels[:120]], table[120:])
    spread = federated_logistic([table[:5], table[5:120]], [labels[:5], labels[5:120]], table[120:])
    np.testing.assert_allclose(spread, alone, atol=1e-7)


def test_what_moves_is_counted_by_site():
    table, labels = made_up(150)
    sizes = {}
    for sites in (1, 3):
        moved = []
        parts = [np.arange(120) % sites == site for site in range(sites)]
        federated_logistic([table[:120][p] for p in parts], [labels[:120][p] for p in parts], table[120:], moved.append)
        sizes[sites] = moved
    # 8 bytes each: for every feature a count, a sum, a square, and mean and deviation back; records, and those of 5 classes.
    assert sizes[3][0] == 3 * 8 * (5 * len(FEATURES) + 1 + 5)
    # Weights of the intercept, each feature, and whether 3 of them are known; then loss, gradient and Hessian.
    width = 1 + len(FEATURES) + 3
    assert set(sizes[3][1:]) == {3 * 8 * (width + 1 + width + width**2)}
    # The same steps, however the records are spread, over the 5 classes.
    assert 10 <= len(sizes[1]) == len(sizes[3]) <= 5 * 50


def test_separable_classes_end_at_finite_weights():
    table, labels = made_up(80)
    labels[:, 0] = table["qrs"] > 100
    predicted = federated_logistic([table[:40], table[40:]], [labels[:40], labels[40:]], table)
    assert ((predicted[:, 0] > 0.5) == (labels[:, 0] == 1)).mean() > 0.95
    assert (predicted[:, 0] < 1).all()


class TestRefuses:
    def test_a_baseline_that_is_none(self):
        table, labels = made_up(10)
        with pytest.raises(ConfigError, match="'forest' is unknown; choose one of majority, logistic, boosting"):
            baseline_predictions("forest", table, labels, table, seed=0)

    def test_no_training_record(self):
        table, labels = made_up(10)
        with pytest.raises(DataError, match="no training record"):
            baseline_predictions("logistic", table[:0], labels[:0], table, seed=0)
        with pytest.raises(DataError, match="no site has a training record"):
            federated_logistic([table[:0]], [labels[:0]], table)


@pytest.mark.slow
@pytest.mark.real_data
def test_gradient_boosting_finds_diagnoses_in_real_records(real_data, tmp_path):
    import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "set", rate=100)
    dataset = EcgDataset.open(tmp_path / "set")
    dataset = dataset.select(np.flatnonzero(dataset.labelled)[:300])
    table = features(dataset, tmp_path, jobs=2)
    assert table["hr"].isna().sum() <= 3
    # Folds keep patients apart.
    test = dataset.records["fold"].to_numpy() > 7
    labels = dataset.labels
    predicted = baseline_predictions("boosting", table[~test], labels[~test], table[test], seed=0)
    aurocs = [roc_auc_score(labels[test, c], predicted[:, c]) for c in range(5) if 0 < labels[test, c].mean() < 1]
    assert np.mean(aurocs) > 0.65
