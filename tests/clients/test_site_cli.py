"""``cardiofed-site`` as a hospital's engineer meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import typer
from tiny_campaigns import Ended, call, tiny
from tiny_ledgers import enter

from clients import approval, site_cli
from clients.approval import campaign_request, decide
from clients.audit_log import AuditLog
from clients.cli import app
from clients.joining import Answers, join
from clients.serving import SERVE_LOCK, programs_of
from clients.site_file import load_site
from clients.site_status import in_words
from core.errors import ConfigError, DataError
from core.privacy.ledger import Ledger
from core.supervising import holder, only_one
from core.synthetic.hospitals import simulated_hospitals


def site(*words: object) -> Ended:
    return call(app, *words)


@pytest.fixture
def state(tmp_path) -> Path:
    join(tmp_path / "state", Answers("St. Anna"))
    return tmp_path / "state"


def file_request(state: Path, campaign: str = "0123-run", *changes: str) -> approval.CampaignRequest:
    request = campaign_request(tiny(state, "privacy.epsilon=2.5", *changes), "f" * 64)
    assert decide(state, load_site(state), request, campaign) == "waiting"
    return request


class TestHelp:
    @pytest.mark.parametrize("command", ["init", "check", "serve", "status", "approve", "log"])
    def test_every_command_teaches_with_an_example(self, command):
        said = site(command, "--help")
        assert said.code == 0
        assert f"Example: cardiofed-site {command}" in " ".join(said.out.split())

    def test_it_answers_without_loading_what_is_slow(self):
        code = (
            "import sys\nfrom clients.cli import app\nfrom typer.testing import CliRunner\n"
            "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0\n"
            "slow = ('torch', 'pandas', 'flwr', 'numpy', 'fastapi', 'cryptography')\n"
            "print([name for name in slow if name in sys.modules])"
        )
        root = Path(__file__).parents[2]
        said = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == "[]"

    @pytest.mark.parametrize("command", ["check", "serve", "status", "approve", "log"])
    def test_a_folder_that_is_no_site_is_named_with_the_mend(self, command, tmp_path):
        ended = site(command, tmp_path / "nowhere")
        said = ended.out if command in ("check", "serve") else ended.sentence
        assert ended.code == (1 if command in ("check", "serve") else 2)
        assert f"cardiofed-site init {tmp_path / 'nowhere'}" in said
        assert not (tmp_path / "nowhere").exists()


class TestInit:
    def test_flags_make_a_site_and_it_ends_with_what_to_send_and_to_do(self, tmp_path):
        words = (
            "--name",
            "north",
            "--data",
            tmp_path,
            "--coordinator",
            "h:1",
            "--epsilon",
            "3",
            "--mode",
            "rules",
            "--yes",
        )
        made = site("init", tmp_path / "state", *words)
        assert made.code == 0
        found = load_site(tmp_path / "state")
        assert (found.site.name, found.budget.epsilon, found.approval.mode) == ("north", 3.0, "rules")
        assert (tmp_path / "state" / "node.pub").read_text().strip() in made.out
        assert f"cardiofed-site check {tmp_path / 'state'}" in made.out
        assert "put the coordinator's ca.crt at" in made.out
        assert (tmp_path / "state" / "node.key").read_text().splitlines()[1] not in made.out

    def test_off_a_terminal_it_asks_nothing_and_the_folder_names_the_site(self, tmp_path):
        assert site("init", tmp_path / "east").code == 0
        assert load_site(tmp_path / "east").site.name == "east"

    def test_on_a_terminal_it_asks_for_what_is_not_said(self, tmp_path, monkeypatch):
        asked = []

        def prompt(question: str, default: str) -> str:
            asked.append(question)
            return {"Name": "south", "Most": "2"}.get(question.split()[0], default)

        monkeypatch.setattr(site_cli.sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(typer, "prompt", prompt)
        assert site("init", tmp_path / "state", "--device", "cpu").code == 0
        found = load_site(tmp_path / "state")
        assert (found.site.name, found.budget.epsilon, found.device.device) == ("south", 2.0, "cpu")
        assert len(asked) == 6
        assert not any("Device" in question for question in asked)
        asked.clear()
        assert site("init", tmp_path / "state").code == 0
        assert asked == []

    def test_a_second_run_says_what_it_kept(self, state):
        again = site("init", state, "--name", "other")
        assert again.code == 0
        assert "made" not in again.out
        assert "kept   node.key" in again.out
        assert "edit it" in again.out
        assert load_site(state).site.name == "St. Anna"

    def test_an_impossible_answer_is_one_sentence(self, tmp_path):
        assert "--coordinator" in site("init", tmp_path / "state", "--coordinator", "x").sentence


class TestCheck:
    def test_it_ends_with_1_where_a_line_fails_and_with_0_where_none_does(self, tmp_path):
        simulated_hospitals(hospitals=1, patients=30, seed=0).write(tmp_path / "set")
        join(tmp_path / "state", Answers("a", str(tmp_path / "set"), device="cpu"))
        ended = site("check", tmp_path / "state")
        assert ended.code == 1
        line = next(line for line in ended.out.splitlines() if "FAIL" in line)
        assert "site.toml asks for 50" in line
        assert "lower cohort.min_patients" in line
        toml = tmp_path / "state" / "site.toml"
        toml.write_text(toml.read_text().replace("min_patients = 50", "min_patients = 10"))
        ended = site("check", tmp_path / "state")
        assert ended.code == 0, ended.out
        assert "0 to mend" in ended.out

    def test_serve_looks_first_and_does_not_start(self, state):
        ended = site("serve", state)
        assert ended.code == 1
        assert "not started: mend the lines that say FAIL" in ended.err
        assert holder(state / SERVE_LOCK) is None


class TestApprove:
    def test_without_a_name_it_lists_what_waits_with_all_that_is_asked(self, state):
        assert site("approve", state).out == "no request waits for approval\n"
        request = file_request(state)
        said = site("approve", state).out
        assert request.hash[:8] in said
        assert "campaign 0123-run" in said
        assert "epsilon, at most: 2.5" in said
        for name, _ in request.settings:
            assert name in said
        assert f"cardiofed-site approve {state} {request.hash[:8]}" in said

    def test_a_yes_is_written_down_with_who_said_it(self, state):
        request = file_request(state)
        ended = site("approve", state, request.hash[:10], "--by", "Dr. Weiss")
        assert ended.code == 0
        assert "epsilon, at most: 2.5" in ended.out
        assert decide(state, load_site(state), request, "0123-run") == "allowed"
        (entry,) = [json.loads(line) for line in site("log", state, "--json").out.splitlines()]
        assert (entry["kind"], entry["verdict"], entry["by"]) == ("approval", "approved", "Dr. Weiss")
        assert (entry["request"], entry["campaign"]) == (request.hash, "0123-run")
        assert "Dr. Weiss approved" in site("log", state).out
        assert site("approve", state).out == "no request waits for approval\n"

    def test_a_no_too(self, state):
        request = file_request(state)
        assert site("approve", state, request.hash, "--refuse").code == 0
        assert decide(state, load_site(state), request, "0123-run") == "refused"
        assert "refused" in site("log", state).out

    def test_what_cannot_be_logged_is_not_approved(self, state):
        request = file_request(state)
        AuditLog(state / "audit.jsonl").append(kind="x")
        (state / "audit.jsonl").write_text("")
        assert "not what was written" in site("approve", state, request.hash).sentence
        assert decide(state, load_site(state), request, "0123-run") == "waiting"

    def test_a_name_that_fits_none_is_one_sentence(self, state):
        assert "no request begins with 'abc'" in site("approve", state, "abc").sentence

    def test_a_campaign_s_name_does_not_steer_the_terminal(self, state):
        file_request(state, "\x1b[2J\nevil")
        assert "\x1b" not in site("approve", state).out
        assert "campaign ?[2J?evil," in site("approve", state).out


class TestLog:
    LINE: ClassVar = {
        "kind": "train.finetune", "campaign": "one", "round": 3, "request": "a" * 64, "verdict": "done", "seconds": 12.34,
        "released": ["tensors", "loss_noised"], "bytes_in": 1_200_000, "bytes_out": 900, "cached": False,
    }  # fmt: skip

    def test_in_words(self, state):
        assert site("log", state).out == "nothing was ever asked\n"
        AuditLog(state / "audit.jsonl").append(time="2026-01-02T03:04:05+00:00", **self.LINE)
        assert site("log", state).out == (
            "2026-01-02 03:04:05  train.finetune round 3 of one: done, sent tensors, loss_noised, "
            "1.2 MB in, 900 B out, 12.3 s\n"
        )

    def test_only_the_last(self, state):
        for number in range(5):
            AuditLog(state / "audit.jsonl").append(**{**self.LINE, "round": number})
        shown = site("log", state, "--last", 2, "--json").out.splitlines()
        assert [json.loads(line)["round"] for line in shown] == [3, 4]

    def test_verify_counts_and_gives_the_hash_and_an_edited_line_ends_with_2(self, state):
        AuditLog(state / "audit.jsonl").append(**self.LINE)
        ended = site("log", state, "--verify")
        last = json.loads((state / "audit.jsonl").read_text())["hash"]
        assert ended.out == f"{state / 'audit.jsonl'} is intact (1 lines); its last line has the hash {last}\n"
        (state / "audit.jsonl").write_text((state / "audit.jsonl").read_text().replace("done", "none"))
        for words in ((), ("--verify",), ("--json",)):
            ended = site("log", state, *words)
            assert (ended.code, ended.out) == (2, "")
            assert "line 1 was edited" in ended.sentence

    @pytest.mark.parametrize(
        "entry",
        [
            {},
            {"released": [], "round": 0},
            {"bytes_in": "x", "bytes_out": None},
            {"kind": "approval"},
            {"cut_bytes": 3},
        ],
    )
    def test_any_line_has_words(self, entry):
        assert in_words(entry).isprintable()


class TestStatus:
    def test_it_says_each_thing_on_a_line_and_starts_nothing(self, state):
        before = sorted(path.name for path in state.iterdir())
        said = site("status", state)
        assert said.code == 0
        assert "St. Anna, approval by ask" in said.out
        assert "nobody answers at" in said.out
        assert "not running; start it with" in said.out
        assert "spent:      nothing" in said.out
        assert sorted(path.name for path in state.iterdir()) == before

    def test_the_hospitals_own_words_stand_beside_its_name(self, state):
        path = state / "site.toml"
        path.write_text(path.read_text().replace('description = ""', 'description = "cardiology, third floor"', 1))
        assert "St. Anna (cardiology, third floor), approval" in site("status", state).out

    def test_spent_waiting_and_last_are_there(self, state):
        enter(Ledger.open(state / "ledger.sqlite"), "ab")
        request = file_request(state)
        for number in range(12):
            AuditLog(state / "audit.jsonl").append(**{**TestLog.LINE, "round": number})
        said = site("status", state).out
        assert "2 patients: epsilon" in said
        assert f"{request.hash[:8]}  campaign 0123-run" in said
        assert "round 2 of one" in said
        assert "round 11 of one" in said
        assert "round 1 of one" not in said

    def test_what_is_damaged_is_told_and_the_rest_too(self, state):
        (state / "audit.jsonl").write_text("{}\n")
        (state / "ledger.sqlite").write_text("")
        file_request(state)
        said = site("status", state)
        assert said.code == 0
        assert "line 1 was edited" in said.out
        assert "ledger.sqlite" in said.out
        assert "campaign 0123-run" in said.out

    def test_a_supernode_that_waits_to_be_started_again_is_told(self, state):
        with only_one(state / SERVE_LOCK, "end it"):
            assert f"serve (process {os.getpid()}) starts it again" in site("status", state).out


class TestServing:
    def test_the_supernode_gets_tls_its_key_and_the_way_to_the_vault(self, state, tmp_path):
        edited(state, address="study.example:8000")
        (state / "ca.crt").write_text("x")
        vault, node = programs_of(state, load_site(state), Path("/run/a b/v.sock"), 9095)
        assert vault.command[-4:] == ["clients.vault", str(state), "--socket", "/run/a b/v.sock"]
        words = " ".join(node.command)
        assert f"--superlink study.example:8000 --root-certificates {state / 'ca.crt'}" in words
        assert f"--auth-supernode-private-key {state / 'node.key'} --host 127.0.0.1 --port 9095" in words
        assert node.command[-1] == 'site="St. Anna" vault="/run/a b/v.sock"'
        assert "--insecure" not in words
        assert node.environment["FLWR_TELEMETRY_ENABLED"] == "0"
        assert node.environment["FLWR_HOME"] == str(state / "flwr")

    def test_flower_reads_the_node_config_as_it_was_meant(self, state):
        from flwr.common.config import parse_config_args

        edited(state, address="h:1")
        (state / "ca.crt").write_text("x")
        _, node = programs_of(state, load_site(state), Path("/run/a b/v=1.sock"), 1)
        assert parse_config_args([node.command[-1]]) == {"site": "St. Anna", "vault": "/run/a b/v=1.sock"}

    def test_without_tls_only_to_this_machine(self, state):
        edited(state, address="127.0.0.1:8000", insecure=True)
        command = programs_of(state, load_site(state), state / "v", 1)[1].command
        assert "--insecure" in command
        # Flower ends at once where a key comes without TLS.
        assert not any("key" in word for word in command)
        for host in ("10.0.0.1", "example.org", "[::]"):
            edited(state, address=f"{host}:8000", insecure=True)
            with pytest.raises(ConfigError, match="in clear"):
                programs_of(state, load_site(state), state / "v", 1)

    def test_what_is_missing_is_one_sentence(self, state):
        with pytest.raises(ConfigError, match="names no coordinator"):
            programs_of(state, load_site(state), state / "v", 1)
        edited(state, address="h:1")
        with pytest.raises(DataError, match=r"ca\.crt is missing"):
            programs_of(state, load_site(state), state / "v", 1)
        with pytest.raises(ConfigError, match="too long for a socket"):
            programs_of(state, load_site(state), Path("/" + "x" * 107), 1)
        (state / "ca.crt").write_text("x")
        with pytest.raises(ConfigError, match="cannot name a socket"):
            programs_of(state, load_site(state), Path('/run/"x'), 1)


def edited(state: Path, address: str, insecure: bool = False) -> None:
    answers = Answers("St. Anna", coordinator=address)
    from clients.joining import site_toml

    text = site_toml(answers)
    (state / "site.toml").write_text(text.replace("insecure = false", "insecure = true", 1) if insecure else text)
