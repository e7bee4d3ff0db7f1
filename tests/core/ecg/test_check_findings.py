"""What the preflight says of small sets, each with one fault that was put into it."""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_ecgs import made_up_records

from core.ecg.checking import people, signals
from core.ecg.checking.duplicates import duplicate_findings, likeness, near_groups
from core.ecg.checking.findings import MOST_NAMED, Finding, about, counted, listed, worst
from core.ecg.checking.people import Folds
from core.ecg.checking.scan import scan
from core.ecg.dataset import DatasetInfo, EcgDataset, encode
from core.ecg.labels import SUPERCLASSES
from core.ecg.leads import LEADS

Make = Callable[..., EcgDataset]
FOLDS = Folds((1, 2, 3, 4, 5, 6, 7, 8), (9, 10))


def table_of(count: int = 12, **columns: object) -> EcgDataset:
    """Set of that many records with a flat signal each."""
    info = DatasetInfo("made-up", 100, 10, LEADS, "none", None, 0.001, "test")
    return EcgDataset(np.zeros((count, 12, 10), np.int16), made_up_records(count).assign(**columns), info)


def only(findings: Iterable[Finding], level: str) -> Finding:
    found = [finding for finding in findings if finding.level == level]
    assert len(found) == 1, found
    return found[0]


def in_mv(dataset: EcgDataset) -> np.ndarray:
    return dataset.batch(np.arange(len(dataset)), "none").astype(np.float64)


def with_signals(dataset: EcgDataset, millivolt: np.ndarray, **columns: object) -> EcgDataset:
    return EcgDataset(encode(millivolt, "none")[0], dataset.records.assign(**columns), dataset.info)


class TestWords:
    def test_the_first_records_are_named_and_all_are_counted(self):
        names = np.array([f"r{number}" for number in range(3 * MOST_NAMED)])
        found = about("x", "warning", "said", "mend", names, np.arange(3 * MOST_NAMED) % 2 == 0)
        assert found.records[:3] == ("r0", "r2", "r4")
        assert (len(found.records), found.count) == (MOST_NAMED, 3 * MOST_NAMED // 2)

    @given(st.lists(st.sampled_from(["ok", "note", "warning", "error"])))
    def test_the_worst_level_is_the_last_of_the_levels(self, levels):
        expected = max(levels, key=["ok", "note", "warning", "error"].index, default="ok")
        assert worst(Finding("x", level, "") for level in levels) == expected

    def test_numbers_and_lists(self):
        assert counted(1) == "1 record"
        assert counted(2, "patient") == "2 patients"
        assert counted(12345) == "12\u202f345 records"
        assert listed([("a", 1), ("b", 3)]) == "b 3, a 1"
        assert listed([(f"{n}", n) for n in range(9)], most=2) == "8 8, 7 7 and 7 others"


class TestPatients:
    def test_on_both_sides_is_an_error_that_names_their_records(self):
        fold = made_up_records(12)["fold"].to_numpy()
        fold[:] = 1
        fold[3] = 10
        found = only(people.patients(table_of(fold=fold), FOLDS), "error")
        # Two records a patient: r002 and r003 are p001's.
        assert found.records == ("r002", "r003")
        assert "p001" in found.said
        assert "1 patient " in found.said

    def test_in_several_folds_of_one_side_is_a_warning(self):
        fold = np.ones(12, int)
        fold[3] = 2
        assert only(people.patients(table_of(fold=fold), FOLDS), "warning").records == ("r002", "r003")
        assert only(people.patients(table_of(fold=fold), Folds((1,), (2,))), "error").count == 2

    def test_no_folds_at_all_are_told(self):
        assert "no record has a fold" in only(people.patients(table_of(fold=0), FOLDS), "warning").said

    @given(st.lists(st.integers(0, 12), min_size=1, max_size=12))
    def test_which_folds_are_on_both_sides(self, folds):
        assert FOLDS.are_split(folds) == (bool({*folds} & {*range(1, 9)}) and bool({*folds} & {9, 10}))

    def test_the_default_folds_are_those_of_the_settings(self):
        from core.config import ExperimentConfig

        data = ExperimentConfig().data
        assert Folds() == Folds(data.train_folds, data.test_folds)


class TestCrowds:
    def test_a_placeholder_for_many_people(self):
        owners = [f"p{row}" for row in range(100)]
        owners[10:35] = ["unknown"] * 25
        found = only(people.crowds(table_of(100, patient=owners)), "warning")
        assert "'unknown' 25" in found.said
        assert found.count == 25

    def test_twenty_visits_are_possible_and_so_are_many_in_a_small_set(self):
        owners = [f"p{row}" for row in range(100)]
        owners[:20] = ["often"] * 20
        assert [found.level for found in people.crowds(table_of(100, patient=owners))] == ["ok"]

    def test_an_empty_name_is_no_patient(self):
        owners = [f"p{row}" for row in range(12)]
        owners[3] = owners[4] = ""
        assert only(people.crowds(table_of(patient=owners)), "warning").records == ("r003", "r004")

    def test_a_large_set_where_nobody_came_twice_is_noted(self):
        owners = [f"p{row}" for row in range(500)]
        assert only(people.crowds(table_of(500, patient=owners)), "note").said == "every record is another patient"


class TestLabels:
    def test_rare_classes_are_told_with_all_counts(self):
        # 60 records, 30 patients; every sixth record has each class: 10 records, and of each pair of records one patient.
        dataset = table_of(60, HYP=[1] * 18 + [0] * 42)
        found = only((each for each in people.labels(dataset, FOLDS) if each.check == "labels"), "warning")
        assert "HYP 9" in found.said
        assert "HYP from fewer than 10 patients" in found.mend
        assert "NORM 10" in found.said

    def test_a_class_that_is_on_one_side_alone(self):
        dataset = table_of(120, CD=0, **{"fold": [1] * 60 + [9] * 60, "MI": [1] * 60 + [0] * 60})
        found = [each.said for each in people.labels(dataset, FOLDS) if each.level == "warning"]
        assert any("nobody to test on has MI" in said for said in found)
        assert not any("to test on has CD" in said for said in found)

    def test_folds_that_nobody_is_in(self):
        found = [each.said for each in people.labels(table_of(120, fold=1), FOLDS)]
        assert "no labelled record to test on is in folds 9, 10" in found

    def test_no_label_at_all_is_an_error(self):
        dataset = table_of(12, **dict.fromkeys(SUPERCLASSES, 0))
        assert only(people.labels(dataset, FOLDS), "error").said == "no record has one of the 5 labels"

    def test_records_without_a_label_are_noted_by_name(self):
        assert only(people.labels(table_of(12), FOLDS), "note").records == ("r005", "r011")

    def test_normal_and_ill_at_once(self):
        dataset = table_of(12, CD=[1] + [0] * 11, HYP=[1, 1] + [0] * 10)
        found = only(people.contradictory_labels(dataset), "warning")
        assert found.records == ("r000",)
        assert "CD 1, HYP 1" in found.said

    def test_rhythms_beside_normal_contradict_nothing(self):
        from core.ecg.labels import FEDCVD20

        info = DatasetInfo("x", 100, 10, LEADS, "none", None, 0.001, "test", label_space="fedcvd20")
        table = made_up_records(6)[["record", "patient", "site", "fold", "age", "sex"]]
        table = table.assign(**dict.fromkeys(FEDCVD20, 1))
        dataset = EcgDataset(np.zeros((6, 12, 10), np.int16), table, info)
        assert list(people.contradictory_labels(dataset)) == []
        assert people.fold_counts(dataset)[0][1] == [1] * 20 + [0]

    def test_counts_by_fold(self):
        # 12 records, folds 1 to 10 in turn: fold 1 has r000 (NORM) and r010 (HYP), fold 2 r001 (MI) and r011 (none).
        counts = dict(people.fold_counts(table_of(12)))
        assert counts["fold 1"] == [1, 0, 0, 0, 1, 0]
        assert counts["fold 2"] == [0, 1, 0, 0, 0, 1]


class TestAgesAndSexes:
    def test_impossible_ages_are_named(self):
        age = [50.0 + row for row in range(12)]
        age[2], age[5] = -1, 300
        assert only(people.ages(table_of(12, age=age)), "warning").records == ("r002", "r005")

    def test_oldest_age_that_is_possible(self):
        assert [found.level for found in people.ages(table_of(12, age=[110.0] * 12))] == ["ok"]

    @pytest.mark.parametrize(("same", "level"), [(21, "warning"), (20, "ok")])
    def test_an_age_that_too_many_have(self, same, level):
        age = [40.0] * same + [41.0 + row for row in range(100 - same)]
        age = [value if value <= 110 else 41.0 + index % 60 for index, value in enumerate(age)]
        found = list(people.ages(table_of(100, age=age)))
        assert [each.level for each in found] == [level]

    def test_missing_ages_and_sexes_are_noted(self):
        missing = [np.nan] * 11 + [50.0]
        assert only(people.ages(table_of(12, age=missing)), "note").said == "8% of the records tell the age"
        assert (
            only(people.sexes(table_of(12, sex=[np.nan] * 11 + [1.0])), "note").said == "8% of the records tell the sex"
        )
        assert [found.level for found in people.sexes(table_of(12, sex=np.nan))] == ["note"]

    def test_one_sex_throughout(self):
        assert only(people.sexes(table_of(60, sex=1.0)), "warning").said == "100% women among 60 records"
        assert [found.level for found in people.sexes(table_of(12, sex=1.0))] == ["ok"]


class TestSignals:
    def test_a_sound_set_has_nothing_to_mend(self, make_dataset: Make):
        dataset = make_dataset(12)
        found = list(signals.signal_findings(dataset, scan(dataset)))
        assert [each.check for each in found if each.level == "warning"] == ["rate"]  # 2 s, not 10
        assert worst(found) == "warning"

    @pytest.mark.parametrize(("gain", "unit"), [(0.001, "in V"), (5.0, "uV"), (1000.0, "uV")])
    def test_another_unit_of_the_whole_set(self, make_dataset: Make, gain, unit):
        dataset = make_dataset(12)
        changed = with_signals(dataset, gain * in_mv(dataset))
        found = only(signals.units(changed, scan(changed)), "error")
        assert unit in found.mend
        assert found.count == 12

    def test_another_unit_of_some_records(self, make_dataset: Make):
        dataset = make_dataset(40)
        values = in_mv(dataset)
        values[3] *= 1000
        values[7] /= 1000
        changed = with_signals(dataset, values)
        found = only(signals.units(changed, scan(changed)), "warning")
        assert found.records == ("r003", "r007")

    def test_units_of_normalised_signals_are_said_to_be_unknowable(self, make_dataset: Make):
        dataset = make_dataset(12, normalisation="lead-zscore")
        assert "cannot be known" in only(signals.units(dataset, scan(dataset)), "note").said

    def test_a_set_of_zeros(self):
        dataset = table_of(3)
        assert only(signals.units(dataset, scan(dataset)), "error").said == "every record is flat"

    def test_flat_leads_are_named_unless_the_import_named_them_missing(self, make_dataset: Make):
        dataset = make_dataset(4)
        values = in_mv(dataset)
        values[1, LEADS.index("V6")] = 0
        values[2, LEADS.index("V2")] = 0
        changed = with_signals(dataset, values, missing_leads=["", "", "V2", ""])
        seen = scan(changed)
        flat = only(signals.flat_leads(changed, seen), "warning")
        assert (flat.records, "V6 1" in flat.said) == (("r001",), True)
        missing = only(signals.missing_leads(changed), "warning")
        assert (missing.records, "V2 1" in missing.said) == (("r002",), True)

    def test_short_records_are_noted(self, make_dataset: Make):
        dataset = make_dataset(4)
        changed = with_signals(dataset, in_mv(dataset), seconds=[2.0, 1.5, 30.0, 2.0])
        found = only(signals.lengths(changed), "note")
        assert (found.records, "1.5 s" in found.said) == (("r001",), True)

    def test_samples_that_are_no_number(self, make_dataset: Make):
        dataset = make_dataset(4, normalisation="lead-zscore")
        values = dataset.signals.copy()
        values[2, 0, 0] = np.inf
        changed = EcgDataset(values, dataset.records, dataset.info)
        assert only(signals.numbers(changed, scan(changed)), "error").records == ("r002",)


class TestDuplicates:
    def copies(self, make_dataset: Make, **columns: object) -> EcgDataset:
        """200 records of noise, of which r001 is r000's copy, and r003 nearly r002's."""
        rng = np.random.default_rng(0)
        values = rng.standard_normal((200, 12, 200)).cumsum(axis=2) / 10
        values[1] = values[0]
        values[3] = 0.8 * np.roll(values[2], 2, axis=1) + 0.005 * rng.standard_normal((12, 200))
        return with_signals(make_dataset(200), values, **columns)

    def test_both_kinds_are_told_apart_and_named(self, make_dataset: Make):
        dataset = self.copies(make_dataset, fold=1)
        found = {each.check: each for each in duplicate_findings(dataset, scan(dataset), FOLDS)}
        assert {name: each.records for name, each in found.items()} == {
            "duplicates": ("r000", "r001"),
            "near duplicates": ("r002", "r003"),
        }
        # Two records a patient: copies are of one patient.
        assert {each.level for each in found.values()} == {"warning"}

    @pytest.mark.parametrize(
        ("count", "fold", "level"),
        [(1, 1, "warning"), (1, 9, "error"), (3, 1, "error")],
    )
    def test_under_two_patients_it_is_an_error_across_sides_or_where_it_is_no_single_mistake(
        self, make_dataset: Make, count, fold, level
    ):
        rng = np.random.default_rng(0)
        values = rng.standard_normal((300, 12, 200)).cumsum(axis=2) / 10
        folds = np.ones(300, int)
        for number in range(count):
            # r000 is p000's and r100 p050's.
            values[100 + 2 * number] = values[2 * number]
            folds[100 + 2 * number] = fold
        dataset = with_signals(make_dataset(300), values, fold=folds)
        found = only(duplicate_findings(dataset, scan(dataset), FOLDS), level)
        assert "p000 and p050" in found.said
        assert found.count == 2 * count

    def test_flat_records_are_no_copies_of_each_other(self):
        dataset = table_of(6)
        assert [found.level for found in duplicate_findings(dataset, scan(dataset), FOLDS)] == ["ok"]

    def test_many_copies_of_one_signal_are_one_group(self, make_dataset: Make):
        dataset = make_dataset(20)
        rng = np.random.default_rng(0)
        values = rng.standard_normal((20, 12, 200)).cumsum(axis=2) / 10
        for row in (4, 9, 14):
            values[row] = (1 + row / 50) * values[2] + 0.003 * rng.standard_normal((12, 200))
        changed = with_signals(dataset, values)
        assert near_groups(changed, scan(changed)) == ([[2, 4, 9, 14]], False)

    @given(shift=st.integers(0, 40), seed=st.integers(0, 50))
    def test_likeness_is_the_best_correlation_over_shifts(self, shift, seed):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal((2, 12, 200))
        values[1, :, shift:] = values[0, :, : 200 - shift]
        values[1, :, :shift] = 0
        info = DatasetInfo("x", 100, 200, LEADS, "none", None, 0.001, "test")
        stored = encode(values, "none")[0]
        dataset = EcgDataset(stored, made_up_records(2), info)
        one, other = (part - part.mean(axis=1, keepdims=True) for part in stored.astype(float))
        best = max(
            (one[:, : 200 - lag] * other[:, lag:]).sum() / np.sqrt((one**2).sum() * (other**2).sum())
            for lag in range(51)
        )
        assert likeness(dataset, 0, 1) >= best - 1e-6
        assert likeness(dataset, 1, 0) == pytest.approx(likeness(dataset, 0, 1))


def test_every_finding_about_records_says_what_to_do(make_dataset: Make):
    dataset = make_dataset(12)
    table = dataset.records.assign(age=-1.0, fold=0)
    changed = EcgDataset(dataset.signals, pd.DataFrame(table), dataset.info)
    found = [*signals.signal_findings(changed, scan(changed)), *people.table_findings(changed, FOLDS)]
    assert all(each.mend for each in found if each.level in ("warning", "error"))
