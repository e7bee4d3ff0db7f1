"""What a study says of arms whose measures are known: means, sums of cost, differences, and tables for other programs."""

import json

import numpy as np
import pandas as pd
import pytest

from simulations.studies.arms import Arm, Group
from simulations.studies.comparing import Measures
from simulations.studies.study_cli import lines_of
from simulations.studies.study_json import write_study
from simulations.studies.summary import Ended, compared, own_measures

REPLICATES = 40


def ended(topology: str, seed: int, auroc: float, site: int | None = None, start: str = "scratch") -> Ended:
    """An arm whose every class and replicate is near one value, moving alike in all arms."""
    moves = np.random.default_rng(seed).normal(0, 0.01, (REPLICATES, 1))
    areas = np.concatenate([np.full((1, 5), auroc), auroc + moves + np.zeros((1, 5))])
    arm = Arm(Group(topology, start), seed, site)
    row = {
        "name": arm.name, "seed": seed, "delta": None, "status": "done", "interval": None,
        "site": None if site is None else f"site-{site}", "by_site": on_sites({"site-0": auroc, "site-1": auroc - 0.1}),
        "auroc": auroc, "auprc": 0.5, "f1": None, "micro_f1": 0.4, "own": auroc,
        "seconds": 2.0, "bytes": 100, "records_seen": 10, "settings": {},
    }  # fmt: skip
    return Ended(arm, row, Measures(areas, areas, np.full(5, np.nan), 0.4, {}))


def on_sites(areas):
    """Measures of which the AUROC alone is told apart."""
    return {site: {"auroc": area, "auprc": 0.5, "micro_f1": 0.4} for site, area in areas.items()}


def areas_of(group):
    return {site: told["auroc"] for site, told in group["by_site"].items()}


def mean_or_none(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def found(arms, sites=None):
    summary = compared(arms, sites or {0: 2, 1: 2})
    return {(row["topology"], row["start"]): row for row in summary["groups"]}, summary["differences"]


def test_a_group_is_the_mean_over_seeds_and_a_local_one_over_hospitals_first():
    arms = [ended("federated", 0, 0.8), ended("federated", 1, 0.9)]
    arms += [
        ended("local", seed, value, site) for seed, site, value in ((0, 0, 0.6), (0, 1, 0.7), (1, 0, 0.5), (1, 1, 0.8))
    ]
    groups, _ = found(arms)
    assert groups["federated", "scratch"]["values"] == pytest.approx([0.8, 0.9])
    assert groups["local", "scratch"]["values"] == pytest.approx([0.65, 0.65])
    assert groups["federated", "scratch"]["auroc"] == pytest.approx(0.85)


def test_cost_is_that_of_all_hospitals_and_a_mean_over_seeds():
    arms = [ended("federated", seed, 0.8) for seed in (0, 1)]
    arms += [ended("local", seed, 0.8, site) for seed in (0, 1) for site in (0, 1)]
    groups, _ = found(arms)
    assert (groups["federated", "scratch"]["seconds"], groups["local", "scratch"]["seconds"]) == (2.0, 4.0)
    assert (groups["federated", "scratch"]["bytes"], groups["local", "scratch"]["records_seen"]) == (100, 20)


def test_a_seed_that_lacks_a_hospital_stands_in_no_mean():
    groups, _ = found([ended("local", 0, 0.6, 0), ended("local", 0, 0.7, 1), ended("local", 1, 0.9, 0)])
    assert groups["local", "scratch"]["seeds"] == [0]
    assert not groups["local", "scratch"]["complete"]


def test_a_difference_is_over_the_seeds_that_both_have_and_its_interval_is_paired():
    arms = [ended("federated", 0, 0.8), ended("federated", 1, 0.9), ended("federated", 1, 0.95, start="transferred")]
    _, differences = found(arms)
    (row,) = differences
    assert (row["kind"], row["seeds"]) == ("transferred - scratch", [1])
    assert row["difference"] == pytest.approx(0.05)
    # Both moved alike in every replicate.
    assert row["interval"] == pytest.approx((0.05, 0.05))
    assert row["p"] == pytest.approx(2 / (REPLICATES + 1))


class TestOwnRecords:
    """Each hospital's own records, scored by the model that it would use."""

    def of(self, arms, by_site):
        for arm, areas in zip(arms, by_site, strict=True):
            arm.row["by_site"] = on_sites(areas)
            arm.row["own"] = mean_or_none([told["auroc"] for told in own_measures(arm.row).values()])
        (group,) = compared(arms, {0: 2, 1: 2})["groups"]
        return group

    def test_a_common_model_is_measured_on_every_hospital(self):
        arms = [ended("federated", seed, 0.8) for seed in (0, 1)]
        group = self.of(arms, [{"site-0": 0.9, "site-1": 0.7}, {"site-0": 0.8, "site-1": 0.4}])
        # (0.9 + 0.7) / 2 = 0.8 and (0.8 + 0.4) / 2 = 0.6.
        assert group["own"] == pytest.approx(0.7)
        assert areas_of(group) == pytest.approx({"site-0": 0.85, "site-1": 0.55})

    def test_a_model_of_one_hospital_is_measured_there_alone(self):
        arms = [ended("local", seed, 0.8, site) for seed in (0, 1) for site in (0, 1)]
        others = {"site-0": 0.1, "site-1": 0.2}
        group = self.of(
            arms, [{**others, f"site-{arm.arm.site}": own} for arm, own in zip(arms, (0.9, 0.7, 0.8, 0.4), strict=True)]
        )
        assert group["own"] == pytest.approx(0.7)
        assert areas_of(group) == pytest.approx({"site-0": 0.85, "site-1": 0.55})
        # The groups' areas are on the records of all.
        assert group["auroc"] == pytest.approx(0.8)

    def test_a_hospital_where_no_class_can_be_measured_is_left_out(self):
        arms = [ended("local", seed, 0.8, site) for seed in (0, 1) for site in (0, 1)]
        group = self.of(arms, [{"site-0": 0.9}, {"site-1": None}, {"site-0": None}, {"site-1": None}])
        assert group["own"] == pytest.approx(0.9)
        assert areas_of(group) == {"site-0": 0.9, "site-1": None}
        assert self.of([ended("federated", 0, 0.8)], [{"site-0": None}])["own"] is None


def test_test_records_of_which_no_class_can_be_measured_give_no_number_and_no_difference(tmp_path):
    arms = [ended("federated", 0, np.nan), ended("centralized", 0, np.nan)]
    for arm in arms:
        arm.row.update(auroc=None, own=None, by_site={})
    summary = compared(arms, {0: 2})
    told = [(group["values"], group["auroc"], group["interval"]) for group in summary["groups"]]
    assert told == [([None], None, None)] * 2
    assert summary["differences"] == []
    write_study(summary, tmp_path)
    assert "macro AUROC –" in lines_of({**summary, "notes": []})[0]


class TestBaselines:
    def test_their_groups_are_marked_and_no_other(self):
        groups, differences = found([ended("centralized", 0, 0.8), ended("centralized", 0, 0.7, start="boosting")])
        assert {start: row["baseline"] for (_, start), row in groups.items()} == {"scratch": False, "boosting": True}
        (row,) = differences
        assert row["kind"] == "scratch - boosting"
        assert (row["of"]["baseline"], row["against"]["baseline"]) == (False, True)
        assert row["difference"] == pytest.approx(0.1)


def test_the_tables_hold_what_the_json_holds(tmp_path):
    summary = compared([ended("federated", 0, 0.8), ended("centralized", 0, 0.9)], {0: 2})
    write_study({**summary, "classes": []}, tmp_path)
    assert json.loads((tmp_path / "study.json").read_text())["groups"][0]["auroc"] == pytest.approx(0.8)
    arms = pd.read_csv(tmp_path / "arms.csv")
    assert arms["auroc"].tolist() == [0.8, 0.9]
    by_class = pd.read_csv(tmp_path / "by_class.csv")
    assert len(by_class) == 10
    assert set(by_class["class"]) == {"NORM", "MI", "STTC", "CD", "HYP"}
    differences = pd.read_csv(tmp_path / "differences.csv")
    assert differences[["kind", "of_topology", "against_topology"]].to_numpy().tolist() == [
        ["federated - centralized", "federated", "centralized"]
    ]
    assert differences["difference"].tolist() == pytest.approx([-0.1])
