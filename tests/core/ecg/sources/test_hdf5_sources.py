"""SPH and CODE-15%."""

import h5py
import numpy as np
import pandas as pd
import pytest

from core.ecg.leads import LEADS
from core.ecg.sources import open_source
from core.errors import DataError

CLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]
SPH_HEAD = "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\n"


def ecg(seed=0, shape=(12, 5000)):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float16)


def write_h5(path, **arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            file[key] = values


@pytest.fixture
def sph(tmp_path):
    folder = tmp_path / "SPH data"
    rows = [
        "A1,22;23,S1,55,M,5000,2020-03-04",
        "A2,60+310,S2,32,F,5000,2019-09-03",
        "A3,105;146,S2,33,F,5000,2019-09-03",
    ]
    (folder / "records").mkdir(parents=True)
    (folder / "metadata.csv").write_text(SPH_HEAD + "\n".join(rows) + "\n")
    for seed in (1, 2, 3):
        write_h5(folder / "records" / f"A{seed}.h5", ecg=ecg(seed))
    return folder


def test_sph_gives_patients_labels_and_the_signals_as_they_are(sph):
    source = open_source("sph", sph, rate=500)
    table = source.table
    assert table["record"].tolist() == ["sph-A1", "sph-A2", "sph-A3"]
    assert table["patient"].tolist() == ["sph-pS1", "sph-pS2", "sph-pS2"]
    assert table["age"].tolist() == [55, 32, 33]
    assert table["sex"].tolist() == [0, 1, 1]
    # Bradycardia with arrhythmia; a premature beat with a modifier; incomplete RBBB and an ST-T abnormality.
    assert table[CLASSES].to_numpy().tolist() == [[0] * 5, [0] * 5, [0, 0, 1, 1, 0]]
    assert source.codes[1] == ("60+310",)
    recording = source.read(2)
    assert (recording.rate, recording.leads) == (500, LEADS)
    assert np.array_equal(recording.signal, ecg(3).astype(float))


def test_sph_rows_without_a_file_and_files_without_a_row_are_said(sph):
    (sph / "records" / "A2.h5").rename(sph / "records" / "B9.h5")
    source = open_source("sph", sph, rate=500)
    assert source.table["record"].tolist() == ["sph-A1", "sph-A3"]
    assert "Rows of metadata.csv without a signal file here, left out: 1 (A2)." in source.notes
    assert "Records without a row in metadata.csv, left out: 1 (B9)." in source.notes


@pytest.mark.parametrize("encode", [lambda t: t.encode("utf-8-sig"), lambda t: t.replace(",", "\t").encode("utf-16")])
def test_sph_s_table_may_have_been_saved_by_a_spreadsheet(sph, encode):
    expected = open_source("sph", sph, rate=500).table
    path = sph / "metadata.csv"
    path.write_bytes(encode(path.read_text()))
    assert open_source("sph", sph, rate=500).table.equals(expected)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:3000]), "truncated or malformed"),
        (lambda p: p.write_bytes(b"no HDF5"), "truncated or malformed"),
        (lambda p: write_h5(p, other=ecg()), r"has no data set 'ecg' \(it has other\)"),
        (lambda p: write_h5(p, ecg=ecg(shape=(60, 5000))), r"shape \(60, 5000\) instead of 12 leads"),
        (lambda p: write_h5(p, ecg=ecg(shape=(5000, 12))), r"shape \(5000, 12\) instead of 12 leads"),
        (
            lambda p: write_h5(p, ecg=(ecg() * 1000).astype(np.int16)),
            "int16 of shape .* instead of 12 leads x samples in mV",
        ),
        (lambda p: write_h5(p, ecg=ecg().astype(float) * 1000), "spans .* which is no millivolt"),
        (lambda p: write_h5(p, ecg=np.full((12, 5000), b"x")), "which are no samples"),
    ],
)
def test_a_broken_sph_file_is_named(sph, damage, message):
    damage(sph / "records" / "A2.h5")
    source = open_source("sph", sph, rate=500)
    assert source.read(0).signal.shape == (12, 5000)
    with pytest.raises(DataError, match=f"record sph-A2: .*{message}"):
        source.read(1)


def test_sph_keeps_values_that_are_no_number(sph):
    values = ecg(1)
    values[3, 100:200] = np.nan
    write_h5(sph / "records" / "A1.h5", ecg=values)
    assert np.isnan(open_source("sph", sph, rate=500).read(0).signal).sum() == 100


def test_an_sph_record_that_two_files_are_named_after_is_refused_and_the_others_are_read(sph):
    write_h5(sph / "more" / "A2.h5", ecg=ecg(9))
    source = open_source("sph", sph, rate=500)
    assert np.array_equal(source.read(0).signal, ecg(1).astype(float))
    with pytest.raises(
        DataError, match=r"record sph-A2: A2\.h5 is the name of 2 files in .*; keep the one that is meant"
    ):
        source.read(1)


def test_one_sph_lead_of_another_unit_is_refused_but_not_one_with_a_spike(sph):
    values = ecg(1).astype(np.float32)
    values[4, 2500:2510] = 900
    write_h5(sph / "records" / "A1.h5", ecg=values)
    values = ecg(2).astype(np.float32)
    values[4] *= 1000
    write_h5(sph / "records" / "A2.h5", ecg=values)
    source = open_source("sph", sph, rate=500)
    assert source.read(0).signal[4].max() == 900
    with pytest.raises(DataError, match=r"record sph-A2: lead number 5 of .* which is no millivolt"):
        source.read(1)


def test_an_sph_folder_without_its_table_or_records_is_refused(sph):
    (sph / "metadata.csv").write_text(SPH_HEAD + "Z1,1,S1,55,M,5000,2020-03-04\n")
    with pytest.raises(DataError, match=r"no row of .*metadata\.csv has its \.h5 file"):
        open_source("sph", sph, rate=500)
    (sph / "metadata.csv").write_text("ECG_ID;Age\nA1;3\n")
    with pytest.raises(DataError, match="no column 'AHA_Code'"):
        open_source("sph", sph, rate=500)
    (sph / "metadata.csv").unlink()
    with pytest.raises(DataError, match=r"metadata\.csv is missing"):
        open_source("sph", sph, rate=500)


FINDINGS = ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF", "normal_ecg"]


@pytest.fixture
def code15(tmp_path):
    rows = [
        {"exam_id": 11, "age": 38, "is_male": True, "patient_id": 7, "normal_ecg": True},
        {"exam_id": 22, "age": 73, "is_male": False, "patient_id": 7, "RBBB": True, "AF": True},
        {"exam_id": 33, "age": 67, "is_male": False, "patient_id": 9, "SB": True},
        {"exam_id": 44, "age": 50, "is_male": True, "patient_id": 8, "normal_ecg": True, "1dAVb": True},
        {"exam_id": 55, "age": 51, "is_male": True, "patient_id": 5, "normal_ecg": True},
    ]
    table = pd.DataFrame(rows)
    table = table.reindex(columns=[*rows[0], *FINDINGS[:-1]])
    table[FINDINGS] = table[FINDINGS].notna()
    table.to_csv(tmp_path / "exams.csv", index=False)
    tracings = np.zeros((3, 4096, 12), np.float32)
    rng = np.random.default_rng(0)
    tracings[0, 48:4048] = rng.normal(0, 0.3, (4000, 12))  # 10 s between 48 zeros
    tracings[1, 648:3448] = rng.normal(0, 0.3, (2800, 12))  # 7 s between 648 zeros
    tracings[2] = rng.normal(0, 0.3, (4096, 12))
    write_h5(tmp_path / "exams_part0.hdf5", exam_id=np.array([11, 22, 0]), tracings=tracings)
    write_h5(tmp_path / "exams_part1.hdf5", exam_id=np.array([99, 44, 33]), tracings=tracings[[1, 2, 0]])
    return tmp_path, tracings


def test_code15_reads_every_part_by_the_exams(code15):
    folder, tracings = code15
    source = open_source("code15", folder, rate=500)
    table = source.table
    assert table["record"].tolist() == ["code15-11", "code15-22", "code15-44", "code15-33"]
    assert table["patient"].tolist() == ["code15-p7", "code15-p7", "code15-p8", "code15-p9"]
    assert table["sex"].tolist() == [0, 1, 0, 1]
    assert table["age"].tolist() == [38, 73, 50, 67]
    # Normal; RBBB; normal with a block, where the block counts; bradycardia alone.
    assert table[CLASSES].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0] * 5]
    assert source.unmapped == {"SB": 1, "AF": 1}
    ten, seven, whole, again = (source.read(row) for row in range(4))
    assert {(r.rate, r.leads) for r in (ten, seven, whole, again)} == {(400, LEADS)}
    assert np.array_equal(ten.signal, tracings[0, 48:4048].T)
    assert np.array_equal(seven.signal, tracings[1, 648:3448].T)
    assert np.array_equal(whole.signal, tracings[2].T)
    assert np.array_equal(again.signal, tracings[0, 48:4048].T)
    notes = " ".join(source.notes)
    assert "where the block counts: 1." in notes
    assert "in no .hdf5 file here: 1 of 5." in notes
    assert "without a row in exams.csv, left out: 1 (99)" in notes


def test_code15_in_another_unit_is_refused(code15):
    folder, tracings = code15
    write_h5(folder / "exams_part1.hdf5", exam_id=np.array([99, 44, 33]), tracings=tracings * 1000)
    source = open_source("code15", folder, rate=500)
    with pytest.raises(DataError, match=r"record code15-44: .* which is no millivolt"):
        source.read(2)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda p: p.write_bytes(b"x"), "truncated or malformed"),
        (lambda p: p.write_bytes(p.read_bytes()[:100]), "truncated or malformed"),
        (lambda p: write_h5(p, other=np.arange(3)), "has no data set 'exam_id'"),
        (lambda p: write_h5(p, exam_id=np.zeros((3, 2), int)), "holds no row of exam ids"),
    ],
)
def test_a_damaged_code15_part_is_left_out_with_its_reason_and_the_others_are_read(code15, damage, reason):
    folder, tracings = code15
    damage(folder / "exams_part0.hdf5")
    source = open_source("code15", folder, rate=500)
    assert source.table["record"].tolist() == ["code15-44", "code15-33"]
    assert np.array_equal(source.read(0).signal, tracings[2].T)
    said = [note for note in source.notes if note.startswith("A part is left out with its exams: ")]
    assert len(said) == 1
    assert "exams_part0.hdf5" in said[0]
    assert reason in said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "exams.csv").unlink(), r"exams\.csv is missing"),
        (lambda f: [p.unlink() for p in f.glob("*.hdf5")], r"no exams_part<i>\.hdf5"),
        (lambda f: [p.write_bytes(b"x") for p in f.glob("*.hdf5")], "truncated or malformed"),
        (
            lambda f: (f / "exams.csv").write_text((f / "exams.csv").read_text().replace("True", "maybe", 1)),
            "'maybe' in column|no row",
        ),
        (
            lambda f: (f / "exams_part2.hdf5").write_bytes((f / "exams_part0.hdf5").read_bytes()),
            "exam 11 is in .* and again",
        ),
    ],
)
def test_a_broken_code15_folder_is_refused_in_a_sentence(code15, change, message):
    folder, _ = code15
    text = (folder / "exams.csv").read_text()
    # So that the first True is one of a finding.
    (folder / "exams.csv").write_text(text.replace(",True,7,", ",1,7,"))
    change(folder)
    with pytest.raises(DataError, match=message):
        open_source("code15", folder, rate=500)
