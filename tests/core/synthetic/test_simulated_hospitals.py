"""The embedded simulated hospitals."""

from dataclasses import replace

import numpy as np
import pytest

from core.ecg.labels import SUPERCLASSES
from core.synthetic import hospitals as hospitals_module
from core.synthetic.devices import DEVICES, DRAWN
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.morphology import labels_of

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


@pytest.fixture
def recorders(monkeypatch):
    """Spy on what each hospital records with: the device, the level of its noise, and its unit's gain."""
    seen = []
    draw = hospitals_module.draw_recordings

    def spy(device, count, rng, *, level):
        noise, faults = draw(device, count, rng, level=level)
        seen.append((device.name, level, noise.gain[0]))
        return noise, faults

    monkeypatch.setattr(hospitals_module, "draw_recordings", spy)
    return seen


def test_recorder_gain_and_noise_differ_between_sites(recorders):
    simulated_hospitals(**SETTINGS | {"hospitals": 8, "patients": 5})
    devices, levels, gains = zip(*recorders, strict=True)
    assert set(devices) <= set(DRAWN)
    assert len(set(devices)) > 2
    assert len(set(levels)) == len({gain[0] for gain in gains}) == 8
    assert all(0.25 < level < 4 for level in levels)
    assert all(gain.min() >= 0.9 and gain.max() <= 1.1 for gain in gains)


def test_a_lost_electrode_leaves_its_lead_flat_in_the_set(monkeypatch):
    # Signals are stored as int16 after the filter, whose ripple on a flat lead is nothing.
    loses_all = replace(DEVICES["resting"], lead_loss=1.0)
    monkeypatch.setattr(hospitals_module, "draw_device", lambda rng: loses_all)
    made = simulated_hospitals(**SETTINGS | {"hospitals": 1, "patients": 30})
    flat = (np.asarray(made.signals) == 0).all(axis=2).sum(axis=1)
    # One chest lead, or five limb leads, in those that were off from the start and at no rail or at one.
    assert set(flat) <= {0, 1, 5}
    assert (flat > 0).mean() > 0.4


def test_the_rate_is_what_was_asked_for():
    made = simulated_hospitals(hospitals=1, patients=3, seed=0, rate=500)
    assert (made.info.rate, made.info.samples, made.signals.shape[1:]) == (500, 5000, (12, 5000))


def test_labels_are_those_of_the_findings_that_were_drawn(monkeypatch):
    seen = []
    draw = hospitals_module.draw_records

    def spy(people, severities, *args, **settings):
        seen.append(severities)
        return draw(people, severities, *args, **settings)

    monkeypatch.setattr(hospitals_module, "draw_records", spy)
    made = simulated_hospitals(**SETTINGS)
    np.testing.assert_array_equal(labels_of(np.concatenate(seen)), made.labels)
