"""Which patients belong to which simulated hospital."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ecg.dataset import DatasetInfo, EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS
from core.ecg.partition import Hospital, limit_patients, partition_patients
from core.errors import ConfigError

INFO = DatasetInfo("made-up", 100, 2, LEADS, "none", None, 0.001, "test")


def made_up(patients: int = 200, seed: int = 0, **columns: object) -> EcgDataset:
    """Patients with one to three records, one or two of the five classes, a fold and a site of their own."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    owner = rng.permutation(owner)
    labels = np.zeros((patients, 5), np.uint8)
    for _ in range(2):
        labels[np.arange(patients), rng.integers(0, 5, patients)] = 1
    records = pd.DataFrame(
        {
            "record": [f"r{i}" for i in range(len(owner))],
            "patient": [f"p{patient}" for patient in owner],
            "site": [f"s{patient % 5}" for patient in owner],
            "fold": owner % 10 + 1,
            "age": 60.0,
            "sex": 1.0,
            **{name: labels[owner, i] for i, name in enumerate(SUPERCLASSES)},
        }
    ).assign(**columns)
    return EcgDataset(np.zeros((len(records), 12, 2), np.int16), records, INFO)


def folds(dataset: EcgDataset) -> tuple[np.ndarray, np.ndarray]:
    fold = dataset.records["fold"].to_numpy()
    return np.flatnonzero(fold <= 7), np.flatnonzero(fold > 7)


def spread(dataset: EcgDataset, **asked: object) -> list[Hospital]:
    train, test = folds(dataset)
    how = {"kind": "dirichlet", "sites": 4, "alpha": 0.5, "seed": 0, "min_patients": 1, "min_classes": 1}
    return partition_patients(dataset, train, test, **(how | asked))


def refusal(dataset: EcgDataset, **asked: object) -> str:
    with pytest.raises(ConfigError) as refused:
        spread(dataset, **asked)
    return str(refused.value)


def seed_of_a_small_site(dataset: EcgDataset) -> int:
    sizes = ((seed, min(len(hospital.train) for hospital in spread(dataset, seed=seed))) for seed in range(50))
    return next(seed for seed, smallest in sizes if smallest < 15)


def skew(dataset: EcgDataset, hospitals: list[Hospital]) -> float:
    """Mean total variation distance between the hospitals' class mixes and that of all."""
    overall = dataset.labels.sum(axis=0) / dataset.labels.sum()
    mixes = [dataset.labels[h.train].sum(axis=0) for h in hospitals]
    return float(np.mean([np.abs(mix / mix.sum() - overall).sum() / 2 for mix in mixes]))


SET = made_up()


@pytest.mark.parametrize("kind", ["dirichlet", "iid", "size"])
class TestAnyDraw:
    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 2**32 - 1), sites=st.integers(1, 8), alpha=st.floats(0.3, 2))
    def test_places_every_record_at_one_site_and_every_patient_at_one_site(self, kind, seed, sites, alpha):
        hospitals = spread(SET, kind=kind, seed=seed, sites=sites, alpha=alpha)
        train, test = folds(SET)
        assert [h.name for h in hospitals] == [f"site-{i}" for i in range(sites)]
        assert sorted(np.concatenate([h.train for h in hospitals])) == sorted(train)
        assert sorted(np.concatenate([h.test for h in hospitals])) == sorted(test)
        patients = SET.records["patient"].to_numpy()
        seen = [set(patients[np.concatenate([h.train, h.test])]) for h in hospitals]
        assert sum(map(len, seen)) == len(set.union(*seen)) == 200

    def test_is_fixed_by_its_seed(self, kind):
        first, again, other = (spread(SET, kind=kind, seed=seed) for seed in (1, 1, 2))
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.train, b.train)
            np.testing.assert_array_equal(a.test, b.test)
        assert not all(np.array_equal(a.train, b.train) for a, b in zip(first, other, strict=True))

    def test_does_not_touch_the_global_generator(self, kind):
        np.random.seed(0)
        before = np.random.get_state()[1].copy()
        spread(SET, kind=kind)
        np.testing.assert_array_equal(np.random.get_state()[1], before)

    def test_gives_a_single_site_everything(self, kind):
        (all_of_it,) = spread(SET, kind=kind, sites=1)
        np.testing.assert_array_equal(all_of_it.train, folds(SET)[0])


class TestSkew:
    def test_grows_as_alpha_falls_and_is_least_for_iid(self):
        def typical(**how):
            return np.mean([skew(SET, spread(SET, seed=seed, **how)) for seed in range(12)])

        strong, weak, none = typical(alpha=0.3), typical(alpha=3.0), typical(kind="iid")
        assert strong > 1.4 * weak
        assert weak > 1.4 * none

    def test_of_large_alpha_is_that_of_even_shares(self):
        assert skew(SET, spread(SET, alpha=1e6)) == pytest.approx(skew(SET, spread(SET, kind="iid")), abs=0.05)

    def test_is_shared_by_training_and_test_patients_of_a_site(self):
        large = made_up(2000)
        correlations = []
        for h in spread(large, alpha=0.3):
            mixes = [large.labels[rows].mean(axis=0) for rows in (h.train, h.test)]
            correlations.append(np.corrcoef(mixes)[0, 1])
        assert min(correlations) > 0.7

    def test_of_iid_leaves_sites_of_equal_size(self):
        sizes = [len(np.unique(SET.records["patient"].to_numpy()[h.train])) for h in spread(SET, kind="iid")]
        # Five classes are cut in four each, so sizes differ by rounding alone.
        assert max(sizes) - min(sizes) <= 5


class TestSizes:
    def test_follow_a_power_law_in_training_and_test_patients(self):
        large = made_up(2000)
        hospitals = spread(large, kind="size", sites=4, alpha=1.0)
        patients = large.records["patient"].to_numpy()
        # 1, 1/2, 1/3 and 1/4 over their sum of 25/12.
        shares = np.array([12, 6, 4, 3]) / 25
        for part, total in (("train", 1400), ("test", 600)):
            sizes = [len(np.unique(patients[getattr(h, part)])) for h in hospitals]
            np.testing.assert_allclose(sizes, shares * total, atol=1)

    def test_grow_more_unequal_with_alpha(self):
        def smallest(alpha: float) -> int:
            return min(len(h.train) for h in spread(SET, kind="size", alpha=alpha))

        assert smallest(0.1) > 1.5 * smallest(1.0) > 2 * smallest(2.0)

    def test_come_without_a_skew_of_labels(self):
        large = made_up(4000)
        assert skew(large, spread(large, kind="size", alpha=1.0)) < 0.04
        assert skew(large, spread(large, kind="dirichlet", alpha=1.0)) > 0.1

    def test_that_are_too_small_ask_for_a_smaller_alpha(self):
        message = refusal(SET, kind="size", alpha=5.0, min_patients=10)
        assert "fewer than federation.min_patients = 10; lower federation.alpha, lower federation.sites" in message


class TestColumn:
    def test_of_names_gives_each_of_the_most_frequent_a_site(self):
        owner = SET.records["patient"].str[1:].astype(int)
        device = np.select([owner % 10 < 5, owner % 10 < 8], ["AT-6 6", "CS 100"], "rare")
        dataset = made_up(device=device)
        hospitals = spread(dataset, kind="column", column="device", sites=2)
        assert [h.name for h in hospitals] == ["device-AT-6 6", "device-CS 100"]
        for h, name in zip(hospitals, ["AT-6 6", "CS 100"], strict=True):
            train, test = folds(dataset)
            np.testing.assert_array_equal(h.train, train[device[train] == name])
            np.testing.assert_array_equal(h.test, test[device[test] == name])

    def test_of_few_numbers_names_them(self):
        owner = SET.records["patient"].str[1:].astype(int)
        sex = np.where(owner % 7 == 0, np.nan, owner % 2)
        hospitals = spread(made_up(sex=sex), kind="column", column="sex", sites=2)
        assert [h.name for h in hospitals] == ["sex-0", "sex-1"]
        assert not np.isnan(sex[np.concatenate([h.train for h in hospitals])]).any()

    @settings(max_examples=20, deadline=None)
    @given(seed=st.integers(0, 1000), sites=st.integers(1, 6))
    def test_of_many_numbers_is_cut_at_quantiles_whole_patients_and_in_order(self, seed, sites):
        age = np.random.default_rng(seed).uniform(20, 90, len(SET)).round(1)
        age[:20] = np.nan
        dataset = made_up(age=age)
        hospitals = spread(dataset, kind="column", column="age", sites=sites)
        patients = dataset.records["patient"].to_numpy()
        medians = dataset.records.groupby("patient")["age"].median()
        sizes, last = [], -np.inf
        for h in hospitals:
            held = np.unique(patients[np.concatenate([h.train, h.test])])
            assert last < medians[held].min()
            last = medians[held].max()
            assert h.name == f"age-{medians[held].min():g}-to-{last:g}"
            sizes.append(len(np.unique(patients[h.train])))
        known = medians[np.unique(patients[folds(dataset)[0]])].dropna()
        assert sum(sizes) == len(known)
        # A quantile is off by less than one patient, and by those who share its median with it, since they stay together.
        assert max(sizes) - min(sizes) <= 2 * known.value_counts().max()

    def test_of_numbers_that_most_share_is_refused_with_the_mend(self):
        age = np.where(np.arange(len(SET)) % 40, 60.0, np.arange(len(SET)) / 10)
        of_one_record = made_up(age=age, patient=[f"p{i}" for i in range(len(SET))], fold=np.arange(len(SET)) % 10 + 1)
        message = refusal(of_one_record, kind="column", column="age", sites=5)
        assert message.startswith("the ages of the set cannot be cut in 5 parts: too many patients have the same; ")

    def test_that_is_not_there_is_refused_with_those_that_are(self):
        message = refusal(SET, kind="column", column="device", sites=2)
        assert "'device' is no column of the set, which has record, patient, site" in message
        assert message.endswith("or import the set again with that column")

    def test_site_is_the_site_column(self):
        named, by_column = (spread(SET, kind=kind, column="site", sites=3) for kind in ("site-column", "column"))
        for one, other in zip(named, by_column, strict=True):
            assert one.name == other.name
            np.testing.assert_array_equal(one.train, other.train)


@given(most=st.integers(1, 60), more=st.integers(0, 40), seed=st.integers(0, 2**32 - 1))
def test_a_limit_keeps_whole_patients_the_fewer_among_the_more(most, more, seed):
    hospitals = spread(SET)
    patients = SET.records["patient"].to_numpy()
    fewer, larger = (limit_patients(SET, hospitals, most=limit, seed=seed) for limit in (most, most + more))
    for all_, some, few in zip(hospitals, larger, fewer, strict=True):
        owners = [set(patients[h.train]) for h in (all_, some, few)]
        assert owners[2] <= owners[1] <= owners[0]
        assert len(owners[2]) == min(most, len(owners[0]))
        np.testing.assert_array_equal(few.train, all_.train[np.isin(patients[all_.train], list(owners[2]))])
        np.testing.assert_array_equal(few.test, all_.test)


class TestMinima:
    def test_draws_again_until_every_site_fills_a_batch(self):
        dataset = made_up()
        assert min(len(hospital.train) for hospital in spread(dataset, seed=seed_of_a_small_site(dataset))) < 15
        again = spread(dataset, seed=seed_of_a_small_site(dataset), min_records=15)
        assert min(len(hospital.train) for hospital in again) >= 15

    def test_says_so_where_no_draw_fills_a_batch(self):
        message = refusal(made_up(), min_records=100_000)
        assert message.startswith("finetune.batch_size = 100000 is larger than the cohort of site-")

    @pytest.mark.parametrize("seed", range(8))
    def test_are_kept_by_drawing_again(self, seed):
        hospitals = spread(SET, alpha=0.3, seed=seed, min_patients=15, min_classes=4)
        patients = SET.records["patient"].to_numpy()
        for h in hospitals:
            assert len(np.unique(patients[h.train])) >= 15
            assert SET.labels[h.train].any(axis=0).sum() >= 4

    def test_were_needed_for_that(self):
        patients = SET.records["patient"].to_numpy()
        smallest = [
            min(len(np.unique(patients[h.train])) for h in spread(SET, alpha=0.3, seed=seed)) for seed in range(8)
        ]
        assert min(smallest) < 15


class TestSiteColumn:
    def test_gives_the_largest_sites_their_own_records(self):
        site = SET.records["site"].to_numpy()
        hospitals = spread(SET, kind="site-column", sites=5)
        assert [h.name for h in hospitals] == [f"site-s{i}" for i in range(5)]
        train, test = folds(SET)
        for i, h in enumerate(hospitals):
            np.testing.assert_array_equal(h.train, train[site[train] == f"s{i}"])
            np.testing.assert_array_equal(h.test, test[site[test] == f"s{i}"])

    def test_leaves_the_small_ones_out_when_fewer_are_asked_for(self):
        site = np.where(np.arange(len(SET)) % 7 < 4, "big", "small")
        one_each = made_up(patient=[f"p{i}" for i in range(len(SET))], site=site)
        (only,) = spread(one_each, kind="site-column", sites=1)
        assert only.name == "site-big"

    def test_keeps_a_patient_whole_at_the_site_of_most_records(self):
        dataset = made_up(patients=100)
        site = dataset.records["site"].to_numpy().copy()
        patient = dataset.records["patient"].to_numpy()
        traveller = next(p for p, n in dataset.records["patient"].value_counts().items() if n == 3)
        home, away = site[patient == traveller][0], "s9"
        site[np.flatnonzero(patient == traveller)[0]] = away
        mixed = made_up(patients=100, site=site)
        hospitals = spread(mixed, kind="site-column", sites=5)
        holders = {h.name for h in hospitals for row in (*h.train, *h.test) if patient[row] == traveller}
        assert holders == {f"site-{home}"}

    def test_does_not_take_missing_names_for_a_hospital(self):
        site = np.where(np.arange(200) % 5 < 3, "", [f"s{i % 5}" for i in range(200)])
        dataset = made_up(site=[site[int(p[1:])] for p in SET.records["patient"]])
        assert [h.name for h in spread(dataset, kind="site-column", sites=2)] == ["site-s3", "site-s4"]


class TestRefusals:
    def test_of_a_patient_in_training_and_test_name_the_patient(self):
        fold = SET.records["fold"].to_numpy().copy()
        rows = np.flatnonzero(SET.records["patient"] == SET.records["patient"].value_counts().index[0])
        fold[rows] = [1, *[10] * (len(rows) - 1)]
        patient = SET.records["patient"].iloc[rows[0]]
        message = refusal(made_up(fold=fold))
        assert message.startswith(f"patient {patient} is in both training and test folds; ")
        assert message.endswith("give all records of a patient the same fold in the records table")

    def test_of_more_sites_than_patients_name_both_numbers(self):
        # 20 patients, of which folds 1-7 hold 14.
        message = refusal(made_up(20), sites=15)
        assert "federation.sites = 15 with at least 1 training patients each" in message
        assert "more than the 14 there are; lower federation.sites or federation.min_patients" in message

    def test_of_a_site_without_a_record_name_it_and_the_mends(self):
        message = refusal(made_up(20), sites=14, alpha=0.01, min_patients=1)
        assert "has no training record; raise federation.alpha, lower federation.sites" in message

    def test_of_too_few_patients_name_the_site_and_their_number(self):
        # 28 training patients of five classes over four sites: seven each would need every class to divide evenly.
        message = refusal(made_up(40), kind="iid", sites=4, min_patients=7)
        assert re.match(r"site-\d has [1-6] training patients, fewer than federation.min_patients = 7; raise", message)

    def test_of_too_few_patients_at_a_named_site_count_them(self):
        site = ["a" if patient == "p0" else "b" for patient in SET.records["patient"]]
        message = refusal(made_up(site=site), kind="site-column", sites=2, min_patients=3)
        assert message.startswith("site-a has 1 training patients, fewer than federation.min_patients = 3; ")

    def test_of_too_few_classes_count_them(self):
        one_class = {name: int(name == "MI") for name in SUPERCLASSES}
        message = refusal(made_up(**one_class), kind="iid", sites=1, min_classes=2)
        assert message.startswith("site-0 has training records of 1 of the five classes, ")
        assert message.endswith("raise federation.alpha or lower federation.min_classes")

    def test_of_more_sites_than_the_column_names_list_them(self):
        message = refusal(SET, kind="site-column", sites=6)
        assert "names 5 sites with training records (s0, s1, s2, s3, s4)" in message
        assert message.endswith("lower federation.sites from 6 to 5")

    def test_of_an_empty_site_column_offer_another_partition(self):
        message = refusal(made_up(site=""), kind="site-column", sites=2)
        assert message == (
            "no training record of the set names its site; "
            'fill in the site column, or set federation.partition = "dirichlet"'
        )
