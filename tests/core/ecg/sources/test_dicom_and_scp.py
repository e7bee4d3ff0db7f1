"""DICOM and SCP-ECG files, written byte by byte or by pydicom, and read through the libraries."""

import binascii
import struct
import sys

import numpy as np
import pytest
from foreign_records import digital_ecg

from core.ecg.leads import LEADS
from core.ecg.preparation import prepare
from core.ecg.sources import open_source
from core.errors import DataError

SCP_LEADS = (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8)


def labels(folder, *lines):
    (folder / "labels.csv").write_text("\n".join(lines))
    return str(folder / "labels.csv")


@pytest.fixture
def write_dicom():
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage

    def channel(code, sensitivity, unit, baseline, correction):
        one = Dataset()
        source = Dataset()
        source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = code, "SCPECG", "Lead x (y)"
        one.ChannelSourceSequence = [source]
        if sensitivity is not None:
            units = Dataset()
            units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", unit
            one.ChannelSensitivity, one.ChannelSensitivityUnitsSequence = sensitivity, [units]
            one.ChannelSensitivityCorrectionFactor, one.ChannelBaseline = correction, baseline
        return one

    def group(digital, codes, sensitivity, unit, baseline, correction, rate, originality):
        one = Dataset()
        one.WaveformOriginality, one.SamplingFrequency = originality, rate
        one.NumberOfWaveformChannels, one.NumberOfWaveformSamples = digital.shape
        one.WaveformBitsAllocated, one.WaveformSampleInterpretation = 16, "SS"
        one.WaveformData = np.ascontiguousarray(digital.T, dtype="<i2").tobytes()
        one.ChannelDefinitionSequence = [channel(code, sensitivity, unit, baseline, correction) for code in codes]
        return one

    def write(
        path, digital, *, sensitivity="2.5", unit="uV", baseline="0", correction="1", rate="500", median=False, **about
    ):
        codes = [f"5.6.3-9-{code}" for code in SCP_LEADS]
        content = Dataset()
        content.file_meta = FileMetaDataset()
        content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = TwelveLeadECGWaveformStorage
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = pydicom.uid.generate_uid()
        for key, value in about.items():
            setattr(content, key, value)
        whole = group(digital, codes, sensitivity, unit, baseline, correction, rate, "ORIGINAL")
        content.WaveformSequence = [whole]
        if median:
            # Longer than the rhythm, to see that it is not chosen for its length.
            derived = group(np.tile(digital, 2) // 2, codes, "99", unit, "0", "1", rate, "DERIVED")
            content.WaveformSequence = [derived, whole]
        path.parent.mkdir(parents=True, exist_ok=True)
        content.save_as(path, enforce_file_format=True)

    return write


@pytest.mark.parametrize(
    ("scale", "millivolt"),
    [
        ({}, lambda d: d * 0.0025),
        ({"sensitivity": "0.005", "unit": "mV"}, lambda d: d * 0.005),
        ({"baseline": "100", "correction": "1.25"}, lambda d: (d * 2.5 * 1.25 + 100) / 1000),
    ],
)
def test_dicom_channels_become_millivolt(tmp_path, write_dicom, scale, millivolt):
    digital = digital_ecg(3)
    about = {"PatientID": "77", "PatientAge": "056Y", "PatientSex": "F"}
    write_dicom(tmp_path / "Räume" / "ecg 1.dcm", digital, median=True, **scale, **about)
    write_dicom(tmp_path / "Räume" / "IM0002", digital, **scale, PatientID="78")
    path = labels(tmp_path, "record,codes", "ecg 1,NORM SR", "IM0002,CLBBB")
    source = open_source("dicom", tmp_path, rate=500, labels=path, codes="scp")
    assert source.table["patient"].tolist() == ["77", "78"]
    assert source.table["age"].fillna(-1).tolist() == [56, -1]
    assert source.table["sex"].fillna(-1).tolist() == [1, -1]
    assert source.table["CD"].tolist() == [0, 1]
    recording = source.read(0)
    assert (recording.rate, recording.leads) == (500, LEADS)
    np.testing.assert_allclose(recording.signal, millivolt(digital.astype(float)), rtol=0, atol=1e-9)
    assert prepare(recording).shape == (12, 1000)


def test_the_real_ecg_that_pydicom_ships(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.data.get_testdata_file("waveform_ecg.dcm")
    (tmp_path / "ecg.dcm").symlink_to(file)
    recording = open_source("dicom", tmp_path, rate=500, labels=labels(tmp_path, "record,labels", "ecg,NORM")).read(0)
    assert recording.rate == 1000
    assert recording.leads == LEADS
    # 1.25 uV a step; found by its bytes: the rhythm is the first waveform of the file.
    raw = pydicom.dcmread(file).WaveformSequence[0].WaveformData
    digital = np.frombuffer(raw, "<i2").reshape(10_000, 12).T
    np.testing.assert_allclose(recording.signal, digital * 1.25 / 1000, rtol=0, atol=1e-9)
    # Einthoven holds to a step or two of the recorder.
    assert np.abs(recording.signal[0] + recording.signal[2] - recording.signal[1]).max() < 0.004


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": None}, "gives I no sensitivity, so its amplitude is unknown"),
        ({"sensitivity": "0"}, "gives I no sensitivity"),
        ({"unit": "mm[Hg]"}, r"is in 'mm\[Hg\]', which is no voltage"),
        ({"correction": "0"}, "impossible correction or baseline"),
        ({"rate": "0"}, "rate of 0 Hz"),
    ],
)
def test_a_dicom_file_without_a_scale_is_refused(tmp_path, write_dicom, options, message):
    write_dicom(tmp_path / "a.dcm", digital_ecg(), **options)
    source = open_source("dicom", tmp_path, rate=500, labels=labels(tmp_path, "record,labels", "a,NORM"))
    with pytest.raises(DataError, match=f"record a.*{message}"):
        source.read(0)


def test_a_truncated_dicom_file_is_refused(tmp_path, write_dicom):
    write_dicom(tmp_path / "a.dcm", digital_ecg())
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[: len(content) // 2])
    source = open_source("dicom", tmp_path, rate=500, labels=labels(tmp_path, "record,labels", "a,NORM"))
    with pytest.raises(DataError, match=r"a\.dcm (is truncated or malformed|holds no waveform)"):
        source.read(0)


@pytest.mark.parametrize(("name", "package"), [("dicom", "pydicom"), ("scp", "ecgdatakit")])
def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch, name, package):
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=rf"needs {package}; install it with: pip install 'cardiofed\[{name}\]'"):
        open_source(name, tmp_path, rate=500)


def crc(content: bytes) -> bytes:
    return struct.pack("<H", binascii.crc_hqx(content, 0xFFFF))


def scp_section(number: int, body: bytes) -> bytes:
    body += b"\0" * (len(body) % 2)
    rest = struct.pack("<HI", number, 16 + len(body)) + bytes([20, 20]) + b"\0" * 6 + body
    return crc(rest) + rest


def huffman(values: np.ndarray) -> bytes:
    """The standard's own table: 0 is 0; up to 8 as many ones, 0 and the sign; then 8 or 16 bits behind ten bits."""
    bits = []
    for value in values.tolist():
        if abs(value) <= 8:
            bits.append("1" * abs(value) + "0" + ("" if value == 0 else str(int(value < 0))))
        else:
            width, prefix = (8, "1111111110") if -128 <= value < 128 else (16, "1111111111")
            bits.append(prefix + f"{value & (1 << width) - 1:0{width}b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 16)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def scp_file(
    digital: np.ndarray, nanovolt: int = 2500, interval: int = 2000, difference: int = 0, coded: bool = False
) -> bytes:
    """EN 1064 with the sections 0, 1, 3, 6 and, if coded, 2: no reference beat; differences of an order."""
    values = digital.astype(np.int64)
    if difference:
        # As many samples as the order stand at the front as they are.
        values = np.concatenate([values[:, :difference], np.diff(values, n=difference)], axis=1)
    rows = [huffman(row) if coded else np.ascontiguousarray(row, dtype="<i2").tobytes() for row in values]
    leads = b"".join(struct.pack("<IIB", 1, digital.shape[1], code) for code in SCP_LEADS)
    lengths = b"".join(struct.pack("<H", len(row)) for row in rows)
    bodies = {
        1: bytes([255, 0, 0]),
        **({2: struct.pack("<H", 19999)} if coded else {}),
        3: bytes([len(rows), 0b100 | len(rows) << 3 & 0xFF]) + leads,
        6: struct.pack("<HHBB", nanovolt, interval, difference, 0) + lengths + b"".join(rows),
    }
    sections = {number: scp_section(number, body) for number, body in bodies.items()}
    size = 16 + 10 * (len(sections) + 1)
    place, pointers = 7 + size, struct.pack("<HII", 0, size, 7)
    for number, content in sections.items():
        pointers += struct.pack("<HII", number, len(content), place)
        place += len(content)
    whole = scp_section(0, pointers) + b"".join(sections.values())
    rest = struct.pack("<I", 6 + len(whole)) + whole
    return crc(rest) + rest


@pytest.mark.parametrize(("difference", "coded"), [(0, False), (1, False), (2, False), (1, True), (2, True)])
@pytest.mark.parametrize(("nanovolt", "interval", "rate"), [(2500, 2000, 500), (1000, 1000, 1000), (4880, 2000, 500)])
def test_scp_files_become_millivolt(tmp_path, nanovolt, interval, rate, difference, coded):
    pytest.importorskip("ecgdatakit")
    digital = digital_ecg(4) // 4
    (tmp_path / "Übung 1.scp").write_bytes(scp_file(digital, nanovolt, interval, difference, coded))
    path = labels(tmp_path, "record,codes", "Übung 1,NORM")
    source = open_source("scp", tmp_path, rate=500, labels=path, codes="scp")
    assert source.table["record"].tolist() == ["Übung 1"]
    recording = source.read(0)
    assert (recording.rate, recording.leads) == (rate, LEADS)
    np.testing.assert_allclose(recording.signal, digital * (nanovolt / 1e6), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:3000], "cannot be read"),
        (lambda b: b[:5000] + bytes([b[5000] ^ 16]) + b[5001:], "is damaged \\(a checksum differs\\)"),
        (lambda b: b"SCPECG" * 100, "cannot be read"),
        (lambda b: scp_file(digital_ecg(4) // 4, nanovolt=0), "no amplitude"),
        (lambda b: scp_file(digital_ecg(4) // 4, interval=0), "cannot be read"),
    ],
)
def test_a_broken_scp_file_is_refused(tmp_path, damage, message):
    pytest.importorskip("ecgdatakit")
    (tmp_path / "a.scp").write_bytes(damage(scp_file(digital_ecg(4) // 4)))
    source = open_source("scp", tmp_path, rate=500, labels=labels(tmp_path, "record,labels", "a,NORM"))
    with pytest.raises(DataError, match=message):
        source.read(0)
