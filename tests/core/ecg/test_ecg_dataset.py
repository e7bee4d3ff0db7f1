import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.ecg.dataset import EcgDataset, encode
from core.ecg.preprocessing import normalise
from core.errors import DataError

ROOT = Path(__file__).parents[3]

same_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def test_a_written_set_comes_back_the_same(make_dataset, tmp_path):
    made = make_dataset(12)
    fingerprint = made.write(tmp_path / "set")
    opened = EcgDataset.open(tmp_path / "set")
    assert isinstance(opened.signals, np.memmap)
    assert np.array_equal(opened.signals, made.signals)
    pd.testing.assert_frame_equal(opened.records, made.records)
    assert opened.info == replace(made.info, fingerprint=fingerprint)
    assert opened.fingerprint == made.fingerprint == fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == [
        "dataset.json",
        "records.csv",
        "signals.npy",
    ]


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(make_dataset, tmp_path):
    made = make_dataset(4)
    made.write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    renamed = make_dataset(4, name="another name", source="elsewhere")
    prints = {EcgDataset.open(tmp_path / name).fingerprint for name in "ab"} | {renamed.fingerprint}
    assert prints == {made.fingerprint}

    signals = made.signals.copy()
    signals[3, 11, 199] += 1
    records = made.records.copy()
    records.loc[2, "fold"] = 9
    others = [
        EcgDataset(signals, made.records, made.info).fingerprint,
        EcgDataset(made.signals, records, made.info).fingerprint,
        EcgDataset(made.signals, made.records, replace(made.info, rate=200)).fingerprint,
        EcgDataset(made.signals, made.records, replace(made.info, band=None)).fingerprint,
    ]
    assert len({*others, made.fingerprint}) == 5


@same_fixture
@given(rows=st.lists(st.integers(0, 11), max_size=20), again=st.lists(st.integers(0, 30), max_size=5))
def test_a_selection_is_the_rows_it_names_in_their_order(make_dataset, rows, again):
    made = make_dataset(12)
    chosen = made.select(rows)
    assert len(chosen) == len(rows)
    assert np.array_equal(chosen.signals, made.signals[rows])
    assert chosen.records["record"].tolist() == [f"r{row:03d}" for row in rows]
    assert np.array_equal(chosen.labels, made.labels[rows])
    inner = [index % len(rows) for index in again] if rows else []
    twice = chosen.select(inner)
    assert twice.records["record"].tolist() == [f"r{rows[index]:03d}" for index in inner]
    assert np.array_equal(twice.batch(range(len(inner)), "none"), made.batch([rows[i] for i in inner], "none"))


def test_a_selection_copies_no_signal(make_dataset):
    made = make_dataset(12)
    assert made.select(made.labelled)._signals is made._signals
    assert np.array_equal(made.select([-1]).signals[0], made.signals[11])


def test_a_selection_is_written_as_a_set_of_its_own(make_dataset, tmp_path):
    chosen = make_dataset(12).select([5, 2])
    fingerprint = chosen.write(tmp_path / "set")
    opened = EcgDataset.open(tmp_path / "set")
    assert opened.records["record"].tolist() == ["r005", "r002"]
    assert chosen.fingerprint == opened.fingerprint == fingerprint != make_dataset(12).fingerprint


def test_a_mask_of_another_length_is_refused(make_dataset):
    with pytest.raises(IndexError, match="mask of 3"):
        make_dataset(12).select([True, False, True])


@same_fixture
@given(
    rows=st.lists(st.integers(0, 11), min_size=1, max_size=6),
    mode=st.sampled_from(["none", "lead-zscore", "record-robust"]),
)
def test_a_batch_is_the_normalised_millivolt_of_its_rows(make_dataset, rows, mode):
    made = make_dataset(12)
    batch = made.batch(rows, mode)
    assert batch.dtype == np.float32
    assert batch.shape == (len(rows), 12, 200)
    np.testing.assert_allclose(batch, normalise(made.signals[rows] / 1000.0, mode), rtol=1e-4, atol=1e-5)


def test_a_batch_takes_a_mask_and_leaves_the_stored_signals_alone(make_dataset):
    made = make_dataset(12)
    before = made.signals.copy()
    batch = made.batch(made.labelled, "lead-zscore")
    assert len(batch) == made.labelled.sum() == 10
    assert np.array_equal(made.signals, before)


@pytest.mark.parametrize("mode", ["none", "record-robust"])
def test_amplitude_lost_in_a_zscored_set_cannot_be_asked_for(make_dataset, mode):
    made = make_dataset(6, "lead-zscore")
    with pytest.raises(DataError, match=f"made-up is stored as lead-zscore.*cannot be given as {mode}"):
        made.batch([0], mode)
    assert np.array_equal(made.batch([0], "lead-zscore")[0], made.signals[0].astype(np.float32))


def test_a_record_robust_set_can_be_zscored_but_gives_no_millivolt(make_dataset):
    made = make_dataset(6, "record-robust")
    assert made.batch([1], "lead-zscore").std(axis=-1) == pytest.approx(1, abs=1e-3)
    assert np.array_equal(made.batch([1], "record-robust"), made.signals[[1]].astype(np.float32))
    with pytest.raises(DataError, match="cannot be given as none"):
        made.batch([1], "none")


def test_an_unknown_normalisation_of_a_batch_is_refused(make_dataset):
    with pytest.raises(DataError, match="'zscore' is unknown"):
        make_dataset(2).batch([0], "zscore")


def test_a_record_without_any_of_the_five_labels_is_unlabelled(make_dataset):
    made = make_dataset(12)
    assert made.labels.shape == (12, 5)
    assert made.labels.dtype == np.uint8
    assert np.flatnonzero(~made.labelled).tolist() == [5, 11]


def test_millivolt_is_stored_in_microvolt_and_clipping_is_counted():
    stored, scale, clipped = encode(np.array([0.0014, -0.0016, 32.767, 32.7676, -40.0]), "none")
    assert stored.dtype == np.int16
    assert stored.tolist() == [1, -2, 32767, 32767, -32768]
    assert (scale, clipped) == (0.001, 2)


def test_normalised_signals_are_stored_in_half_precision():
    stored, scale, clipped = encode(np.array([0.5, -3.25]), "lead-zscore")
    assert stored.dtype == np.float16
    assert stored.tolist() == [0.5, -3.25]
    assert (scale, clipped) == (1.0, 0)


def test_writing_over_something_needs_to_be_asked_for(make_dataset, tmp_path):
    made = make_dataset(4)
    made.write(tmp_path / "set")
    with pytest.raises(DataError, match="exists already; choose another folder or say --overwrite"):
        make_dataset(6).write(tmp_path / "set")
    assert len(EcgDataset.open(tmp_path / "set")) == 4
    make_dataset(6).write(tmp_path / "set", overwrite=True)
    assert len(EcgDataset.open(tmp_path / "set")) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_is_no_set_is_never_overwritten(make_dataset, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(DataError, match="is no imported set and is not overwritten"):
        make_dataset(4).write(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def _damaged(name, change):
    def apply(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def _description(**changes):
    def change(content):
        said = json.loads(content)
        said["info"].update(changes.pop("info", {}))
        return json.dumps(said | changes).encode()

    return change


def _replace(old, new):
    return lambda content: content.replace(old, new, 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "is no folder"),
        (lambda folder: (folder / "dataset.json").unlink(), "has no dataset.json"),
        (lambda folder: (folder / "signals.npy").unlink(), "signals.npy is missing"),
        (lambda folder: (folder / "records.csv").unlink(), "records.csv is missing"),
        (_damaged("dataset.json", lambda content: content[:30]), "dataset.json is damaged"),
        (
            _damaged("dataset.json", _description(schema=99)),
            "has schema 99 but this version reads 1",
        ),
        (_damaged("dataset.json", _description(info={"colour": 1})), "does not know 'colour'"),
        (_damaged("dataset.json", _description(info={"samples": 100})), "have shape"),
        (
            _damaged("dataset.json", _description(info={"normalisation": "record-robust"})),
            "are int16 but",
        ),
        (_damaged("signals.npy", lambda content: content[:-1]), "signals.npy is truncated"),
        (_damaged("signals.npy", lambda content: content[:20]), "signals.npy is truncated"),
        (_damaged("signals.npy", lambda content: b""), "signals.npy is truncated"),
        (
            _damaged("records.csv", lambda c: c[: c.rstrip().rindex(b"\n") + 1]),
            "12 signals but 11 rows",
        ),
        (_damaged("records.csv", _replace(b"patient", b"person")), "no column 'patient'"),
        (
            _damaged("records.csv", _replace(b"r000,p000,,1,40.0,0.0,1", b"r000,p000,,1,40.0,0.0,2")),
            "r000",
        ),
        (
            _damaged("records.csv", _replace(b"r000,p000,,1,40.0,0.0", b"r000,p000,,1,40.0,3.0")),
            "has sex 3",
        ),
        (
            _damaged("records.csv", _replace(b"r000,p000,,1,40.0", b"r000,p000,,one,40.0")),
            "is damaged",
        ),
        (_damaged("records.csv", _replace(b"r001", b"r000")), "r000 comes twice"),
    ],
)
def test_a_damaged_set_is_refused_in_one_sentence_that_names_it(make_dataset, tmp_path, damage, message):
    make_dataset(12).write(tmp_path / "set")
    damage(tmp_path / "set")
    with pytest.raises(DataError, match=message) as caught:
        EcgDataset.open(tmp_path / "set")
    assert str(tmp_path / "set") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_signals_of_the_wrong_type_are_refused_in_memory_too(make_dataset):
    made = make_dataset(4)
    with pytest.raises(DataError, match="are float32 but normalisation none is stored as int16"):
        EcgDataset(made.signals.astype(np.float32), made.records, made.info)


@pytest.mark.parametrize("value", [2, -1, np.nan, 0.5])
def test_a_label_other_than_0_or_1_names_the_record(make_dataset, value):
    made = make_dataset(4)
    records = made.records.astype({"CD": float})
    records.loc[2, "CD"] = value
    with pytest.raises(DataError, match=r"record r002 .* has CD .* must be 0 or 1"):
        EcgDataset(made.signals, records, made.info)


def test_opening_a_set_maps_its_signals_without_reading_them(make_dataset, tmp_path, monkeypatch):
    make_dataset(4).write(tmp_path / "set")
    asked = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda path, **options: asked.append(options) or load(path, **options))
    opened = EcgDataset.open(tmp_path / "set")
    assert isinstance(opened._signals, np.memmap)
    assert all(options.get("mmap_mode") == "r" for options in asked)


def test_a_hospital_s_process_begins_without_scipys_filters():
    code = "import sys, clients.site; print('scipy.signal' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"
