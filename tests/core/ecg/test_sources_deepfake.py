import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_ecgs import made_up_signal
from typer.testing import CliRunner, Result

from core.ecg.dataset import EcgDataset
from core.ecg.leads import INDEPENDENT_LEADS, LEADS
from core.ecg.preparation import prepare
from core.ecg.sources import Recording, open_source
from core.ecg.sources.deepfake import read_asc
from core.errors import CardiofedError, DataError
from core.synthetic.shared_set import open_shared_set
from core.synthetic.truth import MEASURES
from simulations.data_cli import app

ASC = "\n".join(" ".join(["%d"] * 8) for _ in range(5000)) + "\n"


def microvolt(seed: int) -> np.ndarray:
    """(5000, 8), whole numbers."""
    return np.rint(made_up_signal(seed, 500, leads=8).T * 1000).astype(int)


def asc(values: np.ndarray) -> bytes:
    return (ASC % tuple(values.ravel())).encode()


def intervals(count: int) -> pd.DataFrame:
    """Plausible rows with records 100, 101, ..."""
    steps = np.arange(count)
    return pd.DataFrame(
        {
            "patid": 100 + steps,
            "VentRate": 70,
            "qrs": 88 + steps % 7,
            "avgrrinterval": 800 + 10 * steps,
            "pr": 150 + steps % 11,
            "qt": 380 + steps,
            "qonset": 200,
        }
    )


T = TypeVar("T")
MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Folder in the layout of DeepFake ECG: a CSV and, in a subfolder, a file a row (but for those left absent)."""

    def make(rows: pd.DataFrame | None = None, absent: tuple[int, ...] = (), name: str = "fake") -> Path:
        folder = tmp_path / name
        (folder / "from_000100").mkdir(parents=True)
        rows = intervals(4) if rows is None else rows
        one = asc(microvolt(0))
        for patid in dict.fromkeys(rows["patid"]):
            if patid not in absent:
                (folder / "from_000100" / f"{patid}.asc").write_bytes(one)
        rows.to_csv(folder / "all_normals_ground_truth.csv", index=False)
        return folder

    return make


def refused(folder: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        open_source("deepfake", folder, rate=100, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def unreadable(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name) as caught:
        read_asc(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_row_of_the_table_becomes_a_record_with_its_truth(make_folder):
    source = open_source("deepfake", make_folder(), rate=100)
    first, last = source.table.iloc[0], source.table.iloc[3]
    assert (first["record"], first["patient"], first["site"], first["fold"]) == ("deepfake-100", "deepfake-p100", "", 0)
    assert source.table[["NORM", "MI", "STTC", "CD", "HYP"]].to_numpy().sum() == 0
    # 60000 / 800, and QT over the cube root of RR in seconds.
    assert (first["hr"], first["pr"], first["qrs"], first["qt"]) == (75.0, 150.0, 88.0, 380.0)
    assert first["qtc"] == pytest.approx(380 / 0.8 ** (1 / 3))
    assert last["hr"] == pytest.approx(60_000 / 830)
    assert source.simulated
    assert source.normalisation == "none"
    assert source.notes == ()


def test_a_record_is_read_in_millivolt_at_500_hz_with_eight_leads(make_folder):
    folder = make_folder()
    values = microvolt(7)
    (folder / "from_000100" / "102.asc").write_bytes(asc(values))
    recording = open_source("deepfake", folder, rate=100).read(2)
    assert (recording.leads, recording.rate) == (INDEPENDENT_LEADS, 500)
    np.testing.assert_allclose(recording.signal, values.T / 1000, rtol=1e-15)


def test_names_of_files_and_columns_may_be_written_otherwise(make_folder, tmp_path):
    folder = make_folder(intervals(1))
    (folder / "from_000100" / "100.asc").rename(folder / "00100.ASC")
    table = folder / "all_normals_ground_truth.csv"
    table.rename(folder / "truth.CSV")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    (folder / "truth.CSV").write_text("\ufeffPatID , AvgRRInterval,PR,QRS,QT\r\n\r\n100.0,800,150.0,88, 380\r\n")
    table = open_source("deepfake", folder, rate=100).table
    assert table[["record", "hr", "qt"]].iloc[0].tolist() == ["deepfake-100", 75.0, 380.0]


def test_files_without_a_row_are_left_out_and_counted(make_folder):
    folder = make_folder()
    for name in ("7.asc", "8.asc"):
        (folder / name).write_bytes(b"")
    source = open_source("deepfake", folder, rate=100)
    assert len(source.table) == 4
    assert "no row for 2 of 6 .asc files" in source.notes[0]


def test_a_table_that_names_absent_files_is_refused_with_the_line_and_the_mend(make_folder):
    said = refused(make_folder(intervals(6), absent=(102, 105)))
    # Line 1 is the header, so record 102 is in line 4.
    assert "all_normals_ground_truth.csv line 4 (record '102') has a file that is absent, as in 1 more;" in said
    assert "restore the file, or leave such rows out with --clean usable" in said


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("pr", "", "pr that is no number from 30 to 700 ms ('')"),
        ("pr", "n/a", "pr that is no number from 30 to 700 ms ('n/a')"),
        ("qt", "inf", "qt that is no number from 100 to 900 ms ('inf')"),
        ("avgrrinterval", "0", "avgrrinterval that is no number from 200 to 4000 ms ('0')"),
        ("qrs", "0.09", "qrs that is no number from 20 to 350 ms ('0.09')"),
        ("qt", "85", "qt that is no number"),
        ("qt", "101", "QRS that is no shorter than QT"),
        ("avgrrinterval", "385", "QT that is no shorter than RR"),
        ("patid", "100", "patid that came before"),
        ("patid", "", "file that is absent"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_or_left_out_and_counted(make_folder, column, value, named):
    rows = intervals(9).astype(str)
    rows.loc[8, "qrs"] = "101" if value == "101" else rows.loc[8, "qrs"]
    folder = make_folder(rows)
    rows.loc[8, column] = value
    rows.to_csv(folder / "all_normals_ground_truth.csv", index=False)
    said = refused(folder)
    assert "line 10" in said
    assert f"has a {named}" in said
    source = open_source("deepfake", folder, rate=100, clean="usable")
    assert source.table["record"].tolist() == [f"deepfake-{100 + row}" for row in range(8)]
    assert source.notes[0].startswith("all_normals_ground_truth.csv: 1 of 9 rows are left out: 1 with a")


def test_a_pr_longer_than_rr_is_impossible(make_folder):
    rows = intervals(5)
    rows.loc[2, ["avgrrinterval", "pr", "qt"]] = (420, 430, 380)
    assert "line 4 (record '102') has a PR that is no shorter than RR; mend the row" in refused(make_folder(rows))


def test_three_sigma_leaves_out_what_arithmetic_says(make_folder):
    rows = intervals(30).assign(avgrrinterval=800, pr=[150, 152] * 15, qrs=90, qt=400)
    # Of 30 values, 29 equal and one apart, the odd one is sqrt(29) = 5.4 deviations away.
    rows.loc[3, "qrs"] = 91
    rows.loc[9, "avgrrinterval"] = 790
    rows.loc[20, "pr"] = 900
    source = open_source("deepfake", make_folder(rows, absent=(105,)), rate=100, clean="3sigma")
    assert sorted({100 + row for row in range(30)} - {int(name[9:]) for name in source.table["record"]}) == [
        103,
        105,
        109,
        120,
    ]
    (note,) = source.notes
    assert "4 of 30 rows are left out" in note
    assert "1 with a pr that is no number from 30 to 700 ms" in note
    assert "1 with a file that is absent" in note
    assert "2 beyond 3 standard deviations of HR, PR, QRS or QT" in note


@pytest.mark.parametrize(
    ("column", "factor", "unit"),
    [("pr", 1e-3, "s"), ("qrs", 1e-3, "s"), ("qt", 1e-3, "s"), ("avgrrinterval", 1e-3, "s"), ("qt", 1e3, "us")],
)
def test_a_column_in_another_unit_is_noticed_whatever_the_cleaning(make_folder, column, factor, unit):
    rows = intervals(5)
    rows[column] = rows[column] * factor
    folder = make_folder(rows)
    for options in ({}, {"clean": "3sigma"}):
        assert f"median {column} of" in refused(folder, **options)
        assert f"which is {unit}, not ms; write the column in milliseconds" in refused(folder, **options)


def test_a_heart_rate_in_place_of_rr_is_noticed(make_folder):
    rows = intervals(5).assign(avgrrinterval=72)
    assert "median avgrrinterval of 72, which is bpm, not ms" in refused(make_folder(rows))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("patid,avgrrinterval,pr,qrs\n100,800,150,90\n", "no column 'qt'"),
        ("patid,avgrrinterval,pr,qrs,qt\n", "lists no record"),
        ("patid,avgrrinterval,pr,qrs,qt\n100,800,150,90\n", "4 cells in line 2 but 5 columns"),
        ("patid,avgrrinterval,pr,qrs,qt\n100,800,150,90,400,1\n", "6 cells in line 2 but 5 columns"),
        ("patid,avgrrinterval,pr,qrs,qt,QT \n100,800,150,90,400,1\n", "the column 'qt' twice"),
        ('patid,avgrrinterval,pr,qrs,qt\n100,800,150,90,"400\n', "cannot be read as CSV"),
        ("patid,avgrrinterval,pr,qrs,qt\n100,x,150,90,400\n", "no number in column 'avgrrinterval'"),
        ("", "no column 'patid'"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(make_folder, text, named):
    folder = make_folder()
    (folder / "all_normals_ground_truth.csv").write_text(text)
    assert named in refused(folder)


def test_a_table_without_any_usable_row_is_refused_even_when_cleaned(make_folder):
    folder = make_folder(absent=(100,))
    intervals(1).to_csv(folder / "all_normals_ground_truth.csv", index=False)
    assert "no row that can be used (the first has a file that is absent)" in refused(folder, clean="usable")


def test_the_table_must_be_there_and_be_the_only_one(make_folder):
    folder = make_folder()
    table = folder / "all_normals_ground_truth.csv"
    (folder / "copy.csv").write_bytes(table.read_bytes())
    assert "2 CSV files with true intervals, all_normals_ground_truth.csv and copy.csv; keep one" in refused(folder)
    (folder / "copy.csv").unlink()
    table.unlink()
    assert "has no CSV; put the one with the true intervals (patid, avgrrinterval, pr, qrs, qt) there" in refused(
        folder
    )


def test_a_folder_without_records_or_with_one_twice_is_refused(make_folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no .asc file" in refused(tmp_path / "empty")
    folder = make_folder()
    (folder / "0101.asc").write_bytes(b"")
    assert "line 3 (record '101') has a file that comes twice" in refused(folder)


def test_an_unknown_cleaning_or_an_option_of_another_source_is_refused(make_folder):
    assert "cleaning '2sigma' is unknown; use one of usable, 3sigma" in refused(make_folder(), clean="2sigma")
    assert "does not take --units" in refused(make_folder(name="other"), units="uV")


def test_a_truncated_record_says_so(tmp_path):
    whole = asc(microvolt(1))
    lines = whole.splitlines(keepends=True)
    path = tmp_path / "5.asc"
    assert "has 4,999 lines instead of 5,000" in unreadable(path, b"".join(lines[:-1]))
    assert "ends within line 5,000; it is cut short" in unreadable(path, whole[:-1])
    assert "ends within line 3,001" in unreadable(path, b"".join(lines[:3000]) + lines[3000][:9])
    assert "is empty" in unreadable(path, b"")
    assert "cannot be read" in _message(lambda: read_asc(tmp_path / "none.asc"))


def _message(action: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("1 2 3 4 5 6 7", "7 columns in line 18 instead of 8 (I, II, V1"),
        ("1 2 3 4 5 6 7 8 9", "9 columns in line 18 instead of 8"),
        ("", "0 columns in line 18"),
        ("1 2 3 x 5 6 7 8", "'x' in line 18, which is no whole number of microvolt"),
        ("1 2 3 nan 5 6 7 8", "'nan' in line 18"),
        ("1 2 3 4- 5 6 7 8", "'4-' in line 18"),
        ("1 2 3 - 5 6 7 8", "'-' in line 18"),
        ("1 2 3 --4 5 6 7 8", "'--4' in line 18"),
        ("1,2,3,4,5,6,7,8", "'1,2,3,4,5,6,7,8' in line 18"),
        ("1 2 3 4.5 5 6 7 8", "'4.5' in line 18"),
        ("1 2 3 \r4 5 6 7 8", "in line 18, which is no whole number"),
        ("1 2 3 4\x00 5 6 7 8", "in line 18, which is no whole number"),
        ("1 2 3 -32768 5 6 7 8", "beyond +-32,767 microvolt in line 18"),
        ("1 2 3 99999999999999999999999 5 6 7 8", "beyond +-32,767 microvolt in line 18"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, named):
    lines = asc(microvolt(1)).splitlines()
    lines[17] = line.encode()
    assert named in unreadable(tmp_path / "5.asc", b"\n".join(lines) + b"\n")


def test_windows_line_ends_tabs_and_indents_are_read_alike(tmp_path):
    values = microvolt(2)
    path = tmp_path / "5.asc"
    path.write_bytes(asc(values).replace(b"\n", b"\r\n").replace(b" ", b"\t "))
    np.testing.assert_allclose(read_asc(path) * 1000, values.T, atol=1e-9)


def test_millivolt_and_other_units_are_told_from_microvolt(tmp_path):
    path = tmp_path / "5.asc"
    text = "\n".join(" ".join(f"{value:.3f}" for value in row) for row in microvolt(1) / 1000) + "\n"
    assert "looks like millivolt; multiply it by 1000 and round" in unreadable(path, text.encode())
    assert "spans 0, which is no microvolt" in unreadable(path, asc(np.zeros((5000, 8), dtype=int)))
    assert "which is no microvolt" in unreadable(path, asc(microvolt(1) // 1000))
    assert "which is no microvolt" in unreadable(path, asc(np.clip(microvolt(1) * 50, -32_767, 32_767)))


WHOLE = asc(microvolt(3))
VALUES = microvolt(3)
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(at=st.integers(0, len(WHOLE)))
def test_a_record_cut_anywhere_is_never_taken_for_whole(tmp_path, at):
    path = tmp_path / "cut.asc"
    path.write_bytes(WHOLE[:at])
    if at < len(WHOLE):
        unreadable(path, WHOLE[:at])
    else:
        assert read_asc(path).shape == (8, 5000)


@many
@given(flips=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 7)), min_size=1, max_size=4))
def test_flipped_bits_of_a_record_give_an_error_or_change_only_the_numbers_they_hit(tmp_path, flips):
    content = bytearray(WHOLE)
    for position, bit in flips:
        content[position] ^= 1 << bit
    path = tmp_path / "flipped.asc"
    path.write_bytes(content)
    read, said = outcome(lambda: read_asc(path))
    if read is None:
        assert "flipped.asc" in said
    else:
        # A flip can change a digit, or move the gap between two numbers of one line; it never shifts lines or columns.
        assert (np.abs(read * 1000 - VALUES.T) > 1e-6).sum() <= 8 * len(flips)


def outcome(action: Callable[[], T]) -> tuple[T | None, str]:
    """What an action gives, or the one sentence that it raises; any other exception fails the test."""
    try:
        return action(), ""
    except DataError as error:
        said = str(error)
    assert "\n" not in said
    return None, said


@many
@given(content=st.binary(max_size=400))
def test_any_bytes_at_all_give_an_error_of_one_sentence(tmp_path, content):
    unreadable(tmp_path / "any.asc", content)


@many
@given(flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=3), clean=st.booleans())
def test_flipped_bits_of_the_table_give_an_error_or_plausible_rows(make_flippable, flips, clean):
    folder, table, whole = make_flippable
    content = bytearray(whole)
    for position, bit in flips:
        content[position % len(whole)] ^= 1 << bit
    table.write_bytes(content)
    source, _ = outcome(lambda: open_source("deepfake", folder, rate=100, clean="usable" if clean else None))
    if source is None:
        return
    read = source.table
    truth = intervals(12).set_index("patid")
    numbers = read["record"].str.removeprefix("deepfake-").astype(int)
    expected = truth.loc[numbers].assign(hr=lambda rows: 60_000 / rows["avgrrinterval"])
    for name in ("hr", "pr", "qrs", "qt"):
        # A flip hits one number at a time: columns never shift, and units never change.
        assert (~np.isclose(read[name], expected[name])).sum() <= len(flips)
    assert (read["qrs"] < read["qt"]).all()
    assert read["pr"].between(30, 700).all()


@pytest.fixture
def make_flippable(make_folder: MakeFolder) -> tuple[Path, Path, bytes]:
    folder = make_folder(intervals(12))
    table = folder / "all_normals_ground_truth.csv"
    return folder, table, table.read_bytes()


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "120", "TERM": "dumb"})


def test_the_command_line_imports_a_folder_as_a_simulated_set(make_folder, tmp_path):
    folder = make_folder(intervals(20), absent=(103,))
    values = microvolt(9)
    (folder / "from_000100" / "101.asc").write_bytes(asc(values))
    failed = call("import", "deepfake", folder, tmp_path / "out")
    assert isinstance(failed.exception, CardiofedError)
    assert "--clean usable" in str(failed.exception)
    assert not (tmp_path / "out").exists()
    done = call("import", "deepfake", folder, tmp_path / "out", "--rate", 100, "--clean", "3sigma")
    assert done.exit_code == 0, done.output
    assert "1 of 20 rows are left out: 1 with a file that is absent." in done.stdout
    assert "19 records of 19 patients at 100 Hz, in millivolt, 19 of them without a label" in done.stdout
    dataset = EcgDataset.open(tmp_path / "out")
    assert (dataset.info.simulated, dataset.info.rate, dataset.info.source) == (True, 100, "deepfake")
    assert dataset.records["pr"].tolist() == [150 + row % 11 for row in range(20) if row != 3]
    expected = prepare(Recording(values.T / 1000, INDEPENDENT_LEADS, 500))
    # Stored in units of 0.001 mV.
    np.testing.assert_allclose(dataset.batch([1], "none")[0], expected, atol=0.000501)
    shared = open_shared_set(tmp_path / "out", held_out=4)
    assert (shared.size, shared.fingerprint) == (15, dataset.fingerprint)
    assert sorted(shared.truth[:, MEASURES.index("qt")]) == [380 + row for row in range(20) if row != 3]
    shown = call("inspect", tmp_path / "out", "--figure", tmp_path / "out.png", "--records", 1)
    assert shown.exit_code == 0, shown.output
    assert "(simulated)" in shown.stdout


def test_a_broken_record_is_left_out_or_refuses_the_folder(make_folder, tmp_path):
    folder = make_folder()
    (folder / "from_000100" / "102.asc").write_bytes(b"1 2 3\n")
    failed = call("import", "deepfake", folder, tmp_path / "out", "--strict")
    assert "102.asc has 3 columns in line 1" in str(failed.exception)
    done = call("import", "deepfake", folder, tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert EcgDataset.open(tmp_path / "out").records["record"].tolist() == [
        "deepfake-100",
        "deepfake-101",
        "deepfake-103",
    ]


@pytest.fixture
def real_record() -> Path:
    root = Path(os.environ.get("CARDIOFED_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
    path = root / "deepfake-ecg" / "124.asc"
    if not path.is_file():
        pytest.skip("the real DeepFake ECG record is not found: set CARDIOFED_DATA to its folder's parent")
    return path


@pytest.mark.real_data
def test_a_real_record_keeps_its_identities_and_beats_at_a_normal_rate(real_record):
    import neurokit2

    assert read_asc(real_record)[:, 0].tolist() == [-0.073, 0.048, 0.003, 0.158, 0.108, 0.075, -0.001, -0.030]
    whole = prepare(Recording(read_asc(real_record), INDEPENDENT_LEADS, 500), rate=500)
    leads = dict(zip(LEADS, whole, strict=True))
    one, two = leads["I"], leads["II"]
    for name, expected in {
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }.items():
        np.testing.assert_allclose(leads[name], expected, atol=1e-9)
    assert 0.3 < np.median(np.ptp(whole, axis=-1)) < 3
    cleaned = neurokit2.ecg_clean(two, sampling_rate=500)
    _, peaks = neurokit2.ecg_peaks(cleaned, sampling_rate=500)
    rate = 60 * 500 / np.diff(peaks["ECG_R_Peaks"]).mean()
    # The range of the whole set.
    assert 60 <= rate <= 101
