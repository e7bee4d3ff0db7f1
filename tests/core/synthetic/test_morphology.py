"""Who has which morphology, and that all of them can be mixed; what each looks like is in the tests of the patterns."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import INDEPENDENT_LEADS
from core.errors import ConfigError
from core.synthetic.cohort import consistent, draw_wide
from core.synthetic.hearts import RHYTHM, Hearts, normal_hearts
from core.synthetic.morphology import (
    MORPHOLOGIES,
    apply_all,
    draw_labels,
    draw_mixture,
    draw_severities,
    labels_of,
    require_known,
    without_contradictions,
)
from core.synthetic.patterns.changes import seen
from core.synthetic.patterns.occurrence import CONTRADICTIONS
from core.synthetic.rhythm import conducted

NAMES = list(MORPHOLOGIES)
SEEDS = st.integers(0, 2**32 - 1)


def severities_of(count: int, **severity: float) -> np.ndarray:
    severities = np.zeros((count, len(NAMES)))
    for name, value in severity.items():
        severities[:, NAMES.index(name)] = value
    return severities


def hearts_of(count: int, seed: int = 0) -> Hearts:
    rng = np.random.default_rng(seed)
    return normal_hearts(draw_wide(count, rng), rng)


class TestNames:
    def test_all_stands_for_every_morphology_and_order_is_that_of_the_registry(self):
        assert require_known(("all",)) == tuple(NAMES)
        assert require_known(("lvh", "normal", "lvh")) == ("normal", "lvh")

    def test_an_unknown_name_is_refused_with_the_nearest_one(self):
        with pytest.raises(ConfigError, match=r"unknown morphology 'lbb'; did you mean 'lbbb'\?"):
            require_known(("normal", "lbb"))
        with pytest.raises(ConfigError, match=r"unknown morphology 'xyzzy'; choose 'all' or from normal, "):
            require_known(("xyzzy",))

    def test_no_name_at_all_is_refused(self):
        with pytest.raises(ConfigError, match="no morphology is chosen"):
            require_known(())

    @pytest.mark.parametrize("name", NAMES)
    def test_each_morphology_says_what_it_is(self, name):
        morphology = MORPHOLOGIES[name]
        assert morphology.name == name
        assert morphology.superclass in (*SUPERCLASSES, None)
        assert len((inspect.getdoc(morphology.apply) or "").split()) > 5

    def test_titles_differ(self):
        assert len({morphology.title for morphology in MORPHOLOGIES.values()}) == len(NAMES)

    def test_contradictions_name_morphologies(self):
        assert {name for group in CONTRADICTIONS for name in group} <= set(NAMES)


class TestLabels:
    def test_are_as_common_as_in_ptb_xl(self):
        # Wagner et al. 2020 and release 1.0.3: NORM 9514, MI 5469, STTC 5235, CD 4898, HYP 2649 of 21,799 records, of
        # which about 410 have no superclass and are not drawn.
        labels = draw_labels(40_000, np.random.default_rng(0))
        expected = np.array([9514, 5469, 5235, 4898, 2649]) / 21_388
        # Three standard errors at 40,000 records are below 0.008.
        np.testing.assert_allclose(labels.mean(axis=0), expected, atol=0.008)

    def test_hypertrophy_comes_with_st_t_changes_more_often_than_infarction_does(self):
        normal, mi, sttc, _, hyp = draw_labels(20_000, np.random.default_rng(0)).T.astype(bool)
        assert sttc[hyp].mean() > 0.5 > sttc[mi].mean()
        assert not (normal & (mi | hyp)).any()

    @settings(max_examples=40, deadline=None)
    @given(seed=SEEDS, mildest=st.floats(0, 0.9))
    def test_of_drawn_severities_are_the_labels_asked_for(self, seed, mildest):
        rng = np.random.default_rng(seed)
        labels = draw_labels(64, rng)
        severities = draw_severities(labels, rng, mildest=mildest)
        np.testing.assert_array_equal(labels_of(severities), labels)
        assert severities.max() <= 1
        assert severities[severities > 0].min() >= mildest

    def test_of_any_combination_can_be_drawn(self):
        labels = np.array([[int(bit) for bit in f"{number:05b}"] for number in range(1, 32)])
        np.testing.assert_array_equal(labels_of(draw_severities(labels, np.random.default_rng(0))), labels)

    def test_strain_is_both_hypertrophy_and_st_t_change(self):
        np.testing.assert_array_equal(labels_of(severities_of(1, lvh_strain=0.5)), [[0, 0, 1, 0, 1]])

    def test_a_heart_with_a_rhythm_alone_is_normal(self):
        np.testing.assert_array_equal(labels_of(severities_of(1, atrial_fibrillation=0.5)), [[1, 0, 0, 0, 0]])
        np.testing.assert_array_equal(labels_of(severities_of(1)), [[1, 0, 0, 0, 0]])


class TestDrawSeverities:
    def test_follows_the_statement_counts_of_ptb_xl(self):
        labels = np.tile([0, 0, 0, 1, 0], (20_000, 1))
        drawn = (draw_severities(labels, np.random.default_rng(0)) > 0).mean(axis=0)
        share = {name: drawn[NAMES.index(name)] for name in ("lafb", "incomplete_rbbb", "rbbb", "wpw")}
        # LAFB 1626, IRBBB 1118, CRBBB 542, WPW 80 statements; one in five patients has a second one.
        assert share["lafb"] > share["incomplete_rbbb"] > share["rbbb"] > share["wpw"] > 0
        assert share["lafb"] / share["rbbb"] == pytest.approx(1626 / 542, rel=0.15)
        rhythms = [name for name in NAMES if MORPHOLOGIES[name].superclass is None]
        assert 0.04 < drawn[NAMES.index("atrial_fibrillation")] < 0.08
        assert 0.12 < sum(drawn[NAMES.index(name)] for name in rhythms) < 0.3

    def test_gives_the_normal_one_variant_and_nothing_else_but_rhythms(self):
        labels = np.tile([1, 0, 0, 0, 0], (2000, 1))
        severities = draw_severities(labels, np.random.default_rng(0))
        normal = [MORPHOLOGIES[name].superclass == "NORM" for name in NAMES]
        assert ((severities[:, normal] > 0).sum(axis=1) == 1).all()

    def test_keeps_to_the_names_allowed(self):
        labels = np.array([[0, 1, 0, 1, 0]] * 50)
        severities = draw_severities(labels, np.random.default_rng(0), ("inferior_mi_old", "lbbb"))
        assert set(np.flatnonzero(severities.any(axis=0))) == {NAMES.index("inferior_mi_old"), NAMES.index("lbbb")}

    def test_refuses_names_that_leave_a_label_without_a_morphology(self):
        with pytest.raises(ConfigError, match=r"hold none for a patient with HYP; add one, such as 'lvh'"):
            draw_severities(np.array([[0, 0, 0, 0, 1]]), np.random.default_rng(0), ("normal", "lbbb"))
        # Strain is for patients who have both labels.
        with pytest.raises(ConfigError, match="hold none for a patient with HYP"):
            draw_severities(np.array([[0, 0, 0, 0, 1]]), np.random.default_rng(0), ("lvh_strain",))


class TestDrawMixture:
    def test_has_two_fifths_healthy_and_every_morphology_about_equally_often(self):
        severities = draw_mixture(60_000, np.random.default_rng(0))
        normal = np.array([MORPHOLOGIES[name].superclass == "NORM" for name in NAMES])
        healthy = (severities[:, normal] > 0).any(axis=1)
        assert healthy.mean() == pytest.approx(0.4, abs=0.01)
        assert not severities[healthy][:, ~normal].any()
        often = (severities[:, ~normal] > 0).mean(axis=0)
        # Contradictions take up to a sixth from the larger groups.
        assert often.max() < 1.35 * often.min()
        several = (severities > 0).sum(axis=1)
        assert several.min() == 1
        assert several.max() == 2
        severe = severities[severities > 0]
        np.testing.assert_allclose(np.quantile(severe, [0, 0.5, 1]), [0.05, 0.525, 1], atol=0.04)

    def test_of_one_disease_leaves_the_healthy_plain(self):
        severities = draw_mixture(5000, np.random.default_rng(0), ("lbbb",))
        assert (severities > 0).mean(axis=0)[NAMES.index("lbbb")] == pytest.approx(0.6, abs=0.03)
        assert (severities > 0).sum(axis=1).max() == 1

    def test_of_normal_variants_alone_gives_everybody_one(self):
        severities = draw_mixture(500, np.random.default_rng(0), ("normal", "left_axis"))
        assert ((severities > 0).sum(axis=1) == 1).all()

    def test_is_the_same_from_the_same_generator(self):
        first, second = (draw_mixture(100, np.random.default_rng(4)) for _ in range(2))
        np.testing.assert_array_equal(first, second)

    def test_refuses_an_unknown_name(self):
        with pytest.raises(ConfigError, match="unknown morphology"):
            draw_mixture(1, np.random.default_rng(0), ("lvhh",))


class TestContradictions:
    def test_of_two_bundle_branch_blocks_the_severer_stays(self):
        kept = without_contradictions(severities_of(1, lbbb=0.4, rbbb=0.7))
        np.testing.assert_array_equal(kept, severities_of(1, rbbb=0.7))

    def test_a_diagnosis_stays_rather_than_a_rhythm(self):
        kept = without_contradictions(severities_of(1, av_block_1=0.2, atrial_fibrillation=0.9))
        np.testing.assert_array_equal(kept, severities_of(1, av_block_1=0.2))

    @settings(max_examples=50, deadline=None)
    @given(seed=SEEDS)
    def test_never_both_stay_and_no_diagnosed_superclass_is_lost(self, seed):
        rng = np.random.default_rng(seed)
        severities = rng.random((20, len(NAMES))) * (rng.random((20, len(NAMES))) < 0.2)
        before = severities.copy()
        kept = without_contradictions(severities)
        np.testing.assert_array_equal(severities, before)
        for group in CONTRADICTIONS:
            assert ((kept[:, [NAMES.index(name) for name in group]] > 0).sum(axis=1) <= 1).all()
        assert ((kept == before) | (kept == 0)).all()
        for superclass in SUPERCLASSES:
            own = [MORPHOLOGIES[name].superclass == superclass for name in NAMES]
            np.testing.assert_array_equal(kept[:, own].any(axis=1), before[:, own].any(axis=1))


class TestApplyAll:
    @settings(max_examples=25, deadline=None)
    @given(seed=SEEDS)
    def test_any_mixture_leaves_hearts_that_can_be_drawn(self, seed):
        rng = np.random.default_rng(seed)
        hearts = normal_hearts(draw_wide(64, rng), rng)
        severities = (rng.random((64, len(NAMES))) < 0.06) * rng.uniform(0.01, 1.0, (64, len(NAMES)))
        apply_all(hearts, severities, rng)
        for name, values in vars(hearts).items():
            assert np.isfinite(values).all(), name
        assert (hearts.stop > hearts.start).all()
        assert ((hearts.peak > 0) & (hearts.peak < 1)).all()
        assert hearts.premature_ventricular.max() <= 0.5
        intervals = consistent(
            hearts.hr, hearts.pr, hearts.qrs, hearts.qtc, hearts.rr_variability, conducted(hearts.rhythm)
        )
        p = np.where(conducted(hearts.rhythm), intervals.pr, 0)
        assert (p + intervals.qt < 60_000 / intervals.hr).all()
        assert (intervals.qrs < intervals.qt - 100).all()
        assert np.abs(hearts.vector).max() < 8
        assert np.abs(hearts.local).max() < 6

    def test_changes_affected_hearts_alone(self):
        before, hearts = hearts_of(40), hearts_of(40)
        severities = severities_of(40, lbbb=0.8)
        severities[::2] = 0
        apply_all(hearts, severities, np.random.default_rng(1))
        same = [
            all(np.array_equal(one, other) for one, other in zip(vars(a).values(), vars(b).values(), strict=True))
            for a, b in ((hearts.take(np.array([row])), before.take(np.array([row]))) for row in range(40))
        ]
        assert same == [True, False] * 20

    def test_the_plain_normal_heart_is_left_as_it_is(self):
        before, hearts = hearts_of(10), hearts_of(10)
        apply_all(hearts, severities_of(10, normal=1.0), np.random.default_rng(1))
        np.testing.assert_array_equal(hearts.vector, before.vector)

    def test_returns_what_was_applied(self):
        applied = apply_all(hearts_of(3), severities_of(3, lbbb=0.4, rbbb=0.7), np.random.default_rng(1))
        np.testing.assert_array_equal(applied, severities_of(3, rbbb=0.7))

    def test_morphologies_of_one_pattern_add_up_on_one_heart(self):
        # Two territories are one pattern at two places: each has to be there, also where a heart has both.
        plain, one, both = hearts_of(30), hearts_of(30), hearts_of(30)
        apply_all(one, severities_of(30, inferior_mi_old=1.0), np.random.default_rng(1))
        apply_all(both, severities_of(30, inferior_mi_old=1.0, anteroseptal_mi_old=1.0), np.random.default_rng(1))
        ii, v2 = INDEPENDENT_LEADS.index("II"), INDEPENDENT_LEADS.index("V2")
        assert (seen(one, "q") < seen(plain, "q") - 0.1)[:, ii].all()
        assert (seen(both, "q") < seen(plain, "q") - 0.1)[:, [ii, v2]].all()

    def test_a_batch_gives_what_the_morphology_alone_gives(self):
        alone, batch = hearts_of(20), hearts_of(20)
        MORPHOLOGIES["inferior_mi_acute"].apply(alone, np.full(20, 0.6), np.random.default_rng(3))
        apply_all(batch, severities_of(20, inferior_mi_acute=0.6), np.random.default_rng(3))
        for name, values in vars(alone).items():
            np.testing.assert_allclose(values, getattr(batch, name), err_msg=name)

    def test_conduction_disease_of_the_av_node_wins_over_none(self):
        hearts = hearts_of(5)
        apply_all(hearts, severities_of(5, complete_block=0.5, inferior_mi_old=0.5), np.random.default_rng(0))
        assert (hearts.rhythm == RHYTHM["complete_block"]).all()
