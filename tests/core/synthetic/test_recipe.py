"""The shared synthetic set: one recipe, one set, whoever generates which part of it."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config_sections import SyntheticSettings
from core.errors import ConfigError
from core.synthetic.cohort import Patients, draw_wide
from core.synthetic.morphology import MORPHOLOGIES, draw_labels, draw_severities, labels_of
from core.synthetic.recipe import (
    BLOCK,
    GENERATOR_VERSION,
    Recipe,
    SyntheticRecords,
    cohort_named,
    generate,
    recipe_of,
    shard_bounds,
    target_scale,
    to_int16,
    truth,
)
from core.synthetic.simulation import chunk_size
from core.synthetic.truth import MEASURES

RECIPE = Recipe(size=600, seconds=5.0, seed=7)
EVERYTHING = 3 * BLOCK
"""Three blocks: the 600 records of the set, and unseen ones behind them."""

ENDS = st.tuples(st.integers(0, EVERYTHING), st.integers(0, EVERYTHING)).map(sorted)


@pytest.fixture(scope="module")
def whole() -> SyntheticRecords:
    return generate(RECIPE, 0, EVERYTHING, mask=True)


def require_same(part: SyntheticRecords, whole: SyntheticRecords, start: int, stop: int) -> None:
    """To the last bit."""
    assert torch.equal(part.signals, whole.signals[start:stop])
    np.testing.assert_array_equal(part.truth, whole.truth[start:stop])
    np.testing.assert_array_equal(part.severities, whole.severities[start:stop])
    if part.mask is not None and whole.mask is not None:
        assert torch.equal(part.mask, whole.mask[start:stop])


class TestAnyPartOfTheSet:
    @settings(max_examples=10, deadline=None)
    @given(ends=ENDS, mask=st.booleans())
    def test_is_bit_identical_to_the_same_rows_of_the_whole(self, whole, ends, mask):
        part = generate(RECIPE, *ends, mask=mask)
        assert len(part) == ends[1] - ends[0]
        assert (part.mask is not None) == mask
        require_same(part, whole, *ends)

    @settings(max_examples=25, deadline=None)
    @given(ends=ENDS)
    def test_has_the_truth_that_is_told_without_generating_it(self, whole, ends):
        told = truth(RECIPE, *ends)
        assert told.dtype == np.float32
        np.testing.assert_array_equal(told, whole.truth[slice(*ends)])

    def test_does_not_depend_on_the_order_of_the_requests(self, whole):
        for record in (EVERYTHING - 1, BLOCK, BLOCK - 1, chunk_size(torch.device("cpu"), RECIPE.samples), 0):
            require_same(generate(RECIPE, record, record + 1, mask=True), whole, record, record + 1)

    def test_does_not_depend_on_the_number_of_threads(self, whole, monkeypatch):
        before = torch.get_num_threads()
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                monkeypatch.setattr("core.synthetic.recipe.os.cpu_count", lambda threads=threads: threads)
                require_same(generate(RECIPE, BLOCK - 6, BLOCK + 34, mask=True), whole, BLOCK - 6, BLOCK + 34)
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)

    def test_neither_uses_nor_moves_the_global_random_generators(self, whole):
        torch.manual_seed(1)
        np.random.seed(1)
        states = torch.get_rng_state(), np.random.get_state()[1].copy()
        require_same(generate(RECIPE, 0, 3), whole, 0, 3)
        assert torch.equal(torch.get_rng_state(), states[0])
        np.testing.assert_array_equal(np.random.get_state()[1], states[1])

    def test_of_a_larger_set_is_the_same(self, whole):
        require_same(generate(replace(RECIPE, size=10**6), 100, 110, mask=True), whole, 100, 110)

    def test_far_away_in_a_large_set_is_there_at_once(self):
        records = generate(replace(RECIPE, size=10**9), 10**9 - 2, 10**9 + 1)
        assert len(records) == 3
        assert torch.isfinite(records.signals).all()

    def test_of_another_seed_is_other_patients(self, whole):
        other = truth(replace(RECIPE, seed=8), 0, EVERYTHING)
        # One rate of millions that float32 can tell is met twice now and then; not with the same QRS and QT.
        both = np.concatenate([other, whole.truth])[:, [0, 2, 3]]
        assert len(np.unique(both, axis=0)) == len(both)

    def test_at_another_rate_noise_or_band_is_the_same_patients(self, whole):
        for change in ({"rate": 250}, {"noise": 0.0}, {"band": None}):
            np.testing.assert_array_equal(truth(replace(RECIPE, **change), 0, 20), whole.truth[:20])

    def test_reports_every_record_once_as_progress(self):
        seen: list[int] = []
        generate(RECIPE, BLOCK - 6, 2 * BLOCK + 18, progress=seen.append)
        assert seen == [6, BLOCK, 18]

    def test_holds_no_record_twice(self, whole):
        assert len(np.unique(whole.truth[:, 2:], axis=0)) == EVERYTHING
        assert len(torch.unique(whole.signals[:, 0], dim=0)) == EVERYTHING

    def test_that_is_empty_has_the_shapes_of_the_others(self):
        none = generate(RECIPE, 5, 5, mask=True)
        assert none.signals.shape == (0, 12, 500)
        assert none.truth.shape == (0, 30)
        assert none.labels.shape == (0, 5)
        assert none.mask.shape == (0, 500)
        assert truth(RECIPE, 7, 3).shape == (0, 30)

    def test_made_with_other_instructions_of_the_processor_is_the_same_to_a_tenth_of_a_microvolt(self, tmp_path):
        # Another library of vectorised functions and another order of sums, as another machine would have.
        program = (
            "import sys, numpy; from core.synthetic.recipe import Recipe, generate; "
            "numpy.save(sys.argv[1], generate(Recipe(size=128, seed=3, rate=500), 0, 128).signals.numpy())"
        )
        made = []
        for capability in ("default", ""):
            environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": "1"}
            path = tmp_path / f"{capability}.npy"
            subprocess.run(
                [sys.executable, "-c", program, str(path)], env=environment, check=True, cwd=Path(__file__).parents[3]
            )
            made.append(np.load(path))
        assert np.abs(made[0]).max() > 1
        assert np.abs(made[0] - made[1]).max() < 1e-4

    @pytest.mark.gpu
    def test_made_on_a_gpu_is_the_same_to_a_tenth_of_a_microvolt(self, whole):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        for recipe in (RECIPE, replace(RECIPE, rate=500, noise=0.0)):
            there, here = (generate(recipe, 3, BLOCK + 44, device=device, mask=True) for device in ("cuda", "cpu"))
            assert there.signals.device.type == "cuda"
            assert (there.signals.cpu() - here.signals).abs().max() < 1e-4
            np.testing.assert_array_equal(there.truth, here.truth)
            # An onset may fall on a sample to the last bit.
            assert (there.mask.cpu() != here.mask).float().mean() < 1e-5
            again = generate(recipe, 100, 101, device="cuda")
            assert torch.equal(again.signals[0], there.signals[97])


class TestRecords:
    def test_are_twelve_leads_in_float32_with_their_truth(self, whole):
        assert whole.signals.shape == (EVERYTHING, 12, 500)
        assert whole.signals.dtype == torch.float32
        assert whole.truth.shape == (EVERYTHING, 30)
        assert whole.severities.shape == (EVERYTHING, len(MORPHOLOGIES))
        assert whole.mask.shape == (EVERYTHING, 500)
        assert whole.mask.dtype == torch.uint8
        assert set(whole.mask.unique().tolist()) == {0, 1, 2, 3}

    def test_tell_a_measure_by_its_name(self, whole):
        np.testing.assert_array_equal(whole.column("qt"), whole.truth[:, MEASURES.index("qt")])

    def test_are_labelled_by_what_was_simulated(self, whole):
        superclasses = [morphology.superclass for morphology in MORPHOLOGIES.values()]
        for labels, severities in zip(whole.labels, whole.severities, strict=True):
            diagnosed = {superclasses[column] for column in np.flatnonzero(severities)} - {None}
            named = {name for name, given in zip(("NORM", "MI", "STTC", "CD", "HYP"), labels, strict=True) if given}
            assert diagnosed <= named
            assert named

    def test_obey_einthoven_and_goldberger(self, whole):
        i, ii, iii, avr, avl, avf = whole.signals[:, :6].permute(1, 0, 2)
        for left, right in ((iii, ii - i), (avr, -(i + ii) / 2), (avl, i - ii / 2), (avf, ii - i / 2)):
            torch.testing.assert_close(left, right, atol=2e-6, rtol=0)

    def test_are_in_the_pass_band(self, whole):
        spectrum = np.abs(np.fft.rfft(whole.signals.numpy(), axis=-1)) ** 2
        frequency = np.fft.rfftfreq(500, 1 / RECIPE.rate)
        inside = (frequency >= 0.5) & (frequency <= 40)
        assert spectrum[..., ~inside].sum() < 0.03 * spectrum.sum()

    def test_of_some_morphologies_have_no_others(self):
        recipe = replace(RECIPE, morphologies=("lbbb", "atrial_fibrillation"))
        given_ones = generate(recipe, 0, 100).severities.any(axis=0)
        assert set(np.array(list(MORPHOLOGIES))[given_ones]) == {"lbbb", "atrial_fibrillation"}

    def test_may_be_as_common_as_in_ptbxl(self):
        found = generate(Recipe(size=512, seed=5, seconds=5.0, occurrence="ptbxl"), 0, 512).severities
        rng = np.random.Generator(np.random.Philox(key=np.array([5, 0], dtype=np.uint64)))
        np.testing.assert_array_equal(found > 0, draw_severities(draw_labels(512, rng), rng) > 0)
        # 9,069 + 407 + 28 of PTB-XL's 21,378 records with these sets of superclasses carry NORM.
        assert labels_of(found)[:, 0].mean() == pytest.approx(9504 / 21378, abs=0.06)

    def test_as_common_as_in_ptbxl_need_a_morphology_of_each_superclass(self):
        with pytest.raises(ConfigError, match="normal hold none for a patient with MI; add one"):
            Recipe(size=5, occurrence="ptbxl", morphologies=("normal",))
        with pytest.raises(ConfigError, match="unknown occurrence 'rare'; choose one of even, ptbxl"):
            Recipe(size=5, occurrence="rare")

    def test_may_be_long_and_of_any_rate(self):
        records = generate(Recipe(size=1, seconds=60.0, rate=333), 0, 1, mask=True)
        assert records.signals.shape == (1, 12, 19_980)
        assert records.mask.shape == (1, 19_980)
        assert torch.isfinite(records.signals).all()

    def test_are_stored_as_sixteen_bits_without_overflow(self):
        np.testing.assert_array_equal(to_int16(np.array([40.0, -40.0, 1.2345, -0.0004])), [32767, -32768, 1234, 0])


class TestChunks:
    @pytest.mark.parametrize(
        ("device", "samples", "size"),
        [
            ("cpu", 1000, 16),
            ("cpu", 5000, 16),
            ("cpu", 5001, 8),
            ("cpu", 10_000, 8),
            ("cpu", 80_000, 1),
            ("cpu", 10**7, 1),
            ("cuda", 5000, 512),
            ("cuda", 5001, 256),
            ("cuda", 60_000, 32),
        ],
    )
    def test_are_smaller_for_long_records(self, device, samples, size):
        # 16 or 512 records of 5,000 samples are as many values as are ever rendered together.
        assert chunk_size(torch.device(device), samples) == size

    @given(samples=st.integers(1, 10**6), device=st.sampled_from(["cpu", "cuda"]))
    def test_divide_a_block_or_hold_whole_ones(self, samples, device):
        size = chunk_size(torch.device(device), samples)
        assert BLOCK % size == 0 or size % BLOCK == 0

    @pytest.mark.parametrize(("seconds", "size"), [(30.0, 4), (120.0, 1)])
    def test_of_a_long_record_give_it_the_same_bits_whoever_asks(self, seconds, size):
        recipe = Recipe(size=10, rate=500, seconds=seconds)
        assert chunk_size(torch.device("cpu"), recipe.samples) == size
        whole = generate(recipe, 0, 7, mask=True)
        for start, stop in ((2, 3), (3, 7)):
            require_same(generate(recipe, start, stop, mask=True), whole, start, stop)


class TestShards:
    @given(size=st.integers(1, 10**6), shards=st.integers(1, 200))
    def test_are_disjoint_and_together_are_the_set(self, size, shards):
        recipe = Recipe(size=size)
        bounds = [shard_bounds(recipe, shard, shards) for shard in range(shards)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == size
        assert all(before[1] == after[0] for before, after in pairwise(bounds))
        lengths = [stop - start for start, stop in bounds]
        assert max(lengths) - min(lengths) <= 1


CHANGES = {
    "size": 6,
    "rate": 500,
    "seed": 2,
    "noise": 0.5,
    "seconds": 9.0,
    "cohort": "narrow",
    "morphologies": ("lbbb",),
    "band": (0.5, 45.0),
    "occurrence": "ptbxl",
    "version": GENERATOR_VERSION + 1,
}


class NamedCohort:
    def __init__(self, name: str) -> None:
        self.hash = name


class TestTheNameOfTheSet:
    def test_is_the_hash_of_all_that_fixes_it(self):
        # Written out by hand, so that a release that names the same set otherwise is caught.
        names = ", ".join(f'"{name}"' for name in sorted(MORPHOLOGIES))
        text = (
            f'{{"band": [0.5, 40.0], "cohort": "wide", "morphologies": [{names}], "noise": 1.0, "rate": 100, '
            f'"seconds": 10.0, "seed": 1, "size": 5, "version": {GENERATOR_VERSION}}}'
        )
        assert Recipe(size=5).hash == hashlib.sha256(text.encode()).hexdigest()

    def test_changes_with_every_field(self, monkeypatch):
        # A release that knows another cohort must give it another name.
        monkeypatch.setattr("core.synthetic.recipe.cohort_named", NamedCohort)
        assert set(CHANGES) == {field.name for field in fields(Recipe)}
        names = {Recipe(size=5).hash}
        for field, value in CHANGES.items():
            changed = Recipe(size=5)
            # Past the checks of this release.
            object.__setattr__(changed, field, value)
            names.add(changed.hash)
        assert len(names) == 1 + len(CHANGES)

    def test_is_the_same_for_equal_recipes(self):
        assert Recipe(size=5, noise=1, seconds=10, band=(0.5, 40)).hash == Recipe(size=5).hash
        assert len(Recipe(size=5, band=None).hash) == 64

    def test_does_not_depend_on_the_order_of_the_morphologies_and_neither_does_the_set(self):
        one, other = (replace(RECIPE, morphologies=names) for names in (("lbbb", "lvh"), ("lvh", "lbbb", "lvh")))
        assert one.hash == other.hash
        require_same(generate(one, 0, 5), generate(other, 0, 5), 0, 5)

    def test_of_all_morphologies_is_that_of_every_one_by_name_and_so_is_the_set(self):
        one, other = (replace(RECIPE, morphologies=names) for names in (("all",), tuple(reversed(MORPHOLOGIES))))
        assert one.hash == other.hash
        require_same(generate(one, 0, 5), generate(other, 0, 5), 0, 5)

    def test_does_not_depend_on_whether_the_morphologies_are_a_list_or_a_tuple(self):
        one, other = (Recipe(size=5, morphologies=names) for names in (["lbbb", "lvh"], ("lbbb", "lvh")))
        assert one == other
        assert one.hash == other.hash
        assert len(generate(one, 0, 2)) == 2

    def test_does_not_change_by_use(self):
        recipe = replace(RECIPE)
        before = recipe.hash
        generate(recipe, 0, 1)
        target_scale(recipe)
        assert recipe.hash == before

    def test_is_that_of_the_content_of_a_cohort_and_not_of_its_file(self, tmp_path):
        class Loaded:
            hash = "content"

        recipe = Recipe(size=5)
        names = set()
        for path in ("a.json", "b.json"):
            object.__setattr__(recipe, "cohort", str(tmp_path / path))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("core.synthetic.sdv_cohort.load_sdv_cohort", lambda _: Loaded())
                names.add(recipe.hash)
        assert len(names) == 1


class TestTargets:
    def test_are_wider_spread_than_the_normal_set_that_the_paper_used(self):
        measures = truth(Recipe(size=1), 0, 2048)
        # DeepFake ECG (arXiv 2508.11656): HR 7.6 bpm, PR 17, QRS 8.7, QT 20 ms.
        assert (np.nanstd(measures[:, :4], axis=0) > 1.5 * np.array([7.6, 17, 8.7, 20])).all()

    def test_scale_is_that_of_the_first_2048_records(self):
        first = truth(RECIPE, 0, 2048).astype(np.float64)
        scale = target_scale(RECIPE)
        np.testing.assert_allclose(scale.mean, np.nanmean(first, axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scale.deviation, np.nanstd(first, axis=0), rtol=1e-3)
        np.testing.assert_allclose(scale.median, np.nanmedian(first, axis=0), rtol=1e-6)
        assert all(np.isfinite(part).all() for part in (scale.mean, scale.deviation, scale.median))
        assert (scale.deviation > 0).all()

    def test_scale_is_finite_where_no_heart_conducts_p_waves_but_the_healthy(self):
        scale = target_scale(replace(RECIPE, morphologies=("atrial_fibrillation",)))
        assert np.isfinite(scale.mean).all()


def test_settings_and_the_rate_of_the_real_records_make_the_recipe():
    chosen = SyntheticSettings(size=77, seed=5, noise=0.3, morphologies=("lbbb", "normal"))
    assert recipe_of(chosen, 500) == Recipe(77, 500, 5, 0.3, morphologies=("lbbb", "normal"))
    assert recipe_of(SyntheticSettings(), 100) == Recipe(size=4000)


def test_a_changed_cohort_file_is_read_again(tmp_path: Path):
    read = []

    class Loaded:
        def __init__(self, path: Path) -> None:
            read.append(path)
            self.hash = json.loads(path.read_text())

    file = tmp_path / "cohort.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.synthetic.sdv_cohort.load_sdv_cohort", Loaded)
        names = []
        for number, content in enumerate(('"first"', '"first"', '"second"')):
            file.write_text(content)
            os.utime(file, ns=(number, number // 2))
            names.append(cohort_named(str(file)).hash)
    assert names == ["first", "first", "second"]
    assert len(read) == 2


def test_a_cohort_file_that_is_written_anew_gives_the_new_patients(tmp_path: Path):
    class Loaded:
        """Patients who all have the rate that stands in the file."""

        def __init__(self, path: Path) -> None:
            self.hash = path.read_text()

        def draw(self, count: int, rng: np.random.Generator) -> Patients:
            rate = np.full(count, float(self.hash))
            return replace(draw_wide(count, rng), hr=rate, rr_variability=np.zeros(count))

    file = tmp_path / "cohort.json"
    recipe = Recipe(size=5, cohort=str(file), morphologies=("lbbb",), seconds=5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.synthetic.sdv_cohort.load_sdv_cohort", Loaded)
        names = []
        for number, rate in enumerate((60, 72, 60)):
            file.write_text(str(rate))
            os.utime(file, ns=(number, number))
            names.append(recipe.hash)
            np.testing.assert_allclose(truth(recipe, 0, 5)[:, 0], rate, rtol=1e-5)
            np.testing.assert_allclose(generate(recipe, 0, 5).column("hr"), rate, rtol=1e-5)
            assert target_scale(recipe).median[0] == pytest.approx(rate)
    assert names[0] == names[2] != names[1]
