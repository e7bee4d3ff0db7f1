import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_ecgs import made_up_records, made_up_signal

from core.ecg.dataset import EcgDataset
from core.ecg.importing import import_source, merge
from core.ecg.journal import ImportJournal
from core.ecg.preprocessing import band_pass, normalise
from core.errors import DataError


def zscored(signals: np.ndarray) -> np.ndarray:
    return (signals - signals.mean(-1, keepdims=True)) / signals.std(-1, keepdims=True)


def test_an_import_is_filtered_millivolt_with_its_records(make_ptbxl, tmp_path):
    report = import_source("ptbxl", make_ptbxl(), tmp_path / "out")
    made = EcgDataset.open(tmp_path / "out")
    assert made.info == report.info
    assert (report.records, report.patients, report.unlabelled) == (6, 4, 1)
    assert (made.info.rate, made.info.samples, made.info.band) == (100, 1000, (0.5, 40.0))
    for row in range(6):
        expected = band_pass(np.round(made_up_signal(row + 1, 100), 3), 100)
        # Half a microvolt of storage on each side of the filter, whose gain is near one.
        np.testing.assert_allclose(made.batch([row], "none")[0], expected, atol=0.002)


@pytest.mark.parametrize("rate", [100, 250, 500])
def test_any_rate_and_length_can_be_made(make_ptbxl, tmp_path, rate):
    import_source("ptbxl", make_ptbxl(count=2), tmp_path / "out", rate=rate, seconds=4)
    made = EcgDataset.open(tmp_path / "out")
    assert made.signals.shape == (2, 12, 4 * rate)
    # The middle 4 s of the beat of 1.2 Hz and its harmonics, whatever the rate.
    expected = band_pass(made_up_signal(1, 500), 500)[:, 1500:3500:5]
    step = rate // 50
    np.testing.assert_allclose(made.batch([0], "none")[0][:, ::step], expected[:, ::2], atol=0.06)


@pytest.mark.parametrize("mode", ["lead-zscore", "record-robust"])
def test_a_normalised_import_is_the_normalised_plain_one(make_ptbxl, tmp_path, mode):
    folder = make_ptbxl()
    import_source("ptbxl", folder, tmp_path / "plain")
    import_source("ptbxl", folder, tmp_path / "normalised", normalisation=mode)
    plain, made = EcgDataset.open(tmp_path / "plain"), EcgDataset.open(tmp_path / "normalised")
    assert made.signals.dtype == np.float16
    np.testing.assert_allclose(made.batch(range(6), mode), normalise(plain.batch(range(6), "none"), mode), atol=0.02)


def test_eight_leads_are_completed(make_arrays, tmp_path):
    signals = np.stack([made_up_signal(i, 100, leads=8) for i in range(3)])
    import_source("arrays", make_arrays(signals), tmp_path / "out")
    batch = EcgDataset.open(tmp_path / "out").batch(range(3), "none")
    # Einthoven and Goldberger hold after filtering and rounding to a microvolt each.
    np.testing.assert_allclose(batch[:, 0] + batch[:, 2], batch[:, 1], atol=0.0016)
    np.testing.assert_allclose(batch[:, 3] + batch[:, 4] + batch[:, 5], 0, atol=0.0016)


def test_zscored_arrays_are_stored_as_they_are_and_not_filtered_again(make_arrays, tmp_path):
    signals = zscored(np.stack([made_up_signal(i, 100) for i in range(4)])).astype(np.float16)
    report = import_source("arrays", make_arrays(signals), tmp_path / "out")
    made = EcgDataset.open(tmp_path / "out")
    assert np.array_equal(made.signals, signals)
    assert (made.info.normalisation, made.info.band) == ("lead-zscore", (0.5, 40.0))
    assert any("not filtered again" in note for note in report.notes)
    with pytest.raises(DataError, match=r"stored as lead-zscore, .* cannot be given as none"):
        import_source("arrays", tmp_path / "arrays", tmp_path / "other", normalisation="none")


def test_zscored_eight_leads_cannot_be_completed(make_arrays, tmp_path):
    signals = zscored(np.stack([made_up_signal(i, 100, leads=8) for i in range(4)]))
    with pytest.raises(DataError, match="record r000: 8 z-scored leads cannot be completed"):
        import_source("arrays", make_arrays(signals), tmp_path / "out")


def test_signals_filtered_already_keep_their_band(make_arrays, tmp_path):
    signals = np.stack([made_up_signal(i, 100) for i in range(2)])
    folder = make_arrays(signals, description={"units": "mV", "band": [0.05, 45]})
    import_source("arrays", folder, tmp_path / "out")
    made = EcgDataset.open(tmp_path / "out")
    assert made.info.band == (0.05, 45.0)
    np.testing.assert_allclose(made.batch([1], "none")[0], signals[1], atol=0.00051)


def test_without_a_band_nothing_is_filtered(make_arrays, tmp_path):
    signals = np.stack([made_up_signal(i, 100) for i in range(2)]) + 1.5
    import_source("arrays", make_arrays(signals), tmp_path / "out", band=None)
    made = EcgDataset.open(tmp_path / "out")
    assert made.info.band is None
    np.testing.assert_allclose(made.batch([1], "none")[0], signals[1], atol=0.00051)


def test_clipped_samples_are_counted(make_arrays, tmp_path):
    signals = np.stack([made_up_signal(i, 100) for i in range(2)])
    signals[1, 3, 500:507] = 90.0
    report = import_source("arrays", make_arrays(signals), tmp_path / "out", band=None)
    assert report.clipped == 7
    assert EcgDataset.open(tmp_path / "out").batch([1], "none").max() == pytest.approx(32.767, abs=1e-5)


def _spoil_lead(value):
    def spoil(signals):
        signals[2, 7] = value

    return spoil


def _spoil_sample(signals):
    signals[2, 7, 30] = np.inf


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_spoil_lead(0.0), "record r002: lead V2 is flat"),
        (_spoil_lead(0.3), "record r002: lead V2 is flat"),
        (_spoil_lead(np.nan), "record r002: lead V2 has samples that are no number"),
        (_spoil_sample, "record r002: lead V2 has samples that are no number"),
    ],
)
def test_a_broken_record_is_refused_with_nothing_left_or_left_out_and_listed(make_arrays, tmp_path, spoil, message):
    signals = np.stack([made_up_signal(i, 100) for i in range(6)])
    spoil(signals)
    folder = make_arrays(signals)
    with pytest.raises(DataError, match=message):
        import_source("arrays", folder, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["arrays"]
    report = import_source("arrays", folder, tmp_path / "out", skip_broken=True)
    assert [record for record, _ in report.skipped] == ["r002"]
    assert message in report.skipped[0][1]
    made = EcgDataset.open(tmp_path / "out")
    assert made.records["record"].tolist() == ["r000", "r001", "r003", "r004", "r005"]
    np.testing.assert_allclose(made.batch([2], "none")[0], band_pass(signals[3], 100), atol=0.00051)


def test_a_truncated_record_file_stops_the_import_or_is_left_out(make_ptbxl, tmp_path):
    folder = make_ptbxl()
    path = folder / "records100" / "00000" / "00004_lr.dat"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"record ptbxl-00004: .* is truncated"):
        import_source("ptbxl", folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ptbxl"]
    assert len(import_source("ptbxl", folder, tmp_path / "out", skip_broken=True).skipped) == 1


def test_a_folder_of_broken_records_only_is_refused(make_arrays, tmp_path):
    with pytest.raises(DataError, match=r"has no usable record \(record r000: lead I is flat"):
        import_source("arrays", make_arrays(np.zeros((3, 12, 1000))), tmp_path / "out", skip_broken=True)
    assert [p.name for p in tmp_path.iterdir()] == ["arrays"]


def test_an_existing_set_is_replaced_only_when_asked(make_ptbxl, tmp_path):
    folder = make_ptbxl()
    import_source("ptbxl", folder, tmp_path / "out")
    with pytest.raises(DataError, match="exists already; choose another folder or say --overwrite"):
        import_source("ptbxl", folder, tmp_path / "out", seconds=5)
    import_source("ptbxl", folder, tmp_path / "out", seconds=5, overwrite=True)
    assert EcgDataset.open(tmp_path / "out").info.samples == 500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "ptbxl"]


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rate": 0}, "at 0 Hz is impossible"),
        ({"seconds": -1}, "-1 s at 100 Hz is impossible"),
        ({"band": (0.5, 60.0)}, "60 Hz is impossible at 100 Hz"),
        ({"normalisation": "minmax"}, "'minmax' is unknown"),
    ],
)
def test_impossible_settings_are_refused_before_anything_is_made(make_ptbxl, tmp_path, settings_, message):
    with pytest.raises(DataError, match=message):
        import_source("ptbxl", make_ptbxl(), tmp_path / "out", **settings_)
    assert [p.name for p in tmp_path.iterdir()] == ["ptbxl"]


def test_progress_counts_every_record(make_ptbxl, tmp_path):
    seen = []
    import_source("ptbxl", make_ptbxl(), tmp_path / "out", progress=lambda *counts: seen.append(counts))
    assert seen == [(n, 6) for n in range(1, 7)]


def interrupt_after(count):
    def progress(done, total):
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_import_goes_on_where_it_stopped(make_ptbxl, tmp_path):
    folder = make_ptbxl()
    broken = folder / "records100" / "00000" / "00002_lr.dat"
    broken.write_bytes(b"")
    whole = import_source("ptbxl", folder, tmp_path / "whole", skip_broken=True)
    with pytest.raises(KeyboardInterrupt):
        import_source("ptbxl", folder, tmp_path / "out", skip_broken=True, progress=interrupt_after(4))
    assert not (tmp_path / "out").exists()
    seen = []
    report = import_source(
        "ptbxl", folder, tmp_path / "out", skip_broken=True, progress=lambda done, _: seen.append(done)
    )
    assert seen == [5, 6]
    assert report.resumed == 4
    assert report.skipped == whole.skipped
    assert report.info.fingerprint == whole.info.fingerprint == EcgDataset.open(tmp_path / "out").fingerprint
    assert not (tmp_path / "out.partial").exists()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "dataset.json",
        "records.csv",
        "signals.npy",
    ]


@pytest.mark.parametrize("change", [{"rate": 500}, {"normalisation": "lead-zscore"}, {"band": None}])
def test_an_interrupted_import_of_other_settings_starts_again(make_ptbxl, tmp_path, change):
    folder = make_ptbxl()
    with pytest.raises(KeyboardInterrupt):
        import_source("ptbxl", folder, tmp_path / "out", progress=interrupt_after(4))
    report = import_source("ptbxl", folder, tmp_path / "out", **change)
    assert report.resumed == 0
    clean = import_source("ptbxl", folder, tmp_path / "clean", **change)
    assert report.info.fingerprint == clean.info.fingerprint


@pytest.mark.parametrize("lost", [1, 1000])
def test_a_record_cut_short_in_the_partial_folder_is_made_again(make_ptbxl, tmp_path, lost):
    """What a kill between writing samples and journal leaves: a torn journal line, and a torn record."""
    folder = make_ptbxl()
    whole = import_source("ptbxl", folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        import_source("ptbxl", folder, tmp_path / "out", progress=interrupt_after(4))
    journal = tmp_path / "out.partial" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-3])
    signals = tmp_path / "out.partial" / "signals.npy"
    signals.write_bytes(signals.read_bytes()[:-lost])
    report = import_source("ptbxl", folder, tmp_path / "out")
    assert report.resumed == 3
    assert report.info.fingerprint == whole.info.fingerprint


def test_a_killed_import_goes_on_in_another_process(make_ptbxl, tmp_path):
    folder = make_ptbxl()
    whole = import_source("ptbxl", folder, tmp_path / "whole")
    script = textwrap.dedent(
        """
        import os, signal, sys
        from core.ecg.importing import import_source
        def die(done, total):
            if done == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        import_source("ptbxl", sys.argv[1], sys.argv[2], progress=die)
        """
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, folder, tmp_path / "out"],
        cwd=Path(__file__).parents[3],
        check=False,
        env=os.environ,
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    report = import_source("ptbxl", folder, tmp_path / "out")
    assert report.resumed == 3
    assert report.info.fingerprint == whole.info.fingerprint


def test_two_imports_do_not_write_into_one_folder(make_ptbxl, tmp_path):
    with (
        ImportJournal.opened(tmp_path / "out.partial", {}),
        pytest.raises(DataError, match="is being written by another import"),
    ):
        import_source("ptbxl", make_ptbxl(), tmp_path / "out")
    assert (tmp_path / "out.partial").is_dir()


def write_part(make_dataset, rows, path, **info):
    made = make_dataset(12, **info)
    made.select(rows).write(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(
    a=st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True),
    b=st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True),
)
def test_a_merge_holds_each_record_once_and_merging_again_adds_none(make_dataset, tmp_path_factory, a, b):
    folder = tmp_path_factory.mktemp("merge")
    write_part(make_dataset, a, folder / "a")
    write_part(make_dataset, b, folder / "b")
    report = merge(folder / "a", folder / "b", folder / "ab")
    merged = EcgDataset.open(folder / "ab")
    expected = a + [row for row in b if row not in a]
    assert merged.records["record"].tolist() == [f"r{row:03d}" for row in expected]
    assert np.array_equal(merged.signals, make_dataset(12).signals[expected])
    assert report.duplicates == len(set(a) & set(b))
    assert report.records == len(expected)
    again = merge(folder / "ab", folder / "b", folder / "abb")
    assert again.duplicates == len(b)
    assert again.info.fingerprint == merged.fingerprint


def test_of_a_record_in_both_sets_that_of_a_stays(make_dataset, tmp_path):
    make_dataset(4, seed=0).write(tmp_path / "a")
    make_dataset(6, seed=50).write(tmp_path / "b")
    merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    merged = EcgDataset.open(tmp_path / "ab")
    assert np.array_equal(merged.signals[:4], make_dataset(4, seed=0).signals)
    assert np.array_equal(merged.signals[4:], make_dataset(6, seed=50).signals[4:])


class TestSitesOfAMerge:
    def test_are_one_a_set_where_they_are_named_however_many_sets(self, make_dataset, tmp_path):
        for name, rows in (("a", [0, 1, 2]), ("b", [2, 3, 4, 5]), ("c", [6])):
            write_part(make_dataset, rows, tmp_path / name)
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab", site_a="north", site_b="south")
        merge(tmp_path / "ab", tmp_path / "c", tmp_path / "abc", site_b="west")
        merged = EcgDataset.open(tmp_path / "abc").records
        assert merged["record"].tolist() == [f"r{row:03d}" for row in (0, 1, 2, 3, 4, 5, 6)]
        assert merged["site"].tolist() == ["north"] * 3 + ["south"] * 3 + ["west"]

    def test_are_the_records_own_by_default(self, make_dataset, tmp_path):
        write_part(make_dataset, [0, 1], tmp_path / "a")
        write_part(make_dataset, [2, 3], tmp_path / "b")
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab", site_b="south")
        assert EcgDataset.open(tmp_path / "ab").records["site"].tolist() == ["", "a", "south", "south"]

    def test_stand_beside_devices_that_one_set_alone_names(self, make_dataset, tmp_path):
        first, second = make_dataset(12).select([0, 1]), make_dataset(12).select([2, 3])
        EcgDataset(first.signals, first.records.assign(device=["CS 100", ""]), first.info).write(tmp_path / "a")
        second.write(tmp_path / "b")
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
        assert EcgDataset.open(tmp_path / "ab").records["device"].tolist() == ["CS 100", "", "", ""]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"rate": 200}, "rate 100 but .* has 200"),
        ({"normalisation": "lead-zscore"}, "normalisation none but .* has lead-zscore"),
        ({"band": (0.05, 40.0)}, r"band \(0\.5, 40\.0\) but .* has \(0\.05, 40\.0\)"),
        ({"band": None}, r"band \(0\.5, 40\.0\) but .* has None"),
        ({"simulated": True}, "simulated False but .* has True"),
    ],
)
def test_sets_that_differ_in_preprocessing_are_not_merged(make_dataset, tmp_path, other, difference):
    make_dataset(4).write(tmp_path / "a")
    make_dataset(4, **other).write(tmp_path / "b")
    with pytest.raises(DataError, match=difference):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_sets_of_other_lengths_are_not_merged(make_dataset, tmp_path):
    made = make_dataset(4)
    made.write(tmp_path / "a")
    EcgDataset(made.signals[..., :100], made.records, replace(made.info, samples=100)).write(tmp_path / "b")
    with pytest.raises(DataError, match=r"samples 200 but .* has 100"):
        merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")


def test_a_merge_is_not_written_over_something(make_dataset, tmp_path):
    make_dataset(4).write(tmp_path / "a")
    with pytest.raises(DataError, match="a exists already"):
        merge(tmp_path / "a", tmp_path / "a", tmp_path / "a")


def test_a_large_merge_reads_in_parts(make_dataset, tmp_path):
    """More records than one block of the copy."""
    records = made_up_records(1300)
    made = make_dataset(2)
    signals = np.repeat(made.signals[:, :, :20], 650, axis=0)
    signals[:, 0, 0] = np.arange(1300)
    info = replace(made.info, samples=20)
    EcgDataset(signals[:700], records[:700], info).write(tmp_path / "a")
    EcgDataset(signals[600:], records[600:], info).write(tmp_path / "b")
    merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert np.array_equal(EcgDataset.open(tmp_path / "ab").signals, signals)


@pytest.mark.real_data
def test_the_real_set_has_1908_labelled_records_split_by_fold(real_data, tmp_path):
    # The counts of the data set's own README.
    first = import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "a", normalisation="lead-zscore")
    import_source("arrays", real_data / "ptbxl-zscored", tmp_path / "b")
    report = merge(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    assert (first.records, first.patients, first.unlabelled) == (500, 466, 12)
    assert (report.records, report.duplicates, report.unlabelled) == (1920, 22, 12)
    merged = EcgDataset.open(tmp_path / "ab")
    fold = merged.records["fold"].to_numpy()
    assert merged.labelled.sum() == 1908
    assert (merged.labelled & (fold <= 7)).sum() == 1570
    assert (merged.labelled & (fold >= 8)).sum() == 338


@pytest.mark.real_data
def test_own_preprocessing_reproduces_the_zscored_copies_of_the_same_records(real_data, tmp_path):
    import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "a", normalisation="lead-zscore", source_rate=500)
    import_source("arrays", real_data / "ptbxl-zscored", tmp_path / "b")
    ours, theirs = (EcgDataset.open(tmp_path / name) for name in "ab")
    both = sorted(set(ours.records["record"]) & set(theirs.records["record"]))
    assert len(both) == 22
    rows = [[made.records["record"].tolist().index(record) for record in both] for made in (ours, theirs)]
    assert np.array_equal(ours.labels[rows[0]], theirs.labels[rows[1]])
    for column in ("fold", "age", "sex"):
        assert np.array_equal(ours.records[column][rows[0]], theirs.records[column][rows[1]])
    difference = ours.batch(rows[0], "lead-zscore") - theirs.batch(rows[1], "lead-zscore")
    assert np.abs(difference).mean() < 1e-3


@pytest.mark.real_data
@pytest.mark.parametrize("rate", [100, 500])
def test_both_rates_of_the_real_folder_give_physiological_millivolt(real_data, tmp_path, rate):
    report = import_source("ptbxl", real_data / "ptbxl-500", tmp_path / "out", rate=rate)
    assert (report.records, report.clipped) == (500, 0)
    batch = EcgDataset.open(tmp_path / "out").batch(range(0, 500, 10), "none")
    assert batch.shape == (50, 12, 10 * rate)
    assert 0.5 < np.median(np.ptp(batch, axis=-1)) < 2.5
    # The recorder computed the other limb leads from I and II, so Einthoven holds but for its rounding.
    assert np.median(np.abs(batch[:, 0] + batch[:, 2] - batch[:, 1])) < 0.005


def test_the_journal_names_the_import_it_belongs_to(make_ptbxl, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        import_source("ptbxl", make_ptbxl(), tmp_path / "out", progress=interrupt_after(2))
    first, *entries = (tmp_path / "out.partial" / "journal.jsonl").read_text().splitlines()
    assert json.loads(first)["source"] == "ptbxl"
    assert [json.loads(entry)["row"] for entry in entries] == [0, 1]
