"""The embedded simulated hospitals."""

import numpy as np
import pytest

from core.ecg.labels import SUPERCLASSES
from core.synthetic import hospitals as hospitals_module
from core.synthetic.hospitals import simulated_hospitals

SETTINGS = {"hospitals": 3, "patients": 60, "seed": 4, "seconds": 4.0}


@pytest.fixture(scope="module")
def made():
    return simulated_hospitals(**SETTINGS)


def test_the_same_seed_gives_the_same_set(made):
    again = simulated_hospitals(**SETTINGS)
    np.testing.assert_array_equal(again.signals, made.signals)
    assert again.records.equals(made.records)
    assert again.fingerprint == made.fingerprint


def test_another_seed_gives_another_set(made):
    other = simulated_hospitals(**SETTINGS | {"seed": 5, "hospitals": 1})
    assert not np.array_equal(other.signals[:60], made.signals[:60])


def test_a_hospital_does_not_depend_on_how_many_there_are(made):
    fewer = simulated_hospitals(**SETTINGS | {"hospitals": 1})
    np.testing.assert_array_equal(fewer.signals, made.signals[: len(fewer)])


def test_the_set_is_marked_as_simulated(made):
    assert made.info.simulated
    assert "simulated" in made.info.source
    assert "simulated" in made.info.name


def test_every_record_is_normal_or_has_one_or_two_of_the_other_classes(made):
    normal, ill = made.labels[:, 0], made.labels[:, 1:].sum(axis=1)
    assert ((normal == 1) == (ill == 0)).all()
    assert set(ill) == {0, 1, 2}
    assert (made.labels.sum(axis=0) > 5).all()


def test_patients_with_two_records_share_fold_person_and_labels_but_not_the_signal(made):
    records = made.records.assign(row=np.arange(len(made)))
    sizes = records.groupby("patient").size()
    assert set(sizes) == {1, 2}
    assert 0.05 < (sizes == 2).mean() < 0.3
    for _, pair in records[records["patient"].isin(sizes.index[sizes == 2])].groupby("patient"):
        assert (pair[["site", "fold", "age", "sex", *SUPERCLASSES]].nunique(dropna=False) == 1).all()
        first, second = pair["row"]
        assert not np.array_equal(made.signals[first], made.signals[second])


def test_patients_belong_to_one_site_and_ids_are_unique(made):
    assert (made.records.groupby("patient")["site"].nunique() == 1).all()
    assert made.records["record"].is_unique
    assert made.records.groupby("site")["patient"].nunique().tolist() == [60, 60, 60]


def test_people_are_adults_and_all_ten_folds_are_filled(made):
    assert made.records["age"].between(18, 95).all()
    assert set(made.records["sex"]) == {0.0, 1.0}
    assert set(made.records["fold"]) == set(range(1, 11))


def test_class_mix_differs_between_sites(made):
    leading = [made.labels[made.records["site"] == site].mean(axis=0) for site in ("0", "1", "2")]
    # 60 patients: a share of a half has a standard error of 0.065, a difference between two sites 0.09.
    assert np.ptp(leading, axis=0).max() > 0.18


def test_gain_and_noise_differ_between_sites(monkeypatch):
    recorders = []
    simulate = hospitals_module.simulate

    def spy(*args, gain, noise, **settings):
        recorders.append((gain, noise))
        return simulate(*args, gain=gain, noise=noise, **settings)

    monkeypatch.setattr(hospitals_module, "simulate", spy)
    simulated_hospitals(**SETTINGS | {"patients": 5})
    gains, noises = zip(*recorders, strict=True)
    assert len(set(gains)) == len(set(noises)) == 3
    assert all(0.5 < gain < 2 for gain in gains)
    assert all(0.2 < noise < 5 for noise in noises)


def test_the_rate_is_what_was_asked_for():
    made = simulated_hospitals(hospitals=1, patients=3, seed=0, rate=500)
    assert (made.info.rate, made.info.samples, made.signals.shape[1:]) == (500, 5000, (12, 5000))
