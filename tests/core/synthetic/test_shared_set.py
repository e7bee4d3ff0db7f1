import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ecg import storage
from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.errors import DataError
from core.synthetic.shared_set import SharedSet, open_shared_set
from core.synthetic.truth import MEASURES

SAMPLES = 20
MakeSet = Callable[..., Path]


def signals(count: int) -> np.ndarray:
    """(count, 12, SAMPLES) int16: record i holds i + 1 uV in lead I, twice that in II, ..."""
    leads = np.arange(1, 13, dtype=np.int16)[:, None]
    return np.arange(1, count + 1, dtype=np.int16)[:, None, None] * np.broadcast_to(leads, (12, SAMPLES))


def records(count: int, patients: int | None = None) -> pd.DataFrame:
    """HR is 60 + i, so that a record can be told by its truth."""
    steps = np.arange(count)
    return pd.DataFrame(
        {
            "record": [f"r{i}" for i in steps],
            "patient": [f"p{i % (patients or count)}" for i in steps],
            "site": "",
            "fold": 0,
            "age": np.nan,
            "sex": np.nan,
            **dict.fromkeys(SUPERCLASSES, 0),
            "hr": 60.0 + steps,
            "pr": 150.25,
            "qrs": 90.0,
            "qt": 390.0,
        }
    )


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Folder of a simulated set: ``make_set(count, patients=None, name="set", info={...}, **columns)``."""

    def make(
        count: int = 40,
        patients: int | None = None,
        name: str = "set",
        info: dict[str, object] | None = None,
        **columns: object,
    ) -> Path:
        described = {
            "name": name,
            "rate": 100,
            "samples": SAMPLES,
            "leads": LEADS,
            "normalisation": "none",
            "band": (0.5, 40.0),
            "scale": 0.001,
            "source": "test",
            "simulated": True,
        } | (info or {})
        stored = signals(count)
        if described["normalisation"] != "none":
            stored = stored.astype(np.float16)
        table = records(count, patients).assign(**columns)
        table = table[[column for column in table if not table[column].isin(["drop"]).all()]]
        EcgDataset(stored, table, DatasetInfo(**described)).write(tmp_path / name)
        return tmp_path / name

    return make


def refused(path: Path, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        open_shared_set(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def numbers(shared: SharedSet, start: int = 0, stop: int | None = None) -> list[int]:
    """Which records stand at these positions."""
    _, truth = shared.records(start, len(shared) if stop is None else stop)
    return [round(hr - 60) for hr in truth[:, MEASURES.index("hr")]]


def test_records_come_in_millivolt_with_their_own_truth(make_set):
    shared = open_shared_set(make_set(40, st_V2=np.arange(40) / 100), held_out=5)
    values, truth = shared.records(3, 11)
    which = np.array(numbers(shared, 3, 11))
    assert (values.dtype, values.shape, truth.dtype, truth.shape) == (np.float32, (8, 12, SAMPLES), np.float32, (8, 30))
    # Lead II of record i is 2 (i + 1) uV.
    np.testing.assert_allclose(values[:, 1, 0], 2e-3 * (which + 1), rtol=1e-6)
    np.testing.assert_allclose(truth[:, MEASURES.index("st_V2")], which / 100, rtol=1e-6)
    assert truth[0, MEASURES.index("pr")] == 150.25
    assert np.isnan(truth[:, MEASURES.index("axis")]).all()
    assert (len(shared), shared.size, shared.held_out, shared.info.rate) == (40, 35, 5, 100)
    np.testing.assert_array_equal(shared.signals([4, 3]), values[[1, 0]])


def test_every_record_stands_in_one_place_and_not_in_the_order_of_the_file(make_set):
    shared = open_shared_set(make_set(), held_out=10)
    assert sorted(numbers(shared)) == list(range(40))
    assert numbers(shared) != list(range(40))


@given(count=st.integers(2, 60), patients=st.integers(1, 60), held_out=st.integers(0, 30), shards=st.integers(1, 7))
def test_shards_are_disjoint_and_together_the_set(count, patients, held_out, shards):
    shared = SharedSet(
        None, np.zeros((count, 30), np.float32), np.zeros((count, 5), np.float32), max(count - held_out, 1), None
    )
    training = [row for k in range(shards) for row in range(*shared.shard_bounds(k, shards))]
    unseen = [row for k in range(shards) for row in range(*shared.held_out_bounds(k, shards))]
    assert training + unseen == list(range(count))
    assert len(training) == shared.size


def test_the_held_out_records_stay_the_same_whatever_the_folder_and_the_order_of_its_rows(make_set, tmp_path):
    shared = open_shared_set(make_set(), held_out=10)
    turned = EcgDataset.open(tmp_path / "set").select(np.arange(40)[::-1])
    turned.write(tmp_path / "turned")
    other = open_shared_set(tmp_path / "turned", held_out=10)
    assert numbers(other) == numbers(shared)
    np.testing.assert_array_equal(other.records(0, 40)[0], shared.records(0, 40)[0])
    assert numbers(open_shared_set(tmp_path / "set", held_out=4), 36) == numbers(shared, 36)


def test_no_patient_is_both_trained_on_and_held_out(make_set):
    shared = open_shared_set(make_set(40, patients=7), held_out=3)
    patients = [number % 7 for number in numbers(shared)]
    assert not set(patients[: shared.size]) & set(patients[shared.size :])
    # Patients have five or six records each, so three records are held out with those of the same patient.
    assert 3 <= shared.held_out <= 8


def test_the_fingerprint_is_that_of_the_set_wherever_it_lies(make_set, tmp_path):
    path = make_set()
    shutil.copytree(path, tmp_path / "elsewhere")
    first, second = open_shared_set(path, held_out=5), open_shared_set(tmp_path / "elsewhere", held_out=7)
    assert first.fingerprint == second.fingerprint == EcgDataset.open(path).fingerprint


def test_another_truth_gives_another_fingerprint(make_set):
    prints = {
        open_shared_set(make_set(name=f"set{number}", **columns), held_out=5).fingerprint
        for number, columns in enumerate(
            ({}, {"qt": [390.0] * 39 + [390.5]}, {"qt": [390.0] * 39 + [np.nan]}, {"axis": 30.0}, {"axis": 31.0})
        )
    }
    assert len(prints) == 5


def test_a_truth_changed_by_hand_is_noticed(make_set):
    path = make_set()
    table = path / storage.RECORDS_FILE
    table.write_text(table.read_text().replace("150.25", "150.5", 1))
    said = refused(path, held_out=5)
    assert "was changed after the set was made" in said
    assert "copy the set again" in said


def test_a_sample_changed_by_hand_is_noticed_even_after_the_set_was_opened(make_set):
    path = make_set()
    open_shared_set(path, held_out=5)
    values = np.load(path / storage.SIGNALS_FILE)
    values[17, 3, 2] += 1
    np.save(path / storage.SIGNALS_FILE, values)
    assert "was changed after the set was made" in refused(path, held_out=5)


def test_a_truncated_file_is_refused(make_set):
    path = make_set()
    content = (path / storage.SIGNALS_FILE).read_bytes()
    (path / storage.SIGNALS_FILE).write_bytes(content[:-7])
    assert "truncated" in refused(path, held_out=5)


def test_private_records_are_never_a_shared_set(make_set):
    said = refused(make_set(info={"simulated": False}), held_out=5)
    assert "not marked as simulated, so as the shared set it would send private records' numbers" in said


def test_marking_a_private_set_as_simulated_in_its_description_is_noticed(make_set):
    path = make_set(info={"simulated": False})
    description = json.loads((path / storage.DESCRIPTION_FILE).read_text())
    description["info"]["simulated"] = True
    (path / storage.DESCRIPTION_FILE).write_text(json.dumps(description))
    assert "was changed after the set was made" in refused(path, held_out=5)


def test_amplitudes_must_be_there(make_set):
    assert "its millivolt are lost" in refused(
        make_set(info={"normalisation": "lead-zscore", "scale": 1.0}), held_out=5
    )


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"qrs": "drop"}, "records.csv has no column 'qrs'"),
        ({"qrs": 0.09}, "median qrs of 0.09, which is s, not ms"),
        ({"hr": 1.2}, "median hr of 1.2, which is Hz, not bpm"),
        ({"pr": [150.0] * 39 + ["long"]}, "record r39 in .* has pr 'long', which is no number"),
        ({"pr": [150.0] * 39 + [np.inf]}, "record r39 in .* has pr 'inf', which is no number"),
        ({"pr": [150.0] * 39 + [0.0]}, "record r39 in .* has pr 0 ms, which is impossible"),
        ({"qt": [390.0] * 39 + [90.0]}, "record r39 in .* has QRS 90 ms and QT 90 ms, but QRS ends before QT"),
    ],
)
def test_a_truth_that_cannot_be_used_is_refused_with_the_record(make_set, columns, named):
    with pytest.raises(DataError, match=named):
        open_shared_set(make_set(**columns), held_out=5)


def test_a_measure_that_does_not_exist_is_an_empty_cell(make_set):
    shared = open_shared_set(make_set(pr=[np.nan] * 20 + [160.0] * 20), held_out=5)
    pr = shared.truth[:, MEASURES.index("pr")]
    assert np.isnan(pr).sum() == 20
    assert (pr[~np.isnan(pr)] == 160).all()


@pytest.mark.parametrize("held_out", [40, 41, 500])
def test_too_many_held_out_are_refused(make_set, held_out):
    said = refused(make_set(), held_out=held_out)
    assert "has 40 records, too few to hold" in said
    assert "synthetic.held_out" in said


def test_one_patient_cannot_be_split(make_set):
    assert "too few" in refused(make_set(patients=1), held_out=1)
    assert open_shared_set(make_set(patients=1, name="all"), held_out=0).size == 40


def test_records_outside_the_set_are_no_records(make_set):
    shared = open_shared_set(make_set(), held_out=5)
    for start, stop in ((-1, 3), (5, 4), (30, 41)):
        with pytest.raises(IndexError):
            shared.records(start, stop)
    assert shared.records(7, 7)[0].shape == (0, 12, SAMPLES)


def test_the_scale_comes_from_the_records_to_train_on_alone(make_set):
    path = make_set()
    shared = open_shared_set(path, held_out=10)
    known = np.array(numbers(shared, 0, shared.size)) + 60
    hr = MEASURES.index("hr")
    scale = shared.target_scale()
    assert scale.mean[hr] == pytest.approx(known.mean())
    assert scale.deviation[hr] == pytest.approx(known.std())
    assert scale.median[hr] == pytest.approx(np.median(known))
    # A constant measure is not divided by zero, and an unknown one stays unknown.
    assert scale.deviation[MEASURES.index("qrs")] == 1
    assert np.isnan(scale.mean[MEASURES.index("axis")])
