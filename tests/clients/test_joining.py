"""``init``: what a hospital's state folder holds, and that nothing in it is ever overwritten."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_certificates import made_authority
from tiny_ledgers import enter

from clients.joining import Answers, join, site_toml
from clients.policy import Policy
from clients.site_file import SiteFile, load_site
from core.errors import ConfigError, DataError, LedgerError
from core.privacy.ledger import Ledger

WHOLE = Answers("St. Anna", "/srv/ecg", "study.example:8000", None, 4.0, "cpu", "rules")


def contents(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    found = {}
    for path in folder.iterdir():
        state = path.stat()
        found[path.name] = (path.read_bytes(), state.st_mode, state.st_mtime_ns)
    return found


def words_of(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


class TestFolder:
    def test_it_is_the_owner_s_alone_and_so_is_every_secret(self, tmp_path):
        join(tmp_path / "new" / "state", WHOLE)
        state = tmp_path / "new" / "state"
        assert state.stat().st_mode & 0o777 == 0o700
        for name in ("site.toml", "node.key", "ledger.sqlite", "ledger.head"):
            assert (state / name).stat().st_mode & 0o777 == 0o600, name
        assert not list(state.glob("*.partial"))
        assert not list(state.glob(".*"))

    def test_the_answers_stand_in_site_toml_and_the_rest_is_strict(self, tmp_path):
        join(tmp_path / "state", WHOLE)
        site = load_site(tmp_path / "state")
        assert site.site.name == "St. Anna"
        assert (site.data.path, site.coordinator.address) == ("/srv/ecg", "study.example:8000")
        assert (site.budget.epsilon, site.device.device, site.approval.mode) == (4.0, "cpu", "rules")
        assert site.coordinator.certificates == str(tmp_path / "state" / "ca.crt")
        strict = Policy()
        assert (site.tasks, site.release, site.cohort) == (strict.tasks, strict.release, strict.cohort)

    def test_every_setting_is_written_and_explained(self, tmp_path):
        text = site_toml(Answers("a"))
        for section, field in SiteFile.model_fields.items():
            assert f"[{section}]" in text
            for name, each in field.annotation.model_fields.items():
                before = text.split(f"{name} = ")[0].rstrip("# ").splitlines()
                assert any(each.description in line for line in before[-2:]), (section, name)

    def test_without_answers_it_equals_the_defaults(self, tmp_path):
        join(tmp_path / "state", Answers("a"))
        site = load_site(tmp_path / "state")
        for section in SiteFile.model_fields:
            if section not in ("site", "coordinator"):
                assert getattr(site, section) == getattr(SiteFile(), section)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        folder=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30).filter(
            lambda text: "/" not in text and not text.startswith("~")
        ),
        epsilon=st.floats(1e-6, 1e6),
    )
    def test_any_folder_survives_the_writing(self, tmp_path, folder, epsilon):
        (tmp_path / "site.toml").write_text(site_toml(Answers("a", f"/data/{folder}", epsilon=epsilon)))
        site = load_site(tmp_path)
        assert site.data.path == str(Path(f"/data/{folder}").resolve())
        assert site.budget.epsilon == epsilon


class TestKeys:
    def test_ssh_keygen_reads_the_key_and_gives_the_public_half(self, tmp_path):
        if shutil.which("ssh-keygen") is None:
            pytest.skip("ssh-keygen is not installed")
        join(tmp_path / "state", WHOLE)
        said = subprocess.run(
            ["ssh-keygen", "-y", "-f", tmp_path / "state" / "node.key"], capture_output=True, text=True, check=True
        )
        kind, encoded, name = (tmp_path / "state" / "node.pub").read_text().split()
        assert said.stdout.split()[:2] == [kind, encoded]
        assert (kind, name) == ("ecdsa-sha2-nistp384", "St.-Anna")

    def test_two_sites_have_two_keys(self, tmp_path):
        join(tmp_path / "a", WHOLE)
        join(tmp_path / "b", WHOLE)
        assert (tmp_path / "a" / "node.pub").read_bytes() != (tmp_path / "b" / "node.pub").read_bytes()

    def test_a_lost_public_half_is_made_again_from_the_private_one(self, tmp_path):
        join(tmp_path, WHOLE)
        public = (tmp_path / "node.pub").read_bytes()
        (tmp_path / "node.pub").unlink()
        assert join(tmp_path, WHOLE).made == ("node.pub",)
        assert (tmp_path / "node.pub").read_bytes() == public

    def test_a_lost_private_half_is_not_replaced_in_silence(self, tmp_path):
        join(tmp_path, WHOLE)
        (tmp_path / "node.key").unlink()
        with pytest.raises(DataError, match=r"restore node\.key from its backup"):
            join(tmp_path, WHOLE)
        assert not (tmp_path / "node.key").exists()

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(content=st.binary(max_size=200))
    def test_another_file_in_its_place_is_named(self, tmp_path, content):
        state = tmp_path / "state"
        if not state.exists():
            join(state, WHOLE)
        (state / "node.key").write_bytes(content)
        with pytest.raises(DataError, match=r"node\.key is no EC P-384 key"):
            join(state, WHOLE)
        assert (state / "node.key").read_bytes() == content


class TestAgain:
    def test_a_second_run_changes_nothing(self, tmp_path):
        authority = made_authority(tmp_path)
        first = join(tmp_path / "state", Answers("a", "/x", "h:1", authority.path))
        before = contents(tmp_path / "state")
        again = join(tmp_path / "state", Answers("b", "/y", "k:2", authority.path, 1.0))
        assert again.made == ()
        assert set(again.kept) == set(first.made)
        assert contents(tmp_path / "state") == before

    @pytest.mark.parametrize(
        "name", ["site.toml", "node.pub", "cardiofed-vault.service", "cardiofed-node.service", "ca.crt"]
    )
    def test_what_is_missing_is_added_and_nothing_else_touched(self, tmp_path, name):
        answers = Answers("a", "/x", "h:1", made_authority(tmp_path).path)
        join(tmp_path / "state", answers)
        (tmp_path / "state" / name).unlink()
        before = contents(tmp_path / "state")
        assert join(tmp_path / "state", answers).made == (name,)
        after = contents(tmp_path / "state")
        del after[name]
        assert after == before

    def test_a_ledger_that_is_gone_is_not_begun_anew(self, tmp_path):
        join(tmp_path / "state", WHOLE)
        ledger = tmp_path / "state" / "ledger.sqlite"
        enter(Ledger.open(ledger), "ab")
        ledger.unlink()
        with pytest.raises(LedgerError, match=r"ledger\.sqlite"):
            join(tmp_path / "state", WHOLE)

    def test_a_ledger_of_before_is_kept(self, tmp_path):
        head = Ledger.create(tmp_path / "ledger.sqlite").head
        assert "ledger.sqlite" in join(tmp_path, WHOLE).kept
        assert Ledger.open(tmp_path / "ledger.sqlite").head == head

    def test_a_folder_that_others_may_read_is_closed_and_told(self, tmp_path):
        join(tmp_path / "state", WHOLE)
        (tmp_path / "state").chmod(0o755)
        assert join(tmp_path / "state", WHOLE).made == ("state readable by its owner alone",)
        assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


class TestRefusals:
    @pytest.mark.parametrize(
        ("answers", "said"),
        [
            (Answers("../x"), "--name"),
            (Answers(""), "--name"),
            (Answers("a", coordinator="host"), "--coordinator"),
            (Answers("a", coordinator="host:99999"), "--coordinator"),
            (Answers("a", coordinator=":80"), "--coordinator"),
            (Answers("a", device="tpu"), "--device"),
            (Answers("a", mode="never"), "--mode"),
            (Answers("a", epsilon=0), "--epsilon"),
            (Answers("a", epsilon=float("nan")), "--epsilon"),
            (Answers("a", epsilon=float("inf")), "--epsilon"),
        ],
    )
    def test_an_impossible_answer_is_named_and_nothing_is_made(self, tmp_path, answers, said):
        with pytest.raises(ConfigError, match=said):
            join(tmp_path / "state", answers)
        assert not (tmp_path / "state").exists()

    def test_a_folder_with_other_things_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        with pytest.raises(ConfigError, match="holds other things"):
            join(tmp_path, WHOLE)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_ca_file_that_is_none_or_holds_a_key_is_refused(self, tmp_path):
        authority = made_authority(tmp_path)
        bad = tmp_path / "bad.crt"
        for content, said in (
            (b"hello", "no PEM certificate"),
            (authority.path.read_bytes() + authority.secret, "a private key"),
        ):
            bad.write_bytes(content)
            with pytest.raises(DataError, match=said):
                join(tmp_path / "state", Answers("a", certificates=bad))
        with pytest.raises(DataError, match="cannot be read"):
            join(tmp_path / "state", Answers("a", certificates=tmp_path / "none"))
        assert not (tmp_path / "state" / "ca.crt").exists()

    def test_a_place_that_cannot_be_written_is_one_sentence(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="name another folder"):
            join(tmp_path / "file" / "state", WHOLE)


class TestUnits:
    def test_without_a_coordinator_there_is_no_unit_for_the_supernode(self, tmp_path):
        assert "cardiofed-node.service" not in join(tmp_path / "state", Answers("a")).made

    def test_the_vault_has_no_network_and_writes_in_its_state_folder_alone(self, tmp_path):
        join(tmp_path / "state", WHOLE)
        unit = (tmp_path / "state" / "cardiofed-vault.service").read_text()
        assert words_of(unit, "User") == ["cardiofed"]
        assert (
            words_of(unit, "PrivateNetwork")
            == words_of(unit, "NoNewPrivileges")
            == words_of(unit, "PrivateTmp")
            == ["yes"]
        )
        assert words_of(unit, "ProtectSystem") == ["strict"]
        assert words_of(unit, "ReadWritePaths") == [str(tmp_path / "state")]
        (command,) = words_of(unit, "ExecStart")
        assert command.split()[-4:] == [
            "clients.vault",
            str(tmp_path / "state"),
            "--socket",
            "/run/cardiofed/vault.sock",
        ]

    def test_the_supernode_is_another_user_who_sees_neither_state_nor_records(self, tmp_path):
        join(tmp_path / "state", WHOLE)
        unit = (tmp_path / "state" / "cardiofed-node.service").read_text()
        assert words_of(unit, "User") == ["cardiofed-node"]
        assert words_of(unit, "SupplementaryGroups") == ["cardiofed"]
        assert words_of(unit, "InaccessiblePaths") == [f"-{tmp_path / 'state'} -/srv/ecg"]
        (command,) = words_of(unit, "ExecStart")
        assert "--superlink study.example:8000 --root-certificates %d/ca.crt" in command
        assert r'--node-config "site=\"St. Anna\" vault=\"/run/cardiofed/vault.sock\""' in command
        assert "--insecure" not in command
        assert "--allow-runtime-dependency-installation" not in command

    @pytest.mark.parametrize("name", ["state", "state of anna", "100%done", "ünit$HOME"])
    def test_systemd_takes_both(self, tmp_path, name):
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd-analyze is not installed")
        join(tmp_path / name, WHOLE)
        units = sorted((tmp_path / name).glob("*.service"))
        assert len(units) == 2
        # %d is where systemd keeps credentials, %h a home: in a path it stands for itself.
        (written,) = words_of(units[1].read_text(), "ReadWritePaths")
        assert written.strip('"').replace("%%", "%") == str(tmp_path / name)
        assert "%" not in written.replace("%%", "")
        said = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
        assert "cardiofed" not in said.stderr, said.stderr

    @pytest.mark.parametrize("name", ['a"b', "a\nb", "a\\b"])
    def test_a_path_that_no_unit_holds_is_one_sentence(self, tmp_path, name):
        with pytest.raises(ConfigError, match="cannot stand in a systemd unit"):
            join(tmp_path / name, WHOLE)

    def test_the_program_is_the_installed_one(self, tmp_path):
        join(tmp_path / "state", WHOLE)
        (command,) = words_of((tmp_path / "state" / "cardiofed-vault.service").read_text(), "ExecStart")
        assert command.split()[0] == sys.executable
