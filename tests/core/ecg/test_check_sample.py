"""What NeuroKit2 and the spectrum tell of a sample."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_ecgs import made_up_records

from core.ecg.checking import sampled
from core.ecg.checking.preflight import check_set
from core.ecg.checking.sampled import Sample, draw_sample, sample_findings
from core.ecg.checking.scan import scan
from core.ecg.dataset import DatasetInfo, EcgDataset, encode
from core.ecg.leads import LEADS
from core.errors import DataError
from core.synthetic.hospitals import simulated_hospitals

Make = Callable[..., EcgDataset]


@pytest.fixture(scope="module")
def hospital() -> EcgDataset:
    return simulated_hospitals(hospitals=1, patients=40, seed=3)


def test_the_sample_is_the_same_for_the_same_seed_and_measured(hospital: EcgDataset):
    seen = scan(hospital)
    told: list[int] = []
    one = draw_sample(hospital, seen, 8, seed=1, progress=told.append)
    assert sum(told) == 8
    assert np.array_equal(one.rows, draw_sample(hospital, seen, 8, seed=1).rows)
    assert not np.array_equal(one.rows, draw_sample(hospital, seen, 8, seed=2).rows)
    assert 40 < np.median(one.interval("hr")) < 140
    assert len(one.interval("qt")) == 0
    assert set(one.quality) <= {"Excellent", "Barely acceptable", "Unacceptable"}


def test_whole_intervals_are_measured_on_demand(hospital: EcgDataset):
    found = draw_sample(hospital, scan(hospital), 4, whole_intervals=True)
    assert 250 < np.median(found.interval("qt")) < 550


def test_blank_records_are_never_sampled(make_dataset: Make):
    dataset = make_dataset(10)
    signals = dataset.signals.copy()
    signals[:6] = 0
    changed = EcgDataset(signals, dataset.records, dataset.info)
    assert draw_sample(changed, scan(changed), 5).rows.tolist() == [6, 7, 8, 9]
    signals[:] = 0
    changed = EcgDataset(signals, dataset.records, dataset.info)
    blank = draw_sample(changed, scan(changed), 5)
    assert len(blank.rows) == 0
    assert [found.level for found in sample_findings(changed, blank)] == ["note"]


def test_the_spectrum_shows_the_amplitude_of_a_sine():
    info = DatasetInfo("x", 500, 5000, LEADS, "none", None, 0.001, "test")
    sine = 0.4 * np.sin(2 * np.pi * 20 * np.arange(5000) / 500)
    values = np.broadcast_to(sine, (2, 12, 5000))
    dataset = EcgDataset(encode(values, "none")[0], made_up_records(2), info)
    found = draw_sample(dataset, scan(dataset), 2)
    peak = np.argmax(found.spectrum[3])
    assert found.frequencies[peak] == pytest.approx(20)
    assert found.spectrum[3, peak] == pytest.approx(0.4, rel=0.01)
    assert found.frequencies[-1] == 100
    # All of its power lies between 15 and 40 Hz.
    assert found.fast_share == pytest.approx([1, 1], abs=0.01)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), stored=st.sampled_from(["none", "lead-zscore", "record-robust"]))
def test_whatever_a_set_holds_there_are_findings_and_no_error_of_the_program(data, stored):
    count, samples = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 260))
    rate = data.draw(st.sampled_from([1, 50, 100, 250, 500]))
    kind = np.int16 if stored == "none" else np.float16
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = data.draw(st.sampled_from([0, 1, 300, 32767]))
    values = np.clip(rng.standard_normal((count, 12, samples)) * size, -32768, 32767).astype(kind)
    if stored != "none" and data.draw(st.booleans()):
        values[0, rng.integers(12), rng.integers(samples)] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    if data.draw(st.booleans()):
        values[-1] = values[0]
    if data.draw(st.booleans()):
        values[:, data.draw(st.integers(0, 11))] = 0
    table = made_up_records(count).assign(
        age=data.draw(st.floats(allow_nan=True, allow_infinity=True)),
        fold=data.draw(st.integers(-3, 20)),
        missing_leads=data.draw(st.sampled_from(["", "V1", "I II", "no lead"])),
        seconds=data.draw(st.floats(allow_nan=True, allow_infinity=True)),
        patient=data.draw(st.sampled_from(["", "a"])),
    )
    info = DatasetInfo("x", rate, samples, LEADS, stored, None, 0.001 if stored == "none" else 1.0, "test")
    found = check_set(EcgDataset(values, table, info), sample=2)
    assert {each.level for each in found.findings} <= {"ok", "note", "warning", "error"}
    for each in found.findings:
        assert each.count >= len(each.records)
        assert "nan" not in each.said
        assert each.mend or each.level in ("ok", "note")


def sample_of(rates: list[float], quality: list[str] | None = None) -> Sample:
    intervals = np.full((len(rates), 4), np.nan)
    intervals[:, 0] = rates
    return Sample(
        np.arange(len(rates)),
        intervals,
        np.array(quality or ["Excellent"] * len(rates)),
        np.zeros(1),
        np.zeros((12, 1)),
        np.zeros(len(rates)),
    )


@pytest.mark.parametrize(
    ("rate", "level"), [(36.0, "error"), (46.0, "warning"), (70.0, "ok"), (120.0, "warning"), (140.0, "error")]
)
def test_hearts_that_beat_twice_as_fast_betray_a_wrong_rate(make_dataset: Make, rate, level):
    found = [each for each in sample_findings(make_dataset(5), sample_of([rate] * 5)) if each.check == "heart rate"]
    assert [each.level for each in found] == [level]
    assert ("sampling rate" in found[0].mend) == (level != "ok")


def test_leads_without_beats_are_a_warning_that_names_them(make_dataset: Make):
    rates = [np.nan, 70.0, np.nan, 70.0, 70.0]
    found = [each for each in sample_findings(make_dataset(5), sample_of(rates)) if each.level == "warning"]
    assert [each.records for each in found] == [("r000", "r002")]


@pytest.mark.parametrize(("bad", "level"), [(0, "ok"), (3, "note"), (4, "warning")])
def test_much_noise_is_a_warning(make_dataset: Make, bad, level):
    judged = ["Unacceptable"] * bad + ["Excellent"] * (10 - bad)
    found = [
        each for each in sample_findings(make_dataset(10), sample_of([70.0] * 10, judged)) if each.check == "quality"
    ]
    assert [(each.level, each.count) for each in found] == [(level, bad)]


def test_without_neurokit_the_rest_is_looked_at(make_dataset: Make, monkeypatch):
    def absent() -> None:
        raise DataError("not installed")

    monkeypatch.setattr(sampled, "require_neurokit", absent)
    found = check_set(make_dataset(6), sample=3)
    rates = [each for each in found.findings if each.check == "heart rate"]
    assert [(each.level, "pip install" in each.mend) for each in rates] == [("note", True)]
    assert not found.sample.measured


def test_a_simulated_hospital_has_nothing_grave_and_the_gravest_comes_first(hospital: EcgDataset):
    begun: list[tuple[str, int]] = []
    done = [0]

    def begin(title: str, total: int) -> Callable[[int], object]:
        begun.append((title, total))
        return lambda count: done.__setitem__(0, done[0] + count)

    found = check_set(hospital, sample=3, recipe=hospital, begin=begin)
    levels = [each.level for each in found.findings]
    assert "error" not in levels
    assert levels == sorted(levels, key=["error", "warning", "note", "ok"].index)
    assert [title for title, _ in begun] == ["signals", "NeuroKit2", "recipe", "NeuroKit2, recipe"]
    assert done[0] == sum(total for _, total in begun)
    # Compared with itself, nothing drifts; of three records no interval is compared.
    assert [shift.what for shift in found.shifts] == ["amplitude of limb leads", "amplitude of chest leads"]
    assert not any(shift.large for shift in found.shifts)
