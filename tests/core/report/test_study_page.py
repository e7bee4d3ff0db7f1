"""The report of a study: what it says of finished, unfinished and damaged ones, and that it is one safe page."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_studies import CLASSES, hostile_study, made_study, unfinished_study

from core.errors import DataError
from core.report import study_tables, study_words
from core.report.study_page import render_study, write_privacy_curve, write_study_report
from core.report.study_record import study_from

SMALL = {"topologies": ("centralized", "federated"), "starts": ("scratch",), "seeds": (0, 1)}


def words(html: str) -> str:
    """The text of a page without its figures; every white space is one space."""
    bare = re.sub(r"(?s)<(style|svg).*?</\1>", " ", html)
    return " ".join(re.sub(r"<[^>]+>", " ", bare).replace("&#39;", "'").split())


def page(told: dict[str, Any]) -> str:
    return render_study(study_from(told))


def group(told: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    return next(row for row in told["groups"] if all(row[name] == value for name, value in wanted.items()))


def set_score(row: dict[str, Any], auroc: float | None, interval: list[float] | None = None) -> None:
    row |= {"auroc": auroc, "interval": interval}


def test_the_headline_holds_the_best_private_federated_arm_against_the_best_open_centralized_one() -> None:
    told = made_study(seeds=(0, 1, 2))
    for row in told["groups"]:
        set_score(row, 0.6)
    set_score(group(told, topology="federated", start="transferred", epsilon=8.0), 0.8641, [0.8402, 0.8858])
    set_score(group(told, topology="centralized", start="scratch", epsilon=None), 0.9002, [0.8801, 0.9187])
    # Better, but federated, or private, or measured at each hospital by itself.
    set_score(group(told, topology="federated", epsilon=None), 0.95)
    set_score(group(told, topology="centralized", epsilon=8.0), 0.96)
    set_score(group(told, topology="local", epsilon=8.0), 0.97)
    told["differences"] = []
    # 0.8641 - 0.9002 = -0.0361
    assert (
        "At ε 8 (δ 0.0001, per patient), federated training (transferred) reaches a macro AUROC of 0.864 (95 % interval "
        "0.840–0.886, 3 seeds); the best centralized training without privacy (scratch) reaches 0.900 (95 % interval "
        "0.880–0.919, 3 seeds): a difference of −0.036."
    ) in words(page(told))


def test_the_paired_difference_of_the_two_is_told_where_the_study_has_it() -> None:
    told = made_study()
    row = told["differences"][-1]
    row |= {"difference": -0.0312, "interval": [-0.0449, 0.0021]}
    assert ": a paired difference of −0.031 (95 % interval −0.045 to +0.002)." in words(page(told))


def test_epsilon_of_records_is_no_headline_where_patients_are_protected() -> None:
    told = made_study(units=("patient", "record"))
    set_score(group(told, topology="federated", start="scratch", unit="record"), 0.99)
    assert "per patient), federated" in study_words.verdict(study_from(told))
    told["groups"] = [row for row in told["groups"] if row["unit"] != "patient"]
    assert "per record), federated training (scratch) reaches a macro AUROC of 0.990" in words(page(told))


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ({"topology": "federated", "epsilon": 8.0}, "there is no centralized arm without privacy to hold it against."),
        ({"topology": "centralized", "epsilon": None}, "no private federated arm has a score."),
        (
            {"topology": "local", "epsilon": 8.0},
            "no network that is federated and private, or centralized and not private",
        ),
        ({"topology": "nothing"}, "No arm has a score yet."),
    ],
)
def test_a_study_without_one_of_the_two_says_so(kept: dict[str, Any], sentence: str) -> None:
    told = made_study()
    told["groups"] = [row for row in told["groups"] if all(row[name] == value for name, value in kept.items())]
    assert sentence in words(page(told))


def test_a_finished_study_has_no_banner_and_an_unfinished_one_says_first_what_is_missing() -> None:
    assert "Unfinished" not in page(made_study())
    html = page(unfinished_study(**SMALL))
    # 2 topologies x 2 epsilons x 2 seeds = 8 arms: the second failed, the last three (from 2 * 8 // 3 = 5) wait.
    assert (
        "Unfinished study. 4 of 8 arms are done, 3 not yet run, 1 failed. Missing: "
        "federated, scratch, ε 8 (seed 1); federated, scratch, not private (seeds 0, 1); centralized, scratch, ε 8 (seed 1)."
    ) in words(html)
    assert html.index("Unfinished study") < html.index('class="verdict"')
    assert "1 of 2 seeds" in words(html)


def test_a_study_that_has_just_begun_is_a_page_as_well() -> None:
    told = unfinished_study(**SMALL) | {"groups": [], "differences": [], "hospitals": [], "arms": []}
    said = words(page(told))
    assert "This study has no arms yet." in said
    assert "0 of 0 arms are done." in said
    for empty in ({}, dict.fromkeys(told)):
        assert words(page(empty)).startswith("Study · cardiofed")


def test_failed_arms_are_told_with_their_reason() -> None:
    told = unfinished_study(**SMALL)
    assert study_tables.failed(study_from(told))["rows"] == [
        ["centralized-scratch-epsilon-8-patient-seed-1", "site-1 ran out of memory; lower finetune.batch_size."]
    ]
    assert "Failed arms Arm Reason centralized-scratch-epsilon-8-patient-seed-1 site-1 ran out" in words(page(told))


def test_a_cell_of_the_headline_table_shows_mean_interval_and_where_each_seed_lies() -> None:
    told = made_study(**SMALL)
    for row, values in zip(told["groups"], ([0.6, 0.7], [0.8, 0.9], [0.65, 0.75], [1.0, 0.7]), strict=True):
        row["values"] = values
    set_score(group(told, topology="centralized", epsilon=8.0), 0.65, [0.61, 0.69])
    table = study_tables.headline(study_from(told))
    assert table["columns"] == ["centralized", "federated"]
    assert [row["remark"].replace("\u00a0", " ") for row in table["rows"]] == ["not private", "ε 8"]
    cell = table["rows"][1]["cells"][0]
    assert (cell["value"], cell["interval"]) == ("0.650", "0.610–0.690")
    # The scale is from 0.6 to 1.0: 0.7 lies at a quarter of it.
    assert [dot["at"] for dot in cell["dots"]] == ["0.0", "25.0"]
    assert table["scale"] == ["0.600", "1.000"]


def test_what_hospitals_reach_on_their_own_records_stands_in_the_headline_table() -> None:
    told = made_study(**SMALL)
    group(told, topology="federated", epsilon=8.0)["own"] = 0.8125
    group(told, topology="centralized", epsilon=8.0)["own"] = None
    cells = study_tables.headline(study_from(told))["rows"][1]["cells"]
    assert [cell["own"] for cell in cells] == ["", "0.812"]
    html = words(page(told))
    assert "on own records 0.812" in html
    assert "scored by the model that it would use (its own where it has one, else that of all)" in html
    for row in told["groups"]:
        row.pop("own", None)
    assert "own records" not in words(page(told)).split("Macro AUROC by site")[0]


def test_baselines_are_told_apart_and_promise_nothing() -> None:
    told = made_study(baselines=True)
    for row in told["groups"]:
        set_score(row, 0.7)
    # Better than all networks, and yet no network.
    set_score(group(told, start="boosting"), 0.951, [0.93, 0.97])
    said = words(page(told))
    assert "Best baseline, without a network 0.951 0.930–0.970 · boosting, not private" in said
    assert "centralized training without privacy (scratch) reaches 0.700" in said
    assert "Majority, logistic and boosting have no network" in said
    assert "Arms that are not private, baselines among them, promise nothing." in said
    headline = {row["label"]: row for row in study_tables.headline(study_from(told))["rows"]}
    assert headline["boosting"]["remark"].replace("\u00a0", " ") == "not private"
    assert [cell["value"] for cell in headline["logistic"]["cells"]] == ["0.700", "0.700", "–"]
    arms = [row["cells"] for row in study_tables.arms(study_from(told))["rows"] if "boosting" in row["cells"][0]]
    assert len(arms) == 3
    assert {cells[4] for cells in arms} == {"no bound"}


def test_a_study_without_baselines_says_nothing_of_them() -> None:
    assert "aseline" not in words(page(made_study()))


def test_a_combination_that_was_not_studied_is_a_dash() -> None:
    told = made_study(**SMALL)
    told["groups"] = [row for row in told["groups"] if (row["topology"], row["epsilon"]) != ("federated", None)]
    table = study_tables.headline(study_from(told))
    assert [[cell["value"] != "–" for cell in row["cells"]] for row in table["rows"]] == [[True, False], [True, True]]


def test_tables_go_from_no_privacy_to_the_least_epsilon_of_each_unit() -> None:
    told = made_study(
        epsilons=(1.0, None, 8.0), units=("patient", "record"), topologies=("local", "federated"), starts=("scratch",)
    )
    order = [(row.key.topology, row.key.unit, row.key.epsilon) for row in study_words.ordered(study_from(told).groups)]
    each = [("", None), ("patient", 8.0), ("patient", 1.0), ("record", 8.0), ("record", 1.0)]
    assert order == [(topology, *rest) for topology in ("federated", "local") for rest in each]


def test_many_sites_are_told_by_least_median_and_greatest() -> None:
    told = made_study(**SMALL)
    for row in told["groups"]:
        row["by_site"] = {f"site-{i}": 0.5 + i / 100 for i in range(41)} | {"empty": None}
    table = study_tables.sites(study_from(told))
    assert table["columns"] == ["Arms", "Least", "Median", "Greatest", "Sites"]
    # 0.5 + 0, 20 and 40 hundredths, of the 41 sites that have a score.
    assert [cell["value"] for cell in table["rows"][0][1:]] == ["0.500", "0.700", "0.900", "41"]


def test_sites_have_average_precision_and_f1_beside_the_auroc() -> None:
    told = made_study(**SMALL)
    told["groups"][0]["by_site"] = {"here": {"auroc": 0.9, "auprc": 0.5284, "micro_f1": 0.688}, "there": 0.8}
    for group in told["groups"][1:]:
        group["by_site"] = {}
    (row,) = study_tables.sites(study_from(told))["rows"]
    assert row[1:] == [
        {"value": "0.900", "interval": "mAP\u00a00.528 · F1\u00a00.688"},
        # A study of an earlier release.
        {"value": "0.800", "interval": ""},
    ]


def test_scores_by_class_have_their_intervals() -> None:
    told = made_study(**SMALL)
    told["groups"][1]["by_class"]["HYP"] = {"auroc": 0.7512, "interval": [0.7, 0.8]}
    first = study_tables.classes(study_from(told))["rows"][0]
    assert first[len(CLASSES)] == {"value": "0.751", "interval": "0.700–0.800"}


def test_unevenness_is_the_mean_total_variation_from_the_pooled_class_mix() -> None:
    told = made_study(**SMALL)
    sites = [
        {"name": "a", "patients": 9, "records": 10, "test_patients": 3, "classes": {"NORM": 10, "MI": 0}},
        {"name": "b", "patients": 25, "records": 30, "test_patients": 3, "classes": {"NORM": 10, "MI": 20}},
    ]
    told["hospitals"] = [{"seed": 4, "sites": sites}]
    # Pooled (1/2, 1/2); a (1, 0) is 1/2 away, b (1/3, 2/3) is 1/6: on average 1/3.
    assert study_tables.hospitals(study_from(told))["rows"] == [["4", "2", "9–25", "10–30", "3", "0.33"]]
    assert "Training records of each class at each site, seed 4" in words(page(told))


def test_every_promise_is_told_with_delta_and_unit() -> None:
    said = words(page(made_study(units=("patient", "record"), epsilons=(2.0, 8.0, None))))
    for promise in ("ε 2 (δ 0.0001, per patient)", "ε 8 (δ 0.0001, per record)"):
        assert promise in said
    assert "No arm with a score is private" in words(page(made_study(epsilons=(None,))))


def test_every_arm_is_listed_with_what_it_changes_and_what_it_spent() -> None:
    said = words(page(made_study(**SMALL)))
    assert "Every arm (8) and what it changes" in said
    # Spent 7.996, rounded up.
    assert "8.00 4 min 19 s privacy.epsilon = 8.0, federation.sites = 4, run.seed = 0 arms/centralized-scratch" in said
    assert "no bound 1 min 48 s privacy.epsilon = null" in said


def test_where_the_numbers_come_from_is_told() -> None:
    said = words(page(made_study()))
    for fact in ("4f0c9b1d" * 8, "1, 2, 3, 4, 5, 6, 7, 8", "9, 10", "0.1.0", "cardiofed compare configs/ptbxl.toml"):
        assert fact in said
    assert "the 391 shared test records of 364 patients" in said


def test_hostile_words_are_escaped_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(hostile_study()), encoding="utf-8")
    html = write_study_report(tmp_path).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html
    _Balanced().feed(html)


def test_the_page_asks_for_nothing_and_no_id_comes_twice() -> None:
    html = page(made_study("privacy-curve", epsilons=(1.0, 8.0, None), audits=(8.0,)))
    assert "<script" not in html
    assert "<img" not in html
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<>)]+", html)) <= {"http://www.w3.org/2000/svg"}
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    _Balanced().feed(html)


def test_equal_studies_give_equal_bytes_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(made_study(**SMALL)), encoding="utf-8")
    first = write_study_report(tmp_path).read_bytes()
    assert write_study_report(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "study.json"]


@pytest.mark.parametrize("content", [None, "", "[1]", '{"kind": ', "\xff"])
def test_a_folder_without_a_readable_study_is_refused_in_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "study.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"study\.json.*: (name a folder|run the study's command)"):
        write_study_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


_BASE = made_study(**SMALL, epsilons=(1.0, 8.0, None), audits=(8.0,))
_BASE["groups"].append(_BASE["groups"][0] | {"patients": 20})
_JUNK: tuple[Any, ...] = (None, [], {}, "", "x", 0, -1, True, float("inf"), float("nan"), [None], {"auroc": None})


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*([at] if at else []), *(path for name, item in inside for path in _paths(item, (*at, name)))]


# Each kind of field once in three draws, however many arms there are.
_SHAPES: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
for _path in _paths(_BASE):
    _SHAPES.setdefault(tuple("*" if isinstance(part, int) else part for part in _path), []).append(_path)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(_SHAPES)), st.sampled_from(("all", "first")), st.sampled_from((*_JUNK, "missing"))
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_is_missing_or_of_another_type_the_rest_is_shown(harms: list[tuple[Any, str, Any]]) -> None:
    told = copy.deepcopy(_BASE)
    for shape, which, junk in harms:
        for path in _SHAPES[shape][: 1 if which == "first" else None]:
            _harm(told, path, junk)
    html = page(told)
    _Balanced().feed(html)
    assert not re.search(r">\s*(None|nan|NaN|inf|null)\s*<", html)
    assert 'id="provenance"' in html


def _harm(told: Any, path: tuple[Any, ...], junk: Any) -> None:
    for part in path[:-1]:
        try:
            told = told[part]
        except (KeyError, IndexError, TypeError):  # harmed before
            return
    if isinstance(told, dict) and junk == "missing":
        told.pop(path[-1], None)
    elif isinstance(told, dict) or (isinstance(told, list) and isinstance(path[-1], int) and path[-1] < len(told)):
        told[path[-1]] = None if junk == "missing" else copy.deepcopy(junk)


def test_the_privacy_curve_alone_is_an_svg_with_colours_and_size_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    write_privacy_curve(made_study("privacy-curve", epsilons=(1.0, 8.0, None), units=("patient", "record")), path)
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"macro AUROC, ε per patient", "macro AUROC, ε per record", "federated, transferred", "chance"} <= set(said)
    assert "var(" not in text
    assert "currentColor" not in text
    x, y, width, height = map(float, root.attrib["viewBox"].split())
    assert float(root.attrib["width"]) / float(root.attrib["height"]) == pytest.approx(width / height, rel=0.01)
    paper = root.find("{http://www.w3.org/2000/svg}rect")
    assert paper is not None
    assert [float(paper.attrib[name]) for name in ("x", "y", "width", "height")] == [x, y, width, height]


def test_a_study_with_one_epsilon_has_no_privacy_curve_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fewer than two epsilons"):
        write_privacy_curve(made_study(), tmp_path / "curve.svg")
    assert list(tmp_path.iterdir()) == []


class _Balanced(HTMLParser):
    """Fails where elements are not closed in the order in which they were opened."""

    _VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "html":
            assert not self._open
