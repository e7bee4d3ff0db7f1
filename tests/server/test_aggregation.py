"""How updates become one model: each strategy against the formula of its paper, and state that survives between rounds."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAdam, FedAvgM, FedYogi
from hypothesis import given
from hypothesis import strategies as st
from tiny_campaigns import FakeFederation, Watcher, rounds_of, tiny

from core.config_sections import FederationSettings
from core.tasks import Update
from server.aggregation import ServerModel, _as_reply, average, combine
from server.campaign import Campaign
from server.run_folder import RunFolder

ALL = ["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg"]
STATEFUL = ["fedavgm", "fedadam", "fedyogi"]


def update(*values: float, weight: float = 1.0) -> Update:
    return Update({"x": np.array(values, np.float32)}, weight=weight)


def settings(strategy: str, **changes) -> FederationSettings:
    return FederationSettings(strategy=strategy, **changes)


def after(strategy: str, rounds: list[dict[str, Update]], start: float = 0.0, **changes) -> list[ServerModel]:
    """The model after each round of these updates."""
    size = len(next(iter(rounds[0].values())).tensors["x"])
    model, models = ServerModel({"x": np.full(size, start, np.float32)}), []
    for number, updates in enumerate(rounds, 1):
        model = combine(settings(strategy, **changes), number, model, updates)
        models.append(model)
    return models


def test_the_mean_is_by_weight_and_keeps_the_type():
    mean = average({"a": update(1, 3), "b": update(5, 7, weight=3)})
    assert mean["x"].dtype == np.float32
    np.testing.assert_allclose(mean["x"], [4.0, 6.0])  # (1 + 3 * 5) / 4, (3 + 3 * 7) / 4


TWO = [{"a": update(1, weight=1), "b": update(5, weight=3)}, {"a": update(6), "b": update(2)}]


class TestStrategies:
    @pytest.mark.parametrize("strategy", ["fedavg", "fedprox"])
    def test_averages_have_no_state(self, strategy):
        first, second = after(strategy, TWO)
        assert (first.tensors["x"], second.tensors["x"]) == (4.0, 4.0)
        assert first.moments == second.moments == {}

    def test_momentum_carries_the_last_change_on(self):
        # Hsu, Qi and Brown 2019: v = 0.9 v + (w - mean), w - v. First v = 0 - 4, w = 4; then v = -3.6 + (4 - 4), w = 7.6.
        first, second = after("fedavgm", TWO, server_learning_rate=1.0)
        np.testing.assert_allclose([first.tensors["x"][0], second.tensors["x"][0]], [4.0, 7.6], rtol=1e-6)

    def test_momentum_goes_as_far_as_the_mean_in_the_end_if_nothing_else_is_said(self):
        def steps(model: ServerModel, number: int) -> ServerModel:
            moved = Update({"x": model.tensors["x"] + np.float32(1)})
            return combine(settings("fedavgm"), number, model, {"a": moved})

        model, path = ServerModel({"x": np.zeros(1, np.float32)}), [0.0]
        for number in range(1, 101):
            model = steps(model, number)
            path.append(float(model.tensors["x"][0]))
        assert path[1] == pytest.approx(0.1)
        assert path[100] - path[99] == pytest.approx(1.0, abs=1e-3)

    def test_adam_is_that_of_reddi_with_the_bias_correction_of_flower(self):
        # Delta 4, m = 0.1 * 4, v = 0.01 * 16; Flower counts the correction from round + 1.
        (first,) = after("fedadam", TWO[:1], server_learning_rate=0.5)
        step = 0.5 * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
        np.testing.assert_allclose(first.tensors["x"], step * 0.4 / (np.sqrt(0.16) + 1e-3), rtol=1e-6)

    def test_yogi_is_that_of_reddi(self):
        # v = 0 - 0.01 * 16 * sign(0 - 16) = 0.16; x = 0.5 * 0.4 / (0.4 + 0.001).
        first, second = after("fedyogi", TWO, server_learning_rate=0.5)
        x = 0.5 * 0.4 / (0.4 + 1e-3)
        np.testing.assert_allclose(first.tensors["x"], x, rtol=1e-6)
        delta = 4 - x
        v = 0.16 - 0.01 * delta**2 * np.sign(0.16 - delta**2)
        m = 0.9 * 0.4 + 0.1 * delta
        np.testing.assert_allclose(second.tensors["x"], x + 0.5 * m / (np.sqrt(v) + 1e-3), rtol=1e-5)

    def test_an_adaptive_step_is_smaller_by_a_larger_tau(self):
        small, large = (after("fedyogi", TWO[:1], server_adaptivity=tau)[0].tensors["x"][0] for tau in (1e-3, 1.0))
        assert small > 3 * large > 0

    def test_median_and_trimmed_mean_pass_over_one_site_that_lies(self):
        updates = {
            name: update(value, weight=100.0 if name == "e" else 1.0)
            for name, value in zip("abcde", [1, 2, 3, 4, 1e6], strict=True)
        }
        (median,) = after("fedmedian", [updates])
        (trimmed,) = after("fedtrimmedavg", [updates], trim=0.2)
        assert median.tensors["x"] == 3.0
        assert trimmed.tensors["x"] == 3.0  # (2 + 3 + 4) / 3: of five, a fifth at either end is one.
        assert after("fedavg", [updates])[0].tensors["x"] > 1e5

    def test_no_site_is_trimmed_where_the_share_is_less_than_one(self):
        (mean,) = after("fedtrimmedavg", [{"a": update(1), "b": update(2), "c": update(6)}], trim=0.2)
        assert mean.tensors["x"] == 3.0


class NoGrid:
    """Flower's ``configure_train`` asks a grid for nodes; there are none to sample."""

    def get_node_ids(self):
        return [1]


class TestState:
    @pytest.mark.parametrize(
        ("name", "theirs"),
        [
            (
                "fedavgm",
                FedAvgM(min_available_nodes=1, min_train_nodes=1, server_learning_rate=0.7, server_momentum=0.8),
            ),
            ("fedadam", FedAdam(min_available_nodes=1, min_train_nodes=1, eta=0.7, beta_1=0.8, beta_2=0.99, tau=0.01)),
            ("fedyogi", FedYogi(min_available_nodes=1, min_train_nodes=1, eta=0.7, beta_1=0.8, beta_2=0.99, tau=0.01)),
        ],
    )
    def test_leads_to_the_model_of_one_strategy_that_lives_through_all_rounds(self, name, theirs, monkeypatch):
        from flwr.supercore.task_identity import TaskIdentity

        for number, key in enumerate(("run_id", "node_id", "task_id"), 1):
            monkeypatch.setattr(TaskIdentity, f"_{key}", number)
        rng = np.random.default_rng(0)
        start = {"b": rng.normal(size=3).astype(np.float32), "a": rng.normal(size=(2, 2)).astype(np.float32)}
        ours, record = ServerModel(start), ArrayRecord({key: Array(values) for key, values in start.items()})
        how = settings(name, server_learning_rate=0.7, server_momentum=0.8, server_adaptivity=0.01)
        for number in range(1, 5):
            moved = {
                site: {
                    key: values + rng.normal(size=values.shape).astype(np.float32)
                    for key, values in ours.tensors.items()
                }
                for site in "xy"
            }
            updates = {site: Update(tensors, weight=1.0 + (site == "y")) for site, tensors in moved.items()}
            list(theirs.configure_train(number, record, ConfigRecord(), NoGrid()))
            arrays, _ = theirs.aggregate_train(number, [_as_reply(updates[site]) for site in "xy"])
            record = ArrayRecord({key: Array(array.numpy().astype(np.float32)) for key, array in arrays.items()})
            ours = combine(how, number, ours, updates)
            for key, array in record.items():
                np.testing.assert_allclose(ours.tensors[key], array.numpy(), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("strategy", STATEFUL)
    def test_of_a_killed_campaign_is_taken_up_where_it_was(self, tmp_path, strategy):
        def run(name: str, watcher: Watcher) -> RunFolder:
            changes = (f"federation.strategy={strategy}", "finetune.rounds=4", "pretrain.enabled=false")
            config = tiny(tmp_path, f"run.folder={tmp_path / name}", *changes)
            folder = RunFolder(tmp_path / name)
            folder = folder if folder.record() else RunFolder.create(config)
            Campaign(config, FakeFederation(), folder, watcher).run()
            return folder

        undisturbed = run("whole", Watcher())
        with pytest.raises(KeyboardInterrupt):
            run("killed", Watcher(stop_after=2))
        resumed = run("killed", Watcher())
        assert rounds_of(resumed.path) == rounds_of(undisturbed.path)
        whole, killed = (folder.load_checkpoint() for folder in (undisturbed, resumed))
        assert whole.moments.keys() == killed.moments.keys() != set()
        for part in ("tensors", "moments"):
            for name, values in getattr(whole, part).items():
                np.testing.assert_array_equal(values, getattr(killed, part)[name])


@pytest.mark.parametrize("strategy", ALL)
class TestAnyStrategy:
    @given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6), weight=st.floats(0.5, 1000))
    def test_gives_tensors_of_the_same_names_shapes_and_types_whatever_order_the_sites_came_in(
        self, strategy, values, weight
    ):
        updates = {f"s{place}": update(value, -value, weight=weight) for place, value in enumerate(values)}
        turned = dict(reversed(updates.items()))
        before = ServerModel({"x": np.zeros(2, np.float32)})
        one, other = (combine(settings(strategy), 1, before, given_) for given_ in (updates, turned))
        assert one.tensors["x"].shape == (2,)
        assert one.tensors["x"].dtype == np.float32
        np.testing.assert_array_equal(one.tensors["x"], other.tensors["x"])

    def test_leaves_alone_what_no_site_changed(self, strategy):
        before = ServerModel({"x": np.array([0.25, -3.0], np.float32)})
        stayed = {site: Update(dict(before.tensors), weight=1.0) for site in "abc"}
        np.testing.assert_array_equal(combine(settings(strategy), 1, before, stayed).tensors["x"], before.tensors["x"])

    def test_averages_whole_numbers_which_have_no_gradient(self, strategy):
        before = ServerModel({"x": np.zeros(1, np.float32), "count": np.array([10], np.int64)})
        updates = {
            site: Update({"x": np.ones(1, np.float32), "count": np.array([count], np.int64)}, weight=weight)
            for site, count, weight in (("a", 12, 1.0), ("b", 16, 2.0))
        }
        later = combine(settings(strategy), 1, before, updates)
        assert later.tensors["count"].dtype == np.int64
        assert later.tensors["count"] == 15  # (12 + 2 * 16) / 3 is 14.67.
        assert list(later.tensors) == ["x", "count"]
        assert not any("count" in name for name in later.moments)
