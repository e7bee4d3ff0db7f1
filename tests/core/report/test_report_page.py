"""The report of a run: what it says of each kind of run, and that it is one safe, self-contained page."""

import copy
import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_runs import SITES, TARGETS, contents, noised_contents, report, write_run

from core.ecg.labels import SUPERCLASSES
from core.errors import DataError
from core.report.page import write_report

VOID_ELEMENTS = {"meta", "link", "br", "hr", "img", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """Tags, attributes and the text of each section of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.words: dict[str, list[str]] = {"header": []}
        self._section = "header"
        self._skip = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if named.get("id"):
            self.ids.append(named["id"] or "")
        if tag == "dl" and named.get("class") == "headline":
            self._section = "headline"
        if tag == "section":
            self._section = named["aria-labelledby"] or ""
        self.words.setdefault(self._section, [])
        self._skip = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._skip and data.strip():
            self.words[self._section].append(re.sub(r"[ \n]+", " ", data.strip()))

    def text(self, part: str) -> str:
        return " ".join(self.words[part])


def test_the_sections_come_in_the_documented_order(tmp_path: Path) -> None:
    page = Page(report(tmp_path, contents()))
    order = [
        "ran",
        "pretraining",
        "curves",
        "classes",
        "sites",
        "privacy",
        "examples",
        "left-out",
        "provenance",
    ]
    assert [name for name in page.words if name not in ("header", "headline")] == order


def test_the_headline_holds_auroc_with_interval_epsilon_sites_and_records(tmp_path: Path) -> None:
    headline = Page(report(tmp_path, contents())).text("headline")
    # 7.421 + 3 * 0.11 = 7.751 at the site that spent most, rounded up
    for told in (
        "0.891",
        "0.870–0.910",
        "95 % patient bootstrap",
        "7.76",
        "1e-5",
        "patient, add-remove",
        "1\u202f908",
    ):
        assert told in headline
    assert "Simulated hospitals 4" in headline


def test_the_verdict_is_one_plain_sentence(tmp_path: Path) -> None:
    verdict = Page(report(tmp_path, contents(private=False, simulated=False))).text("header")
    assert (
        "Shown two ECGs, one with a diagnosis and one without it, the model picks the right one 89 times in "
        "100 (on 338 held-out ECGs), after training at 4 sites without differential privacy." in verdict
    )


def test_a_simulated_run_carries_the_banner_and_a_real_one_does_not(tmp_path: Path) -> None:
    banner = "Simulated hospitals: not clinical evidence"
    assert banner in Page(report(tmp_path / "a", contents(simulated=True))).text("header")
    assert "not clinical evidence" not in report(tmp_path / "b", contents(simulated=False))


def test_names_that_look_like_tags_stay_text(tmp_path: Path) -> None:
    held = contents()
    held["run"]["name"] = 'x"><img src=x onerror=alert(2)>'
    held["results"]["notes"] = ["</style><script>alert(3)</script>"]
    html = report(tmp_path, held)
    page = Page(html)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text("sites")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


@pytest.mark.parametrize("private", [True, False])
def test_the_page_loads_nothing(tmp_path: Path, private: bool) -> None:
    html = report(tmp_path, contents(private=private))
    page = Page(html)
    loads = [
        value or ""
        for _, attributes in page.tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "srcset", "poster", "data", "action")
    ]
    assert loads  # the empty icon and the SVGs' own marks: the search sees attributes at all
    assert all(value.startswith("#") or value == "data:," for value in loads)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert "@import" not in html
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}


def test_ids_are_unique_and_every_reference_has_its_target(tmp_path: Path) -> None:
    html = report(tmp_path, contents())
    ids = Page(html).ids
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:href="|url\()#([^")]+)', html)) | set(re.findall(r'aria-labelledby="([^"]+)"', html))
    assert referred <= set(ids)


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    first = report(tmp_path / "a", contents())
    assert report(tmp_path / "b", contents()) == first
    assert write_report(tmp_path / "a").read_text(encoding="utf-8") == first


def test_four_examples_fit_in_two_and_a_half_megabytes(tmp_path: Path) -> None:
    report(tmp_path, contents())
    assert (tmp_path / "report.html").stat().st_size < 2_500_000


def test_nothing_but_the_two_results_is_added_to_the_folder(tmp_path: Path) -> None:
    write_run(tmp_path, contents())
    before = {path.name for path in tmp_path.iterdir()}
    write_report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} - before == {"report.html", "results.csv"}


def test_every_figure_has_a_label_for_screen_readers(tmp_path: Path) -> None:
    pictures = [attributes for tag, attributes in Page(report(tmp_path, contents())).tags if tag == "svg"]
    assert len(pictures) == 5 + 4  # charts and examples
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)


def test_charts_take_their_colours_from_the_page_and_ecgs_keep_their_paper(tmp_path: Path) -> None:
    html = report(tmp_path, contents())
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    charts = [picture for picture in pictures if "on paper" not in picture[:400]]
    sheets = [picture for picture in pictures if "on paper" in picture[:400]]
    assert (len(charts), len(sheets)) == (5, 4)
    for chart in charts:
        assert "currentColor" in chart
        assert not re.search(r"(fill|stroke): #", chart)
    assert all("fill: #fff8f6" in sheet and "currentColor" not in sheet for sheet in sheets)


def test_pretraining_errors_stand_beside_the_median_baseline(tmp_path: Path) -> None:
    text = Page(report(tmp_path, contents())).text("pretraining")
    # heart rate: median error 11.2 bpm, model 0.104 * 11.2 = 1.1648; QT: 33.1 ms, 3.4424
    assert "Heart rate 1.16 11.2 0.10 bpm 500" in text
    assert "QT interval 3.44 33.1 0.10 ms 500" in text


RICH = {
    "regression": {
        "shared": {
            "axis": {"mae": 8.25, "median_mae": 33.0, "unit": "deg", "records": 500},
            "t": {"mae": 0.2, "median_mae": 0.8, "unit": "lead SD", "records": 500},
        }
    },
    "segmentation": {
        "shared": {
            wave: {
                edge: {"sensitivity": 0.987, "precision": 0.955, "mae": 5.21, "boundaries": 6574}
                for edge in ("onset", "offset")
            }
            for wave in ("p", "qrs", "t")
        }
    },
}


def test_rich_targets_stand_with_their_units_and_what_relative_ones_mean(tmp_path: Path) -> None:
    held = contents()
    held["results"] |= RICH
    text = Page(report(tmp_path, held)).text("pretraining")
    assert "QRS axis 8.25 33.0 0.25 deg 500" in text
    assert "T amplitude 0.20 0.80 0.25 lead SD 500" in text
    assert "amplitudes are told in standard deviations of their lead" in text
    assert "QRS onset 0.987 0.955 5.21 6 574" in text.replace("\u202f", " ")
    assert "within 150 ms" in text


def test_without_a_mask_nothing_is_said_of_boundaries(tmp_path: Path) -> None:
    text = Page(report(tmp_path, contents())).text("pretraining")
    assert "150 ms" not in text
    assert "standard deviations" not in text


def test_classes_of_simulated_patients_are_told_beside_the_errors_and_may_stand_alone(tmp_path: Path) -> None:
    told = {"NORM": {"auroc": 0.912, "records": 210}, "HYP": {"auroc": None, "records": 0}}
    held = contents()
    assert "simulated patients" not in Page(report(tmp_path, held)).text("pretraining").lower()
    held["results"] |= {"regression": {}, "classes": {"class": told}}
    held["metrics"] = [row for row in held["metrics"] if row["phase"] != "pretrain"]
    text = Page(report(tmp_path, held)).text("pretraining")
    assert "Superclasses of simulated patients" in text
    assert "NORM 0.912 210" in text
    assert "No pretraining error" not in text
    assert "From the last finished round" not in text


def test_a_mask_alone_is_told_without_a_table_of_errors(tmp_path: Path) -> None:
    held = contents()
    held["results"] |= {"regression": {}, "segmentation": {"mask": RICH["segmentation"]["shared"]}}
    held["metrics"] = [row for row in held["metrics"] if row["phase"] != "pretrain"]
    text = Page(report(tmp_path, held)).text("pretraining")
    assert "P onset 0.987" in text
    assert "Always the median" not in text
    assert "No pretraining error" not in text


def test_an_interrupted_run_tells_the_boundaries_of_its_last_round(tmp_path: Path) -> None:
    held = contents()
    rounds = [row for row in held["metrics"] if row["phase"] == "pretrain"]
    rounds[-1]["segmentation"] = RICH["segmentation"]["shared"]
    rounds[-1]["unit"] = dict.fromkeys(TARGETS, "lead SD")
    held["results"] = {}
    text = Page(report(tmp_path, held)).text("pretraining")
    assert "QRS offset 0.987" in text
    assert "From the last finished round" in text


def test_a_set_on_disk_is_named_in_the_provenance(tmp_path: Path) -> None:
    held = contents()
    held["run"]["recipe"] = {"hash": "ab12", "path": "sets/deepfake", "rate": 100}
    text = Page(report(tmp_path, held)).text("provenance")
    assert "none: a set on disk (sets/deepfake) at 100 Hz, held by every site" in text


def test_the_class_table_gives_every_score_and_their_mean(tmp_path: Path) -> None:
    text = Page(report(tmp_path, contents())).text("classes")
    assert "NORM 0.931 0.901–0.956 0.781 0.731 0.020 60 338" in text
    assert "Macro mean 0.891 0.870–0.910 0.741 0.691 0.041 – 338" in text
    assert "95 % patient bootstrap, 200 replicates" in text
    assert "noise" not in text


def test_calibration_is_drawn_and_said_in_words(tmp_path: Path) -> None:
    html = report(tmp_path, contents())
    assert "A predicted probability is off by 4.1 points on average" in Page(html).text("classes")
    assert 'aria-label="Share of records with the diagnosis against the predicted probability' in html


def test_a_run_of_an_earlier_release_has_no_calibration(tmp_path: Path) -> None:
    held = contents()
    classification = held["results"]["classification"]
    del classification["calibration"], classification["noise"]
    for row in [*classification["classes"].values(), classification["macro"]]:
        for key in ("ece", "auprc_interval"):
            row.pop(key, None)
    text = Page(report(tmp_path, held)).text("classes")
    assert "NORM 0.931 0.901–0.956 0.781 0.731 60 338" in text
    assert "alibration" not in text
    assert "taken at their word" not in text
    assert "–" not in text.replace("0.901–0.956", "").split("MI")[0]


def test_noised_scores_say_so_and_how_much(tmp_path: Path) -> None:
    page = Page(report(tmp_path, noised_contents()))
    text = page.text("classes")
    assert "Intervals: 95 % interval, sampling and privacy noise, 1 000 replicates." in text
    assert "The score histograms of 4 sites carry privacy noise (noise multiplier 1.23): pooled, a standard" in text
    assert "deviation of 5.51 records in each of the 32 bins" in text
    assert "HYP – – – – – 100 338" in text
    assert "its number cannot be told from the noise" in text
    assert "(on about 338 held-out ECGs)" in page.text("header")
    assert "about 338 held out" in page.text("headline")


def test_an_error_that_noise_hides_is_not_put_in_words(tmp_path: Path) -> None:
    held = noised_contents()
    held["results"]["classification"]["calibration"]["ece"] = None
    text = Page(report(tmp_path, held)).text("classes")
    assert "The expected calibration error cannot be told from the noise." in text


def test_a_noised_number_of_patients_carries_its_deviation(tmp_path: Path) -> None:
    held = noised_contents()
    text = Page(report(tmp_path / "a", held)).text("sites")
    assert "St. Anna cuda:0 371 ± 10 – – – 0.880 12 never" in text
    assert "the sites tell the size of their cohort alone, with noise of the deviation after ±" in text
    held["results"]["privacy"]["sites"][0]["unit"] = "record"
    text = Page(report(tmp_path / "b", held)).text("sites")
    assert "St. Anna cuda:0 – 371 ± 10 – – 0.880 12 never" in text


def test_the_privacy_section_states_what_the_promise_consists_of(tmp_path: Path) -> None:
    text = Page(report(tmp_path, contents())).text("privacy")
    assert "St. Anna 7.43 1e-5 patient add-remove rdp 0.813 0.1 160 1 yes" in text
    assert "PRV" not in text
    assert "test patients" not in text
    assert "Void" not in text
    assert "No differential privacy" not in text
    assert "These numbers carry no noise" in text


def test_a_run_without_noise_says_so_plainly(tmp_path: Path) -> None:
    page = Page(report(tmp_path, contents(private=False)))
    assert "No differential privacy:" in page.text("privacy")
    assert "not private" in page.text("headline")
    assert "ε ≤" not in page.text("header")


def test_epsilons_of_test_patients_this_run_and_prv_stand_beside_it_where_known(tmp_path: Path) -> None:
    held = noised_contents()
    held["results"]["privacy"]["sites"][1]["epsilon_prv"] = None
    text = Page(report(tmp_path, held)).text("privacy")
    assert "Site ε ε by PRV ε of this run ε of test patients δ Protects" in text
    assert "St. Anna 7.43 6.95 5.00 3.99 1e-5 patient add-remove rdp 0.813" in text
    assert "Northern General 7.54 – 5.00 3.99 1e-5" in text
    assert "They are not those it was trained on" in text
    assert "ε by PRV: a tighter figure" in text


def test_a_site_that_only_evaluated_does_not_hide_what_the_others_spent(tmp_path: Path) -> None:
    held = noised_contents()
    last = held["results"]["privacy"]["sites"][3]
    for key in ("epsilon", "noise_multiplier", "steps"):
        del last[key]
    page = Page(report(tmp_path, held))
    # 7.421 + 2 * 0.11 = 7.641 at the third site
    assert "Privacy loss ε 7.65" in page.text("headline")
    assert "Università di Ω – 6.95 5.00 3.99 1e-5" in page.text("privacy")


def parts(text: str) -> list[str]:
    """What leaves in clear, with noise, and not at all."""
    told = text.split("Leaves the sites in clear")[1]
    clear, told = told.split("Leaves with noise")
    return [clear, *told.split("Does not leave")]


def test_what_leaves_in_clear_with_noise_and_not_at_all_is_listed_apart(tmp_path: Path) -> None:
    clear, noised, kept = parts(Page(report(tmp_path, noised_contents())).text("privacy"))
    assert clear.split() == ["Nothing"]
    assert "Scores on the test records" in noised
    assert "Size of each training cohort" in noised
    assert "Model updates: clipped and noised" in noised
    assert "Training loss" in kept
    assert "Records" in kept


def test_a_run_of_an_earlier_release_lists_what_leaves_in_clear(tmp_path: Path) -> None:
    held = contents()
    held["run"]["release"] = ["evaluation"]
    clear, noised, kept = parts(Page(report(tmp_path, held)).text("privacy"))
    assert "Scores on the test records" in clear
    assert "Training loss" in kept
    assert "Counts of records" in kept
    assert "Model updates" in noised
    assert "These numbers carry no noise" in clear


def test_a_void_ledger_entry_is_never_shown_as_privacy(tmp_path: Path) -> None:
    held = contents()
    held["results"]["privacy"]["sites"][1]["void"] = True
    html = report(tmp_path, held)
    page = Page(html)
    assert "void the noise came from a known seed: not private" in page.text("headline")
    assert "which protects nobody" in page.text("header")
    assert "ε ≤" not in page.text("header")
    assert [attributes for tag, attributes in page.tags if tag == "tr"].count({"class": "void"}) == 1


def test_one_site_without_a_known_epsilon_leaves_the_headline_empty(tmp_path: Path) -> None:
    held = contents()
    held["results"]["privacy"]["sites"][0]["epsilon"] = None
    page = Page(report(tmp_path, held))
    assert "Privacy loss ε – unknown at St. Anna" in page.text("headline")
    assert "not recorded for every site" in page.text("header")


def test_an_interrupted_run_reports_its_rounds_and_says_how_far_it_came(tmp_path: Path) -> None:
    held = contents()
    held["run"] |= {"status": "interrupted", "finished": None}
    held["results"], held["metrics"] = None, held["metrics"][:7]
    page = Page(report(tmp_path, held, examples=0))
    assert "The run was interrupted after round 3 of 8 of fine-tuning: there is no evaluation." in page.text("header")
    # 0.891 - 0.2 / 9 = 0.8688
    assert "0.869 after fine-tuning round 3, no interval" in page.text("headline")
    # composed epsilon of round 3: 1 + 0.87 * 3 = 3.61, with delta and unit from the settings
    assert "3.61 δ = 1e-5, patient, relation not recorded, after the last" in page.text("headline")
    assert "A round that was cut off counts as spent too" in page.text("privacy")
    assert "From the last finished round" in page.text("pretraining")
    assert "the run ended before it" in page.text("classes")
    assert "Università di Ω Fine-tuning 3 the site ran out of memory" in page.text("left-out")
    header = "class,auroc,auroc_low,auroc_high,auprc,auprc_low,auprc_high,f1,ece,positives,records\n"
    assert (tmp_path / "results.csv").read_text() == header


def test_a_run_that_failed_before_its_first_round_still_renders(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "early", "status": "failed"}')
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "The run failed before its first round: there is no evaluation." in page.text("header")
    assert "config.toml is missing" in page.text("header")
    assert page.text("headline").count("–") == 3  # AUROC, sites, records


def test_a_line_cut_off_by_a_crash_is_left_out_and_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path, contents())
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "finetune", "rou')
    header = Page(write_report(folder).read_text(encoding="utf-8")).text("header")
    assert "1 line of metrics.jsonl cannot be read" in header


def test_damaged_results_and_examples_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path, contents())
    (folder / "results.json").write_text('{"regression": ')
    (folder / "examples.npz").write_bytes((folder / "examples.npz").read_bytes()[:900])
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "results.json cannot be read" in page.text("header")
    assert "examples.npz cannot be read" in page.text("header")
    assert "Fine-tuning 8 of 8" in page.text("ran")


def test_missing_numbers_print_as_an_en_dash_with_the_reason(tmp_path: Path) -> None:
    held = contents()
    held["run"]["release"]["counts"] = "withheld"
    held["results"]["classification"]["classes"]["HYP"] = {"auroc": None, "auroc_interval": None}
    for site in held["results"]["sites"]:
        for key in ("train_records", "train_patients", "classes"):
            del site[key]
    for row in held["metrics"]:
        row["loss"] = None
    html = report(tmp_path, held)
    page = Page(html)
    assert "HYP – – – – – – –" in page.text("classes")
    assert "no positive or no negative" in page.text("classes")
    assert "St. Anna cuda:0 – – 80 – 0.880 12 never" in page.text("sites")
    assert "the sites do not release counts" in page.text("sites")
    assert not re.search(r">\s*(None|nan|NaN|inf)\s*<", html)
    assert "training loss" not in page.text("curves")


@pytest.mark.parametrize("key", ["regression", "classification", "sites", "privacy", "model", "seconds", "notes"])
def test_any_part_of_the_results_may_be_absent(tmp_path: Path, key: str) -> None:
    held = contents()
    del held["results"][key]
    page = Page(report(tmp_path, held, examples=0))
    assert page.text("ran")
    assert "None" not in " ".join(map(page.text, page.words))


def test_every_number_may_be_null(tmp_path: Path) -> None:
    def emptied(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: emptied(item) for key, item in value.items()}
        if isinstance(value, list):
            return [emptied(item) for item in value]
        return None if isinstance(value, float) or (isinstance(value, int) and value is not True) else value

    held = contents()
    rounds = [(row["round"], row["rounds"]) for row in held["metrics"]]
    held["metrics"], held["results"] = emptied(held["metrics"]), emptied(held["results"])
    held["run"]["data"] = emptied(held["run"]["data"])
    for row, (round_, total) in zip(held["metrics"], rounds, strict=True):
        row |= {"round": round_, "rounds": total}
    page = Page(report(tmp_path, held))
    assert "None" not in " ".join(map(page.text, page.words))


def test_the_csv_holds_the_unrounded_scores_of_each_class(tmp_path: Path) -> None:
    held = contents()
    held["results"]["classification"]["classes"]["MI"]["auroc_interval"] = None
    report(tmp_path, held)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["class"] for row in rows] == [*SUPERCLASSES, "macro"]
    assert rows[0]["auroc"] == "0.9312"
    assert (rows[1]["auroc_low"], rows[1]["auroc_high"]) == ("", "")
    assert (rows[-1]["auroc_high"], rows[-1]["auprc_low"], rows[-1]["ece"]) == ("0.9098", "0.6951", "0.0412")
    assert (rows[0]["auprc_low"], rows[0]["ece"]) == (str(0.9312 - 0.2), "0.02")


def test_refusals_are_told_by_their_sentence(tmp_path: Path) -> None:
    held = contents()
    held["metrics"][4]["left_out"] = [
        {"site": SITES[0], "reason": "budget-exhausted"},
        {"site": SITES[1], "reason": "?!"},
    ]
    page = Page(report(tmp_path, held))
    assert "St. Anna Fine-tuning 1 the task would have exceeded the site's privacy budget" in page.text("left-out")
    assert "Northern General Fine-tuning 1 ?!" in page.text("left-out")
    assert "1×: the task would have exceeded the site's privacy budget" in page.text("sites")


def test_a_folder_that_is_no_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run folder.*name a folder that cardiofed has made"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_normalised_examples_say_so_on_their_paper(tmp_path: Path) -> None:
    html = report(tmp_path, contents(), units="z")
    assert "normalised units" in html
    assert "mm/mV" not in html


def test_separate_backbones_are_told_apart(tmp_path: Path) -> None:
    held = contents()
    shared = [row for row in held["metrics"] if row["phase"] == "pretrain"]
    held["metrics"] = [
        {**copy.deepcopy(row), "backbone": target, "mae": {target: row["mae"][target]}}
        for target in TARGETS
        for row in shared
    ]
    held["results"] = {
        "regression": {name: {name: row} for name, row in held["results"]["regression"]["shared"].items()}
    }
    page = Page(report(tmp_path, held, examples=0))
    assert "Pretraining (HR) 4 of 4" in page.text("ran")
    assert "Pretraining (QT) 4 of 4" in page.text("ran")
    assert "Pretraining alone: the model reads off unseen synthetic ECGs Heart rate to 1.16 bpm" in page.text("header")
