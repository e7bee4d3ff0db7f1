import numpy as np
import pandas as pd
import pytest

from core.ecg.label_tables import known_codes
from core.ecg.leads import LEADS
from core.ecg.sources import open_source
from core.ecg.sources.labelling import packaged_rows
from core.errors import DataError

CLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]
NAMES = ["MUSE_20180113_171327_27000", "MUSE_20180112_073319_29000", "MUSE_20180111_165520_97000"]


def microvolt(seed):
    return np.round(np.random.default_rng(seed).normal(0, 300, (5000, 12)), 3)


def write_record(folder, name, values, head=LEADS):
    folder.mkdir(exist_ok=True)
    pd.DataFrame(values, columns=head or range(12)).to_csv(folder / f"{name}.csv", index=False, header=bool(head))


@pytest.fixture
def chapman(tmp_path):
    rows = pd.DataFrame(
        {
            "FileName": NAMES,
            "Rhythm": ["AFIB", "SB", "SR"],
            "Beat": ["RBBB TWC", "NONE", "NONE"],
            "PatientAge": [85, 59, 20],
            "Gender": ["MALE", "FEMALE", "FEMALE"],
            "VentricularRate": [117, 52, 67],
            "QRSDuration": [114, 92, 5000],
            "QTInterval": [356, 432, 382],
        }
    )
    rows.to_excel(tmp_path / "Diagnostics.xlsx", index=False)
    for seed, name in enumerate(NAMES):
        write_record(tmp_path / "ECGData", name, microvolt(seed))
    return tmp_path


def test_records_labels_and_intervals_of_the_original_release(chapman):
    source = open_source("chapman", chapman, rate=500)
    table = source.table
    assert table["record"].tolist() == [f"chapman-{name}" for name in NAMES]
    assert table[CLASSES].to_numpy().tolist() == [[0, 0, 1, 1, 0], [0] * 5, [1, 0, 0, 0, 0]]
    assert source.unmapped == {"AFIB": 1, "SB": 1}
    assert table["age"].tolist() == [85, 59, 20]
    assert table["sex"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(table["hr_bpm"], [117, 52, 67])
    # A QRS of 5 s is none.
    assert table["qrs_ms"].fillna(-1).tolist() == [114, 92, -1]
    assert table["qt_ms"].tolist() == [356, 432, 382]
    assert table["pr_ms"].isna().all()
    for row in range(3):
        recording = source.read(row)
        assert (recording.rate, recording.leads) == (500, LEADS)
        np.testing.assert_allclose(recording.signal, microvolt(row).T / 1000, rtol=0, atol=1e-9)


def test_denoised_records_have_no_line_of_names(chapman):
    for path in (chapman / "ECGData").iterdir():
        path.unlink()
    (chapman / "ECGData").rmdir()
    for seed, name in enumerate(NAMES):
        write_record(chapman / "ECGDataDenoised", name, microvolt(seed), head=None)
    source = open_source("chapman", chapman, rate=500)
    assert source.notes[0] == "ECGDataDenoised is read."
    np.testing.assert_allclose(source.read(1).signal, microvolt(1).T / 1000, rtol=0, atol=1e-9)


def test_the_order_of_the_leads_is_the_file_s(chapman):
    order = LEADS[::-1]
    write_record(chapman / "ECGData", NAMES[0], microvolt(5)[:, ::-1], head=order)
    recording = open_source("chapman", chapman, rate=500).read(0)
    assert recording.leads == order
    np.testing.assert_allclose(recording.signal[::-1], microvolt(5).T / 1000, rtol=0, atol=1e-9)


def test_acronyms_give_what_the_snomed_codes_give_that_the_later_release_has_for_them():
    snomed = known_codes("snomed")
    rows = [row for row in packaged_rows("chapman").values() if row.source.startswith("SNOMED ")]
    assert len(rows) > 60
    for row in rows:
        same = snomed[row.source.removeprefix("SNOMED ")]
        assert (row.superclasses, row.against_normal) == (same.superclasses, same.against_normal), row.code


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_text(p.read_text()[:100_000]), "has lines of different lengths"),
        (
            lambda p: p.write_text("".join(p.read_text().splitlines(True)[:2000])),
            "has 1,999 lines of 12 numbers instead of 5",
        ),
        (lambda p: p.write_text(p.read_text()[:100_000] + "1,2,3"), "has lines of different lengths"),
        (lambda p: p.write_text("I,II\n1,2\n3,4\n"), "has 2 lines of 2 numbers instead of 5,000 of 12"),
        (lambda p: p.write_text(""), "is empty"),
        (lambda p: p.write_bytes(b"\x00\x01\x81" * 50), "no text"),
        (lambda p: write_record(p.parent, p.stem, microvolt(0) / 1000), "which is no microvolt"),
        (lambda p: write_record(p.parent, p.stem, microvolt(0) * 1000), "a typical lead of .* which is no microvolt"),
        (
            lambda p: write_record(p.parent, p.stem, microvolt(0) * np.where(np.arange(12) == 7, 1000, 1)),
            "lead number 8 of .* which is no microvolt",
        ),
        (lambda p: write_record(p.parent, p.stem, np.full((5000, 12), "a")), "cannot be read as numbers"),
    ],
)
def test_a_broken_record_is_named(chapman, damage, message):
    damage(chapman / "ECGData" / f"{NAMES[1]}.csv")
    source = open_source("chapman", chapman, rate=500)
    assert source.read(0).signal.shape == (12, 5000)
    with pytest.raises(DataError, match=message) as caught:
        source.read(1)
    assert NAMES[1] in str(caught.value)


def test_a_table_that_is_no_workbook_is_refused(chapman):
    (chapman / "Diagnostics.xlsx").write_text("FileName,Rhythm\n")
    with pytest.raises(DataError, match="cannot be read as a workbook"):
        open_source("chapman", chapman, rate=500)


def test_rows_without_a_record_are_counted(chapman):
    (chapman / "ECGData" / f"{NAMES[2]}.csv").unlink()
    source = open_source("chapman", chapman, rate=500)
    assert len(source.table) == 2
    assert f"Rows of Diagnostics.xlsx without a signal file here, left out: 1 ({NAMES[2]})." in source.notes
