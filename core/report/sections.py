"""What the report says, section by section, as texts for the template: no HTML here, and no drawing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core.ecg.labels import SUPERCLASSES
from core.report import numbers
from core.report.numbers import MISSING, finite
from core.report.pretraining_section import regression_errors, target_words
from core.report.privacy_section import headline_privacy, privacy_clause, release_modes
from core.report.run_folder import PHASES, RunRecord, section
from core.tasks import REASONS

Table = dict[str, Any]

_CALIBRATED = ["ECE"]


def verdict(run: RunRecord) -> str:
    """One sentence, in plain words, on what came out."""
    classification = section(run.results, "classification")
    auroc = finite(section(classification, "macro").get("auroc"))
    where = _where(run)
    if auroc is None:
        if run.status != "done":
            return f"{where}: there is no evaluation."
        errors = regression_errors(run)
        if not errors:
            return "The run is done, and measured nothing."
        told = ", ".join(
            f"{target_words(target)[0]} to {numbers.error(row.get('mae'))} {row.get('unit') or target_words(target)[1]}"
            for _, target, row in errors
        )
        return f"Pretraining alone: the model reads off unseen synthetic ECGs {told}, on average."
    sites = len(run.sites)
    kind = "simulated hospital" if run.simulated else "site"
    trained = f"{sites} {kind}{'' if sites == 1 else 's'}"
    records = _records(classification)
    sentence = (
        f"Shown two ECGs, one with a diagnosis and one without it, the model picks the right one "
        f"{auroc * 100:.0f} times in 100 (on {records} held-out ECGs), after training at {trained} "
        f"{privacy_clause(run)}."
    )
    return sentence if run.status == "done" else f"{where}, but it was evaluated. {sentence}"


def headline(run: RunRecord) -> list[dict[str, str]]:
    """The four numbers at the top: macro AUROC, epsilon, sites, records."""
    data = section(run.run, "data")
    classification = section(run.results, "classification")
    macro = section(classification, "macro")
    value, remark = numbers.score(macro.get("auroc")), _interval_words(run)
    if value == MISSING:
        value, remark = _last_auroc(run)
    epsilon, privacy = headline_privacy(run)
    patients = numbers.count(data.get("patients"))
    tested = _records(classification)
    about = [f"of {patients} patients"] if patients != MISSING else []
    about += [f"{tested} held out"] if tested != MISSING else []
    devices = {str(site["device"]) for site in run.sites if site.get("device")}
    return [
        {"label": "Macro AUROC", "value": value, "remark": remark},
        {"label": "Privacy loss ε", "value": epsilon, "remark": privacy},
        {
            "label": "Simulated hospitals" if run.simulated else "Sites",
            "value": numbers.count(len(run.sites)) if run.sites else MISSING,
            "remark": f"on {', '.join(sorted(devices))}" if devices else "",
        },
        {"label": "Records", "value": numbers.count(data.get("records")), "remark": ", ".join(about)},
    ]


def what_ran(run: RunRecord) -> Table:
    """Phases with rounds, time and traffic; the model; remarks of the run itself."""
    seconds = section(run.results, "seconds")
    rows = []
    for phase, title in PHASES.items():
        by_backbone: dict[str, list[Mapping[str, Any]]] = {}
        for row in run.rounds(phase):
            by_backbone.setdefault(str(row.get("backbone") or ""), []).append(row)
        for backbone, done in by_backbone.items():
            named = phase == "pretrain" and backbone not in ("", "shared")
            planned = finite(done[-1].get("rounds"))
            rows.append(
                [
                    f"{title} ({backbone.upper()})" if named else title,
                    f"{len(done)} of {planned:.0f}" if planned else str(len(done)),
                    numbers.duration(_total(done, "seconds")),
                    numbers.size(_total(done, "bytes_down")),
                    numbers.size(_total(done, "bytes_up")),
                ]
            )
    for phase, title in (("transfer", "Transfer"), ("evaluate", "Evaluation")):
        if phase in seconds:
            rows.append([title, MISSING, numbers.duration(seconds[phase]), MISSING, MISSING])
    model = section(run.results, "model")
    name = model.get("name") or section(run.config, "model").get("name")
    mode = model.get("trainable_mode") or section(run.config, "transfer").get("trainable")
    facts = [
        ("Model", name or MISSING),
        ("Parameters", numbers.count(model.get("parameters"))),
        ("Fine-tuned", numbers.count(model.get("trainable")) + (f" ({mode})" if mode else "")),
        ("Engine", run.run.get("engine") or MISSING),
        ("Started", _moment(run.run.get("started"))),
        ("Finished", _moment(run.run.get("finished"))),
        ("Status", run.status),
    ]
    failure = [f"The run failed: {run.run['error']}."] if run.run.get("error") else []
    notes = [*failure, *(str(note) for note in run.results.get("notes") or ())]
    dropped = finite(section(run.run, "data").get("unlabelled_dropped"))
    if dropped:
        notes.append(f"{numbers.count(dropped)} records without any of the five classes were left out.")
    return {
        "columns": ["Phase", "Rounds", "Time", "To sites", "From sites"],
        "rows": rows,
        "facts": facts,
        "notes": notes,
    }


def classes(run: RunRecord) -> Table:
    """Scores of each class, and their mean."""
    classification = section(run.results, "classification")
    told = section(classification, "classes")
    calibrated = any(finite(section(told, name).get("ece")) is not None for name in told)
    rows = [_score_row(name, section(told, name), calibrated) for name in told]
    macro = section(classification, "macro")
    noise = section(classification, "noise")
    total = None
    if macro:
        ece = section(classification, "calibration").get("ece")
        total = _score_row("Macro mean", {**macro, "ece": ece, "records": classification.get("records")}, calibrated)
    notes = []
    if any(MISSING in row[1:] for row in rows):
        why = "its number cannot be told from the noise" if noise else "a site may not release it"
        notes.append(f"– in a row: the test records hold no positive or no negative of that class, or {why}.")
    if rows:
        notes.append(_how_measured(classification))
        notes.extend(_how_noised(noise))
    return {
        "columns": ["Class", "AUROC", "Interval", "AUPRC", "F1", *_CALIBRATED * calibrated, "Positives", "Records"],
        "rows": rows,
        "total": total,
        "notes": notes,
    }


def calibration(run: RunRecord) -> list[str]:
    """Sentences on whether predicted probabilities can be taken at their word."""
    told = section(section(run.results, "classification"), "calibration")
    if not told.get("curve"):
        return []
    error = finite(told.get("ece"))
    first = (
        f"A predicted probability is off by {100 * error:.1f} points on average over the classes (expected calibration "
        "error, ECE)."
        if error is not None
        else "The expected calibration error cannot be told from the noise."
    )
    return [
        first,
        "Each point stands for about as many records as the others, over all classes together; on the line, as many of "
        "them have the diagnosis as the model says. Bars are 95 % intervals.",
    ]


def sites(run: RunRecord) -> Table:
    """One row a site; `mix` holds its share of each class, for a bar."""
    units = {str(row.get("name")): row.get("unit") for row in run.privacy_sites}
    rows: list[dict[str, Any]] = []
    lacks: list[str] = []
    untold = False
    for site in run.sites:
        name = str(site.get("name", MISSING))
        patients, records = _trained_on(site, units.get(name))
        counts = [finite(section(site, "classes").get(label)) for label in run.classes]
        # As many colours as superclasses; of more classes the figure and the notes tell.
        shown = len(run.classes) <= len(SUPERCLASSES)
        known = any(value is not None for value in counts)
        untold |= not known
        lacking = [label for label, value in zip(run.classes, counts, strict=True) if known and not value]
        lacks += [f"{name} has no training record of {', '.join(lacking)}."] if lacking else []
        total = sum(value or 0.0 for value in counts)
        missed = [miss for miss in left_out(run) if miss[0] == name]
        answered = finite(site.get("rounds_answered"))
        if answered is None and run.metrics:
            answered = sum(name in (row.get("answered") or ()) for row in run.metrics)
        rows.append(
            {
                "name": name,
                "device": str(site.get("device") or MISSING),
                "patients": patients,
                "records": records,
                "tested": numbers.count(site.get("test_records")),
                "mix": [
                    {"name": label, "count": numbers.count(value), "share": f"{100 * value / total:.2f}"}
                    for label, value in zip(run.classes, counts, strict=True)
                    if shown and value and total
                ],
                "auroc": numbers.score(site.get("macro_auroc")),
                "answered": numbers.count(answered),
                "left_out": f"{len(missed)}×: {missed[0][3]}" if missed else "never",
            }
        )
    notes = lacks
    if untold or any(MISSING in (row["patients"], row["records"]) for row in rows):
        notes.append(_why_no_counts(run))
    if any(row["auroc"] == MISSING for row in rows):
        why = "the site has too few test records of some class, or may not release its scores."
        notes.append(f"AUROC –: {why if run.results else 'there is no evaluation.'}")
    return {"rows": rows, "notes": notes}


def left_out(run: RunRecord) -> list[list[str]]:
    """Site, phase, round and reason of everything that was left out of a round."""
    found: dict[tuple[str, str, str], str] = {}
    for row in run.metrics:
        for miss in row.get("left_out") or ():
            key = (str(miss.get("site", MISSING)), str(row["phase"]), numbers.count(row["round"]))
            found.setdefault(key, _reason(miss))
    for site in run.sites:
        for miss in site.get("left_out") or ():
            key = (
                str(site.get("name", MISSING)),
                str(miss.get("phase", "")),
                numbers.count(miss.get("round")),
            )
            found.setdefault(key, _reason(miss))
    return [
        [site, PHASES.get(phase, phase.capitalize() or MISSING), round_, reason]
        for (site, phase, round_), reason in found.items()
    ]


def provenance(run: RunRecord) -> list[tuple[str, str]]:
    """What it takes to repeat the run."""
    data, recipe = section(run.run, "data"), section(run.run, "recipe")
    versions = section(run.run, "versions")
    facts: Sequence[tuple[str, Any]] = (
        ("Command", run.run.get("command")),
        ("Seed", run.run.get("seed")),
        ("Config hash", run.run.get("config_hash")),
        ("Data", " · ".join(str(data[key]) for key in ("name", "source") if data.get(key))),
        ("Sampling rate", f"{data['rate']} Hz" if data.get("rate") else None),
        ("Data fingerprint", data.get("fingerprint")),
        ("Recipe hash", recipe.get("hash")),
        ("Recipe", _synthetic_set(recipe)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))),
    )
    return [(label, MISSING if value in (None, "") else str(value)) for label, value in facts]


def _synthetic_set(recipe: Mapping[str, Any]) -> str | None:
    if not recipe:
        return None
    rate = numbers.significant(recipe.get("rate"))
    if recipe.get("path"):
        return f"none: a set on disk ({recipe['path']}) at {rate} Hz, held by every site"
    return f"{numbers.count(recipe.get('size'))} synthetic records at {rate} Hz"


def _reason(miss: Mapping[str, Any]) -> str:
    """The sentence behind a reason code; other texts as they are."""
    code = str(miss.get("reason") or "no reason given")
    return REASONS.get(code, code)


def _where(run: RunRecord) -> str:
    """How far a run came, as the beginning of a sentence."""
    ended = {
        "done": "The run is done",
        "running": "The run is not finished",
        "failed": "The run failed",
    }.get(run.status, "The run was interrupted")
    if not run.metrics:
        return f"{ended} before its first round"
    last = run.metrics[-1]
    planned = finite(last.get("rounds"))
    of = f" of {planned:.0f}" if planned else ""
    joint = "after" if run.status in ("interrupted", "failed") else "and has done"
    return f"{ended} {joint} round {last['round']}{of} of {PHASES[last['phase']].lower()}"


def _interval_words(run: RunRecord) -> str:
    classification = section(run.results, "classification")
    bounds = numbers.interval(section(classification, "macro").get("auroc_interval"))
    if bounds == MISSING:
        return "no interval was computed"
    return f"{bounds} ({classification.get('interval') or 'interval'})"


def _how_measured(classification: Mapping[str, Any]) -> str:
    replicates = finite(classification.get("bootstrap"))
    name = classification.get("interval")
    if not replicates or not name:
        return "No intervals were computed."
    return f"Intervals: {name}, {numbers.count(replicates)} replicates."


def _how_noised(noise: Mapping[str, Any]) -> list[str]:
    deviation = finite(noise.get("deviation"))
    if deviation is None:
        return []
    multiplier = finite(noise.get("multiplier"))
    by = f" (noise multiplier {multiplier:.3g})" if multiplier is not None else ""
    count = len(noise.get("sites") or ())
    return [
        f"The score histograms of {count} {'site' if count == 1 else 'sites'} carry privacy noise{by}: pooled, a standard "
        f"deviation of {deviation:.3g} records in each of the 32 bins of a class, positives and negatives. All numbers "
        "of records are estimates; of one patient's, at most privacy.records_per_patient count."
    ]


def _records(classification: Mapping[str, Any]) -> str:
    told = numbers.count(classification.get("records"))
    return f"about {told}" if classification.get("noise") and told != MISSING else told


def _last_auroc(run: RunRecord) -> tuple[str, str]:
    """Macro AUROC of the last round that has one, for a run without an evaluation."""
    for row in reversed(run.rounds("finetune")):
        if finite(row.get("macro_auroc")) is not None:
            return numbers.score(row["macro_auroc"]), f"after fine-tuning round {row['round']}, no interval"
    if not run.results:
        return MISSING, "there is no evaluation"
    return MISSING, "it could not be computed, or may not be released"


def _score_row(name: str, result: Mapping[str, Any], calibrated: bool) -> list[str]:
    return [
        name,
        numbers.score(result.get("auroc")),
        numbers.interval(result.get("auroc_interval")),
        numbers.score(result.get("auprc")),
        numbers.score(result.get("f1")),
        *[numbers.score(result.get("ece"))] * calibrated,
        numbers.count(result.get("positives")),
        numbers.count(result.get("records")),
    ]


def _trained_on(site: Mapping[str, Any], unit: Any) -> tuple[str, str]:
    """Patients and records of a site; of a noised number the deviation too."""
    told = numbers.count(site.get("train_patients")), numbers.count(site.get("train_records"))
    noised = numbers.count(site.get("units_noised"))
    if "train_patients" in site or noised == MISSING:
        return told
    size = f"{noised} ± {numbers.count(site.get('count_deviation'))}"
    return (MISSING, size) if unit == "record" else (size, MISSING)


def _why_no_counts(run: RunRecord) -> str:
    mode = (release_modes(run) or {}).get("counts")
    if mode == "noised":
        return "Numbers or class mix –: the sites tell the size of their cohort alone, with noise of the deviation after ±."
    if mode != "clear":
        return "Patients, records or class mix –: the sites do not release counts (privacy.counts)."
    return "Patients, records or class mix –: the run ended before the sites told their counts."


def _moment(stamp: Any) -> str:
    """``2026-11-20 10:41:07 UTC`` from an ISO 8601 time."""
    return str(stamp or MISSING).replace("T", " ").replace("+00:00", " UTC").replace("Z", " UTC")


def _total(rows: Iterable[Mapping[str, Any]], key: str) -> float | None:
    values = [value for row in rows if (value := finite(row.get(key))) is not None]
    return sum(values) if values else None
