"""What NeuroKit2 measures on records: against simulated hearts whose measures are exact, and what is kept of it."""

import numpy as np
import pytest

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.leads import LEADS
from core.ecg.preprocessing import normalise
from core.errors import DataError
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import Recipe, generate, to_int16
from simulations.studies import features as measuring
from simulations.studies.features import FEATURES, MEASURED, feature_notes, features, measure_record

COUNT = 16
HEARTS = Recipe(size=COUNT, seed=9, rate=500, noise=0.2)


@pytest.fixture(scope="module")
def hearts():
    made = generate(HEARTS, 0, COUNT)
    return made.signals.numpy(), made


@pytest.fixture(scope="module")
def measured(hearts):
    return np.stack([measure_record(signal, 500) for signal in hearts[0]])


def set_of(signals: np.ndarray, rate: int = 500, **info) -> EcgDataset:
    table = simulated_hospitals(hospitals=1, patients=COUNT, seed=0, seconds=5.0).records.iloc[: len(signals)]
    described = {"normalisation": "none", "scale": 0.001, "simulated": True} | info
    return EcgDataset(
        to_int16(signals) if described["normalisation"] == "none" else signals.astype(np.float16),
        table.reset_index(drop=True).assign(record=[f"{number:03d}" for number in range(len(signals))]),
        DatasetInfo(
            name="hearts",
            rate=rate,
            samples=signals.shape[-1],
            leads=LEADS,
            band=(0.5, 40.0),
            source="test",
            **described,
        ),
    )


@pytest.mark.parametrize(("name", "tolerance"), [("hr", 1.0), ("qrs", 15.0), ("qt", 25.0), ("qtc", 25.0)])
def test_rate_and_intervals_are_those_the_hearts_were_drawn_with(hearts, measured, name, tolerance):
    found, true = measured[:, MEASURED.index(name)], hearts[1].column(name)
    assert np.nanmedian(np.abs(found - true)) < tolerance


@pytest.mark.parametrize(("wave", "tolerance"), [("st", 0.05), ("t", 0.06)])
def test_amplitudes_are_in_millivolt_in_each_lead(hearts, measured, wave, tolerance):
    columns = [MEASURED.index(f"{wave}_{lead}") for lead in LEADS]
    true = np.stack([hearts[1].column(f"{wave}_{lead}") for lead in LEADS], axis=1)
    errors = np.abs(measured[:, columns] - true)
    assert (np.nanmedian(errors, axis=0) < tolerance).all()


def test_the_axis_is_the_one_the_hearts_were_drawn_with(hearts, measured):
    off = (measured[:, MEASURED.index("axis")] - hearts[1].column("axis") + 180) % 360 - 180
    assert np.nanmedian(np.abs(off)) < 10


def test_r_is_the_height_and_q_and_s_the_depths_of_qrs(hearts, measured):
    r, q, s = (measured[:, [MEASURED.index(f"{wave}_{lead}") for lead in LEADS]] for wave in "rqs")
    known = np.isfinite(r).all(axis=1)
    assert known.sum() >= COUNT - 4
    assert (r[known] >= 0).all()
    assert (q[known] <= 0).all()
    assert (s[known] <= 0).all()
    # V1 looks away from the left ventricle, V5 at it.
    assert np.median(-s[known][:, LEADS.index("V1")]) > np.median(r[known][:, LEADS.index("V1")])
    assert np.median(r[known][:, LEADS.index("V5")]) > np.median(-s[known][:, LEADS.index("V5")])


def test_twice_the_voltage_doubles_amplitudes_and_moves_neither_intervals_nor_axis(hearts, measured):
    twice = measure_record(2 * hearts[0][0], 500)
    first = MEASURED.index("q_I")
    np.testing.assert_allclose(twice[:first], measured[0, :first], rtol=1e-6)
    np.testing.assert_allclose(twice[first:], 2 * measured[0, first:], rtol=1e-5, atol=1e-6)


def test_a_flat_lead_ii_leaves_everything_unknown_and_is_counted(hearts, tmp_path):
    signals = hearts[0][:3].copy()
    signals[1, LEADS.index("II")] = 0
    dataset = set_of(signals)
    table = features(dataset, tmp_path)
    assert table.loc[1, list(MEASURED)].isna().all()
    assert table.loc[[0, 2], "hr"].notna().all()
    assert feature_notes(dataset, table)[0] == (
        "NeuroKit2 found no beats in 1 of 3 records; their features are unknown."
    )


def test_age_and_sex_come_from_the_set_and_columns_from_nothing_else(hearts, tmp_path):
    dataset = set_of(hearts[0][:2])
    table = features(dataset, tmp_path)
    assert tuple(table.columns) == FEATURES
    np.testing.assert_array_equal(table["age"], dataset.records["age"])
    np.testing.assert_array_equal(table["sex"], dataset.records["sex"])


def test_z_scored_records_have_no_axis_and_say_in_what_their_amplitudes_are(hearts, tmp_path):
    dataset = set_of(normalise(hearts[0][:3], "lead-zscore"), normalisation="lead-zscore", scale=1.0)
    table = features(dataset, tmp_path)
    assert table["axis"].isna().all()
    assert table["r_V5"].median() > 2
    assert "standard deviations of each lead" in feature_notes(dataset, table)[-1]


class TestWhatIsKept:
    def test_records_are_measured_once(self, hearts, tmp_path, monkeypatch):
        dataset = set_of(hearts[0][:2])
        first = features(dataset, tmp_path)
        monkeypatch.setattr(measuring, "_measure_all", lambda *_: pytest.fail("measured again"))
        told = []
        again = features(dataset, tmp_path, progress=told.append)
        # Text in between: every digit is kept.
        assert first.equals(again)
        assert told == [2]

    def test_a_measuring_that_was_ended_goes_on_where_it_was(self, hearts, tmp_path, monkeypatch):
        dataset = set_of(hearts[0][:5])
        whole = features(dataset, tmp_path / "alone")
        monkeypatch.setattr(measuring, "_BLOCK", 2)
        rows = []

        def measure(leads, rate, proportional):
            if len(rows) == 3:
                raise KeyboardInterrupt
            rows.append(measure_record(leads, rate, proportional=proportional))
            return rows[-1]

        monkeypatch.setattr(measuring, "measure_record", measure)
        with pytest.raises(KeyboardInterrupt):
            features(dataset, tmp_path / "ended")
        monkeypatch.setattr(measuring, "measure_record", measure_record)
        told = []
        # The block of two that was whole is kept, of the second only begun.
        assert features(dataset, tmp_path / "ended", progress=told.append).equals(whole)
        assert told == [2, 1, 1, 1]
        assert len(list((tmp_path / "ended").iterdir())) == 1

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY torn", b"PK\x03\x04"])
    def test_a_damaged_beginning_is_measured_anew(self, hearts, tmp_path, content):
        dataset = set_of(hearts[0][:2])
        first = features(dataset, tmp_path)
        (kept,) = tmp_path.iterdir()
        kept.unlink()
        kept.with_suffix(".begun.npy").write_bytes(content)
        assert features(dataset, tmp_path).equals(first)

    def test_a_place_that_is_no_folder_is_told_before_anything_is_measured(self, hearts, tmp_path, monkeypatch):
        monkeypatch.setattr(measuring, "measure_record", lambda *_, **__: pytest.fail("measured"))
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(DataError, match=r"the features cannot be written to .*file \(.*\); give a folder"):
            features(set_of(hearts[0][:2]), tmp_path / "file")

    def test_another_set_is_measured_on_its_own(self, hearts, tmp_path):
        one, other = (features(set_of(hearts[0][rows]), tmp_path) for rows in (slice(0, 2), slice(2, 4)))
        assert not one["hr"].equals(other["hr"])
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize("text", ["", "hr,pr\n60,160\n", "a file of somebody else"])
    def test_a_damaged_file_is_measured_anew(self, hearts, tmp_path, text):
        dataset = set_of(hearts[0][:2])
        first = features(dataset, tmp_path)
        (kept,) = tmp_path.iterdir()
        kept.write_text(text)
        assert features(dataset, tmp_path).equals(first)


@pytest.mark.slow
def test_two_processes_measure_what_one_does(hearts, tmp_path):
    dataset = set_of(hearts[0][:6])
    assert features(dataset, tmp_path / "one").equals(features(dataset, tmp_path / "two", jobs=2))
