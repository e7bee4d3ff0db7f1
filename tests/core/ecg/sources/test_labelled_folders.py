"""Formats whose labels come in a table of their own: wfdb, csv, dicom, scp."""

import numpy as np
import pytest
from foreign_records import digital_ecg, write_challenge, write_wfdb

from core.ecg.leads import LEADS
from core.ecg.preparation import prepare
from core.ecg.sources import open_source
from core.ecg.sources.csv_folder import read_csv_record
from core.errors import DataError

CLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]


def labels(tmp_path, *lines, name="labels.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes("\n".join(lines).encode(encoding))
    return str(path)


@pytest.fixture
def records(tmp_path):
    folder = tmp_path / "Aufnahmen 2024"
    for number, place in ((1, "a"), (2, "a"), (3, "b")):
        write_wfdb(folder / place, f"r{number}", digital_ecg(number))
    return folder


def open_wfdb(records, path, **options):
    return open_source("wfdb", records, rate=500, labels=path, **options)


def test_codes_of_each_system_become_labels(records, tmp_path):
    cells = {
        "scp": ("NORM SR", "IMI;ASMI", "LVH, CLBBB"),
        "snomed": ("426783006", "164865005", "164873001;164909002"),
        "aha": ("1", "160", "142;104"),
    }
    for codes, (one, two, three) in cells.items():
        path = labels(tmp_path, "record|codes", f"r1|{one}", f"r2.hea|{two}", f"b/r3|{three}")
        source = open_wfdb(records, path, codes=codes)
        assert source.table["record"].tolist() == ["r1", "r2", "r3"]
        assert source.table[CLASSES].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 1]], codes
        assert source.system == codes
    assert source.codes == (("1",), ("160",), ("142", "104"))


def test_a_hospital_s_own_codes_become_labels(records, tmp_path):
    own = labels(tmp_path, "code;superclasses", "myocardial infarct;MI", "LSB;CD", "o.B.;NORM", "SR;", name="own.csv")
    path = labels(tmp_path, "record;codes", "r1;myocardial infarct", "r2;LSB SR", "r3;o.B. XYZ")
    source = open_wfdb(records, path, codes=own)
    assert source.table[CLASSES].to_numpy().tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    assert source.unmapped == {"SR": 1, "XYZ": 1}
    assert source.system == ""


@pytest.mark.parametrize(
    ("separator", "encoding"), [(",", "utf-8"), (";", "cp1252"), ("\t", "utf-16"), ("|", "utf-8-sig")]
)
def test_a_table_with_classes_people_and_intervals_in_any_encoding(records, tmp_path, separator, encoding):
    lines = [
        ["File Name", "Patient-ID", "Age", "Gender", "Site", "Fold", "Device", *CLASSES, "hr_bpm"],
        ["a\\r1", "Müller", "56", "F", "Nord", "3", "MAC", "1", "0", "0", "0", "0", "61.5"],
        ["r3.hea", "Müller", "", "Male", "Süd", "", "MAC", "0", "1", "0", "1", "0", ""],
    ]
    path = labels(tmp_path, *(separator.join(line) for line in lines), encoding=encoding)
    source = open_wfdb(records, path)
    table = source.table
    assert table["record"].tolist() == ["r1", "r3"]
    assert table["patient"].tolist() == ["Müller"] * 2
    assert table["age"].fillna(-1).tolist() == [56, -1]
    assert table["sex"].tolist() == [1, 0]
    assert table["site"].tolist() == ["Nord", "Süd"]
    assert table["fold"].tolist() == [3, 0]
    assert table["device"].tolist() == ["MAC"] * 2
    assert table["hr_bpm"].fillna(-1).tolist() == [61.5, -1]
    assert table[CLASSES].to_numpy().tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 1, 0]]
    assert source.notes == ("Records without a row in labels.csv, left out: 1 (r2).",)
    np.testing.assert_array_equal(source.read(1).signal, digital_ecg(3) / 1000)


def test_age_and_sex_in_the_headers_count_where_the_table_has_none(records, tmp_path):
    header = records / "a" / "r1.hea"
    header.write_text(header.read_text() + "#<age>: 44\n#Sex: F\n")
    source = open_wfdb(records, labels(tmp_path, "record,labels", "r1,NORM", "r2,MI;CD"))
    assert source.table["age"].fillna(-1).tolist() == [44, -1]
    assert source.table["sex"].fillna(-1).tolist() == [1, -1]
    assert "Patients are unknown in 2 of 2 records: every record counts as one." in source.notes


def test_names_that_come_twice_need_their_folder(records, tmp_path):
    write_wfdb(records / "b", "r1", digital_ecg(9))
    with pytest.raises(DataError, match="lists 'r1', which is the name of 2 files; write it with its folder"):
        open_wfdb(records, labels(tmp_path, "record,labels", "r1,NORM"))
    source = open_wfdb(records, labels(tmp_path, "record,labels", "b/r1,NORM", "a/r1,MI"))
    assert source.table["record"].tolist() == ["b/r1", "a/r1"]
    np.testing.assert_array_equal(source.read(0).signal, digital_ecg(9) / 1000)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["record,codes", "r1,NORM"], {}, "has a column of codes; say of which system: --codes"),
        (["record,labels", "r1,NORM"], {"codes": "scp"}, "no column 'codes'"),
        (["record,codes", "r1,NORM"], {"codes": "icd"}, "--codes icd is neither scp, snomed, aha nor a file"),
        (["file no,labels", "r1,NORM"], {}, "no column 'record'"),
        (
            ["record,labels", "x1,NORM"],
            {},
            r"no record of .*labels\.csv is in .*\(it lists 'x1', the folder has 'a/r1\.hea'",
        ),
        (["record,labels", "r1,NORM", "a/r1.hea,MI"], {}, "lists 'a/r1.hea' twice"),
        (["record,labels", "r1,NORMAL"], {}, "record r1 in .* has the label 'NORMAL'"),
        (["record,age", "r1,3"], {}, "has no labels"),
        (["record," + ",".join(CLASSES), "r1,1,0,0,0,2"], {}, "neither 0 nor 1"),
        (["record,labels,fold", "r1,NORM,1.5"], {}, "record r1 .* fold that is not whole"),
        (["record,labels", "r1,NORM,x"], {}, r"more cells in line 2 than columns \(3 and 2\)"),
        (["record,labels", "r1"], {}, r"fewer cells in line 2 than columns \(1 and 2\)"),
        ([""], {}, "is empty"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(records, tmp_path, lines, options, message):
    with pytest.raises(DataError, match=message) as caught:
        open_wfdb(records, labels(tmp_path, *lines), **options)
    assert "\n" not in str(caught.value)


def test_without_a_table_its_columns_are_named(records):
    with pytest.raises(DataError, match=r"say --labels FILE\.csv"):
        open_source("wfdb", records, rate=500)
    with pytest.raises(DataError, match="is missing"):
        open_source("wfdb", records, rate=500, labels="nowhere.csv")


def test_unknown_codes_alone_give_no_label(records, tmp_path):
    source = open_wfdb(records, labels(tmp_path, "record,codes", "r1,QQQ", "r2,QQQ SR"), codes="scp")
    assert not source.table[CLASSES].to_numpy().any()
    assert source.unmapped == {"QQQ": 2, "SR": 1}


def test_a_folder_of_several_formats_gives_the_wfdb_records_and_counts_the_others(records, tmp_path):
    write_challenge(records, "c1")
    (records / "x.h5").write_bytes(b"x")
    source = open_wfdb(records, labels(tmp_path, "record,labels", "r1,NORM", "c1,CD"))
    np.testing.assert_array_equal(source.read(1).signal, digital_ecg() / 1000)
    assert "Files that are no part of the wfdb records, left out: 1 (1 .h5)." in source.notes


def write_csv(folder, name, text, encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode(encoding))


def csv_text(values, titles=LEADS, separator=",", decimal=".", time=None):
    lines = [separator.join(titles)]
    for row, sample in enumerate(values.T):
        cells = [repr(float(v)).replace(".", decimal) for v in sample]
        lines.append(separator.join(cells if time is None else [time(row), *cells]))
    return "\n".join(lines) + "\n"


VALUES = np.round(digital_ecg(5, samples=3000) / 1000, 3)


@pytest.mark.parametrize(
    ("separator", "decimal", "encoding"),
    [(",", ".", "utf-8"), (";", ",", "cp1252"), ("\t", ".", "utf-16"), (";", ".", "utf-8-sig")],
)
def test_csv_records_in_any_separator_and_encoding(tmp_path, separator, decimal, encoding):
    write_csv(tmp_path / "Ärzte ohne Grenzen", "r1.csv", csv_text(VALUES, LEADS, separator, decimal), encoding)
    path = labels(tmp_path / "Ärzte ohne Grenzen", "record;labels", "r1.csv;NORM")
    folder = tmp_path / "Ärzte ohne Grenzen"
    source = open_source("csv", folder, rate=500, labels=path, source_rate=500, units="mV")
    assert source.table["record"].tolist() == ["r1"]
    recording = source.read(0)
    assert (recording.leads, recording.rate) == (LEADS, 500)
    np.testing.assert_allclose(recording.signal, VALUES, rtol=0, atol=1e-12)
    assert prepare(recording).shape == (12, 1000)


@pytest.mark.parametrize(("units", "factor"), [("mV", 1), ("uV", 1e-3), ("µV", 1e-3), ("V", 1e3), ("nV", 1e-6)])
def test_csv_units_said_or_written_give_the_same_millivolt(tmp_path, units, factor):
    write_csv(tmp_path, "said.csv", csv_text(VALUES))
    write_csv(tmp_path, "written.csv", csv_text(VALUES, [f"lead {lead} [{units}]" for lead in LEADS]))
    said = read_csv_record(tmp_path / "said.csv", source_rate=500, units=units)
    written = read_csv_record(tmp_path / "written.csv", source_rate=500)
    np.testing.assert_allclose(said.signal, VALUES * factor, rtol=1e-12)
    assert np.array_equal(said.signal, written.signal)
    assert prepare(written).shape == (12, 1000)


@pytest.mark.parametrize(
    ("title", "time", "rate"),
    [
        ("time", lambda k: f"{k / 500:.4f}", 500),
        ("Time (ms)", lambda k: str(2 * k), 500),
        ("t", lambda k: f"{10 + k / 250:.3f}", 250),
        ("time_ms", lambda k: f"{k * 1000 / 360:.5f}", 360),
        ("time", lambda k: f"{k * 1000 / 360:.5f}", 360),
        ("time_ms", lambda k: str(4 * k), 250),
        ("timestamp [ms]", str, 1000),
        ("time (us)", lambda k: str(2000 * k), 500),
        ("Time [µs]", lambda k: str(250 * k), 4000),
        ("time [sec]", lambda k: f"{k / 500:.4f}", 500),
    ],
)
def test_the_rate_follows_from_a_column_of_times(tmp_path, title, time, rate):
    write_csv(tmp_path, "r.csv", csv_text(VALUES, [title, *LEADS], time=time))
    recording = read_csv_record(tmp_path / "r.csv", units="mV")
    assert recording.rate == rate
    np.testing.assert_allclose(recording.signal, VALUES, atol=1e-12)
    with pytest.raises(DataError, match="but it is said to have 720"):
        read_csv_record(tmp_path / "r.csv", source_rate=720, units="mV")


@pytest.mark.parametrize(
    ("title", "step", "message"),
    [
        ("time", 1, "steps of 1 without a unit, which may count samples; say --source-rate"),
        ("t", 2, "steps of 2 without a unit, which may count samples; say --source-rate"),
        ("timestamp", 4, "steps of 4 without a unit, which may count samples; say --source-rate"),
        ("time [samples]", 1, "times in 'samples', which is none of s, ms and us; say --source-rate"),
        ("time [min]", 0.1, "times in 'min', which is none of s, ms and us; say --source-rate"),
    ],
)
def test_times_that_may_count_samples_do_not_give_the_rate_and_do_not_contradict_it(tmp_path, title, step, message):
    write_csv(tmp_path, "r.csv", csv_text(VALUES, [title, *LEADS], time=lambda k: f"{k * step:.6g}"))
    with pytest.raises(DataError, match=message):
        read_csv_record(tmp_path / "r.csv", units="mV")
    assert read_csv_record(tmp_path / "r.csv", source_rate=500, units="mV").rate == 500


@pytest.mark.parametrize(("title", "step"), [("time [s]", 1), ("time_s", 2), ("time [us]", 2), ("seconds", 4)])
def test_times_whose_unit_makes_an_impossible_rate_are_refused(tmp_path, title, step):
    write_csv(tmp_path, "r.csv", csv_text(VALUES, [title, *LEADS], time=lambda k: str(k * step)))
    with pytest.raises(DataError, match="Hz, which no ECG has"):
        read_csv_record(tmp_path / "r.csv", units="mV")


def test_times_that_run_backwards_are_refused_even_where_the_rate_is_said(tmp_path):
    write_csv(tmp_path, "r.csv", csv_text(VALUES, ["time", *LEADS], time=lambda k: f"{6 - k / 500:.3f}"))
    with pytest.raises(DataError, match="not evenly spaced and rising"):
        read_csv_record(tmp_path / "r.csv", source_rate=500, units="mV")


@pytest.mark.parametrize(("separator", "mark"), [(";", ","), ("\t", ","), (";", "."), (",", ".")])
def test_thousands_separators_are_not_taken_for_decimal_points(tmp_path, separator, mark):
    values = np.round(5000 * VALUES).astype(int)
    lines = [separator.join(f"{value:,}".replace(",", mark) for value in sample) for sample in values.T]
    write_csv(tmp_path, "r.csv", "\n".join([separator.join(LEADS), *lines]))
    with pytest.raises(DataError, match="look like thousands; save it without"):
        read_csv_record(tmp_path / "r.csv", source_rate=500, units="uV")


@pytest.mark.parametrize("mark", [",", "."])
def test_decimals_of_three_digits_beside_whole_numbers_are_read_as_decimals(tmp_path, mark):
    values = np.round(5 * VALUES, 3)
    lines = [";".join(f"{value:.3f}".removesuffix(".000").replace(".", mark) for value in row) for row in values.T]
    write_csv(tmp_path, "r.csv", "\n".join([";".join(LEADS), *lines]))
    signal = read_csv_record(tmp_path / "r.csv", source_rate=500, units="mV").signal
    np.testing.assert_allclose(signal, values, atol=1e-12)


def test_two_files_that_differ_in_their_ending_need_it_in_the_table(tmp_path):
    write_csv(tmp_path / "set", "x.csv", csv_text(VALUES))
    write_csv(tmp_path / "set", "x.txt", csv_text(2 * VALUES))
    options = {"rate": 500, "source_rate": 500, "units": "mV"}
    with pytest.raises(DataError, match="lists 'x', which is the name of 2 files; write it with its folder and ending"):
        open_source("csv", tmp_path / "set", labels=labels(tmp_path, "record,labels", "x,NORM"), **options)
    source = open_source("csv", tmp_path / "set", labels=labels(tmp_path, "record,labels", "x.csv,NORM"), **options)
    np.testing.assert_allclose(source.read(0).signal, VALUES, atol=1e-12)


@pytest.mark.parametrize(
    "lines",
    [
        ["RECORD,Norm,mi,Sttc,cd,hyp,HR_BPM,QT ms", "r1,1,0,0,0,0,77,400"],
        ["Record,Labels,Hr_bpm,QT_MS", "r1,NORM,77,400"],
        ["Record,codes,LABELS,hr_bpm,qt_ms", "r1,XYZ,NORM,77,400"],
    ],
)
def test_columns_of_classes_and_intervals_may_be_in_any_case(records, tmp_path, lines):
    table = open_wfdb(records, labels(tmp_path, *lines)).table
    assert table[CLASSES].to_numpy().tolist() == [[1, 0, 0, 0, 0]]
    assert table[["hr_bpm", "qt_ms"]].to_numpy().tolist() == [[77, 400]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (csv_text(VALUES), {"units": "mV"}, "does not say its rate; say --source-rate"),
        (csv_text(VALUES), {"source_rate": 500}, "does not say its unit; say --units"),
        (
            csv_text(VALUES, [f"{n} (uV)" for n in LEADS]),
            {"source_rate": 500, "units": "mV"},
            "is in uV and said to be in mV",
        ),
        (csv_text(VALUES, [f"{n} (kg)" for n in LEADS]), {"source_rate": 500}, "is in 'kg', which is no voltage"),
        (csv_text(VALUES, ["time", *LEADS], time=lambda k: str(k * k)), {"units": "mV"}, "not evenly spaced"),
        ("\n".join(csv_text(VALUES).split("\n")[1:]), {"source_rate": 500, "units": "mV"}, "no line of lead names"),
        (csv_text(VALUES).rsplit(",", 1)[0], {"source_rate": 500, "units": "mV"}, "lines of different lengths"),
        (csv_text(VALUES).replace("\n0.", "\nx.", 1), {"source_rate": 500, "units": "mV"}, "cannot be read as numbers"),
        ("sample\n1\n2\n", {"source_rate": 500, "units": "mV"}, "no column of a lead"),
    ],
)
def test_a_csv_record_that_cannot_be_understood_is_refused(tmp_path, text, options, message):
    write_csv(tmp_path, "r.csv", text)
    with pytest.raises(DataError, match=message):
        read_csv_record(tmp_path / "r.csv", **options)


def test_empty_cells_are_gaps(tmp_path):
    text = csv_text(VALUES).split("\n")
    text[10] = ",".join(["", *text[10].split(",")[1:]])
    write_csv(tmp_path, "r.csv", "\n".join(text))
    signal = read_csv_record(tmp_path / "r.csv", source_rate=500, units="mV").signal
    assert np.argwhere(np.isnan(signal)).tolist() == [[0, 9]]


def test_impossible_options_are_refused(tmp_path):
    write_csv(tmp_path, "r.csv", csv_text(VALUES))
    path = labels(tmp_path, "record,labels", "r,NORM")
    for options, message in (({"source_rate": 0}, "0 Hz is impossible"), ({"units": "mmHg"}, "'mmHg' are no voltage")):
        with pytest.raises(DataError, match=message):
            open_source("csv", tmp_path, rate=500, labels=path, **options)
