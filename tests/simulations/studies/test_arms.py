"""Which arms a study has, what each changes, and which two are compared."""

from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import ExperimentConfig, with_overrides
from core.errors import ConfigError
from simulations.studies.arms import (
    Arm,
    Group,
    arms_of,
    audit_settings,
    backbone_settings,
    backbones_of,
    comparisons,
    groups_of,
    require_own_folders,
    settings_of,
)
from simulations.studies.study_file import Study, StudySettings

BACKBONES = Path("backbones")


def study_of(**changes) -> Study:
    experiment = with_overrides(ExperimentConfig(), ["federation.sites=4", "federation.min_sites=3"])
    return Study("compare", StudySettings.model_validate(changes), experiment)


@pytest.mark.parametrize(
    "named",
    [
        {"starts": {"t x": ["hr"], "t-x": ["qt"]}},
        {"starts": {"scratch": []}, "variants": {"a b": [], "a-b": ["finetune.rounds=2"]}},
    ],
)
def test_names_that_would_share_a_folder_are_refused(named):
    with pytest.raises(ConfigError, match=r"would share the folder .* rename"):
        require_own_folders(study_of(**named))
    require_own_folders(study_of(starts={"t x": ["hr"], "t y": ["qt"]}))


def config_of(study: Study, arm: Arm) -> ExperimentConfig:
    return with_overrides(study.experiment, settings_of(study, arm, BACKBONES))


def chosen(study: Study, **wanted) -> Arm:
    return next(arm for arm in arms_of(study) if all(getattr(arm.group, k) == v for k, v in wanted.items()))


class TestArms:
    def test_three_topologies_two_starts_two_privacies_three_seeds(self):
        study = study_of()
        # 2 starts x 2 privacies x 3 seeds; a centralized and a federated one, and a local one for each of 4 hospitals.
        assert len(arms_of(study)) == 12 * (1 + 1 + 4)
        assert len(groups_of(study)) == 12
        assert backbones_of(study) == [("transferred", seed) for seed in (0, 1, 2)]

    def test_an_arm_without_privacy_stands_once_however_many_units_there_are(self):
        study = study_of(units=["patient", "record"], topologies=["federated"], starts={"scratch": []}, seeds=[0])
        assert [(arm.group.epsilon, arm.group.unit) for arm in arms_of(study)] == [
            (None, None), (8.0, "patient"), (8.0, "record"),
        ]  # fmt: skip

    @given(
        st.sets(st.sampled_from(["centralized", "federated", "local"]), min_size=1),
        st.sets(st.sampled_from(["inf", 0.5, 8.0, 16.0]), min_size=1),
        st.sets(st.sampled_from(["patient", "record"]), min_size=1),
        st.sets(st.integers(0, 5), min_size=1),
        st.sets(st.integers(0, 90), min_size=1),
    )
    @settings(max_examples=50, deadline=None)
    def test_no_two_arms_share_a_folder_or_a_config(self, topologies, epsilons, units, seeds, patients):
        study = study_of(
            topologies=sorted(topologies), epsilons=sorted(epsilons, key=str), units=sorted(units), seeds=sorted(seeds),
            patients=sorted(patients),
        )  # fmt: skip
        arms = arms_of(study)
        assert len({arm.name for arm in arms}) == len(arms)
        assert len({config_of(study, arm).to_toml() for arm in arms}) == len(arms)


class TestBaselines:
    def test_each_stands_once_a_seed_and_logistic_as_a_federation_too(self):
        study = study_of(seeds=[0, 1], baselines=["majority", "logistic", "boosting"], starts={"scratch": []})
        arms = [arm for arm in arms_of(study) if arm.group.baseline]
        assert [(arm.seed, arm.group.words) for arm in arms] == [
            (seed, f"{words}, not private")
            for seed in (0, 1)
            for words in (
                "centralized, majority", "centralized, logistic", "federated, logistic", "centralized, boosting",
            )
        ]  # fmt: skip
        assert len({arm.name for arm in arms_of(study)}) == len(arms_of(study))

    def test_they_learn_from_the_hospitals_and_records_of_the_networks(self):
        study = study_of(
            baselines=["logistic"], starts={"scratch": []}, epsilons=["inf"], patients=[25], variants={"": [], "prox": []},
            when=[{"epsilon": "inf", "set": ["finetune.batch_size=8"]}],
        )  # fmt: skip
        for topology in ("centralized", "federated"):
            network, baseline = (
                config_of(study, chosen(study, topology=topology, start=start, variant=""))
                for start in ("scratch", "logistic")
            )
            # The size of a batch as well: a hospital must have records enough for one.
            assert network == baseline

    def test_a_network_without_privacy_is_held_against_the_strongest_of_its_topology(self):
        study = study_of(baselines=["majority", "logistic", "boosting"], variants={"": [], "prox": []})
        pairs = [(kind, one.words, other.words) for kind, one, other in comparisons(groups_of(study)) if other.baseline]
        assert pairs == [
            (f"{start} - {baseline}", f"{topology}, {start}, not private", f"{topology}, {baseline}, not private")
            for topology, baseline in (("centralized", "boosting"), ("federated", "logistic"))
            for start in ("scratch", "transferred")
        ]  # fmt: skip
        assert not [one for _, one, _ in comparisons(groups_of(study)) if one.baseline]


class TestOwnModels:
    """Arms whose hospitals end with models of their own."""

    TOPOLOGIES = ("federated", "personal", "fine-tuned")

    def test_they_are_the_federated_arm_but_for_what_stays_at_home(self):
        study = study_of(topologies=list(self.TOPOLOGIES), own_rounds=2)
        federated, personal, alone = (
            config_of(study, chosen(study, topology=topology)).model_dump() for topology in self.TOPOLOGIES
        )
        assert personal["federation"].pop("personal") == "head"
        assert alone["federation"].pop("own_rounds") == 2
        assert (federated["federation"].pop("personal"), federated["federation"].pop("own_rounds")) == ("none", 0)
        assert (alone["federation"].pop("personal"), personal["federation"].pop("own_rounds")) == ("none", 0)
        assert federated == personal == alone

    def test_they_are_compared_with_the_common_model(self):
        study = study_of(topologies=list(self.TOPOLOGIES), starts={"scratch": []}, epsilons=["inf"])
        assert [kind for kind, _, _ in comparisons(groups_of(study))] == [
            "personal - federated", "fine-tuned - federated",
        ]  # fmt: skip

    @pytest.mark.parametrize("topology", ["centralized", "local"])
    def test_an_experiment_with_own_models_does_not_spoil_arms_that_cannot_have_them(self, topology):
        experiment = with_overrides(ExperimentConfig(), ["federation.personal=head", "federation.own_rounds=1"])
        study = Study("compare", StudySettings.model_validate({"topologies": [topology]}), experiment)
        federation = config_of(study, arms_of(study)[0]).federation
        assert (federation.personal, federation.own_rounds) == ("none", 0)
        with_overrides(experiment, backbone_settings(study, "transferred", 0))


class TestSettings:
    def test_a_centralized_arm_pools_the_very_hospitals_of_the_federated_one(self):
        study = study_of()
        pooled, spread = (config_of(study, chosen(study, topology=name)) for name in ("centralized", "federated"))
        assert pooled.federation.pooled
        assert pooled.federation.participants == 1
        same = {"pooled", "min_sites"}
        assert pooled.federation.model_dump(exclude=same) == spread.federation.model_dump(exclude=same)

    def test_a_local_arm_is_one_hospital_of_the_same_partition(self):
        study = study_of()
        arms = [arm for arm in arms_of(study) if arm.group.topology == "local"][:4]
        assert [config_of(study, arm).federation.members for arm in arms] == [(0,), (1,), (2,), (3,)]
        assert {config_of(study, arm).federation.min_sites for arm in arms} == {1}
        assert {config_of(study, arm).federation.sites for arm in arms} == {4}

    def test_privacy_is_on_with_an_epsilon_and_off_without(self):
        study = study_of(epsilons=["inf", 2.0], units=["record"])
        private = config_of(study, chosen(study, epsilon=2.0)).privacy
        assert (private.enabled, private.epsilon, private.unit) == (True, 2.0, "record")
        assert not config_of(study, chosen(study, epsilon=None)).privacy.enabled

    def test_arms_of_one_seed_and_start_take_one_backbone(self):
        study = study_of()
        taken = {
            config_of(study, arm).pretrain.from_run
            for arm in arms_of(study)
            if arm.group.start == "transferred" and arm.seed == 1
        }
        assert taken == {"backbones/transferred-seed-1"}
        scratch = config_of(study, chosen(study, start="scratch")).pretrain
        assert not scratch.enabled

    def test_a_backbone_is_pretrained_without_privacy_on_its_targets(self):
        study = study_of(starts={"scratch": [], "rich": ["hr", "axis"]})
        config = with_overrides(study.experiment, backbone_settings(study, "rich", 2))
        assert config.pretrain.targets == ("hr", "axis")
        assert config.run.seed == 2
        assert not config.privacy.enabled

    def test_what_holds_when_is_set_there_and_nowhere_else(self):
        study = study_of(
            when=[
                {"epsilon": "private", "set": ["finetune.optimizer=sgd", "finetune.learning_rate=0.1"]},
                {"epsilon": "private", "start": "scratch", "set": ["finetune.learning_rate=0.3"]},
                {"epsilon": 8.0, "topology": "local", "set": ["finetune.rounds=2"]},
                {"epsilon": "inf", "set": ["finetune.rounds=9"]},
            ]
        )
        found = {
            (arm.group.topology, arm.group.start, arm.group.epsilon): (
                config.finetune.optimizer, config.finetune.learning_rate, config.finetune.rounds,
            )
            for arm in arms_of(study)
            for config in [config_of(study, arm)]
        }  # fmt: skip
        assert found["federated", "scratch", None] == ("adamw", 0.001, 9)
        assert found["federated", "scratch", 8.0] == ("sgd", 0.3, 8)
        assert found["federated", "transferred", 8.0] == ("sgd", 0.1, 8)
        assert found["local", "transferred", 8.0] == ("sgd", 0.1, 2)

    def test_an_attack_is_on_the_centralized_private_arm(self):
        study = study_of(audits=[4.0])
        config = with_overrides(study.experiment, audit_settings(study, "transferred", 4.0, BACKBONES))
        assert (config.privacy.enabled, config.privacy.epsilon, config.federation.pooled) == (True, 4.0, True)
        assert not config.run.predictions


def of_variants(pairs: list[tuple[str, Group, Group]]) -> list[tuple[str, str, str]]:
    return [(kind, one.variant, other.variant) for kind, one, other in pairs]


class TestComparisons:
    ONE_ARM: ClassVar = {"topologies": ["federated"], "starts": {"scratch": []}, "epsilons": ["inf"]}

    def test_two_arms_that_are_compared_differ_in_one_thing(self):
        study = study_of(
            epsilons=["inf", 2.0, 8.0], units=["patient", "record"], patients=[0, 25], variants={"": [], "prox": []}
        )
        pairs = comparisons(groups_of(study))
        assert pairs
        for kind, one, other in pairs:
            differing = {name for name, value in asdict(one).items() if asdict(other)[name] != value}
            expected = {"epsilon", "unit"} if kind == "private - not private" else None
            assert differing == expected if expected else len(differing) == 1

    @pytest.mark.parametrize(
        ("kind", "count"),
        [
            ("transferred - scratch", 6),
            ("federated - centralized", 4),
            ("federated - local", 4),
            ("private - not private", 6),
        ],
    )
    def test_each_question_is_asked_of_every_arm_that_can_answer_it(self, kind, count):
        pairs = comparisons(groups_of(study_of()))
        assert sum(name == kind for name, _, _ in pairs) == count

    def test_variants_are_compared_with_the_arm_without_one(self):
        study = study_of(**self.ONE_ARM, variants={"slow": [], "": [], "prox": []})
        assert of_variants(comparisons(groups_of(study))) == [
            ("slow - without", "slow", ""), ("prox - without", "prox", ""),
        ]  # fmt: skip

    def test_where_every_arm_has_a_variant_the_later_ones_are_compared_with_the_first(self):
        study = study_of(**self.ONE_ARM, variants={"slow": [], "fast": [], "prox": []})
        assert of_variants(comparisons(groups_of(study))) == [
            ("fast - slow", "fast", "slow"), ("prox - slow", "prox", "slow"),
        ]  # fmt: skip

    def test_an_arm_without_a_variant_is_called_by_its_name_where_it_has_one(self):
        plain, prox = groups_of(study_of(**self.ONE_ARM, variants={"": [], "prox": []}))
        assert of_variants(comparisons([plain, prox], {plain: "first-run", prox: "prox"})) == [
            ("prox - first-run", "prox", ""),
        ]  # fmt: skip

    def test_a_group_says_what_it_is(self):
        words = Group("federated", "rich", 0.5, "record", 25, "prox").words
        assert words == "federated, rich, epsilon 0.5, per record, 25 patients a site, prox"
