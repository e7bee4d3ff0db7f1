"""Every real file beside the project, read by its source and once more by a few lines that share nothing with it."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from core.ecg.leads import LEADS, canonical_lead
from core.ecg.sources import open_source
from core.errors import DataError

pytestmark = pytest.mark.real_data

CLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]


def by_header(header: Path, offset: int) -> tuple[np.ndarray, list[str], int]:
    """mV, leads and rate from the bytes of 16-bit frames and the numbers of a header."""
    lines = [line.split() for line in header.read_text().splitlines() if line and not line.startswith("#")]
    count, rate = int(lines[0][1]), int(lines[0][2])
    content = (header.parent / lines[1][0]).read_bytes()[offset:]
    frames = np.frombuffer(content, "<i2").reshape(-1, count).astype(float)
    rows, names = [], []
    for column, line in zip(frames.T, lines[1:], strict=True):
        gain, baseline, unit = re.fullmatch(r"([\d.]+)(?:\((-?\d+)\))?/(\w+)", line[2]).groups()
        assert unit.lower() == "mv"
        rows.append((column - float(baseline or 0)) / float(gain))
        names.append(line[8])
    return np.array(rows), names, rate


def assert_same(recording, signal, names, rate):
    assert recording.rate == rate
    assert [canonical_lead(name) for name in recording.leads] == [canonical_lead(name) for name in names]
    np.testing.assert_allclose(recording.signal, signal, rtol=0, atol=1e-6)


def test_all_117_challenge_records(real_data):
    folder = real_data / "challenge"
    source = open_source("challenge", folder, rate=500)
    assert len(source.table) == 117
    counts = source.table["site"].value_counts().to_dict()
    expected = {"ningbo": 43, "georgia": 22, "ptbxl": 20, "cpsc2018-extra": 13, "chapman": 7, "cpsc2018": 7, "ptb": 5}
    assert counts == expected
    gains = set()
    for row, (name, site) in enumerate(zip(source.table["record"], source.table["site"], strict=True)):
        header = folder / site / f"{name.removeprefix('challenge-')}.hea"
        # A version 4 file: five numbers, then the name "val" with its zero.
        assert_same(source.read(row), *by_header(header, offset=24))
        gains.add(header.read_text().splitlines()[1].split()[2])
    assert gains == {"1000/mV", "1000/mv", "200/mV", "4880/mV"}


def test_challenge_labels_of_records_that_were_looked_up_by_hand(real_data):
    table = open_source("challenge", real_data / "challenge", rate=500).table.set_index("record")
    found = {
        name: [c for c in CLASSES if table.loc[f"challenge-{name}", c]]
        for name in ("A0001", "Q0001", "E00001", "JS00001")
    }
    # RBBB; an old infarction; sinus rhythm alone; RBBB with an abnormal T wave.
    assert found == {"A0001": ["CD"], "Q0001": ["MI"], "E00001": ["NORM"], "JS00001": ["STTC", "CD"]}
    assert table.loc["challenge-JS00001", ["age", "sex"]].tolist() == [85, 0]
    assert np.isnan(table.loc["challenge-E00001", "age"])
    assert table.loc["challenge-E00001", "sex"] == 1


def test_all_5_sph_records(real_data):
    import h5py

    source = open_source("sph", real_data / "sph", rate=500)
    rows = {row["ECG_ID"]: row for row in csv.DictReader((real_data / "sph" / "metadata.csv").open())}
    assert len(source.table) == 5
    for row, name in enumerate(source.table["record"]):
        said = rows[f"{name.removeprefix('sph-')}.h5"]
        with h5py.File(real_data / "sph" / said["ECG_ID"]) as file:
            signal = file["ecg"][:]
        recording = source.read(row)
        assert recording.leads == LEADS
        assert recording.rate == 500
        # float16 fits into float32 as it is.
        assert recording.signal.shape == (12, int(said["N"]))
        assert np.array_equal(recording.signal, signal.astype(np.float64))
        assert source.table["age"][row] == float(said["Age"])
        assert source.table["sex"][row] == {"M": 0, "F": 1}[said["Sex"]]
        assert source.table["NORM"][row] == (said["AHA_Code"] == "1")
    assert "left out: 4 (SPH00004" in " ".join(source.notes)


def test_all_100_ludb_records(real_data):
    folder = real_data / "ludb"
    source = open_source("ludb", folder, rate=500)
    assert len(source.table) == 100
    for row, name in enumerate(source.table["record"]):
        assert_same(source.read(row), *by_header(folder / "data" / f"{name.removeprefix('ludb-')}.hea", offset=0))
    # Of what the headers say in words: blocks and delays are CD, hypertrophies and overloads HYP.
    words = {
        name: (folder / "data" / f"{name.removeprefix('ludb-')}.hea").read_text() for name in source.table["record"]
    }
    for name, cd, hyp in zip(*(source.table[column] for column in ("record", "CD", "HYP")), strict=True):
        said = [line for line in words[name].splitlines() if line.startswith("#")]
        blocks = [line for line in said if re.search(r"branch block|hemiblock|AV.block|conduction delay", line, re.I)]
        assert cd == bool(blocks), name
        large = [line for line in said if re.search("hypertrophy|overload", line, re.I)]
        assert hyp == bool(large), name
    # A rate by the annotations is near that of sinus rhythm; PR is unknown in atrial fibrillation.
    assert source.table["hr_bpm"].between(30, 140).all()
    fibrillating = source.table["record"].map(lambda name: "Atrial fibrillation" in words[name])
    assert source.table["pr_ms"][fibrillating].isna().all()
    assert source.table["pr_ms"][~fibrillating].notna().mean() > 0.85


@pytest.mark.parametrize("rate", [100, 500])
def test_all_500_ptbxl_records(real_data, rate):
    folder = real_data / "ptbxl-500"
    source = open_source("ptbxl", folder, rate=rate)
    files = [
        row[{100: "filename_lr", 500: "filename_hr"}[rate]]
        for row in csv.DictReader((folder / "ptbxl_database.csv").open(encoding="utf-8"))
    ]
    assert len(files) == len(source.table) == 500
    for row, file in enumerate(files):
        assert_same(source.read(row), *by_header(folder / f"{file}.hea", offset=0))


def test_the_deepfake_record(real_data, tmp_path):
    asc = real_data / "deepfake-ecg" / "124.asc"
    (tmp_path / "124.asc").symlink_to(asc)
    (tmp_path / "table.csv").write_text("patid,avgrrinterval,pr,qrs,qt\n124,800,150,90,380\n")
    recording = open_source("deepfake", tmp_path, rate=500).read(0)
    microvolt = np.array([[int(cell) for cell in line.split()] for line in asc.read_text().splitlines()])
    assert_same(recording, microvolt.T / 1000, ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"], 500)


def test_the_same_records_through_the_general_wfdb_source(real_data, tmp_path):
    """17 of Georgia's 22 headers are among those that wfdb refuses."""
    folder = real_data / "challenge" / "georgia"
    rows = [f"{path.stem};{_codes(path)}" for path in sorted(folder.glob("*.hea"))]
    (tmp_path / "labels.csv").write_text("\n".join(["record;codes", *rows]))
    general = open_source("wfdb", folder, rate=500, labels=str(tmp_path / "labels.csv"), codes="snomed")
    special = open_source("challenge", folder, rate=500)
    assert general.table[CLASSES].equals(special.table[CLASSES])
    assert general.table[["age", "sex"]].equals(special.table[["age", "sex"]])
    for row in range(22):
        assert np.array_equal(general.read(row).signal, special.read(row).signal)


def _codes(header: Path) -> str:
    return re.search(r"#Dx: ?(.*)", header.read_text())[1]


def test_wfdb_still_refuses_what_the_challenge_source_reads(real_data):
    """If this fails, wfdb has become wiser, and the remark on it can go."""
    import wfdb

    with pytest.raises(wfdb.io.header.HeaderSyntaxError):
        wfdb.rdrecord(str(real_data / "challenge" / "georgia" / "E07500"))
    assert open_source("challenge", real_data / "challenge" / "georgia", rate=500).read(0).rate == 500


def test_marks_are_those_that_wfdb_reads(real_data):
    import wfdb

    from core.ecg.sources.ludb_annotations import read_marks

    for number in range(1, 200, 22):
        for lead in ("i", "avr", "v3"):
            path = real_data / "ludb" / "data" / f"{number}.{lead}"
            marks = wfdb.rdann(str(path.with_suffix("")), lead)
            assert read_marks(path) == (marks.sample.tolist(), marks.symbol)


def test_a_format_is_not_mistaken_for_another(real_data):
    for name, folder in (("sph", "challenge"), ("ludb", "sph"), ("challenge", "sph"), ("chapman", "challenge")):
        with pytest.raises(DataError):
            open_source(name, real_data / folder, rate=500)
