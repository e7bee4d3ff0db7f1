import numpy as np
import pytest
from foreign_records import digital_ecg, header_text, write_challenge, write_wfdb
from scipy.io import savemat

from core.ecg.leads import LEADS
from core.ecg.sources import open_source
from core.ecg.sources.challenge import read_challenge
from core.errors import DataError

CLASSES = ["NORM", "MI", "STTC", "CD", "HYP"]


@pytest.mark.parametrize("version", ["4", "5"])
@pytest.mark.parametrize(
    ("gain", "millivolt"),
    [
        ("1000/mV", lambda d: d / 1000),
        ("200/mV", lambda d: d / 200),
        ("4880/mv", lambda d: d / 4880),
        ("1716.5(6)/mV", lambda d: (d - 6) / 1716.5),
        ("1e3(-20)/mV", lambda d: (d + 20) / 1000),
        ("1.0/uV", lambda d: d / 1000),
        ("1000", lambda d: d / 1000),
    ],
)
def test_samples_are_scaled_by_the_header_s_gain_and_baseline(tmp_path, version, gain, millivolt):
    digital = write_challenge(tmp_path, gain=gain, version=version)
    recording = read_challenge(tmp_path / "A0001.hea")
    assert recording.rate == 500
    assert recording.leads == LEADS
    np.testing.assert_allclose(recording.signal, millivolt(digital.astype(float)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["16+24", "16x1+24", "16x1:0+24", "16"])
def test_headers_that_wfdb_refuses_are_read(tmp_path, form):
    # Georgia's call the record by its file, and write the gain as here.
    digital = write_challenge(tmp_path, gain="1000.0(0)/mV", form=form, record="A0001.mat")
    np.testing.assert_array_equal(read_challenge(tmp_path / "A0001.mat").signal, digital / 1000)


def test_a_baseline_that_is_not_written_is_the_adc_zero(tmp_path):
    digital = write_challenge(tmp_path)
    header = tmp_path / "A0001.hea"
    header.write_text(header.read_text().replace("1000/mV 16 0 ", "1000/mV 16 100 "))
    np.testing.assert_allclose(read_challenge(header).signal, (digital - 100.0) / 1000, atol=1e-12)


def test_the_table_has_age_sex_site_and_labels(tmp_path):
    folder = tmp_path / "Übung mit Leerzeichen"
    write_challenge(folder / "georgia" / "g1", "E1", dx="164889003,59118001,164934002", age="85", sex="Male")
    write_challenge(folder / "ningbo", "J1", dx="426783006", age="NaN", sex="Female")
    write_challenge(folder / "ningbo", "J2", dx="426177001", age="4", sex="F")
    source = open_source("challenge", folder, rate=500)
    table = source.table
    assert table["record"].tolist() == ["challenge-E1", "challenge-J1", "challenge-J2"]
    assert table["patient"].tolist() == table["record"].tolist()
    assert table["site"].tolist() == ["georgia", "ningbo", "ningbo"]
    assert table["age"].fillna(-1).tolist() == [85, -1, 4]
    assert table["sex"].tolist() == [0, 1, 1]
    # AF is a rhythm, RBBB is CD, an abnormal T wave STTC; sinus rhythm alone is normal, bradycardia alone is nothing.
    assert table[CLASSES].to_numpy().tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert source.unmapped == {"164889003": 1, "426177001": 1}
    assert source.codes[0] == ("164889003", "59118001", "164934002")
    assert "every record counts as one" in source.notes[0]
    assert source.read(2).signal.shape == (12, 5000)


def test_a_patient_in_the_comments_is_taken(tmp_path):
    for name in ("A1", "A2"):
        write_challenge(tmp_path, name)
        header = tmp_path / f"{name}.hea"
        header.write_text(header.read_text() + "#Patient: 7\n")
    source = open_source("challenge", tmp_path, rate=500)
    assert source.table["patient"].tolist() == ["challenge-p7"] * 2
    assert source.notes == ()


def test_names_that_come_twice_get_their_folders(tmp_path):
    for place in ("a", "b"):
        write_challenge(tmp_path / place, "A1")
    assert open_source("challenge", tmp_path, rate=500).table["record"].tolist() == ["challenge-a/A1", "challenge-b/A1"]


def test_a_folder_of_several_formats_gives_the_challenge_s_and_counts_the_others(tmp_path):
    write_challenge(tmp_path, "A1")
    write_wfdb(tmp_path, "other")
    (tmp_path / "notes.txt").write_text("x")
    source = open_source("challenge", tmp_path, rate=500)
    assert source.table["record"].tolist() == ["challenge-A1"]
    left_out = "Files that are no part of the challenge's records, left out: 3 (1 .txt, 1 .dat, 1 .hea)."
    assert source.notes[-1] == left_out


def test_a_folder_without_such_records_is_refused(tmp_path):
    write_wfdb(tmp_path)
    with pytest.raises(DataError, match=r"no \.hea with a \.mat beside it"):
        open_source("challenge", tmp_path, rate=500)


def _cut_mat(folder):
    path = folder / "A0001.mat"
    path.write_bytes(path.read_bytes()[:5000])


def _other_samples(folder):
    digital = digital_ecg()
    digital[3, 100] += 5
    savemat(folder / "A0001.mat", {"val": digital}, format="4")


def _edit(old, new):
    def edit(folder):
        path = folder / "A0001.hea"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "A0001.mat").unlink(), r"A0001\.mat is missing; restore it"),
        (_cut_mat, r"A0001\.mat is truncated or malformed"),
        (lambda f: (f / "A0001.mat").write_bytes(b""), r"A0001\.mat is truncated or malformed"),
        (lambda f: savemat(f / "A0001.mat", {"x": np.ones(3)}), "has no 'val'"),
        (lambda f: savemat(f / "A0001.mat", {"val": "text"}), "which are no leads x samples"),
        (
            lambda f: savemat(f / "A0001.mat", {"val": digital_ecg().T}),
            "describes 12 leads of 5000 samples but .* 5000 x 12",
        ),
        (_other_samples, "lead aVR do not add up to the checksum"),
        (_edit("1000/mV", "0/mV"), "gives I a gain of 0, so its amplitude is unknown; write the steps a mV there"),
        (_edit("1000/mV", "-1000/mV"), "gives I a gain of -1000"),
        (_edit("1000/mV", "1000,5/mV"), "the gain of I is '1000,5/mV'"),
        (_edit("1000/mV", "1000/mmHg"), "is in 'mmHg', which is no voltage"),
        (_edit("12 500 5000", "12 500.5 5000"), "rate of 500.5 Hz"),
        (_edit("12 500 5000", "12 19 5000"), "rate of 19 Hz, which is outside 20 to 100,000 Hz; mend its header"),
        (_edit("12 500 5000", "12 100001 5000"), "rate of 100001 Hz, which is outside"),
        (_edit("1000/mV", "1e-4/mV"), "gain of 0.0001 steps a mV in lead I, which is outside 0.001 to 1e.09; mend"),
        (_edit("1000/mV", "1e8/uV"), "gain of 1e.11 steps a mV in lead I, which is outside"),
        (_edit("12 500 5000", "12"), "has no sampling rate"),
        (_edit("12 500 5000", "60 500 5000"), "announces 60 leads and describes 12"),
        (_edit("A0001 12", "A0001/3 12"), "joins several segments"),
        (lambda f: (f / "A0001.hea").write_text(".mat"), "truncated or malformed"),
    ],
)
def test_a_broken_record_is_named_and_the_folder_still_opens(tmp_path, damage, message):
    write_challenge(tmp_path)
    write_challenge(tmp_path, "good")
    damage(tmp_path)
    source = open_source("challenge", tmp_path, rate=500)
    assert source.read(1).signal.shape == (12, 5000)
    with pytest.raises(DataError, match=message) as caught:
        source.read(0)
    assert "record challenge-A0001" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_of_sixty_leads_is_read_as_it_is(tmp_path):
    digital = digital_ecg(leads=60, samples=2500)
    write_challenge(tmp_path, digital=digital, leads=[f"E{k}" for k in range(60)])
    assert read_challenge(tmp_path / "A0001.hea").signal.shape == (60, 2500)


def test_invalid_samples_are_nan(tmp_path):
    digital = digital_ecg()
    digital[2, 10:15] = -32768
    write_challenge(tmp_path, digital=digital)
    signal = read_challenge(tmp_path / "A0001.hea").signal
    assert np.isnan(signal[2, 10:15]).all()
    assert np.isfinite(np.delete(signal, 2, axis=0)).all()


def test_unknown_codes_alone_give_no_label_and_are_counted(tmp_path):
    write_challenge(tmp_path, dx="999,998")
    source = open_source("challenge", tmp_path, rate=500)
    assert source.table[CLASSES].to_numpy().sum() == 0
    assert source.unmapped == {"999": 1, "998": 1}


def test_an_unreadable_age_counts_as_unknown_and_is_said(tmp_path):
    write_challenge(tmp_path, age="old", sex="2")
    source = open_source("challenge", tmp_path, rate=500)
    assert source.table[["age", "sex"]].isna().all(axis=None)
    assert source.notes[:2] == (
        "Records with an unreadable age, taken as unknown: 1 ('old').",
        "Records with an unreadable sex, taken as unknown: 1 ('2').",
    )


def test_a_checksum_of_zero_is_not_filled_in(tmp_path):
    digital = digital_ecg()
    write_challenge(tmp_path, digital=digital)
    header = tmp_path / "A0001.hea"
    lines = header.read_text().splitlines()
    lines[1:13] = [" ".join([*line.split()[:5], "0", "0", "0", line.split()[8]]) for line in lines[1:13]]
    header.write_text("\n".join(lines))
    np.testing.assert_array_equal(read_challenge(header).signal, digital / 1000)
    assert "1000/mV 16 0 0 0 0 II" in header_text("x", np.zeros((12, 3), "<i2"))
