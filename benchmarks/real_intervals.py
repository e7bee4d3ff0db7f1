"""Intervals and waves of real records, by a network that has seen synthetic records alone.

    python benchmarks/real_intervals.py DATA [--seed S] [--records N] [--rounds R] [--rate HZ] [--model NAME]

DATA holds ``ludb``. Trains ``resnet1d`` on HR, PR, QRS, QT and the P/QRS/T mask of a
recipe, streamed, and tests on the LUDB records, which cardiologists annotated lead by lead. The same preprocessing as
everywhere: 0.5 to 40 Hz at the records' own rate, then resampled, each lead to mean 0 and deviation 1. The network sees
nothing of LUDB; but the fractions and margins in ``core/synthetic/calibration.py`` were set with these very records in
view, so that a small bias is no discovery (the spread of the errors is). Halves are printed to show how stable the figures
are. For records that nobody annotated there is ``cardiofed intervals``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ludb import RATE, LudbRecord, consensus, read_ludb
from torch import nn

from core.ecg.delineation import INTERVALS
from core.ecg.leads import LEADS
from core.ecg.preprocessing import band_pass, normalise, resample
from core.learning.regression import pretext_model, pretext_outputs, target_code, train_regression
from core.learning.segmentation import EDGES, TOLERANCE_MS, WAVES, boundaries, boundary_sums, most_probable
from core.learning.targets import TargetCode, decode
from core.learning.training import Schedule, steps_per_epoch, use_threads
from core.synthetic.recipe import Recipe

TARGETS = (*INTERVALS, "mask")
NORMALISATION = "lead-zscore"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reading:
    """What a network says of records.

    Attributes
    ----------
    values : DataFrame
        A row a record, columns :data:`INTERVALS`.
    classes : ndarray of shape (n, samples), uint8
        0 nothing, 1 P, 2 QRS, 3 T.
    """

    values: pd.DataFrame
    classes: np.ndarray


def trained(
    recipe: Recipe, name: str, rounds: int, seed: int, batch_size: int = 64, peak: float = 0.003
) -> tuple[nn.Module, TargetCode]:
    """Return a network trained on a recipe, and how to read its outputs."""
    code = target_code(recipe, TARGETS, NORMALISATION)
    model = pretext_model(name, TARGETS, recipe.rate, seed)
    schedule = Schedule(peak, rounds * steps_per_epoch(recipe.size, batch_size))
    train_regression(
        model, recipe, 0, recipe.size, code,
        epochs=rounds, batch_size=batch_size, schedule=schedule, weight_decay=1e-4, seed=seed, device=CPU,
    )  # fmt: skip
    return model.eval(), code


def read(model: nn.Module, code: TargetCode, signals: np.ndarray, rate: int, own_rate: int = RATE) -> Reading:
    """Measure raw records, (n, 12, samples) in mV at ``own_rate``, with a network that works at ``rate``."""
    prepared = normalise(resample(band_pass(signals, own_rate), own_rate, rate), NORMALISATION).astype(np.float32)
    values, classes = [], []
    with torch.inference_mode():
        for part in torch.from_numpy(prepared).split(64):
            outputs, logits = pretext_outputs(model, part)
            values.append(decode(outputs.numpy(), code))
            classes.append(most_probable(logits))
    return Reading(pd.DataFrame(np.concatenate(values), columns=list(INTERVALS)), np.concatenate(classes))


def interval_table(said: pd.DataFrame, true: pd.DataFrame, constant: np.ndarray) -> str:
    """Return the errors as a markdown table; ``constant`` is the median of the synthetic set, by interval."""
    lines = [
        "| | records | bias | MAE | median AE | MAE of always LUDB's median | share | of always the synthetic median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, guess in zip(INTERVALS, constant, strict=True):
        known = true[name].notna()
        errors, truth = (said[name] - true[name])[known], true[name][known]
        always = (truth - truth.median()).abs().mean()
        unit = "bpm" if name == "hr" else "ms"
        lines.append(
            f"| {name.upper()} ({unit}) | {known.sum()} | {errors.mean():+.1f} | {errors.abs().mean():.2f} "
            f"| {errors.abs().median():.2f} | {always:.2f} | {errors.abs().mean() / always:.2f} "
            f"| {(truth - guess).abs().mean():.1f} |"
        )
    return "\n".join(lines)


def worst(said: pd.DataFrame, true: pd.DataFrame, records: list[LudbRecord], count: int = 5) -> str:
    """Return the records with the largest errors and what they suffer from."""
    lines = []
    for name in INTERVALS:
        errors = said[name] - true[name]
        for row in errors.abs().nlargest(count).index:
            values = f"{said[name][row]:.0f} for {true[name][row]:.0f}"
            lines.append(f"{name.upper():4s}{records[row].name:>4s}: {values}. {records[row].diagnosis[:110]}")
    return "\n".join(lines)


def nearest_errors(predicted: np.ndarray, true: np.ndarray, tolerance: float) -> np.ndarray:
    """Return predicted minus true, in the units given, of the true points that have a predicted one within the tolerance."""
    if not len(predicted) or not len(true):
        return np.zeros(0)
    distance = np.subtract.outer(predicted, true)
    errors = distance[np.abs(distance).argmin(axis=0), np.arange(len(true))]
    return errors[np.abs(errors) <= tolerance]


def wave_table(classes: np.ndarray, records: list[LudbRecord], rate: int) -> str:
    """Return sensitivity and errors of the boundaries against each lead's own annotation, all leads pooled."""
    sums = np.zeros((len(WAVES), len(EDGES), 5))
    errors: dict[tuple[int, int], list[np.ndarray]] = {}
    for record, said in zip(records, classes, strict=True):
        # At LUDB's own rate, so that its annotation is not rounded.
        found = {wave: edges * (RATE / rate) for wave, edges in boundaries(said, rate).items()}
        for lead in LEADS:
            true = {wave: record.waves[lead][wave][:, [0, 2]] for wave in WAVES}
            marks = np.concatenate([edges.ravel() for edges in true.values()])
            # Beats before the first and after the last annotated one are on the trace, but nobody marked them.
            sums += boundary_sums(found, true, RATE, np.nanmin(marks) - 1, np.nanmax(marks) + 1)
            for row, wave in enumerate(WAVES):
                for edge in range(len(EDGES)):
                    marked = true[wave][:, edge]
                    marked = marked[~np.isnan(marked)]
                    near = nearest_errors(found[wave][:, edge], marked, TOLERANCE_MS * RATE / 1000) * 1000 / RATE
                    errors.setdefault((row, edge), []).append(near)
    lines = ["| boundary | annotated | sensitivity | precision | mean error ± SD (ms) |", "|---|---|---|---|---|"]
    for (row, edge), parts in sorted(errors.items()):
        true_count, found_count, _, claimed, right = sums[row, edge]
        signed = np.concatenate(parts)
        lines.append(
            f"| {WAVES[row].upper()} {EDGES[edge]} | {true_count:.0f} | {found_count / true_count:.3f} "
            f"| {right / claimed:.3f} | {signed.mean():+.1f} ± {signed.std():.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=8, help="passes over the records")
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--model", default="resnet1d")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    use_threads(options.threads)
    records = read_ludb(options.data / "ludb")
    rows = [consensus(record.waves).intervals(RATE) for record in records]
    true = pd.DataFrame(rows, columns=list(INTERVALS))
    began = time.perf_counter()
    recipe = Recipe(size=options.records, rate=options.rate, seed=1 + options.seed)
    model, code = trained(recipe, options.model, options.rounds, options.seed)
    print(f"{options.model}, {options.records} records x {options.rounds}, {time.perf_counter() - began:.0f} s\n")
    reading = read(model, code, np.stack([record.signals for record in records]), options.rate)
    print(interval_table(reading.values, true, code.median[: len(INTERVALS)]))
    for half, part in (("first", slice(0, len(records) // 2)), ("other", slice(len(records) // 2, None))):
        print(f"\nThe {half} half of the records:\n")
        print(interval_table(reading.values[part], true[part], code.median[: len(INTERVALS)]))
    print("\n" + wave_table(reading.classes, records, options.rate))
    print("\n" + worst(reading.values, true, records))


if __name__ == "__main__":
    main()
