"""The numbers and the four tables of a study by the paper's protocol."""

import csv
import io

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from simulations.studies.paper_tables import long_csv, measures, tables_of


@pytest.mark.parametrize("scale", [1.0, 1e-6, 200.0])
def test_accuracy_and_auroc_are_scikit_learns_however_sure_the_network_is(scale):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, 300)
    logits = (rng.normal(size=(300, 5)) + 1.5 * np.eye(5)[classes]).astype(np.float32) * np.float32(scale)
    weights = np.stack([np.ones(300), rng.poisson(1, 300)]).astype(np.uint8)
    found = measures(logits, classes, weights)
    others = [np.delete(logits.astype(np.longdouble), c, axis=1) for c in range(5)]
    tops = [part.max(axis=1) for part in others]
    odds = np.stack(
        [
            (logits[:, c] - top - np.log(np.exp(part - top[:, None]).sum(axis=1))).astype(float)
            for c, (part, top) in enumerate(zip(others, tops, strict=True))
        ],
        axis=1,
    )
    for row, weight in enumerate(weights):
        aurocs = [roc_auc_score(classes == c, odds[:, c], sample_weight=weight) for c in range(5)]
        assert found[row, 0] == pytest.approx(accuracy_score(classes, logits.argmax(1), sample_weight=weight))
        assert found[row, 1] == pytest.approx(np.mean(aurocs), abs=1e-6)


def row(start, target="", auroc=0.9, gain=None):
    paper = {("scratch", ""): 0.884, ("real", "qrs"): 0.906, ("synthetic", "qrs"): 0.876}[start, target]
    told = {"start": start, "target": target, "records": 100, "seeds": [0], "paper": {"accuracy": 0.78, "auroc": paper}}
    for name, value in (("accuracy", 0.7), ("auroc", auroc)):
        told |= {name: value, f"{name}_interval": [value - 0.01, value + 0.01]}
        told |= {f"{name}_gain": gain, f"{name}_gain_interval": None if gain is None else [gain - 0.02, gain + 0.02]}
    return told


CLASSIFICATION = [row("scratch"), row("real", "qrs", 0.91, 0.01), row("synthetic", "qrs", 0.88, -0.02)]
REGRESSION = [
    {"origin": "synthetic", "target": "hr", "unit": "bpm", "mae": 2.0, "median_mae": 8.0}
    | {"paper": {"mae": 0.706, "median_mae": 6.0}},
    {"origin": "real", "target": "pr", "unit": "ms", "mae": 12.34, "median_mae": 16.0, "paper": None},
]


def test_the_four_tables_stand_beside_the_papers_numbers():
    one, two, three, four = tables_of(REGRESSION, CLASSIFICATION, "sound")
    assert one.rows == [["HR (bpm)", "2.00", "8.00", "0.25", "0.71", "6.00"]]
    assert two.rows == [["PR (ms)", "12.3", "16.0", "0.77", "–", "–"]]
    scratch = ["scratch", "0.700 [0.690, 0.710]", "0.900 [0.890, 0.910]", "–", "0.780", "0.884", "–"]
    # The paper: .906 - .884 = +.022 and .876 - .884 = -.008.
    assert three.rows == [
        scratch,
        ["from QRS", "0.700 [0.690, 0.710]", "0.910 [0.900, 0.920]", "+0.010 [-0.010, +0.030]", "0.780", "0.906", "+0.022"],
    ]  # fmt: skip
    assert four.rows[0] == scratch
    assert four.rows[1][3:] == ["-0.020 [-0.040, +0.000]", "0.780", "0.876", "-0.008"]
    assert "test records" in one.title
    assert "validation records" in tables_of(REGRESSION, CLASSIFICATION, "faithful")[0].title


def test_markdown_has_a_row_a_line_of_equal_width():
    lines = [line for line in tables_of(REGRESSION, CLASSIFICATION, "sound")[2].markdown().splitlines() if "|" in line]
    assert len(lines) == 2 + 2
    assert len({line.count("|") for line in lines}) == 1


def test_the_csv_holds_every_number_unrounded():
    told = list(csv.DictReader(io.StringIO(long_csv(REGRESSION, CLASSIFICATION))))
    (error,) = [line for line in told if line["table"] == "2" and line["measure"] == "mae"]
    assert (error["target"], error["value"], error["paper"]) == ("pr", "12.34", "")
    (gain,) = [line for line in told if line["table"] == "4" and line["measure"] == "auroc_gain" and line["target"]]
    assert float(gain["value"]) == -0.02
    assert float(gain["low"]) == pytest.approx(-0.04)
    # From scratch stands in tables 3 and 4.
    assert [line["table"] for line in told if line["start"] == "scratch" and line["measure"] == "auroc"] == ["3", "4"]
