"""What a set holds, in numbers and in a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ecg.dataset import EcgDataset
from core.ecg.labels import single_label


@dataclass(frozen=True)
class DatasetSummary:
    """Counts over a set.

    Attributes
    ----------
    records, patients
        How many.
    by_class
        Class -> (records, patients); a record counts under each of its labels.
    several_labels, unlabelled
        Records with more than one of the labels, and with none.
    by_fold
        Fold (0 = unknown) -> (records, patients).
    by_site
        Site (empty = unknown) -> (records, patients).
    missing_age, missing_sex
        Records without.
    shared_patients
        Patients whose records lie in more than one fold: a split by fold would leak them.
    """

    records: int
    patients: int
    by_class: dict[str, tuple[int, int]]
    several_labels: int
    unlabelled: int
    by_fold: dict[int, tuple[int, int]]
    by_site: dict[str, tuple[int, int]]
    missing_age: int
    missing_sex: int
    shared_patients: int


def summarise(dataset: EcgDataset) -> DatasetSummary:
    """Count records and patients by class, fold and site; reads no signal."""
    table, labels = dataset.records, dataset.labels
    _, not_single = single_label(labels)
    unlabelled = int(np.count_nonzero(~dataset.labelled))

    def counts(column: str) -> dict[Any, tuple[int, int]]:
        groups = table.groupby(column)["patient"].agg(["size", "nunique"])
        return {key: (int(size), int(people)) for key, size, people in groups.itertuples()}

    by_class = {}
    for index, name in enumerate(dataset.classes):
        carriers = table["patient"][labels[:, index] == 1]
        by_class[name] = (len(carriers), int(carriers.nunique()))
    return DatasetSummary(
        records=len(table),
        patients=int(table["patient"].nunique()),
        by_class=by_class,
        several_labels=not_single - unlabelled,
        unlabelled=unlabelled,
        by_fold=counts("fold"),
        by_site=counts("site"),
        missing_age=int(table["age"].isna().sum()),
        missing_sex=int(table["sex"].isna().sum()),
        shared_patients=int((table.groupby("patient")["fold"].nunique() > 1).sum()),
    )


def choose_examples(dataset: EcgDataset, count: int) -> NDArray[np.intp]:
    """Rows to show: the first record of each superclass in turn, then further records, no row twice."""
    labels = dataset.labels
    firsts = [int(np.argmax(column)) for column in labels.T if column.any()]
    ordered = dict.fromkeys([*firsts, *range(len(dataset))])
    return np.array(list(ordered)[:count], dtype=np.intp)


def draw_examples(dataset: EcgDataset, rows: NDArray[np.intp], path: str | Path) -> None:
    """Draw records on ECG paper, one below the other, in one PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imsave

    from core.report.ecg_paper import draw_ecg

    info = dataset.info
    units = "mV" if info.normalisation == "none" else "z"
    sheets = []
    for row, signal in zip(rows, dataset.batch(rows, info.normalisation), strict=True):
        figure = draw_ecg(signal, info.rate, title=_title(dataset, int(row)), units=units)
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        sheets.append(np.asarray(canvas.buffer_rgba()))
    imsave(Path(path), np.concatenate(sheets), format="png")


def _title(dataset: EcgDataset, row: int) -> str:
    record = dataset.records.iloc[row]
    labels = [name for name in dataset.classes if record[name]]
    age = "age unknown" if np.isnan(record["age"]) else f"{record['age']:.0f} years"
    sex = {0.0: "male", 1.0: "female"}.get(record["sex"], "sex unknown")
    parts = [record["record"], ", ".join(labels) or "no label", sex, age]
    if dataset.info.simulated:
        parts.append("simulated")
    return "  |  ".join(parts)
