"""``cardiofed-site ledger``: what a hospital's engineer reads of its ledger."""

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_campaigns import call
from tiny_ledgers import PLAN, enter, patients, reach_in, steps, table

from clients.cli import app
from core.privacy import Ledger, Mechanism, epsilon


def ledger_command(*words: object):
    return call(app, "ledger", *words)


@pytest.fixture
def state(tmp_path) -> Path:
    """Three rounds on a and b, of which one is open, and one void round on b and c."""
    ledger = Ledger.create(tmp_path / "state" / "ledger.sqlite")
    for number in (1, 2, 3):
        id_ = enter(ledger, "ab", round_number=number, campaign="long" * 20)
        if number < 3:
            ledger.settle(id_, "done")
    ledger.settle(enter(ledger, "bc", steps(5), campaign="second", task="evaluate", void=True), "crashed")
    return tmp_path / "state"


class TestCreate:
    def test_it_makes_the_ledger_of_a_new_site_once(self, tmp_path):
        made = ledger_command("create", tmp_path / "new" / "site")
        assert made.code == 0
        assert "back it up after every campaign, together with ledger.head" in made.out
        assert Ledger.open(tmp_path / "new" / "site" / "ledger.sqlite").entries() == []
        again = ledger_command("create", tmp_path / "new" / "site")
        assert again.code == 2
        assert "is there already and is never made anew" in again.sentence


class TestShow:
    def test_it_lists_every_entry_on_a_line(self, state):
        shown = ledger_command("show", state, "--no-prv")
        assert shown.code == 0
        header, *lines = shown.out.splitlines()
        words = ["time", "campaign", "round", "task", "cohort", "patients", "noise", "q", "steps", "status"]
        assert header.split() == words
        for number, ending in ((1, "done"), (2, "done"), (3, "open")):
            assert re.search(
                rf" {'long' * 20} +{number} +train.finetune +[0-9a-f]{{12}} +2 +1.2 +0.16 +7 +{ending} *$",
                lines[number - 1],
            )
        assert re.search(r" second +1 +evaluate +[0-9a-f]{12} +2 +1.2 +0.16 +5 +crashed VOID *$", lines[3])
        assert lines[4].startswith("open: running now, or ended without a word")

    def test_each_cohort_has_spent_what_its_worst_patient_has_never_rounded_down(self, state):
        *_, first, second = ledger_command("show", state, "--no-prv").out.splitlines()
        # b is in both: 21 steps and 5
        spent = epsilon([Mechanism(1.2, 0.16, 26)], 1e-5)
        for line in (first, second):
            printed = float(line.split("epsilon ")[1].split()[0])
            assert spent <= printed < spent + 0.01
            assert "2 patients: epsilon" in line
            assert "by RDP at delta 1e-05 per patient (add-remove), 4 entries, VOID: insecure" in line

    def test_where_patients_of_a_cohort_spent_differently_the_worst_counts(self, tmp_path):
        ledger = Ledger.create(tmp_path / "ledger.sqlite")
        for names, count in (("abcd", 1), ("ab", 2), ("cd", 30), ("ef", 4)):
            enter(ledger, names, steps(count))
        spent = epsilon([Mechanism(1.2, 0.16, 31)], 1e-5)
        (line,) = (
            each for each in ledger_command("show", tmp_path, "--no-prv").out.splitlines() if "4 patients" in each
        )
        assert spent <= float(line.split("epsilon ")[1].split()[0]) < spent + 0.01
        assert line.endswith(", 2 entries")

    def test_prv_stands_beside_where_it_answers(self, state, monkeypatch):
        monkeypatch.setattr("core.privacy.prv.prv_epsilon", lambda history, delta: 3.201)
        assert " by RDP, 3.21 by PRV, at delta 1e-05" in ledger_command("show", state).out
        monkeypatch.setattr("core.privacy.prv.prv_epsilon", lambda history, delta: None)
        assert "PRV" not in ledger_command("show", state).out

    def test_without_open_and_void_entries_it_says_nothing_of_them(self, tmp_path):
        ledger = Ledger.create(tmp_path / "ledger.sqlite")
        ledger.settle(enter(ledger, "ab"), "done")
        shown = ledger_command("show", tmp_path / "ledger.sqlite", "--no-prv").out
        assert "VOID" not in shown
        assert "open" not in shown

    def test_a_cohort_of_nobody_has_spent_nothing(self, tmp_path):
        enter(Ledger.create(tmp_path / "ledger.sqlite"), "")
        shown = ledger_command("show", tmp_path, "--no-prv")
        assert shown.code == 0
        assert re.search(r"cohort [0-9a-f]{12}, 0 patients: nothing is spent$", shown.out)

    def test_a_new_site_has_spent_nothing(self, tmp_path):
        Ledger.create(tmp_path / "ledger.sqlite")
        shown = ledger_command("show", tmp_path)
        assert shown.code == 0
        assert "no plan was ever carried out, so nothing is spent" in shown.out

    def test_entries_of_an_older_release_are_charged_to_everybody(self, tmp_path):
        old = {
            "id": "one", "time": "2026-01-01T12:00:00+00:00", "campaign": "old", "round": 1, "task": "train.finetune",
            "fingerprint": "f" * 64, "unit": "patient", "neighbouring": "add-remove", "noise_multiplier": 1.2,
            "sampling_rate": 0.16, "steps": 9, "clip": 1.0, "delta": 1e-5, "void": False, "status": "planned",
        }  # fmt: skip
        (tmp_path / "ledger.jsonl").write_text(json.dumps(old) + "\n")
        enter(Ledger.open(tmp_path / "ledger.sqlite"), "ab")
        *_, first, second = ledger_command("show", tmp_path, "--no-prv").out.splitlines()
        assert first.startswith("cohort ffffffffffff, patients unknown, charged to every patient: epsilon")
        for line, count in ((first, 9), (second, 16)):
            printed = float(line.split("epsilon ")[1].split()[0])
            assert 0 <= printed - epsilon([Mechanism(1.2, 0.16, count)], 1e-5) < 0.01

    def test_names_from_elsewhere_neither_steer_the_terminal_nor_are_markup(self, tmp_path):
        enter(Ledger.create(tmp_path / "ledger.sqlite"), "ab", campaign="\x1b[31m[red]x\n")
        assert " ?[31m[red]x?  " in ledger_command("show", tmp_path, "--no-prv").out

    def test_a_folder_without_a_ledger_is_named_with_the_mend(self, tmp_path):
        ended = ledger_command("show", tmp_path / "nowhere")
        assert ended.code == 2
        assert "nowhere/ledger.sqlite is missing" in ended.sentence
        assert "restore it from its backup" in ended.sentence
        assert not (tmp_path / "nowhere").exists()


class TestVerify:
    def test_an_intact_one(self, state):
        ended = ledger_command("verify", state)
        assert ended.code == 0
        head = Ledger.open(state / "ledger.sqlite").head
        assert (
            ended.out
            == f"{state / 'ledger.sqlite'} is intact (rows: 10, entries: 4, cohorts: 2); its last row has the hash {head}\n"
        )
        assert ledger_command("verify", state, "--expect", f" {head.upper()}").code == 0

    def test_a_broken_one_ends_with_2_and_says_what_is_wrong(self, state):
        reach_in(state / "ledger.sqlite", "DELETE FROM events WHERE seq = 4")
        ended = ledger_command("verify", state)
        assert (ended.code, ended.out) == (2, "")
        assert "row 4 was removed; restore it" in ended.sentence

    def test_a_hash_that_is_not_there(self, state):
        ended = ledger_command("verify", state, "--expect", "0" * 64)
        assert ended.code == 2
        assert f"no row has the hash {'0' * 64}" in ended.sentence


class TestExport:
    def test_json_to_the_screen(self, state):
        exported = json.loads(ledger_command("export", state).out)
        ledger = Ledger.open(state / "ledger.sqlite")
        assert exported == {"head": ledger.head, "entries": ledger.export()}
        assert [entry["status"] for entry in exported["entries"]] == ["done", "done", "open", "crashed"]
        assert ledger_command("verify", state, "--expect", exported["entries"][0]["entered"]).code == 0

    def test_csv_by_the_name_of_the_file(self, state, tmp_path):
        out = tmp_path / "spent.csv"
        ended = ledger_command("export", state, "--out", out)
        assert ended.out.startswith(f"{out}: 4 entries, head ")
        read = list(csv.DictReader(io.StringIO(out.read_text())))
        exported = Ledger.open(state / "ledger.sqlite").export()
        assert [{key: str(value) for key, value in entry.items()} for entry in exported] == read

    def test_the_format_wins_over_the_name(self, state, tmp_path):
        out = tmp_path / "spent.txt"
        assert ledger_command("export", state, "--out", out, "--format", "json").code == 0
        assert len(json.loads(out.read_text())["entries"]) == 4
        ended = ledger_command("export", state, "--out", out)
        assert ended.code == 2
        assert ended.sentence == "a ledger is not exported as 'txt'; say --format json or --format csv"

    def test_an_empty_one_has_a_header(self, tmp_path):
        Ledger.create(tmp_path / "ledger.sqlite")
        (line,) = ledger_command("export", tmp_path, "--format", "csv").out.splitlines()
        assert line.startswith("id,time,campaign,round,")
        assert line.endswith(",entered,settled")

    def test_a_spreadsheet_takes_no_name_for_a_formula(self, tmp_path):
        enter(Ledger.create(tmp_path / "ledger.sqlite"), "ab", campaign="=1+1")
        (row,) = csv.DictReader(io.StringIO(ledger_command("export", tmp_path, "--format", "csv").out))
        assert row["campaign"] == "'=1+1"
        assert row["delta"] == "1e-05"

    def test_a_place_that_cannot_be_written(self, state, tmp_path):
        ended = ledger_command("export", state, "--out", tmp_path / "no" / "spent.csv")
        assert ended.code == 2
        assert "spent.csv cannot be written (No such file or directory); say another --out" in ended.sentence


class TestPlan:
    WORDS = ("--rounds", 20, "--batch", 64)

    @pytest.fixture
    def trained(self, tmp_path) -> Path:
        """400 patients who were trained on, half of them twice, and some who were only tested on."""
        ledger = Ledger.create(tmp_path / "ledger.sqlite")
        for count in (400, 200, 400):
            cohort = ledger.cohort(table(*((number, number) for number in range(count))))
            enter(ledger, cohort, replace(PLAN, units=count, steps=count // 40))
        enter(ledger, "ab", replace(PLAN, units=2, steps=100), task="evaluate")
        return tmp_path

    def test_the_cost_of_a_noise_is_on_top_of_what_the_worst_patient_spent(self, trained):
        ended = ledger_command("plan", trained, *self.WORDS, "--noise", "1.2")
        assert ended.code == 0
        header, before, *rounds, total = ended.out.splitlines()
        assert header.split() == ["round", "steps", "epsilon"]
        assert before.split()[:2] == ["before", "0"]
        # q = 64 / 400 = 0.16, and 1 / 0.16 = 6.25 steps take everybody once; 10 + 5 + 10 were spent
        for done, line in enumerate(rounds, start=1):
            number, steps_done, printed = line.split()
            assert (int(number), int(steps_done)) == (done, 7 * done)
            spent = epsilon([Mechanism(1.2, 0.16, 25 + 7 * done)], 1e-5)
            assert 0 <= float(printed) - spent < 0.01
        assert "noise 1.2, sampling rate 0.16, 7 steps a round: epsilon" in total
        assert "at delta 1e-05 per patient (add-remove) for the worst of 400, 3 earlier entries included" in total

    def test_a_budget_is_for_history_and_campaign_together(self, trained):
        ended = ledger_command("plan", trained, *self.WORDS, "--epsilon", 8, "--local-epochs", 2)
        noise = float(re.search(r"noise ([0-9.]+), sampling rate 0.16, 13 steps a round", ended.out)[1])
        history = [Mechanism(1.2, 0.16, 25)]
        assert epsilon([*history, Mechanism(noise, 0.16, 260)], 1e-5) <= 8
        assert epsilon([*history, Mechanism(noise * 0.999, 0.16, 260)], 1e-5) > 8

    def test_a_budget_that_is_spent_is_refused(self, trained):
        ended = ledger_command("plan", trained, *self.WORDS, "--epsilon", 1)
        assert ended.code == 2
        assert "so no step is left" in ended.sentence

    def test_a_new_site_says_how_many_patients_it_has(self, tmp_path):
        Ledger.create(tmp_path / "ledger.sqlite")
        ended = ledger_command("plan", tmp_path, *self.WORDS, "--noise", 1)
        assert ended.code == 2
        assert "say --patients" in ended.sentence
        ended = ledger_command("plan", tmp_path, *self.WORDS, "--noise", 1, "--patients", 640)
        assert "sampling rate 0.1, 10 steps a round" in ended.out
        assert "for the worst of 640, 0 earlier entries included" in ended.out

    def test_a_delta_too_large_for_so_few_is_warned_of(self, trained):
        assert (
            "delta 0.01 is not below 1/n"
            in ledger_command("plan", trained, *self.WORDS, "--noise", 5, "--delta", 0.01).err
        )

    def test_it_enters_nothing(self, trained):
        before = (trained / "ledger.sqlite").read_bytes()
        ledger_command("plan", trained, *self.WORDS, "--noise", 1)
        assert (trained / "ledger.sqlite").read_bytes() == before


@pytest.mark.parametrize("command", ["create", "show", "verify", "export", "plan"])
def test_every_command_has_an_example(command):
    shown = ledger_command(command, "--help")
    assert shown.code == 0
    assert f"Example: cardiofed-site ledger {command} /srv/cardiofed" in " ".join(shown.out.split())


def test_no_command_loads_torch(state):
    code = """
import sys
from typer.main import get_command
from clients.cli import app
for words in (["show", "--no-prv"], ["verify"], ["export"], ["plan", "--rounds", "2", "--batch", "1", "--noise", "1"]):
    get_command(app).main(["ledger", words[0], sys.argv[1], *words[1:]], standalone_mode=False)
print("torch" in sys.modules, file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code, str(state)], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "False"


def test_patients_are_named_nowhere(state):
    words = [("show", state, "--no-prv"), ("export", state), ("export", state, "--format", "csv"), ("verify", state)]
    cohort = Ledger.open(state / "ledger.sqlite").cohort(patients("ab"))
    for output in (ledger_command(*each).out for each in words):
        assert not any(token.hex() in output for token in (*cohort.patients, *cohort.records))
