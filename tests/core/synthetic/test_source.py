"""The shared set, generated or on disk, behind one door."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.config import ExperimentConfig, with_overrides
from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.errors import ConfigError, DataError
from core.learning.regression import target_code
from core.synthetic.hospitals import simulated_hospitals
from core.synthetic.recipe import generate, recipe_of, target_scale, to_int16
from core.synthetic.source import (
    TRUTH,
    absolute_paths,
    draw,
    held_out_of,
    knows_classes,
    name_of,
    open_source,
    rate_of,
    scale_of,
    shard_of,
)
from core.synthetic.stream import stream
from core.synthetic.truth import MEASURES

CPU = torch.device("cpu")
RECORDS = DatasetInfo("hospital", 100, 1000, LEADS, "lead-zscore", (0.5, 40.0), 0.001, "test")


def settings_of(*changes: str):
    return with_overrides(ExperimentConfig(), ["federation.sites=1", "pretrain.batch_size=1", *changes]).synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set of 40 records as `synth write` makes one, with the truth in its table."""
    made = generate(recipe_of(settings_of("synthetic.size=40"), 100), 0, 40)
    table = simulated_hospitals(hospitals=1, patients=40, seed=0, seconds=5.0).records.iloc[:40].reset_index(drop=True)
    names = [f"{number:05d}" for number in range(40)]
    table = table.assign(record=names, patient=names, **{m: made.column(m) for m in ("hr", "pr", "qrs", "qt", "axis")})
    path = tmp_path_factory.mktemp("sets") / "set"
    info = replace(RECORDS, name="set", normalisation="none", simulated=True)
    EcgDataset(to_int16(made.signals.numpy()), table, info).write(path)
    return path


class TestRecipe:
    def test_is_what_the_settings_describe_at_the_rate_of_the_records(self):
        settings = settings_of("synthetic.size=100", "synthetic.seed=4")
        source = open_source(settings, replace(RECORDS, rate=250))
        assert source == recipe_of(settings, 250)
        assert (name_of(source), rate_of(source)) == (source.hash, 250)
        np.testing.assert_array_equal(scale_of(source).mean, target_scale(source).mean)

    def test_holds_out_records_beyond_its_size(self):
        source = open_source(settings_of("synthetic.size=100"), RECORDS)
        assert [shard_of(source, k, 3) for k in range(3)] == [(0, 33), (33, 66), (66, 100)]
        assert [held_out_of(source, 10, k, 3) for k in range(3)] == [(100, 103), (103, 106), (106, 110)]

    def test_is_drawn_with_its_mask_where_that_is_asked_for(self):
        source = open_source(settings_of("synthetic.size=100"), RECORDS)
        signals, truth, mask = draw(source, 3, 7, CPU, mask=True)
        assert (signals.shape, truth.shape, mask.shape) == ((4, 12, 1000), (4, len(TRUTH)), (4, 1000))
        assert draw(source, 3, 7, CPU)[2] is None

    def test_tells_measures_and_superclasses_of_each_record(self):
        source = open_source(settings_of("synthetic.size=100"), RECORDS)
        truth, made = draw(source, 3, 40, CPU)[1].numpy(), generate(source, 3, 40)
        np.testing.assert_array_equal(truth[:, : len(MEASURES)], made.truth)
        np.testing.assert_array_equal(truth[:, len(MEASURES) :], made.labels)
        assert (made.labels.any(axis=0)).all()
        assert knows_classes(source)

    def test_that_is_impossible_is_refused(self):
        with pytest.raises(ConfigError, match="lbb"):
            open_source(settings_of('synthetic.morphologies=["lbb"]'), RECORDS)
        with pytest.raises(ConfigError, match="unknown cohort 'narrow'"):
            name_of(open_source(settings_of("synthetic.cohort=narrow"), RECORDS))


class TestFolder:
    def settings(self, folder: Path, held_out: int = 8):
        return settings_of(f"synthetic.path={folder}", f"synthetic.held_out={held_out}")

    def test_is_named_by_its_fingerprint_and_opened_once(self, folder):
        source = open_source(self.settings(folder), RECORDS)
        assert name_of(source) == source.fingerprint == EcgDataset.open(folder).fingerprint
        assert open_source(self.settings(folder), RECORDS) is source
        assert rate_of(source) == 100

    def test_holds_out_as_many_as_the_settings_ask_for(self, folder):
        source = open_source(self.settings(folder), RECORDS)
        assert [shard_of(source, k, 2) for k in range(2)] == [(0, 16), (16, 32)]
        assert [held_out_of(source, 999, k, 2) for k in range(2)] == [(32, 36), (36, 40)]

    def test_streams_its_records_in_millivolt_with_their_truth(self, folder):
        source = open_source(self.settings(folder), RECORDS)
        batches = list(stream(source, 0, 32, batch_size=8, epochs=1, seed=0, device=CPU))
        assert len(batches) == 4
        rates = sorted(float(rate) for _, truth, _ in batches for rate in truth[:, 0])
        np.testing.assert_allclose(rates, np.sort(source.truth[:32, 0]), rtol=1e-6)
        signals, truth, mask = draw(source, 5, 6, CPU)
        np.testing.assert_allclose(signals.numpy(), source.records(5, 6)[0])
        assert (truth.shape, mask) == ((1, len(TRUTH)), None)

    def test_knows_only_the_measures_that_stand_in_it(self, folder):
        source = open_source(self.settings(folder), RECORDS)
        assert np.isfinite(target_code(source, ("hr", "axis"), "lead-zscore").mean).all()
        with pytest.raises(ConfigError, match=r"knows no t of any record; take it out of pretrain\.targets"):
            target_code(source, ("hr", "t"), "lead-zscore")

    def test_tells_the_superclasses_that_stand_in_its_table(self, folder):
        source = open_source(self.settings(folder), RECORDS)
        table = EcgDataset.open(folder)
        labels = {record: row for record, row in zip(table.records["record"], table.labels, strict=True)}
        told = draw(source, 0, 40, CPU)[1][:, len(MEASURES) :].numpy()
        order = source._dataset.records["record"]
        np.testing.assert_array_equal(told, np.stack([labels[record] for record in order]))
        assert target_code(source, ("hr", "class"), "lead-zscore").classes

    def test_without_labels_is_refused_for_the_class_alone(self, folder, tmp_path):
        table = EcgDataset.open(folder)
        records = table.records.assign(**dict.fromkeys(SUPERCLASSES, 0))
        EcgDataset(table.signals, records, replace(table.info, fingerprint="")).write(tmp_path / "set")
        source = open_source(self.settings(tmp_path / "set"), RECORDS)
        assert np.isnan(draw(source, 0, 3, CPU)[1].numpy()[:, len(MEASURES) :]).all()
        assert not target_code(source, ("hr",), "lead-zscore").classes
        with pytest.raises(ConfigError, match=r"knows no class of any record; take it out of pretrain\.targets"):
            target_code(source, ("hr", "class"), "lead-zscore")

    def test_has_no_mask(self, folder):
        source = open_source(self.settings(folder), RECORDS)
        with pytest.raises(DataError, match=r"holds no mask; take it out of pretrain\.targets"):
            draw(source, 0, 1, CPU, mask=True)

    @pytest.mark.parametrize("change", [{"rate": 500}, {"samples": 500}])
    def test_of_another_rate_or_length_than_the_records_is_refused(self, folder, change):
        records = replace(RECORDS, **change)
        with pytest.raises(DataError, match=r"records of 1000 samples at 100 Hz and the patients' have .*; make the"):
            open_source(self.settings(folder), records)


def test_files_are_named_by_absolute_paths_for_other_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute_paths(settings_of()) == {}
    settings = settings_of("synthetic.path=set", "synthetic.cohort=a.cohort.json")
    assert absolute_paths(settings) == {
        "synthetic.path": str(tmp_path / "set"),
        "synthetic.cohort": str(tmp_path / "a.cohort.json"),
    }
