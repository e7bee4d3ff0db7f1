"""Readers on random, truncated and bit-flipped files: a DataError in one sentence, or the scale that the file says."""

import io
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
from foreign_records import digital_ecg, flip, header_text, outcome, write_challenge, write_wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dicom_and_scp import scp_file

from core.ecg.leads import LEADS
from core.ecg.sources import Recording, open_source
from core.ecg.sources.challenge import read_challenge
from core.ecg.sources.csv_folder import read_csv_record
from core.ecg.sources.ludb_annotations import read_marks
from core.ecg.sources.sph import read_sph
from core.ecg.sources.wfdb_files import read_wfdb
from core.ecg.sources.wfdb_header import Header, read_header
from core.errors import DataError

fuzzed = settings(max_examples=120, deadline=None)
bits = st.lists(st.integers(0, 10**9), min_size=1, max_size=4)
DIGITAL = digital_ecg(11, samples=500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed")


def one_sentence(result):
    if isinstance(result, DataError):
        assert str(result)
        assert "\n" not in str(result)
        return True
    return False


def said_millivolt(header: str, digital: np.ndarray) -> np.ndarray:
    """What a header says of samples, taken apart by other means than the reader's."""
    lines = [line.split() for line in header.splitlines() if line.strip() and not line.strip().startswith("#")]
    units = {"mv": 1.0, "uv": 1e-3, "v": 1e3, "nv": 1e-6}
    rows = []
    for line, values in zip(lines[1:], digital, strict=False):
        number, _, unit = line[2].partition("/")
        gain, _, baseline = number.partition("(")
        zero = baseline.rstrip(")") or (line[4] if len(line) > 4 else "0")
        rows.append((values - float(zero)) / float(gain) * units[unit.lower() or "mv"])
    return np.array(rows)


# Steps a V and steps a nV that an ECG can have.
numbers = st.floats(1.001, 900).map(lambda value: f"{value:.6g}")


@fuzzed
@given(
    gain=numbers,
    baseline=st.none() | st.integers(-(2**15), 2**15),
    zero=st.integers(-999, 999),
    unit=st.sampled_from(["", "/mV", "/mv", "/uV", "/UV", "/V", "/nV"]),
    rate=st.sampled_from(["500", "500.0", "250/500(0)", "1000"]),
    form=st.sampled_from(["16+24", "16x1+24", "16x1:0+24"]),
    break_=st.sampled_from(["\n", "\r\n"]),
)
def test_every_way_to_write_a_header_gives_the_scale_it_says(folder, gain, baseline, zero, unit, rate, form, break_):
    written = gain + ("" if baseline is None else f"({baseline})") + unit
    write_challenge(folder, "w", DIGITAL, gain=written, rate=rate, form=form)
    text = (folder / "w.hea").read_text().replace(f"{written} 16 0 ", f"{written} 16 {zero} ")
    (folder / "w.hea").write_bytes(("# a comment\n" + text).replace("\n", break_).encode())
    recording = read_challenge(folder / "w.hea")
    expected = (DIGITAL - float(zero if baseline is None else baseline)) / float(gain)
    expected *= {"": 1.0, "/mv": 1.0, "/uv": 1e-3, "/v": 1e3, "/nv": 1e-6}[unit.lower()]
    np.testing.assert_allclose(recording.signal, expected, rtol=1e-12, atol=0)
    assert recording.rate == int(float(rate.partition("/")[0]))


tokens = st.sampled_from(
    [
        "A",
        "12",
        "500",
        "0",
        "-1",
        "16+24",
        "16",
        "212",
        "1000/mV",
        "0/mV",
        "1e5/uV",
        "nan/mV",
        "inf",
        "(3)",
        "#Dx: 1",
        "/",
        "x",
    ]
) | st.text(max_size=6)


@fuzzed
@given(st.lists(st.lists(tokens, max_size=10).map(" ".join), max_size=6).map("\n".join))
def test_random_headers_are_refused_in_a_sentence_or_say_a_scale(folder, text):
    (folder / "random.hea").write_text(text, encoding="utf-8", errors="replace")
    header = outcome(read_header, folder / "random.hea", "random")
    if not one_sentence(header):
        assert isinstance(header, Header)
        assert header.rate > 0
        assert all(0 < lead.gain < np.inf for lead in header.leads)


@fuzzed
@given(bits)
def test_a_header_with_flipped_bits_gives_the_scale_that_it_then_says(folder, places):
    whole = header_text("f", DIGITAL, gain="1716(6)/mV").encode()
    write_challenge(folder, "f", DIGITAL)
    (folder / "f.hea").write_bytes(flip(whole, places))
    recording = outcome(read_challenge, folder / "f.hea")
    if not one_sentence(recording):
        text = (folder / "f.hea").read_bytes().decode("latin-1")
        np.testing.assert_allclose(recording.signal, said_millivolt(text, DIGITAL), rtol=1e-12)


@fuzzed
@given(bits, st.sampled_from(["4", "5"]))
def test_a_mat_file_with_flipped_bits_is_refused_or_holds_the_same_samples(folder, places, version):
    write_challenge(folder, "m", DIGITAL, version=version)
    (folder / "m.mat").write_bytes(flip((folder / "m.mat").read_bytes(), places[:1]))
    recording = outcome(read_challenge, folder / "m.mat")
    # One bit of a sample changes its lead's checksum; elsewhere a bit may be of no consequence.
    if not one_sentence(recording):
        np.testing.assert_array_equal(recording.signal, DIGITAL / 1000)


@pytest.mark.parametrize("version", ["4", "5"])
def test_a_mat_file_that_is_cut_anywhere_is_refused(folder, version):
    write_challenge(folder, "c", DIGITAL, version=version)
    content = (folder / "c.mat").read_bytes()
    for end in [*range(0, 200, 7), *range(200, len(content), 997), len(content) - 1]:
        (folder / "c.mat").write_bytes(content[:end])
        assert one_sentence(outcome(read_challenge, folder / "c.mat")), end


@pytest.mark.parametrize("kind", ["<u2", "<i4", "<f8", "<u1"])
def test_samples_that_are_not_of_the_header_s_format_are_refused(folder, kind):
    write_challenge(folder, "k", DIGITAL)
    from scipy.io import savemat

    savemat(folder / "k.mat", {"val": (DIGITAL.astype(np.int64) % 65536).astype(kind)}, format="5")
    assert one_sentence(outcome(read_challenge, folder / "k.mat"))


@fuzzed
@given(bits, st.booleans())
def test_a_wfdb_record_with_flipped_bits_is_refused_or_has_the_scale_it_says(folder, places, in_header):
    write_wfdb(folder, "d", DIGITAL, gain="1716(6)/mV")
    path = folder / ("d.hea" if in_header else "d.dat")
    path.write_bytes(flip(path.read_bytes(), places[: 4 if in_header else 1]))
    recording = outcome(read_wfdb, folder / "d")
    if not in_header:
        assert one_sentence(recording)
    elif not one_sentence(recording):
        text = (folder / "d.hea").read_bytes().decode("latin-1")
        np.testing.assert_allclose(recording.signal, said_millivolt(text, DIGITAL), rtol=1e-12)


@fuzzed
@given(st.integers(0, 12_000))
def test_a_wfdb_record_that_is_cut_anywhere_is_refused(folder, end):
    write_wfdb(folder, "cut", DIGITAL)
    content = (folder / "cut.dat").read_bytes()
    (folder / "cut.dat").write_bytes(content[: end % len(content)])
    assert one_sentence(outcome(read_wfdb, folder / "cut"))


def hdf5_bytes() -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["ecg"] = (DIGITAL / 1000).astype(np.float16)
    return content.getvalue()


@fuzzed
@given(bits, st.none() | st.integers(0, 10**6))
def test_an_hdf5_file_that_is_damaged_is_refused_or_has_twelve_leads(folder, places, cut):
    whole = hdf5_bytes()
    content = flip(whole, places) if cut is None else whole[: cut % len(whole)]
    (folder / "x.h5").write_bytes(content)
    recording = outcome(read_sph, folder / "x.h5")
    if not one_sentence(recording):
        assert isinstance(recording, Recording)
        assert recording.signal.shape[0] == 12


@fuzzed
@given(bits)
def test_an_scp_file_with_flipped_bits_is_refused(folder, places):
    pytest.importorskip("ecgdatakit")
    from core.ecg.sources.scp import read_scp

    whole = scp_file(DIGITAL)
    # An even number of the same flip is none.
    content = flip(whole, sorted(set(places)))
    (folder / "x.scp").write_bytes(content)
    assert content == whole or one_sentence(outcome(read_scp, folder / "x.scp"))


@fuzzed
@given(bits, st.none() | st.integers(0, 10**6))
def test_a_dicom_file_that_is_damaged_is_refused_or_gives_samples(folder, places, cut):
    pydicom = pytest.importorskip("pydicom")
    from core.ecg.sources.dicom import read_dicom

    with open(pydicom.data.get_testdata_file("waveform_ecg.dcm"), "rb") as file:
        whole = file.read()
    # Where the fields are: the first samples begin some 10 kB into the file.
    content = flip(whole, [place % 80_000 for place in places]) if cut is None else whole[: cut % len(whole)]
    (folder / "x.dcm").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recording = outcome(read_dicom, folder / "x.dcm")
    if not one_sentence(recording):
        assert isinstance(recording, Recording)
        assert len(recording.leads) == len(recording.signal)
        assert recording.rate > 0


@fuzzed
@given(st.binary(max_size=200))
def test_random_annotation_files_are_refused_or_give_marks(folder, content):
    (folder / "1.v1").write_bytes(content)
    marks = outcome(read_marks, folder / "1.v1")
    if not one_sentence(marks):
        samples, symbols = marks
        assert len(samples) == len(symbols)


CSV = "\n".join([",".join(LEADS), *(",".join(f"{v / 1000}" for v in row) for row in DIGITAL[:, :60].T)])


@fuzzed
@given(st.lists(st.tuples(st.integers(0, len(CSV) - 1), st.sampled_from(list("0.,;-eE\n\tX\"'\0ä "))), max_size=4))
def test_a_csv_record_with_changed_characters_is_refused_or_gives_samples(folder, changes):
    characters = list(CSV)
    for place, character in changes:
        characters[place] = character
    (folder / "r.csv").write_text("".join(characters), encoding="utf-8")
    recording = outcome(lambda path: read_csv_record(path, source_rate=500, units="uV"), folder / "r.csv")
    if not one_sentence(recording):
        assert recording.signal.shape[0] == len(recording.leads)
        assert not changes or recording.signal.shape[1] <= 62
        if not changes:
            np.testing.assert_allclose(recording.signal, DIGITAL[:, :60] / 1e6, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(bits, st.none() | st.integers(0, 10**6))
def test_a_workbook_that_is_damaged_is_refused_or_read(folder, places, cut):
    place = folder / "chapman"
    (place / "ECGData").mkdir(parents=True, exist_ok=True)
    (place / "ECGData" / "a.csv").write_text("")
    content = io.BytesIO()
    row = {"FileName": "a", "Rhythm": "SR", "Beat": "NONE", "PatientAge": 3, "Gender": "MALE"}
    pd.DataFrame([row]).to_excel(content, index=False)
    whole = content.getvalue()
    (place / "Diagnostics.xlsx").write_bytes(flip(whole, places) if cut is None else whole[: cut % len(whole)])
    source = outcome(lambda: open_source("chapman", place, rate=500))
    one_sentence(source)


cells = st.text(max_size=8) | st.sampled_from(["r1", "NORM", "F", "56", "nan", "-1", "1e999", '"', "0", "1"])


@fuzzed
@given(st.lists(st.tuples(*[cells] * 6), min_size=1, max_size=4), st.sampled_from([None, "scp", "aha"]))
def test_random_tables_of_labels_are_refused_or_give_a_table(folder, rows, codes):
    write_wfdb(folder / "labelled", "r1", DIGITAL)
    head = "record,patient,age,sex,fold," + ("labels" if codes is None else "codes")
    lines = [head, *(",".join(cell.replace(",", " ").replace("\n", " ") for cell in row) for row in rows)]
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8", errors="replace")
    source = outcome(
        lambda: open_source("wfdb", folder / "labelled", rate=500, labels=str(folder / "labels.csv"), codes=codes)
    )
    if not one_sentence(source):
        assert source.table["record"].tolist() == ["r1"]
        assert set(source.table["sex"].dropna()) <= {0, 1}
