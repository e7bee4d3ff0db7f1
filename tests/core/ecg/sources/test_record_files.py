import h5py
import numpy as np
import pytest
from foreign_records import digital_ecg, write_challenge, write_wfdb

from core.ecg.leads import LEADS
from core.ecg.preparation import prepare
from core.ecg.sources import SOURCES, describe_formats
from core.ecg.sources.record_files import read_record_file
from core.errors import DataError

DIGITAL = digital_ecg(21)


@pytest.mark.parametrize("written", ["r1", "r1.hea", "r1.dat"])
def test_a_wfdb_record_is_read_by_any_of_its_names(tmp_path, written):
    write_wfdb(tmp_path, "r1", DIGITAL)
    np.testing.assert_array_equal(read_record_file(tmp_path / written).signal, DIGITAL / 1000)


@pytest.mark.parametrize("written", ["A0001", "A0001.hea", "A0001.mat"])
def test_a_challenge_record_is_read_even_where_wfdb_refuses_it(tmp_path, written):
    write_challenge(tmp_path, digital=DIGITAL, record="A0001.mat", gain="1000.0(0)/mV", form="16x1+24")
    recording = read_record_file(tmp_path / written)
    np.testing.assert_array_equal(recording.signal, DIGITAL / 1000)
    assert prepare(recording).shape == (12, 1000)


def test_hdf5_csv_and_asc_files_are_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["ecg"] = (DIGITAL / 1000).astype(np.float32)
    np.testing.assert_allclose(read_record_file(tmp_path / "a.h5").signal, DIGITAL / 1000, rtol=1e-6)
    lines = [",".join(LEADS), *(",".join(map(str, row)) for row in DIGITAL.T)]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    np.testing.assert_allclose(read_record_file(tmp_path / "a.csv", rate=500, units="uV").signal, DIGITAL / 1000)
    eight = DIGITAL[[0, 1, 6, 7, 8, 9, 10, 11]].T
    (tmp_path / "a.asc").write_text("".join(" ".join(map(str, row)) + "\n" for row in eight))
    recording = read_record_file(tmp_path / "a.asc")
    np.testing.assert_array_equal(recording.signal, eight.T / 1000)
    assert prepare(recording).shape == (12, 1000)


def test_a_file_of_another_kind_is_refused_with_the_kinds_that_are_read(tmp_path):
    (tmp_path / "a.pdf").write_text("x")
    with pytest.raises(
        DataError, match=r"a\.pdf is of no kind that can be read; give a WFDB record or a file in \.hea"
    ):
        read_record_file(tmp_path / "a.pdf")
    with pytest.raises(DataError, match="is missing"):
        read_record_file(tmp_path / "nothing")


def test_every_format_says_what_it_reads_needs_and_takes():
    formats = {one.name: one for one in describe_formats()}
    assert list(formats) == list(SOURCES)
    for one in formats.values():
        assert one.reads.endswith((".", "pydicom.", "ecgdatakit."))
        assert one.needs
    assert formats["csv"].options == ("--labels", "--codes", "--source-rate", "--units")
    assert formats["challenge"].options == ()
