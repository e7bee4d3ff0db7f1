"""How attacks on a study's training stand, read from what they left behind."""

import json

import pytest

from core.config import ExperimentConfig
from core.errors import DataError
from core.privacy.audit import LOWER_BOUNDS
from simulations.studies.attacks import attacks_of, notes_of
from simulations.studies.study_file import Study, StudySettings


def study() -> Study:
    settings = StudySettings.model_validate({"starts": {"scratch": []}, "audits": [1.0, 8.0]})
    return Study("privacy-curve", settings, ExperimentConfig())


def ended(out, epsilon: str, lower: float, refuted: bool) -> None:
    folder = out / "audits" / f"scratch-epsilon-{epsilon}"
    folder.mkdir(parents=True)
    found = {"lower_bounds": {name: {"epsilon": lower} for name in LOWER_BOUNDS}, "refuted": refuted}
    (folder / "audit.json").write_text(json.dumps(found))


def test_one_that_has_not_begun_is_waited_for_and_one_that_said_an_error_has_failed(tmp_path):
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "scratch-epsilon-8.log").write_text("audit: 10 %\nerror: no room is left\n")
    attacks = attacks_of(study(), tmp_path)
    assert [(attack.epsilon, attack.status) for attack in attacks] == [(1.0, "waiting"), (8.0, "failed")]
    assert notes_of(attacks) == [
        "1 of 2 attacks have not ended yet.",
        "the attack on scratch at epsilon 8 failed: no room is left",
    ]


def test_a_claim_that_an_attack_has_refuted_is_said_to_be_false(tmp_path):
    ended(tmp_path, "1", 0.5, refuted=False)
    ended(tmp_path, "8", 12.345, refuted=True)
    attacks = attacks_of(study(), tmp_path)
    assert [max(attack.lower.values()) for attack in attacks] == [0.5, 12.345]
    assert notes_of(attacks) == ["the attack on scratch at epsilon 8 shows at least 12.35: the claim is false."]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"lower_bounds": {"loss": 3}, "refuted": true}'])
def test_a_damaged_result_is_refused_with_the_mend(tmp_path, content):
    ended(tmp_path, "1", 0.5, refuted=False)
    path = tmp_path / "audits" / "scratch-epsilon-1" / "audit.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"cannot be read.*delete .*scratch-epsilon-1 and call again"):
        attacks_of(study(), tmp_path)
