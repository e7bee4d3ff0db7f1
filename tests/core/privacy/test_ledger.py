"""What a ledger remembers of whom."""

import dataclasses
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_ledgers import PLAN, enter, patients, steps, steps_of, table

from core.errors import PrivacyError, UnitConflictError
from core.privacy import Ledger, Mechanism, PrivacyPlan, PrivacyUnit, epsilon
from core.privacy.plan import BudgetExhaustedError

SPENT = Mechanism(1.2, 0.16, 7)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "state" / "ledger.sqlite"


@pytest.fixture
def ledger(path) -> Ledger:
    return Ledger.create(path)


class TestEntries:
    def test_an_entry_holds_the_plan_and_survives_in_another_instance(self, ledger, path):
        plan = dataclasses.replace(PLAN, records_per_unit=3)
        id_ = enter(ledger, "ab", plan, round_number=3, void=True)
        (entry,) = Ledger.open(path).entries()
        assert (entry.id, entry.campaign, entry.round, entry.task) == (id_, "c1", 3, "train.finetune")
        assert (entry.unit, entry.neighbouring) == ("patient", "add-remove")
        assert (entry.clip, entry.delta, entry.epsilon, entry.units, entry.records_per_unit) == (1.0, 1e-5, 8.0, 400, 3)
        assert (entry.void, entry.status, entry.note) == (True, "open", "")
        assert entry.fingerprint == ledger.cohort(patients("ab")).fingerprint
        assert entry.mechanism == SPENT
        assert entry.time.endswith("+00:00")

    def test_the_plan_that_is_returned_is_the_one_that_was_entered(self, ledger):
        made: list[PrivacyPlan] = []

        def plan_for(histories):
            made.append(steps(len(made) + 1))
            return made[-1]

        cohort = ledger.cohort(patients("a"))
        _, plan = ledger.reserve(cohort, plan_for, campaign="c", round_number=1, task="t", void=False)
        assert [plan] == made
        assert [entry.steps for entry in ledger.entries()] == [plan.steps]

    @pytest.mark.parametrize("status", ["done", "crashed"])
    def test_settling_gives_nothing_back(self, ledger, status):
        id_ = enter(ledger, "ab")
        before = ledger.epsilon(ledger.cohort(patients("ab")), 1e-5)
        ledger.settle(id_, status, "a note")
        assert ledger.epsilon(ledger.cohort(patients("ab")), 1e-5) == before
        assert [(entry.status, entry.note) for entry in ledger.entries()] == [(status, "a note")]

    def test_void_entries_are_counted(self, ledger):
        enter(ledger, "ab", void=True)
        assert steps_of(ledger, "ab") == [[7]]

    def test_an_entry_is_settled_once_and_must_exist(self, ledger):
        with pytest.raises(PrivacyError, match="no open entry nobody; settle each entry once"):
            ledger.settle("nobody", "done")
        id_ = enter(ledger, "ab")
        ledger.settle(id_, "crashed")
        head = ledger.head
        with pytest.raises(PrivacyError, match="settle each entry once"):
            ledger.settle(id_, "done")
        assert ledger.head == head

    def test_what_was_left_open_is_settled_as_crashed_by_the_next_of_its_campaign_and_cohort(self, ledger):
        for campaign, cohort in (("c1", "ab"), ("c2", "ab"), ("c1", "cd"), ("c1", "ab")):
            enter(ledger, cohort, campaign=campaign)
        assert [entry.status for entry in ledger.entries()] == ["crashed", "open", "open", "open"]
        assert steps_of(ledger, "ab") == [[7, 7, 7]]

    def test_a_plan_that_is_refused_costs_nothing(self, ledger):
        enter(ledger, "ab")
        before = ledger.entries(), ledger.head

        def refuse(histories):
            raise BudgetExhaustedError("nothing left")

        with pytest.raises(BudgetExhaustedError):
            ledger.reserve(ledger.cohort(patients("ab")), refuse, campaign="c1", round_number=2, task="t", void=False)
        assert (ledger.entries(), ledger.head) == before

    def test_another_instance_sees_what_this_one_enters(self, ledger, path):
        other = Ledger.open(path)
        id_ = enter(ledger, "ab")
        assert steps_of(other, "ab") == [[7]]
        other.settle(id_, "done")
        assert [entry.status for entry in ledger.entries()] == ["done"]
        assert ledger.head == other.head


class TestReleased:
    def test_it_is_the_note_of_the_last_done_entry_of_the_campaign_task_and_cohort(self, ledger):
        cohort = ledger.cohort(patients("ab"))
        for note, status, changes in (
            ("1", "done", {}),
            ("2", "done", {}),
            ("3", "crashed", {}),
            ("4", "done", {"campaign": "c2"}),
            ("5", "done", {"task": "count"}),
        ):
            ledger.settle(enter(ledger, cohort, **changes), status, note)
        ledger.settle(enter(ledger, "abc"), "done", "6")
        enter(ledger, cohort)
        assert ledger.released(cohort, "c1", "train.finetune") == "2"
        assert ledger.released(cohort, "c2", "train.finetune") == "4"
        assert ledger.released(cohort, "c1", "count") == "5"
        assert ledger.released(cohort, "c2", "count") is None
        assert ledger.released(ledger.cohort(patients("a")), "c1", "count") is None


class TestHistories:
    def test_a_new_cohort_has_an_empty_one(self, ledger):
        enter(ledger, "ab")
        assert ledger.histories(ledger.cohort(patients("cd"))) == [[]]
        assert ledger.epsilon(ledger.cohort(patients("cd")), 1e-5) == 0.0
        assert ledger.histories(ledger.cohort(patients(""))) == [[]]

    def test_nobody_has_an_empty_one_whatever_was_entered_for_nobody(self, ledger):
        enter(ledger, "", steps(1))
        enter(ledger, "ab", steps(2))
        assert steps_of(ledger, "") == [[]]
        assert steps_of(ledger, "ab") == [[2]]

    def test_it_goes_over_all_campaigns_and_tasks(self, ledger):
        enter(ledger, "ab", steps(1))
        enter(ledger, "ab", steps(2), campaign="c2")
        enter(ledger, "ab", steps(4), task="evaluate")
        assert steps_of(ledger, "ab") == [[1, 2, 4]]

    def test_a_cohort_that_grew_shrank_or_was_split_keeps_what_its_patients_spent(self, ledger):
        enter(ledger, "abcd", steps(1))
        assert steps_of(ledger, "abcdef") == [[1]]
        assert steps_of(ledger, "a") == [[1]]
        enter(ledger, "ab", steps(2))
        enter(ledger, "cd", steps(4))
        assert steps_of(ledger, "abcd") == [[1, 2], [1, 4]]
        assert steps_of(ledger, "xa") == [[1, 2]]
        # the worst patient's is what counts, not the sum over patients
        both = ledger.epsilon(ledger.cohort(patients("abcd")), 1e-5)
        assert both == epsilon([Mechanism(1.2, 0.16, 5)], 1e-5) < epsilon([Mechanism(1.2, 0.16, 7)], 1e-5)

    def test_disjoint_patients_do_not_pay_for_each_other(self, ledger):
        enter(ledger, "ab", steps(1))
        enter(ledger, "cd", steps(2))
        assert steps_of(ledger, "ab") == [[1]]
        assert steps_of(ledger, "cd") == [[2]]

    def test_moved_and_sorted_otherwise_it_is_the_same_cohort(self, ledger):
        records = patients("abc")
        enter(ledger, ledger.cohort(records))
        again = records.iloc[::-1].assign(path="elsewhere").reset_index(drop=True)
        assert ledger.cohort(again).fingerprint == ledger.entries()[0].fingerprint
        assert list(ledger.cohorts()) == [ledger.cohort(records).fingerprint]

    def test_new_records_of_a_patient_and_a_new_name_of_one_share_the_history(self, ledger):
        enter(ledger, ledger.cohort(table(("a", 1), ("b", 2))), steps(1))
        assert steps_of(ledger, ledger.cohort(table(("a", 9)))) == [[1]]
        assert steps_of(ledger, ledger.cohort(table(("pseudonym", 2)))) == [[1]]

    def test_each_ledger_has_a_salt_of_its_own(self, ledger, tmp_path):
        other = Ledger.create(tmp_path / "other" / "ledger.sqlite")
        assert ledger.cohort(patients("a")).fingerprint != other.cohort(patients("a")).fingerprint

    def test_a_cohort_registered_meanwhile_by_somebody_else_is_seen(self, ledger, path):
        assert steps_of(ledger, "ab") == [[]]
        enter(Ledger.open(path), "bc", steps(3))
        assert steps_of(ledger, "ab") == [[3]]


class TestUnits:
    def test_units_that_do_not_add_up_are_refused_and_cost_nothing(self, ledger):
        enter(ledger, "ab")
        by_record = dataclasses.replace(PLAN, unit=PrivacyUnit.RECORD)
        with pytest.raises(UnitConflictError, match=r'do not add up; set privacy\.unit = "patient"'):
            enter(ledger, "bc", by_record)
        enter(ledger, "de", by_record)
        with pytest.raises(UnitConflictError, match=r'set privacy\.unit = "record"'):
            enter(ledger, "ex")
        assert [entry.unit for entry in ledger.entries()] == ["patient", "record"]

    def test_records_are_charged_by_patient(self, ledger):
        by_record = dataclasses.replace(PLAN, unit=PrivacyUnit.RECORD)
        enter(ledger, ledger.cohort(table(("a", 1))), by_record)
        assert steps_of(ledger, ledger.cohort(table(("a", 2)))) == [[7]]


class TestOverlap:
    """Against the same thing said in sets."""

    Cohorts = st.lists(st.tuples(st.sets(st.sampled_from("abcdef"), min_size=1), st.integers(1, 50)), max_size=5)

    @settings(max_examples=25, deadline=None)
    @given(cohorts=Cohorts, asked=st.sets(st.sampled_from("abcdef"), min_size=1))
    def test_a_cohort_has_spent_what_its_worst_patient_has(self, cohorts, asked):
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger.create(Path(folder) / "ledger.sqlite")
            for names, count in cohorts:
                enter(ledger, "".join(names), steps(count))
            own = {
                name: [Mechanism(1.2, 0.16, count) for names, count in cohorts if name in names] for name in "abcdef"
            }
            spent = ledger.epsilon(ledger.cohort(patients("".join(asked))), 1e-5)
            assert spent == max(epsilon(own[name], 1e-5) for name in asked)
            for name in asked:
                assert ledger.histories(ledger.cohort(patients(name))) == [
                    [entry for entry, (names, _) in zip(ledger.entries(), cohorts, strict=True) if name in names]
                ]

    @settings(max_examples=12, deadline=None)
    @given(pieces=st.lists(st.integers(1, 60), min_size=1, max_size=8))
    def test_splitting_a_plan_over_entries_and_restarts_changes_no_digit(self, pieces):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.sqlite"
            for count in pieces:
                enter(Ledger.open_or_create(path), "ab", steps(count))
            ledger = Ledger.open(path)
            assert ledger.epsilon(ledger.cohort(patients("ab")), 1e-5) == epsilon(
                [Mechanism(1.2, 0.16, sum(pieces))], 1e-5
            )


class TestExport:
    def test_it_lists_entries_with_their_hashes_and_names_nobody(self, ledger):
        ledger.settle(enter(ledger, "ab"), "done", "41.5")
        enter(ledger, "ab", campaign="c2")
        done, open_ = ledger.export()
        assert (done["status"], done["note"], done["campaign"], open_["status"]) == ("done", "41.5", "c1", "open")
        assert open_["settled"] == ""
        assert open_["entered"] == ledger.head
        assert len({done["entered"], done["settled"], open_["entered"]}) == 3
        cohort = ledger.cohort(patients("ab"))
        text = repr(ledger.export())
        assert not any(token.hex() in text or repr(token) in text for token in (*cohort.patients, *cohort.records))
        assert ledger._book.salt.hex() not in text


class TestOpening:
    def test_creating_does_it_once(self, path):
        enter(Ledger.create(path), "ab")
        with pytest.raises(PrivacyError, match="is there already and is never made anew"):
            Ledger.create(path)
        assert len(Ledger.open(path).entries()) == 1

    def test_a_simulation_opens_or_creates(self, path):
        enter(Ledger.open_or_create(path), "ab")
        assert len(Ledger.open_or_create(path).entries()) == 1

    def test_only_the_owner_may_read_it(self, ledger, path):
        enter(ledger, "ab")
        assert [file.stat().st_mode & 0o077 for file in (path, path.with_suffix(".head"))] == [0, 0]
        assert sorted(file.name for file in path.parent.iterdir()) == ["ledger.head", "ledger.sqlite"]
