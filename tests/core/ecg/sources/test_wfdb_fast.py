from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.ecg.sources.wfdb_fast import INVALID, read_format16
from core.ecg.sources.wfdb_files import read_wfdb
from core.ecg.sources.wfdb_header import read_header, to_millivolt
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
    return read_format16(header.parent, read_header(header, "a"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    leads=st.integers(1, 13),
    length=st.integers(1, 300),
    gain=st.sampled_from(["1000(0)/mV", "200", "4880/mV", "1000.0(-30)/mV", "1(12)/uV", "3.5(7)/V"]),
    seed=st.integers(0, 1000),
)
def test_a_record_is_what_wfdb_reads_to_the_last_bit(tmp_path, leads, length, gain, seed):
    samples = np.random.default_rng(seed).integers(-32_768, 32_768, (leads, length)).astype(np.int16)
    samples[-1, ::7] = INVALID
    header = write(tmp_path, samples, "a.dat 16 " + gain + " 16 0 {first} {sum} 0 {name}")
    assert np.array_equal(fast(header), samples)
    read = read_wfdb(header)
    factor = {"uV": 1e-3, "V": 1e3}.get(gain.partition("/")[2], 1.0)
    theirs = wfdb.rdrecord(str(header)[:-4]).p_signal.T * factor
    assert np.array_equal(read.signal, theirs, equal_nan=True)
    assert np.array_equal(np.isnan(read.signal), samples == INVALID)


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
        samples = read_format16(header.parent, said)
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
