"""Sources whose records are labelled in words: LUDB and MIMIC-IV-ECG."""

import numpy as np
import pytest
from foreign_records import digital_ecg, write_wfdb

from core.ecg.leads import LEADS
from core.ecg.sources import open_source
from core.ecg.sources.labelling import packaged_rows, plain, statements_in
from core.errors import DataError

CLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]
MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


@pytest.fixture
def mimic(tmp_path):
    said = {
        "101": ("Sinus rhythm", "Normal ECG", "", "800", "100", "260", "350", "640"),
        "102": (
            "Atrial fibrillation",
            "Left bundle branch block.",
            "Abnormal ECG",
            "500",
            "29999",
            "120",
            "260",
            "29999",
        ),
        "103": ("Sinus rhythm", "Possible inferior infarct - age undetermined", "", "0", "90", "80", "170", "500"),
        "105": ("Nobody knows this", "", "", "1000", "29999", "29999", "29999", "29999"),
    }
    listed = ["subject_id,study_id,file_name,ecg_time,path"]
    measured = ["subject_id,study_id,report_0,report_1,report_2,rr_interval,p_onset,qrs_onset,qrs_end,t_end"]
    for study in ("101", "102", "103", "104", "105"):
        path = f"files/p1/s{study}/{study}"
        listed.append(f"{7 if study < '103' else study},{study},{study},2180-07-23 08:44:00,{path}")
        if study != "104":
            write_wfdb((tmp_path / path).parent, study, digital_ecg(int(study)), gain="200.0(0)/mV", leads=MIMIC_LEADS)
        if study in said:
            measured.append(",".join(["7", study, *said[study]]))
    (tmp_path / "record_list.csv").write_text("\n".join(listed))
    (tmp_path / "machine_measurements.csv").write_text("\n".join(measured))
    return tmp_path


def test_mimic_s_statements_and_measurements(mimic):
    source = open_source("mimic", mimic, rate=500)
    table = source.table.set_index("record")
    assert table.index.tolist() == ["mimic-101", "mimic-102", "mimic-103", "mimic-105"]
    assert table["patient"].tolist() == ["mimic-p7", "mimic-p7", "mimic-p103", "mimic-p105"]
    assert table[CLASSES].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0] * 5]
    assert source.unmapped["nobody knows this"] == 1
    # Of 101: 60000 / 800; 260 - 100; 350 - 260; 640 - 260. 29999 is unknown, and so is a PR of -10 ms.
    assert table.loc["mimic-101", ["hr_bpm", "pr_ms", "qrs_ms", "qt_ms"]].tolist() == [75, 160, 90, 380]
    assert table.loc["mimic-102", ["hr_bpm", "qrs_ms"]].tolist() == [120, 140]
    assert table.loc["mimic-102", ["pr_ms", "qt_ms"]].isna().all()
    assert table.loc["mimic-103", ["hr_bpm", "pr_ms"]].isna().all()
    assert table.loc["mimic-103", ["qrs_ms", "qt_ms"]].tolist() == [90, 420]
    assert "Rows of record_list.csv without a signal file here, left out: 1 (files/p1/s104/104)." in source.notes
    recording = source.read(1)
    assert recording.leads == MIMIC_LEADS
    np.testing.assert_allclose(recording.signal, digital_ecg(102) / 200, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "machine_measurements.csv").unlink(), "is missing; MIMIC-IV-ECG has it"),
        (lambda f: (f / "record_list.csv").write_text("study_id,path\n1,a\n"), "no column 'subject_id'"),
        (
            lambda f: (f / "record_list.csv").write_text("subject_id,study_id,path\n1,1,a\n"),
            r"no row of .* has its \.hea",
        ),
        (
            lambda f: (f / "record_list.csv").write_text("subject_id,study_id,path\n1,1,a\n1,1,b\n"),
            "lists study 1 twice",
        ),
    ],
)
def test_a_mimic_folder_that_lacks_something_is_refused(mimic, change, message):
    change(mimic)
    with pytest.raises(DataError, match=message):
        open_source("mimic", mimic, rate=500)


@pytest.mark.parametrize(
    ("sentence", "classes"),
    [
        ("Normal ECG", {"NORM"}),
        ("ABNORMAL ECG", set()),
        ("Otherwise normal ECG.", {"NORM"}),
        ("Incomplete right bundle branch block", {"CD"}),
        ("RBBB with left anterior fascicular block", {"CD"}),
        ("Sinus rhythm with borderline 1st degree A-V block", set()),
        ("Sinus rhythm with 1st degree A-V block", {"CD"}),
        ("Lateral ST-T changes are probably due to ventricular hypertrophy", {"STTC", "HYP"}),
        ("Poor R wave progression - probable normal variant", set()),
        ("Anterior infarct - possibly acute", {"MI"}),
        ("Prolonged QT interval", {"STTC"}),
        ("Borderline prolonged QT interval", set()),
        ("Left atrial abnormality", {"HYP"}),
        ("Left axis deviation", set()),
        ("Ventricular-paced rhythm", set()),
        ("ST elev, probable normal early repol pattern", set()),
        ("Minimal voltage criteria for LVH, may be normal variant", set()),
    ],
)
def test_mimic_s_phrases(sentence, classes):
    rows = packaged_rows("mimic_phrases")
    found = statements_in(sentence, rows)
    assert {name for phrase in found for name in rows[phrase].superclasses} == classes
    assert all(phrase in rows for phrase in found)


def test_a_longer_phrase_counts_alone():
    assert statements_in("Irregular sinus rhythm.", packaged_rows("ludb_phrases")) == ["irregular sinus rhythm"]
    assert statements_in("Sinus rhythm", packaged_rows("ludb_phrases")) == ["sinus rhythm"]
    assert statements_in("  Something  ELSE! ", packaged_rows("ludb_phrases")) == ["something else"]


@pytest.mark.parametrize("name", ["ludb_phrases", "mimic_phrases"])
def test_phrases_are_written_as_they_are_looked_for(name):
    for phrase, row in packaged_rows(name).items():
        assert plain(phrase) == phrase
        assert row.source


def write_marks(path, marks):
    """(sample, code) as MIT annotations: differences in the low 10 bits."""
    words, last = [], 0
    for sample, code in marks:
        words.append(code << 10 | sample - last)
        last = sample
    path.write_bytes(np.array([*words, 0], "<u2").tobytes())


@pytest.fixture
def ludb(tmp_path):
    """Two records of two beats: P 100-150, QRS 180-230, T 300-380 samples, and the same 500 samples (1 s) later."""
    for number in (1, 2):
        write_wfdb(
            tmp_path / "data", str(number), digital_ecg(number), gain="1716(6)/mV", leads=[n.lower() for n in LEADS]
        )
        beat = [(100, 39), (125, 24), (150, 40), (180, 39), (200, 1), (230, 40), (300, 39), (340, 27), (380, 40)]
        for lead in LEADS:
            marks = [(sample + shift, code) for shift in (0, 500) for sample, code in beat]
            write_marks(tmp_path / "data" / f"{number}.{lead.lower()}", marks)
    (tmp_path / "ludb.csv").write_text(
        "ID,Sex,Age,Rhythms,Electric axis of the heart,Hypertrophies\n"
        '1,"F\n",">89\n",Sinus rhythm,Electric axis of the heart: normal,\n'
        '2,"M\n","51\n",Sinus rhythm,,"Left ventricular overload\nLeft atrial hypertrophy"\n'
        "3,M,40,Sinus rhythm,,\n"
    )
    return tmp_path


def test_ludb_has_labels_and_intervals_by_the_marks(ludb):
    source = open_source("ludb", ludb, rate=500)
    table = source.table
    assert table["record"].tolist() == ["ludb-1", "ludb-2"]
    assert table[CLASSES].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert table["age"].tolist() == [90, 51]
    assert table["sex"].tolist() == [1, 0]
    # 2 ms a sample: RR 1 s, PR 80, QRS 50, QT 200 samples.
    for name, expected in (("hr_bpm", 60), ("pr_ms", 160), ("qrs_ms", 100), ("qt_ms", 400)):
        assert table[name].tolist() == [expected] * 2
    np.testing.assert_allclose(source.read(0).signal, (digital_ecg(1) - 6.0) / 1716, atol=1e-12)
    assert "Rows of ludb.csv without a signal file here, left out: 1 (3)." in source.notes


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:9])])
def test_a_record_whose_marks_are_damaged_has_no_intervals(ludb, damage):
    damage(ludb / "data" / "2.v3")
    source = open_source("ludb", ludb, rate=500)
    assert source.table["hr_bpm"].isna().tolist() == [False, True]
    assert any(note.startswith("Records without intervals: 1 (") and "2.v3" in note for note in source.notes)
    assert source.read(1).signal.shape == (12, 5000)


def test_ludb_without_its_table_is_refused(ludb):
    (ludb / "ludb.csv").unlink()
    with pytest.raises(DataError, match=r"ludb\.csv is missing"):
        open_source("ludb", ludb, rate=500)
