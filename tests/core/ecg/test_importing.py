import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from made_up_ecgs import made_up_records, made_up_signal

from core.ecg import importing
from core.ecg.dataset import EcgDataset
from core.ecg.importing import import_source
from core.ecg.journal import ImportJournal
from core.ecg.leads import LEADS
from core.ecg.merging import merge
from core.ecg.preprocessing import band_pass, normalise
from core.ecg.sources import Recording, Source
from core.errors import DataError


def zscored(signals: np.ndarray) -> np.ndarray:
    return (signals - signals.mean(-1, keepdims=True)) / signals.std(-1, keepdims=True)


@pytest.fixture
def from_recordings(monkeypatch, tmp_path):
    """Import what a function gives for each row: ``from_recordings(count, read, out="out", folds=None, ...)``."""

    def imported(count, read, out="out", folds=None, progress=None, **source):
        table = made_up_records(count)
        opened = Source("made-up", table if folds is None else table.assign(fold=folds), read, **source)
        monkeypatch.setattr(importing, "open_source", lambda *_, **__: opened)
        return import_source("made-up", tmp_path, tmp_path / out, progress=progress)

    return imported


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


def without_any_number(signals):
    signals[2] = np.nan


def with_one_lead(signals):
    signals[2, 1:] = 0.25


def without_one_and_two(signals):
    signals[2, :2] = np.nan
    signals[2, 2:6] = 0.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_any_number, "record r002: 0 of its leads can be used and two are needed"),
        (with_one_lead, "record r002: 1 of its leads can be used and two are needed"),
        (without_one_and_two, "record r002: neither lead I nor lead II can be used"),
    ],
)
def test_a_broken_record_is_left_out_and_listed_or_refuses_the_folder(make_arrays, tmp_path, spoil, message):
    signals = np.stack([made_up_signal(i, 100) for i in range(6)])
    spoil(signals)
    folder = make_arrays(signals)
    with pytest.raises(DataError, match=message):
        import_source("arrays", folder, tmp_path / "out", skip_broken=False)
    assert [p.name for p in tmp_path.iterdir()] == ["arrays"]
    report = import_source("arrays", folder, tmp_path / "out")
    assert [record for record, _ in report.skipped] == ["r002"]
    assert message in report.skipped[0][1]
    made = EcgDataset.open(tmp_path / "out")
    assert made.records["record"].tolist() == ["r000", "r001", "r003", "r004", "r005"]
    np.testing.assert_allclose(made.batch([2], "none")[0], band_pass(signals[3], 100), atol=0.00051)


def test_a_truncated_record_file_is_left_out_or_stops_the_import(make_ptbxl, tmp_path):
    folder = make_ptbxl()
    path = folder / "records100" / "00000" / "00004_lr.dat"
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match=r"record ptbxl-00004: .* is truncated"):
        import_source("ptbxl", folder, tmp_path / "out", skip_broken=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ptbxl"]
    assert len(import_source("ptbxl", folder, tmp_path / "out").skipped) == 1


def test_a_file_that_cannot_be_read_is_a_broken_record_and_no_full_disk(tmp_path, from_recordings):
    def forbidden(row):
        if row == 1:
            raise PermissionError(13, "Permission denied")
        return Recording(made_up_signal(row, 100), LEADS, 100)

    report = from_recordings(4, forbidden)
    assert report.skipped == (("r001", "record r001: its file cannot be read (Permission denied); mend that"),)


@pytest.mark.parametrize(("broken", "refused"), [(3, False), (4, True)])
def test_more_than_half_of_the_records_broken_refuses_naming_the_first_three_reasons(
    make_arrays, tmp_path, broken, refused
):
    signals = np.stack([made_up_signal(i, 100) for i in range(6)])
    signals[:broken] = np.nan
    folder = make_arrays(signals)
    if not refused:
        assert import_source("arrays", folder, tmp_path / "out").records == 3
        return
    with pytest.raises(DataError) as told:
        import_source("arrays", folder, tmp_path / "out")
    reason = "record r00{}: 0 of its leads can be used and two are needed; leave the record out"
    assert str(told.value) == (
        f"more than half of the 6 records of {folder} cannot be used, so none is imported: "
        + "; ".join(reason.format(row) for row in range(3))
        + "; ..."
    )
    assert [p.name for p in tmp_path.iterdir()] == ["arrays"]


def test_a_folder_of_one_broken_record_is_refused(make_arrays, tmp_path):
    with pytest.raises(DataError, match=r"more than half of the 1 records .*: record r000: 0 of its leads"):
        import_source("arrays", make_arrays(np.zeros((1, 12, 1000)), description={"units": "mV"}), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["arrays"]


class TestWhatRecordsLack:
    def test_is_no_column_where_they_lack_nothing(self, make_ptbxl, tmp_path):
        report = import_source("ptbxl", make_ptbxl(), tmp_path / "out")
        assert (report.missing_leads, report.padded, report.cropped) == ({}, 0, 0)
        assert not {"missing_leads", "seconds"} & set(EcgDataset.open(tmp_path / "out").records)

    def test_are_leads_that_are_named_and_zero(self, make_arrays, tmp_path):
        signals = np.stack([made_up_signal(i, 100) for i in range(6)])
        signals[2, [7, 11]] = 0.3
        signals[4, 7, 100:200] = np.nan
        report = import_source("arrays", make_arrays(signals), tmp_path / "out")
        made = EcgDataset.open(tmp_path / "out")
        assert made.records["missing_leads"].tolist() == ["", "", "V2 V6", "", "V2", ""]
        assert report.missing_leads == {"V2": 2, "V6": 1}
        batch = made.batch(range(6), "none")
        assert np.argwhere(~batch.any(axis=-1)).tolist() == [[2, 7], [2, 11], [4, 7]]
        np.testing.assert_allclose(batch[2, :7], band_pass(signals[2, :7], 100), atol=0.00051)

    def test_is_length_which_is_told_for_all(self, tmp_path, from_recordings):
        lengths = [10, 6, 12.5, 10]
        report = from_recordings(4, lambda row: Recording(made_up_signal(row, 100, lengths[row]), LEADS, 100))
        assert (report.padded, report.cropped) == (1, 1)
        made = EcgDataset.open(report.path)
        assert made.records["seconds"].tolist() == lengths
        batch = made.batch(range(4), "none")
        # 6 s in the middle of 10, and the middle 10 s of 12.5.
        assert not batch[1, :, :200].any()
        assert not batch[1, :, 800:].any()
        expected = band_pass(made_up_signal(1, 100, 6), 100)
        np.testing.assert_allclose(batch[1, :, 200:800], expected, atol=0.00051)
        expected = band_pass(made_up_signal(2, 100, 12.5), 100)[:, 125:1125]
        np.testing.assert_allclose(batch[2], expected, atol=0.00051)

    def test_is_remembered_where_an_import_is_interrupted(self, tmp_path, from_recordings):
        def read(row):
            signal = made_up_signal(row, 100, 10 - row)
            signal[row] = 0
            return Recording(signal, LEADS, 100)

        whole = from_recordings(4, read)
        with pytest.raises(KeyboardInterrupt):
            from_recordings(4, read, out="again", progress=interrupt_after(3))
        again = from_recordings(4, read, out="again")
        assert again.resumed == 3
        assert again.info.fingerprint == whole.info.fingerprint
        assert again.missing_leads == whole.missing_leads
        assert (again.padded, again.cropped) == (whole.padded, whole.cropped) == (3, 0)

    def test_of_a_record_left_out_is_not_told(self, tmp_path, from_recordings):
        lengths = [10, 2, 10]
        report = from_recordings(3, lambda row: Recording(made_up_signal(row, 100, lengths[row]), LEADS, 100))
        assert len(report.skipped) == 1
        assert "seconds" not in EcgDataset.open(report.path).records


class TestFolds:
    def test_are_given_by_the_hash_of_the_patient_where_the_source_has_none(self, make_arrays, tmp_path):
        records = made_up_records(40).drop(columns="fold")
        folder = make_arrays(np.stack([made_up_signal(i, 100) for i in range(40)]), records)
        report = import_source("arrays", folder, tmp_path / "out")
        made = EcgDataset.open(tmp_path / "out").records
        digests = [hashlib.sha256(patient.encode()).hexdigest() for patient in made["patient"]]
        assert made["fold"].tolist() == [int(digest, 16) % 10 + 1 for digest in digests]
        assert (made.groupby("patient")["fold"].nunique() == 1).all()
        assert any("each patient is given one of 10" in note for note in report.notes)

    def test_stay_unknown_where_that_is_asked(self, make_arrays, tmp_path):
        folder = make_arrays(records=made_up_records(6).drop(columns="fold"))
        report = import_source("arrays", folder, tmp_path / "out", folds="none")
        assert not EcgDataset.open(tmp_path / "out").records["fold"].any()
        assert not any("given one of" in note for note in report.notes)
        with pytest.raises(DataError, match="folds 'random' are unknown; use one of by-patient, none"):
            import_source("arrays", folder, tmp_path / "other", folds="random")

    def test_are_the_sources_own_where_any_record_has_one(self, make_arrays, tmp_path):
        folds = [0, 0, 3, 3, 0, 0]
        import_source("arrays", make_arrays(records=made_up_records(6).assign(fold=folds)), tmp_path / "out")
        assert EcgDataset.open(tmp_path / "out").records["fold"].tolist() == folds

    def test_of_generated_records_stay_unknown(self, tmp_path, from_recordings):
        report = from_recordings(
            3, lambda row: Recording(made_up_signal(row, 100), LEADS, 100), simulated=True, folds=[0, 0, 0]
        )
        assert EcgDataset.open(report.path).records["fold"].tolist() == [0, 0, 0]


def test_codes_that_give_no_label_are_counted_with_their_names(tmp_path, from_recordings):
    unmapped = {"426177001": 1, "99999999": 2}
    report = from_recordings(
        6, lambda row: Recording(made_up_signal(row, 100), LEADS, 100), unmapped=unmapped, system="snomed"
    )
    assert list(report.unmapped.items()) == [("99999999 (unknown)", 2), ("426177001 (sinus bradycardia)", 1)]
    assert report.unlabelled == 1


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
        ({"jobs": 0}, "0 processes can import nothing"),
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
    whole = import_source("ptbxl", folder, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        import_source("ptbxl", folder, tmp_path / "out", progress=interrupt_after(4))
    assert not (tmp_path / "out").exists()
    seen = []
    report = import_source("ptbxl", folder, tmp_path / "out", progress=lambda done, _: seen.append(done))
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


def test_an_interrupted_import_starts_again_where_what_says_how_to_read_has_changed(make_arrays, tmp_path):
    folder = make_arrays()
    with pytest.raises(KeyboardInterrupt):
        import_source("arrays", folder, tmp_path / "out", progress=interrupt_after(2))
    (folder / "arrays.json").write_text(json.dumps({"rate": 100, "units": "uV"}))
    report = import_source("arrays", folder, tmp_path / "out")
    assert report.resumed == 0
    clean = import_source("arrays", folder, tmp_path / "clean")
    assert report.info.fingerprint == clean.info.fingerprint


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
        ImportJournal.opened(tmp_path / "out.partial", {}, 1),
        pytest.raises(DataError, match="is being written by another import"),
    ):
        import_source("ptbxl", make_ptbxl(), tmp_path / "out")
    assert (tmp_path / "out.partial").is_dir()


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
