"""The stricter of a hospital's policy and a request wins, and a policy file is read as it is meant."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.policy import BudgetPolicy, Policy, ReleasePolicy, simulated_policy, terms
from clients.site_file import load_policy
from core.config import ExperimentConfig
from core.config_sections import PrivacySettings
from core.errors import ConfigError
from core.privacy.plan import PrivacyUnit
from core.tasks import TaskKind

MODES = ("clear", "noised", "withheld")
_modes = st.sampled_from(MODES)
_epsilons = st.floats(0.01, 100)
_deltas = st.floats(1e-12, 0.1)
_units = st.sampled_from(["patient", "record"])


class TestTerms:
    @given(_epsilons, _epsilons, st.none() | _epsilons, _deltas, _deltas)
    def test_no_number_is_laxer_than_policy_or_request(self, budget, asked, campaign, own_delta, delta):
        policy = Policy(budget=BudgetPolicy(epsilon=budget, campaign_epsilon=campaign, delta=own_delta))
        agreed = terms(policy, PrivacySettings(enabled=True, epsilon=asked, delta=delta))
        assert agreed.epsilon == budget
        assert agreed.campaign_epsilon == min(asked, campaign or budget)
        assert agreed.delta == min(own_delta, delta)

    @given(_modes, _modes)
    def test_a_release_is_as_closed_as_the_more_closed_of_the_two(self, own, asked):
        agreed = terms(Policy(release=ReleasePolicy(loss=own)), PrivacySettings(enabled=True, loss=asked))
        assert MODES.index(agreed.loss) == max(MODES.index(own), MODES.index(asked))

    @given(_units, _units)
    def test_patients_are_protected_where_either_says_so(self, own, asked):
        agreed = terms(Policy(budget=BudgetPolicy(unit=own)), PrivacySettings(enabled=True, unit=asked))
        assert (agreed.unit == PrivacyUnit.RECORD) == (own == asked == "record")

    def test_without_privacy_the_policy_alone_decides_on_releases(self):
        agreed = terms(Policy(release=ReleasePolicy(loss="withheld", counts="clear")), PrivacySettings())
        assert (agreed.loss, agreed.counts, agreed.evaluation) == ("withheld", "clear", "noised")

    def test_a_simulated_site_allows_what_is_asked_and_everything_where_nothing_is_private(self):
        asked = PrivacySettings(enabled=True, epsilon=3.0, unit="record", loss="withheld", counts="clear")
        agreed = terms(simulated_policy(asked), asked)
        assert (agreed.epsilon, agreed.campaign_epsilon, agreed.unit) == (3.0, 3.0, "record")
        assert (agreed.evaluation, agreed.counts, agreed.loss) == ("noised", "clear", "withheld")
        clear = terms(simulated_policy(PrivacySettings()), PrivacySettings())
        assert {clear.evaluation, clear.counts, clear.loss} == {"clear"}


class TestFile:
    def test_an_empty_file_is_the_strict_default(self, tmp_path):
        (tmp_path / "site.toml").write_text("")
        policy = load_policy(tmp_path / "site.toml")
        assert policy == Policy()
        assert policy.tasks.private_only
        assert not policy.tasks.insecure_deterministic
        assert policy.budget.large_delta == "refuse"
        assert policy.cohort.may_fit == ()
        assert all(policy.allows(kind) for kind in TaskKind)

    def test_what_it_names_is_what_holds(self, tmp_path):
        (tmp_path / "site.toml").write_text(
            "[budget]\nepsilon = 4.0\ncampaign_epsilon = 2.0\ndelta = 1e-6\n"
            '[tasks]\nallowed = ["describe", "finetune"]\nrecipes = ["abc"]\n[release]\nloss = "withheld"\n'
            '[cohort]\nmay_fit = ["cathlab"]\n'
        )
        policy = load_policy(tmp_path / "site.toml")
        assert (policy.budget.epsilon, policy.budget.campaign_epsilon, policy.budget.delta) == (4.0, 2.0, 1e-6)
        assert [kind for kind in TaskKind if policy.allows(kind)] == [TaskKind.DESCRIBE, TaskKind.FINETUNE]
        assert policy.tasks.recipes == ("abc",)
        assert policy.release.loss == "withheld"
        assert policy.cohort.may_fit == ("cathlab",)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[budget]\nepsilom = 3.0\n", "did you mean budget.epsilon?"),
            ("[budget]\nepsilon = -1.0\n", "budget.epsilon"),
            ("[budget]\nepsilon = inf\n", "budget.epsilon"),
            ('[release]\nloss = "open"\n', "release.loss"),
            ('[tasks]\nallowed = ["train"]\n', "tasks.allowed names 'train'; choose among"),
            ('[cohort]\nmay_fit = "cathlab"\n', "cohort.may_fit must be a list in square brackets"),
            ("[budget\n", "is not valid TOML"),
        ],
    )
    def test_a_mistake_is_named_with_the_file_and_the_mend(self, tmp_path, text, said):
        (tmp_path / "site.toml").write_text(text)
        with pytest.raises(ConfigError, match=r"site\.toml") as caught:
            load_policy(tmp_path / "site.toml")
        assert said in str(caught.value)

    def test_a_file_that_cannot_be_read(self, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_policy(tmp_path / "site.toml")


def test_an_experiment_s_defaults_ask_for_noised_releases():
    asked = ExperimentConfig().privacy
    assert (asked.evaluation, asked.counts, asked.loss) == ("noised", "noised", "noised")
