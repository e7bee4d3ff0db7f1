"""What a coordinator types and reads: each command over a SuperLink that only keeps books."""

import json
import threading
import time
from pathlib import Path

import pytest
from stand_in_superlink import home, superlink
from test_joined_sites import public_key
from tiny_campaigns import Ended, FakeFederation, call, rounds_of, tiny

from core.config import ExperimentConfig
from core.errors import FederationError
from server import deploying
from server.campaign import Campaign
from server.cli import app
from server.deploying import check_campaign, deployed_config, standing
from server.joined_sites import add_site
from server.run_folder import RunFolder
from server.watching import APP_LOCK, FolderObserver

__all__ = ["home", "superlink"]


def server(*words: object) -> Ended:
    return call(app, *words)


def experiment(folder: Path, *changes: str) -> Path:
    """A small experiment that does not say how many sites there are."""
    path = folder / "tiny.toml"
    text = tiny(folder / "elsewhere", "pretrain.enabled=false", *changes).to_toml()
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("sites = ")))
    return path


@pytest.fixture
def two_sites(home, superlink, tmp_path):
    for name in ("a", "b"):
        add_site(home, public_key(tmp_path / f"{name}.pub"), name)
    return home


class App:
    """What the SuperLink starts for a run: the campaign itself, over sites that only pretend."""

    def __init__(self, superlink, monkeypatch) -> None:
        self.federation, self.fails, self.configs, self.threads = FakeFederation(), "", [], []
        superlink.submitted = self.start
        self.superlink = superlink
        monkeypatch.setattr(deploying, "GONE_SECONDS", 0.5)

    def start(self, number: str, bundle: Path) -> None:
        import tomllib

        project = tomllib.loads((bundle / "pyproject.toml").read_text())
        nested = project["tool"]["flwr"]["app"]["config"]
        flat = {f"{section}.{key}": value for section, table in nested.items() for key, value in table.items()}
        self.configs.append(ExperimentConfig.from_run_config(flat))
        self.files = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
        self.size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        self.threads.append(threading.Thread(target=self.work, args=(number, self.configs[-1])))
        self.threads[-1].start()

    def work(self, number: str, config: ExperimentConfig) -> None:
        folder = RunFolder(Path(config.run.folder))
        while folder.record().get("flower_runs", [""])[-1] != number:
            time.sleep(0.01)
        with folder.locked(APP_LOCK):
            folder.update_record(status="running", began=number)
            try:
                if self.fails == "killed":
                    return
                Campaign(config, self.federation, folder, FolderObserver(folder)).run()
            except FederationError as error:
                folder.update_record(error=str(error))
                folder.finish("failed")


@pytest.fixture
def serverapp(superlink, monkeypatch):
    running = App(superlink, monkeypatch)
    yield running
    for thread in running.threads:
        thread.join(30)


class TestHelp:
    @pytest.mark.parametrize(
        "words",
        [
            ("init",),
            ("up",),
            ("run",),
            ("status",),
            ("resume",),
            ("stop",),
            ("report",),
            ("renew",),
            ("sites", "x", "add"),
        ],
    )
    def test_every_command_teaches_by_an_example(self, words):
        said = server(*words, "--help")
        assert said.code == 0
        assert "Example" in said.out
        assert f"cardiofed-server {words[0]}" in said.out

    def test_a_mistyped_setting_is_answered_before_anything_is_loaded(self, two_sites, tmp_path):
        ended = server("run", two_sites.path, experiment(tmp_path), "--set", "finetune.round=3")
        assert ended.code == 2
        assert "finetune.round" in ended.sentence
        assert not (two_sites.path / "runs").exists()


class TestInit:
    def test_it_says_what_to_do_next_and_what_to_send(self, tmp_path):
        said = server("init", tmp_path / "fed", "--host", "ecg.example.org", "--port", 8123)
        assert said.code == 0
        assert "cardiofed-server up" in said.out
        assert f"the address ecg.example.org:8123  and the file {tmp_path / 'fed' / 'ca.crt'}" in said.out
        assert "keep ca.key secret" in said.err

    def test_renewing_says_until_when(self, home):
        assert "is valid until 20" in server("renew", home.path).out

    def test_up_refuses_an_address_that_is_not_this_machine_s(self, home):
        said = server("up", home.path, "--host", "192.0.2.1").err.splitlines()[-1]
        assert said.startswith(f"error: 192.0.2.1 port {home.port} cannot be listened on")


class TestSites:
    def test_add_list_and_remove(self, home, superlink, tmp_path):
        added = server("sites", home.path, "add", public_key(tmp_path / "node.pub"), "st-elsewhere")
        assert "st-elsewhere may join with the key SHA256:" in added.out
        listed = server("sites", home.path, "list").out
        assert "st-elsewhere" in listed
        assert "never connected" in listed
        assert "may no longer join" in server("sites", home.path, "remove", "st-elsewhere").out
        assert "st-elsewhere" not in server("sites", home.path, "list").out

    def test_without_a_superlink_the_mend_is_said(self, home):
        assert server("sites", home.path, "list").sentence.endswith(f"cardiofed-server up {home.path}")


class TestBeforeTheRun:
    def test_all_registered_sites_are_meant_unless_the_experiment_says(self, tmp_path):
        path = experiment(tmp_path)
        assert deployed_config(path, [], 7).federation.sites == 7
        assert deployed_config(path, ["federation.sites=3"], 7).federation.sites == 3
        path.write_text("[federation]\nsites = 5\n")
        assert deployed_config(path, [], 7).federation.sites == 5

    def test_the_coordinator_s_own_data_have_no_say(self, tmp_path):
        path = experiment(tmp_path, "data.path=sets/mine", "federation.partition=site-column", "run.state=states")
        config = deployed_config(path, [], 2)
        assert (config.data.path, config.federation.partition, config.run.state) == ("", "dirichlet", "")

    def test_too_few_sites_are_said_before_anything_is_made(self, two_sites, tmp_path):
        ended = server(
            "run",
            two_sites.path,
            experiment(tmp_path),
            "--set",
            "federation.min_sites=3",
            "--set",
            "federation.sites=3",
        )
        assert "has 2 sites and federation.min_sites is 3" in ended.sentence
        assert not (two_sites.path / "runs").exists()

    def test_more_sites_than_are_registered_are_not_waited_for(self, two_sites, tmp_path):
        ended = server("run", two_sites.path, experiment(tmp_path), "--set", "federation.sites=3")
        assert ended.sentence == "federation.sites is 3 and 2 are registered; lower it or add sites"

    def test_without_a_superlink_no_run_is_made(self, two_sites, superlink, tmp_path):
        superlink.up = False
        assert "is not running" in server("run", two_sites.path, experiment(tmp_path)).sentence
        assert not (two_sites.path / "runs").exists()

    def test_the_privacy_that_is_asked_for_is_told_with_its_noise(self, two_sites, tmp_path):
        path = experiment(tmp_path, "privacy.enabled=true", "privacy.epsilon=8.0", "privacy.sampling_rate=0.1")
        told = " ".join(check_campaign(two_sites, deployed_config(path, [], 2)))
        # 2 rounds of 1 epoch at 1 in 10: 20 steps.
        assert "epsilon 8 at delta 1e-05 per patient over 20 steps needs a noise multiplier of 0." in told

    def test_a_plan_that_no_noise_can_keep_is_refused(self, two_sites, tmp_path):
        path = experiment(tmp_path, "privacy.enabled=true", "privacy.epsilon=0.0001")
        ended = server("run", two_sites.path, path)
        assert ended.code == 2
        assert "0.0001" in ended.sentence
        assert not (two_sites.path / "runs").exists()


class TestRun:
    def test_a_campaign_is_submitted_followed_to_its_end_and_reported(self, two_sites, serverapp, tmp_path):
        ended = server("run", two_sites.path, experiment(tmp_path))
        assert ended.code == 0, ended.err
        (run,) = (two_sites.path / "runs").iterdir()
        assert f"run folder: {run}" in ended.err
        assert "finetune 1/2" in ended.err
        assert "finetune 2/2" in ended.err
        assert "macro AUROC: " in ended.out
        assert (run / "report.html").is_file()
        assert json.loads((run / "run.json").read_text())["command"].startswith("cardiofed-server")

    def test_the_bundle_holds_the_three_packages_and_fits_flower(self, two_sites, serverapp, tmp_path):
        server("run", two_sites.path, experiment(tmp_path))
        assert {"server/app.py", "clients/app.py", "core/tasks.py", "pyproject.toml"} <= serverapp.files
        assert {name.split("/")[0] for name in serverapp.files} == {"core", "clients", "server", "pyproject.toml"}
        assert serverapp.size < 5e6
        (config,) = serverapp.configs
        assert Path(config.run.folder).is_absolute()
        assert config.federation.sites == 2

    def test_a_folder_may_be_named_and_is_not_used_twice(self, two_sites, serverapp, tmp_path):
        path = experiment(tmp_path)
        assert server("run", two_sites.path, path, "--out", tmp_path / "mine").code == 0
        again = server("run", two_sites.path, path, "--out", tmp_path / "mine")
        assert "is a run already; go on with it: cardiofed-server resume" in again.err.splitlines()[-1]

    def test_detached_it_says_how_to_look(self, two_sites, serverapp, tmp_path):
        ended = server("run", two_sites.path, experiment(tmp_path), "--detach", "--out", tmp_path / "mine")
        assert ended.code == 0
        assert f"cardiofed-server status {tmp_path / 'mine'} --watch" in ended.err
        assert server("status", tmp_path / "mine", "--watch").code == 0
        assert "macro AUROC" in server("status", tmp_path / "mine").out

    def test_ctrl_c_ends_the_display_alone(self, two_sites, serverapp, tmp_path, monkeypatch):
        def interrupted(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(deploying, "follow", interrupted)
            ended = server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine")
        assert ended.code == 130
        assert "the run goes on; look at it with: cardiofed-server status" in ended.err
        assert not [words for words in serverapp.superlink.asked if words[0] == "stop"]
        assert server("status", tmp_path / "mine", "--watch").code == 0

    def test_a_campaign_that_fails_says_why_and_how_to_go_on_and_goes_on(self, two_sites, serverapp, tmp_path):
        serverapp.federation.refuse = {(site, "train.finetune", 2): "out-of-memory" for site in "ab"}
        ended = server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine")
        assert ended.code == 2
        said = ended.err.splitlines()[-1]
        assert "round 2 of finetune: 0 of 2 sites answered" in said
        assert f"cardiofed-server resume {two_sites.path} {tmp_path / 'mine'}" in said
        assert server("status", tmp_path / "mine").out.splitlines()[0].startswith("tiny: failed")
        serverapp.federation.refuse = {}
        assert server("resume", two_sites.path, tmp_path / "mine").code == 0
        assert [line["round"] for line in rounds_of(tmp_path / "mine")] == [1, 2]
        names = {task.campaign for _, task in serverapp.federation.asked if task.campaign}
        assert len(names) == 1

    def test_a_process_that_was_killed_is_noticed(self, two_sites, serverapp, tmp_path):
        serverapp.fails = "killed"
        ended = server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine")
        assert "the campaign's process ended; go on with: cardiofed-server resume" in ended.err
        assert standing(RunFolder(tmp_path / "mine")) == "interrupted"

    def test_an_app_that_flower_ends_before_it_began_is_noticed(self, two_sites, superlink, tmp_path, monkeypatch):
        monkeypatch.setattr(deploying, "BEGIN_SECONDS", 0.2)
        superlink.submitted = lambda number, app: superlink.runs[number].update(status="finished:failed")
        ended = server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine")
        assert "Flower ended run 1000 before the campaign began" in ended.err
        assert "superlink.log says why" in ended.err

    def test_a_finished_run_is_not_resumed(self, two_sites, serverapp, tmp_path):
        server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine")
        assert "is finished" in server("resume", two_sites.path, tmp_path / "mine").sentence

    def test_a_run_that_is_being_worked_on_is_not_resumed(self, two_sites, superlink, tmp_path):
        server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine", "--detach")
        with RunFolder(tmp_path / "mine").locked(APP_LOCK):
            assert "is running; look at it" in server("resume", two_sites.path, tmp_path / "mine").sentence


class TestStop:
    def test_a_stopped_run_is_stopped_at_flower_and_can_be_resumed(self, two_sites, superlink, tmp_path):
        server("run", two_sites.path, experiment(tmp_path), "--out", tmp_path / "mine", "--detach")
        ended = server("stop", two_sites.path, tmp_path / "mine")
        assert f"cardiofed-server resume {two_sites.path} {tmp_path / 'mine'}" in ended.out
        assert superlink.runs["1000"]["status"] == "finished:stopped"
        assert standing(RunFolder(tmp_path / "mine")) == "interrupted"
        assert "there is nothing to stop" in server("stop", two_sites.path, tmp_path / "mine").sentence

    def test_a_simulation_is_not_the_superlink_s_to_stop(self, two_sites, tmp_path):
        folder = RunFolder.create(tiny(tmp_path, f"run.folder={tmp_path / 'simulated'}"))
        assert "was not run by cardiofed-server" in server("stop", two_sites.path, folder.path).sentence


class TestStatus:
    def test_a_home_shows_sites_and_runs(self, two_sites, serverapp, tmp_path):
        server("run", two_sites.path, experiment(tmp_path))
        said = server("status", two_sites.path).out
        assert "SuperLink: up" in said
        assert "never connected" in said
        assert "done" in said

    def test_also_while_the_superlink_is_down(self, two_sites, superlink):
        superlink.up = False
        assert "SuperLink: down; start it with: cardiofed-server up" in server("status", two_sites.path).out

    def test_another_folder_is_neither(self, tmp_path):
        assert "is no run folder" in server("status", tmp_path).sentence
