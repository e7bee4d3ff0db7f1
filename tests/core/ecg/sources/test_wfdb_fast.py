from pathlib import Path

import numpy as np
import pytest
import wfdb
from foreign_records import write_challenge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.ecg.sources.wfdb_fast import read_format16
from core.ecg.sources.wfdb_files import read_wfdb
from core.ecg.sources.wfdb_folder import read_any_wfdb
from core.ecg.sources.wfdb_header import INVALID, read_header, to_millivolt
from core.errors import DataError


def write(folder: Path, samples: np.ndarray, line: str = "a.dat 16 1000(0)/mV 16 0 {first} {sum} 0 {name}") -> Path:
    """A record of int16 samples (leads, samples), as the WFDB manual has it."""
    leads, length = samples.shape
    (folder / "a.dat").write_bytes(samples.T.astype("<i2").tobytes())
    lines = [f"a {leads} 500 {length}"]
    for number, lead in enumerate(samples):
        lines.append(line.format(first=lead[0], sum=int(lead.sum(dtype=np.int64)) % 65536, name=f"L{number}"))
    (folder / "a.hea").write_text("\n".join(lines) + "\n")
    return folder / "a.hea"


def fast(header: Path) -> np.ndarray | None:
    return read_format16(str(header.parent), read_header(header, "a"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    leads=st.integers(1, 13),
    length=st.integers(1, 300),
    gain=st.sampled_from(["1000(0)/mV", "200", "4880/mV", "1000.0(-30)/mV", "1(12)/uV", "3.5(7)/V"]),
    seed=st.integers(0, 1000),
)
def test_a_record_is_what_wfdb_reads_to_the_last_bit(tmp_path, leads, length, gain, seed):
    samples = np.random.default_rng(seed).integers(-32_768, 32_768, (leads, length)).astype(np.int16)
    samples[-1, ::7] = INVALID[16]
    header = write(tmp_path, samples, "a.dat 16 " + gain + " 16 0 {first} {sum} 0 {name}")
    assert np.array_equal(fast(header), samples)
    read = read_wfdb(header)
    factor = {"uV": 1e-3, "V": 1e3}.get(gain.partition("/")[2], 1.0)
    theirs = wfdb.rdrecord(str(header)[:-4]).p_signal.T * factor
    assert np.array_equal(read.signal, theirs, equal_nan=True)
    assert np.array_equal(np.isnan(read.signal), samples == INVALID[16])


def test_a_record_that_begins_within_a_file_is_read(tmp_path):
    """As the challenges' are, 24 bytes into a MATLAB file."""
    samples = np.arange(24, dtype=np.int16).reshape(2, 12)
    header = write(tmp_path, samples, "a.dat 16x1+24 1000/mV 16 0 {first} {sum} 0 {name}")
    content = (tmp_path / "a.dat").read_bytes()
    (tmp_path / "a.dat").write_bytes(bytes(24) + content)
    assert np.array_equal(fast(header), samples)


@pytest.mark.parametrize(
    "line",
    [
        "a.dat 212 200/mV 12 0 {first} {sum} 0 {name}",
        "a.dat 16x2 1000/mV 16 0 {first} {sum} 0 {name}",
        "a.dat 16:3 1000/mV 16 0 {first} {sum} 0 {name}",
        "{name}.dat 16 1000/mV 16 0 {first} {sum} 0 {name}",
        "../a.dat 16 1000/mV 16 0 {first} {sum} 0 {name}",
        "lost.dat 16 1000/mV 16 0 {first} {sum} 0 {name}",
    ],
)
def test_another_kind_of_record_is_left_to_wfdb(tmp_path, line):
    assert fast(write(tmp_path, np.ones((2, 30), dtype=np.int16), line)) is None


def test_a_file_cut_short_is_left_to_wfdb_which_refuses_it(tmp_path):
    header = write(tmp_path, np.ones((2, 30), dtype=np.int16))
    (tmp_path / "a.dat").write_bytes((tmp_path / "a.dat").read_bytes()[:-1])
    assert fast(header) is None
    with pytest.raises(DataError, match=r"record a: .* is truncated or malformed"):
        read_wfdb(header)


def bare(folder: Path, line: str, leads: int = 12, length: int | str = 200) -> Path:
    """A header without checksums or initial values."""
    lines = [f"a {leads} 500 {length}", *(line.format(number=number) for number in range(leads))]
    (folder / "a.hea").write_text("\n".join(lines) + "\n")
    return folder / "a.hea"


NOISE = np.random.default_rng(3).integers(100, 3000, (15, 200)).astype("<i2")


@pytest.mark.parametrize("leads", [8, 11, 13, 15])
def test_a_file_that_interleaves_other_leads_than_the_header_s_is_refused_without_checksums_too(tmp_path, leads):
    (tmp_path / "a.dat").write_bytes(NOISE[:leads].T.tobytes())
    header = bare(tmp_path, "a.dat 16 1000/mV 16 0 0 0 0 L{number}")
    with pytest.raises(DataError, match=r"record a: .*a\.dat is truncated or malformed, or of other leads") as caught:
        read_wfdb(header)
    assert "(12 leads of 200 samples in format 16); restore both files" in str(caught.value)


@pytest.mark.parametrize("form", [8, 24, 32, 80, 212, 310, 311])
def test_a_file_of_16_bits_in_another_format_s_header_is_refused(tmp_path, form):
    (tmp_path / "a.dat").write_bytes(NOISE[:12].T.tobytes())
    header = bare(tmp_path, f"a.dat {form} 1000/mV 16 0 0 0 0 L{{number}}")
    with pytest.raises(DataError, match=f"12 leads of 200 samples in format {form}"):
        read_wfdb(header)


@pytest.mark.parametrize(
    ("form", "length"), [("16", ""), ("16", 0), *((f, 201) for f in ("16", "24", "32", "80", "212"))]
)
@pytest.mark.parametrize("padding", [0, 1])
def test_a_file_of_the_header_s_format_is_read_padded_or_not_and_in_format_16_without_a_length(
    tmp_path, form, padding, length
):
    samples = NOISE[:3, :199].T % 100
    samples = np.vstack([samples, samples[:2]]).astype(np.int64)
    wfdb.wrsamp("a", 500, ["mV"] * 3, ["I", "II", "V1"], d_signal=samples, fmt=[form] * 3, adc_gain=[200.0] * 3,
                baseline=[0] * 3, write_dir=str(tmp_path))  # fmt: skip
    header, data = tmp_path / "a.hea", tmp_path / "a.dat"
    header.write_text(header.read_text().replace("a 3 500 201", f"a 3 500 {length}"))
    data.write_bytes(data.read_bytes() + bytes(padding))
    assert np.array_equal(read_wfdb(header).signal, samples.T / 200)


def test_leads_in_two_files_are_each_held_against_their_own(tmp_path):
    (tmp_path / "a.dat").write_bytes(NOISE[:2].T.tobytes())
    (tmp_path / "b.dat").write_bytes(NOISE[2:3].tobytes())
    lines = ["a 3 500 200", *(f"{name}.dat 16 1000/mV 16 0 0 0 0 L{number}" for number, name in enumerate("aab"))]
    (tmp_path / "a.hea").write_text("\n".join(lines) + "\n")
    assert np.array_equal(read_wfdb(tmp_path / "a.hea").signal, NOISE[:3] / 1000)
    (tmp_path / "b.dat").write_bytes(NOISE[2:4].T.tobytes())
    with pytest.raises(DataError, match=r"b\.dat is truncated .* \(1 leads of 200 samples in format 16\)"):
        read_wfdb(tmp_path / "a.hea")


@pytest.mark.parametrize("lines", [["a.dat 212 200/mV"], ["a.dat 16 200/mV", "b.dat 16 200/mV"]])
@pytest.mark.parametrize("length", ["", " 0"])
def test_of_another_format_or_several_files_a_length_is_asked_for(tmp_path, lines, length):
    for file in ("a.dat", "b.dat"):
        (tmp_path / file).write_bytes(bytes(300))
    (tmp_path / "a.hea").write_text("\n".join([f"a {len(lines)} 500{length}", *lines]) + "\n")
    with pytest.raises(DataError, match=r"a\.hea does not say how many samples .*; write the number behind the rate"):
        read_wfdb(tmp_path / "a.hea")


def test_leads_that_begin_otherwise_than_the_header_says_are_refused_without_checksums_too(tmp_path):
    line = "a.dat 16 1000/mV 16 0 {first} 0 0 {name}"
    header = write(tmp_path, NOISE, line)
    assert np.array_equal(read_wfdb(header).signal, NOISE / 1000)
    (tmp_path / "a.dat").write_bytes(NOISE[::-1].T.tobytes())
    with pytest.raises(
        DataError, match=f"lead L0 begins with {NOISE[-1, 0]} but .* says {NOISE[0, 0]}, so the samples"
    ):
        read_wfdb(header)


@pytest.mark.parametrize("form", [61, 160])
def test_16_bits_in_another_order_or_sign_than_the_header_s_are_refused_by_their_first_value(tmp_path, form):
    header = write(tmp_path, NOISE, f"a.dat {form} 1000/mV 16 0 {{first}} 0 0 {{name}}")
    with pytest.raises(DataError, match="lead L0 begins with"):
        read_wfdb(header)


def test_a_first_sample_that_is_invalid_or_an_initial_value_of_zero_says_nothing(tmp_path):
    samples = NOISE[:2].copy()
    header = write(tmp_path, samples, "a.dat 16 1000/mV 16 0 {first} 0 0 {name}")
    header.write_text(header.read_text().replace(f"16 0 {samples[1, 0]} ", "16 0 0 "))
    samples[0, 0] = INVALID[16]
    (tmp_path / "a.dat").write_bytes(samples.T.tobytes())
    signal = read_wfdb(header).signal
    assert np.isnan(signal[0, 0])
    assert signal[1, 0] == samples[1, 0] / 1000


@pytest.mark.parametrize("size", [0, 1, 5])
def test_a_file_of_unknown_length_without_a_whole_frame_is_refused(tmp_path, size):
    (tmp_path / "a.dat").write_bytes(bytes(size))
    with pytest.raises(DataError, match="does not say how many samples a lead has, which only a whole record"):
        read_wfdb(bare(tmp_path, "a.dat 16 1000/mV 16 0 0 0 0 L{number}", length=0))


def test_a_name_with_a_zero_byte_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_wfdb(tmp_path / "a\0b")
    (tmp_path / "a.dat").write_bytes(bytes(4800))
    with pytest.raises(DataError, match="record a: "):
        read_wfdb(bare(tmp_path, "a\0.dat 16 1000/mV 16 0 0 0 0 L{number}"))


def test_a_mat_file_that_the_header_does_not_name_is_not_read(tmp_path):
    write_challenge(tmp_path, "x")
    header = tmp_path / "x.hea"
    assert read_any_wfdb(header, "x").signal.shape == (12, 5000)
    header.write_text(header.read_text().replace("x.mat 16+24", "x.dat 16"))
    with pytest.raises(DataError, match=r"record x: .*x\.dat is missing; restore it or leave the record out"):
        read_any_wfdb(header, "x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(place=st.integers(0, 2 * 2 * 30 - 1), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_samples_is_found_by_the_checksum(tmp_path, place, bit):
    samples = np.random.default_rng(0).integers(-3000, 3000, (2, 30)).astype(np.int16)
    header = write(tmp_path, samples)
    content = bytearray((tmp_path / "a.dat").read_bytes())
    content[place] ^= 1 << bit
    (tmp_path / "a.dat").write_bytes(content)
    with pytest.raises(DataError, match="do not add up to the checksum"):
        read_wfdb(header)


@pytest.mark.real_data
def test_real_records_of_five_kinds_are_what_wfdb_reads(real_data):
    read = refused = 0
    for header in sorted(real_data.rglob("*.hea")):
        said = read_header(header, header.stem)
        samples = read_format16(str(header.parent), said)
        assert samples is not None
        try:
            theirs = wfdb.rdrecord(str(header)[:-4])
        except ValueError:
            # It does not know the gains of most of Georgia's headers.
            refused += 1
            continue
        assert np.array_equal(to_millivolt(samples, said, header.stem), theirs.p_signal.T)
        read += 1
    # 500 at two rates, 100 of LUDB, 117 of the challenges.
    assert read + refused == 1217
    assert refused < 20
