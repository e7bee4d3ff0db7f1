"""Who says yes to a campaign: the rules, or a person who was shown everything."""

import json
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clients import approval
from clients.approval import (
    NOT_THE_SITES,
    CampaignRequest,
    answer,
    beside_policy,
    campaign_request,
    decide,
    find,
    requests,
)
from clients.site_file import SiteFile
from core.config import ExperimentConfig, with_overrides
from core.errors import ConfigError, DataError

SET = "a" * 64


def asked(*changes: str, synthetic: str = SET) -> CampaignRequest:
    return campaign_request(with_overrides(ExperimentConfig(), changes), synthetic)


def site(text: str = "") -> SiteFile:
    return SiteFile.model_validate(tomllib.loads('[site]\nname = "a"\n' + text))


ASK = site('[approval]\nmode = "ask"\n')
RULES = site('[approval]\nmode = "rules"\n')


class TestRequest:
    def test_every_setting_is_either_decided_on_or_listed_as_not_the_site_s(self):
        flat = ExperimentConfig().to_run_config()
        named = dict(asked().settings)
        assert set(named) == set(flat) - set(NOT_THE_SITES)
        assert {"privacy.epsilon", "privacy.insecure_deterministic", "privacy.loss", "model.name"} <= set(named)
        assert set(NOT_THE_SITES) <= set(flat)
        # Whatever these sections get is decided on, but for what names a place on a disk.
        for section in ("privacy", "model", "transfer", "finetune", "synthetic", "pretrain"):
            own = {name for name in flat if name.startswith(f"{section}.")}
            assert own - set(named) <= {"synthetic.path", "pretrain.from_run"}

    @pytest.mark.parametrize(
        "change",
        [
            "privacy.epsilon=9", "privacy.enabled=true", "privacy.delta=1e-4", "privacy.clip=2", "privacy.unit=record",
            "privacy.sampling_rate=0.2", "privacy.counts=clear", "privacy.evaluation_share=0.4", "model.name=inception1d",
            "privacy.records_per_patient=2", "finetune.rounds=9", "finetune.optimizer=sgd", "finetune.learning_rate=0.1",
            "transfer.trainable=head", "pretrain.targets=['hr']", "privacy.insecure_deterministic=true", "run.seed=1",
        ],
    )  # fmt: skip
    def test_another_setting_is_another_request(self, change):
        assert asked(change).hash != asked().hash

    @pytest.mark.parametrize(
        "change",
        [
            "run.name=other", "run.out=elsewhere", "run.folder=x", "run.device=cpu", "data.path=/x", "data.test_folds=[10]",
            "federation.sites=3", "synthetic.path=/y", "pretrain.from_run=/z",
        ],
    )  # fmt: skip
    def test_what_the_site_replaces_makes_no_difference(self, change):
        assert asked(change) == asked()
        assert asked(change).hash == asked().hash

    def test_another_synthetic_set_is_another_request(self):
        assert asked(synthetic="b").hash != asked().hash

    def test_the_lines_name_every_setting_with_its_value(self):
        lines = asked("privacy.epsilon=3.5", "privacy.loss=clear").lines()
        assert any("epsilon" in line and "3.5" in line for line in lines)
        assert any("losses leave: clear" in line for line in lines)
        assert any(SET in line for line in lines)
        for name, _ in asked().settings:
            assert sum(name in line for line in lines) >= 1, name

    def test_a_text_from_elsewhere_does_not_steer_the_terminal(self):
        hostile = asked("synthetic.cohort=\x1b[2J\nx", synthetic="\x1b[31m")
        assert all(line.isprintable() for line in hostile.lines())


class TestBesideThePolicy:
    STRICT = site('[budget]\nepsilon = 6.0\ncampaign_epsilon = 2.0\n[release]\nloss = "withheld"\n')

    def test_a_request_within_the_policy_needs_no_note(self):
        within = asked("privacy.enabled=true", "privacy.epsilon=2", "privacy.loss=withheld")
        assert beside_policy(self.STRICT, within) == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("privacy.epsilon=3", ("epsilon 3 is asked", "site.toml allows 2")),
            ("privacy.delta=1e-3", ("delta 0.001", "1e-05")),
            ("privacy.loss=noised", ("loss is asked noised", "withheld")),
            ("privacy.counts=clear", ("counts is asked clear", "noised")),
            ("privacy.insecure_deterministic=true", ("known seed",)),
            ("privacy.enabled=false", ("without privacy", "refuses")),
        ],
    )
    def test_where_the_policy_is_stricter_one_note_says_so(self, change, words):
        request = asked("privacy.enabled=true", "privacy.epsilon=2", "privacy.loss=withheld", change)
        (note,) = beside_policy(self.STRICT, request)
        assert all(word in note for word in words), note


class TestRules:
    def test_what_the_policy_allows_needs_nobody(self, tmp_path):
        assert decide(tmp_path, RULES, asked(), "one") == "allowed"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("mode", ["rules", "ask"])
    def test_another_model_family_or_synthetic_set_is_refused_in_both_modes(self, tmp_path, mode):
        strict = site(f'[approval]\nmode = "{mode}"\nmodels = ["resnet1d"]\n[tasks]\nrecipes = ["{SET}"]\n')
        assert decide(tmp_path, strict, asked("model.name=inception1d"), "one") == "refused"
        assert decide(tmp_path, strict, asked(synthetic="b" * 64), "one") == "refused"
        assert requests(tmp_path) == []
        assert decide(tmp_path, strict, asked(), "one") != "refused"
        assert decide(tmp_path, strict, asked(synthetic=""), "two") != "refused"

    def test_a_person_s_refusal_outlives_a_change_of_mode(self, tmp_path):
        decide(tmp_path, ASK, asked(), "one")
        answer(tmp_path, asked().hash, False, "w")
        assert decide(tmp_path, RULES, asked(), "one") == "refused"
        assert decide(tmp_path, RULES, asked(), "two") == "allowed"


class TestAsking:
    def test_it_waits_until_a_person_says_yes(self, tmp_path):
        assert decide(tmp_path, ASK, asked(), "one") == "waiting"
        assert decide(tmp_path, ASK, asked(), "one") == "waiting"
        (filed,) = requests(tmp_path)
        assert (filed.campaign, filed.state, filed.request) == ("one", "waiting", asked())
        answered = answer(tmp_path, filed.name[:8], True, "Dr. Weiss")
        assert (answered.state, answered.by) == ("approved", "Dr. Weiss")
        assert decide(tmp_path, ASK, asked(), "one") == "allowed"
        assert decide(tmp_path, ASK, asked("run.name=again"), "one") == "allowed"

    def test_a_no_can_become_a_yes_and_back(self, tmp_path):
        decide(tmp_path, ASK, asked(), "one")
        for approved, said in ((False, "refused"), (True, "allowed"), (False, "refused")):
            answer(tmp_path, asked().hash, approved, "w")
            assert decide(tmp_path, ASK, asked(), "one") == said

    def test_a_yes_holds_for_one_campaign_and_its_settings_alone(self, tmp_path):
        decide(tmp_path, ASK, asked(), "one")
        answer(tmp_path, asked().hash, True, "w")
        assert decide(tmp_path, ASK, asked(), "two") == "waiting"
        assert decide(tmp_path, ASK, asked("privacy.epsilon=8.5"), "one") == "waiting"
        assert decide(tmp_path, ASK, asked(synthetic="b"), "one") == "waiting"
        assert [filed.state for filed in requests(tmp_path)].count("waiting") == 3

    def test_the_file_is_named_by_the_request_and_is_the_owner_s_alone(self, tmp_path):
        decide(tmp_path, ASK, asked(), "one")
        (file,) = (tmp_path / "requests").iterdir()
        assert file.name.startswith(asked().hash)
        assert file.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "requests").stat().st_mode & 0o777 == 0o700

    def test_any_text_may_name_a_campaign(self, tmp_path):
        for campaign in ("", "../../x", "\ud800", "é\n", "x" * 300):
            assert decide(tmp_path, ASK, asked(), campaign) == "waiting"
        assert {filed.campaign for filed in requests(tmp_path)} == {"", "../../x", "\ud800", "é\n", "x" * 300}
        assert [path.name for path in tmp_path.iterdir()] == ["requests"]

    def test_invented_campaigns_cannot_fill_the_disk(self, tmp_path, monkeypatch):
        monkeypatch.setattr(approval, "MOST_WAITING", 3)
        said = [decide(tmp_path, ASK, asked(), f"c{number}") for number in range(5)]
        assert said == ["waiting"] * 3 + ["refused"] * 2
        assert decide(tmp_path, ASK, asked(), "c0") == "waiting"
        answer(tmp_path, requests(tmp_path)[0].name, True, "w")
        assert decide(tmp_path, ASK, asked(), "c4") == "waiting"
        assert decide(tmp_path, ASK, asked(), "x" * approval.LONGEST) == "refused"

    def test_many_at_once_file_one_request(self, tmp_path):
        with ThreadPoolExecutor(8) as pool:
            said = set(pool.map(lambda _: decide(tmp_path, ASK, asked(), "one"), range(40)))
        assert said == {"waiting"}
        assert len(list((tmp_path / "requests").iterdir())) == 1


class TestNames:
    def test_a_beginning_that_fits_none_or_several_is_one_sentence(self, tmp_path):
        with pytest.raises(ConfigError, match="no request begins"):
            find(tmp_path, "abc")
        decide(tmp_path, ASK, asked(), "one")
        decide(tmp_path, ASK, asked(), "two")
        with pytest.raises(ConfigError, match="2 requests begin") as caught:
            answer(tmp_path, asked().hash, True, "w")
        shown = str(caught.value).split("such as ")[1].split(";")[0].split(" and ")
        assert {find(tmp_path, name).campaign for name in shown} == {"one", "two"}
        with pytest.raises(ConfigError, match="no request begins"):
            find(tmp_path, " ")
        assert all(filed.state == "waiting" for filed in requests(tmp_path))


class TestDamage:
    @pytest.fixture
    def file(self, tmp_path):
        decide(tmp_path, ASK, asked(), "one")
        (file,) = (tmp_path / "requests").iterdir()
        return file

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(content=st.one_of(st.binary(max_size=200), st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
            ["campaign", "asked", "state", "answered", "by", "synthetic", "settings", "x"]), inner, max_size=8),
        max_leaves=12).map(lambda value: json.dumps(value).encode())))  # fmt: skip
    def test_a_damaged_answer_is_an_error_with_the_mend_and_never_a_yes(self, tmp_path, file, content):
        file.write_bytes(content)
        with pytest.raises(DataError, match=f"{file.name}.*delete it"):
            decide(tmp_path, ASK, asked(), "one")
        with pytest.raises(DataError):
            requests(tmp_path)

    def test_a_yes_to_another_request_under_this_name_is_none(self, tmp_path, file):
        content = json.loads(file.read_text())
        content["state"] = "approved"
        content["settings"]["privacy.epsilon"] = 1.0
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match="another request than its name says"):
            decide(tmp_path, ASK, asked(), "one")

    def test_a_place_that_cannot_be_written_is_one_sentence(self, tmp_path):
        (tmp_path / "requests").write_text("")
        with pytest.raises(DataError, match=r"cannot be (read|written)"):
            decide(tmp_path, ASK, asked(), "one")
