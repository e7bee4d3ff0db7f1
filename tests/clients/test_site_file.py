"""``site.toml`` as a hospital writes it."""

import pytest

from clients.policy import Policy
from clients.site_file import load_policy, load_site
from core.errors import ConfigError

WHOLE = """
[site]
name = "St. Anna"
[data]
path = "records"
train_folds = [1, 2]
test_folds = [3]
[device]
device = "cuda:1"
[coordinator]
address = "study.example:8000"
certificates = "/etc/ca.crt"
[approval]
mode = "rules"
models = ["resnet1d"]
[budget]
epsilon = 4.0
"""


def sentence(state, text: str) -> str:
    (state / "site.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_site(state)
    found = str(caught.value)
    assert str(state) in found
    assert "\n" not in found
    return found


class TestReading:
    def test_paths_are_relative_to_the_state_folder(self, tmp_path):
        (tmp_path / "site.toml").write_text(WHOLE)
        site = load_site(tmp_path)
        assert site.data.path == str(tmp_path / "records")
        assert site.data.synthetic == ""
        assert site.coordinator.certificates == "/etc/ca.crt"
        assert (site.site.name, site.device.device, site.budget.epsilon) == ("St. Anna", "cuda:1", 4.0)

    def test_what_is_left_out_is_strict(self, tmp_path):
        (tmp_path / "site.toml").write_text('[site]\nname = "a"\n')
        site = load_site(tmp_path)
        assert site.approval.mode == "ask"
        assert site.tasks.private_only
        assert not site.coordinator.insecure

    def test_the_policy_is_the_same_with_and_without_the_rest(self, tmp_path):
        (tmp_path / "site.toml").write_text(WHOLE)
        policy = load_policy(tmp_path / "site.toml")
        assert type(policy) is Policy
        assert policy.budget.epsilon == 4.0


class TestOneSentence:
    def test_for_a_folder_without_the_file(self, tmp_path):
        with pytest.raises(ConfigError, match="cardiofed-site init"):
            load_site(tmp_path)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ('[site]\nname = "../x"\n', "site.name"),
            ("", "site.name"),
            ('[site]\nname = "a"\n[data]\ntrain_folds = [1, 2]\ntest_folds = [2]\n', "fold 2"),
            ('[site]\nname = "a"\n[device]\ndevice = "tpu"\n', "device.device"),
            ('[site]\nname = "a"\n[aproval]\nmode = "ask"\n', "aproval"),
            ('[site]\nname = "a"\n[approval]\nmode = "never"\n', "approval.mode"),
            ('[site]\nname = "a"\n[tasks]\nallowed = ["train"]\n', "tasks.allowed"),
            ("[site\n", "not valid TOML"),
        ],
    )
    def test_for(self, tmp_path, text, said):
        assert said in sentence(tmp_path, text)
