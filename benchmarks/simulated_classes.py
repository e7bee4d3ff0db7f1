"""A classifier that has seen simulated classes alone, tested on all of the real set.

    python benchmarks/simulated_classes.py DATA OUT [--records N] [--seeds S ...]

DATA holds ``ptbxl-500`` and ``ptbxl-zscored``; OUT receives the imported set. Whether the simulated classes look like what
they are named after: no real record is learnt from, no setting was chosen by the result, and the network that is measured
is the last one. The patterns themselves were mended with the second table in view, so that the first is no blind test of
them. Every training record is drawn for one step alone. Prints AUROC with patient bootstrap intervals, and for each SCP
statement of the records whose statements are known how well it is told from normal records.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transfer import imported

from core.ecg.dataset import EcgDataset
from core.ecg.labels import SUPERCLASSES
from core.evaluation import auroc, macro, patient_bootstrap_weights, score_histograms
from core.learning.classification import bce_loss
from core.learning.normalisation import normalise_tensor
from core.learning.training import PlainStepper, Schedule, predict, train, use_threads
from core.models.registry import create_model
from core.synthetic.cohort import draw_wide
from core.synthetic.morphology import draw_labels, draw_severities
from core.synthetic.simulation import draw_records, render_records

NORMALISATION = "lead-zscore"
BATCH = 64
REPLICATES = 200
CPU = torch.device("cpu")

NOISE_SPREAD = 0.6
"""Of the logarithm of a batch's noise level about that of a resting record: hospitals differ in quiet and in recorders."""


def simulated_batches(count: int, seed: int, rate: int, samples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (signals, labels) of ``count`` patients whose classes are as common, and as often together, as in PTB-XL."""
    rng = np.random.default_rng([seed, 20261])
    for _ in range(count // BATCH):
        labels = draw_labels(BATCH, rng)
        severities = draw_severities(labels, rng)
        noise = float(np.exp(rng.normal(0, NOISE_SPREAD)))
        block = draw_records(draw_wide(BATCH, rng), severities, rng, seconds=samples / rate, noise=noise)
        signals, _ = render_records(block, rate=rate, samples=samples, band=(0.5, 40.0))
        yield normalise_tensor(signals, NORMALISATION)[0], torch.from_numpy(labels.astype(np.float32))


def trained(count: int, seed: int, dataset: EcgDataset) -> nn.Module:
    """Return a network that is trained on simulated patients of the form of the real records."""
    model = create_model("resnet1d", outputs=len(SUPERCLASSES), rate=dataset.info.rate, seed=seed)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    batches = simulated_batches(count, seed, dataset.info.rate, dataset.info.samples)
    train(PlainStepper(model, optimizer, bce_loss), batches, Schedule(0.002, count // BATCH))
    return model


def scores(model: nn.Module, dataset: EcgDataset) -> np.ndarray:
    """Return the logits of all records, (n, 5)."""
    nothing = np.zeros((0, 0), dtype=np.float32)
    return predict(model, len(dataset), lambda rows: (dataset.batch(rows, NORMALISATION), nothing), CPU)


def intervals(logits: np.ndarray, dataset: EcgDataset) -> np.ndarray:
    """Return AUROC by class and, last, their mean, with the ends of the 95 % patient bootstrap interval, (6, 3)."""
    weights = patient_bootstrap_weights(dataset.records.patient, REPLICATES, 0)
    areas = auroc(score_histograms(logits, dataset.labels, weights))
    every = np.concatenate([areas, macro(areas)[:, None]], axis=1)
    return np.stack([every[0], *np.quantile(every[1:], [0.025, 0.975], axis=0)], axis=1)


def statements(logits: np.ndarray, dataset: EcgDataset, folder: Path, least: int = 3) -> str:
    """Return a markdown table of SCP statements: AUROC of each class's score between records with it and NORM-only ones."""
    table = pd.read_csv(folder / "ptbxl_database.csv")
    known = {f"ptbxl-{int(row.ecg_id):05d}": list(ast.literal_eval(row.scp_codes)) for row in table.itertuples()}
    superclass = pd.read_csv(folder / "scp_statements.csv", index_col=0).diagnostic_class
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(dataset.records.record):
        for code in known.get(record, []):
            rows.setdefault(code, []).append(row)
    labels = dataset.labels
    normal = np.flatnonzero((labels[:, 0] == 1) & (labels.sum(axis=1) == 1))
    lines = [f"| statement | class | records | {' | '.join(SUPERCLASSES)} |", "|---" * 8 + "|"]
    for code, members in sorted(rows.items(), key=lambda item: -len(item[1])):
        if len(members) < least:
            continue
        pair = np.concatenate([members, np.setdiff1d(normal, members)])
        ill = np.repeat((np.arange(len(pair)) < len(members))[:, None], len(SUPERCLASSES), axis=1)
        areas = auroc(score_histograms(logits[pair], ill))[0]
        name = superclass.get(code)
        cells = " | ".join(f"{area:.2f}" for area in areas)
        lines.append(f"| {code} | {name if isinstance(name, str) else ''} | {len(members)} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    use_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    dataset = EcgDataset.open(imported(options.data, options.out))
    dataset = dataset.select(dataset.labelled)
    print(f"{len(dataset)} real records, {options.records} simulated patients a seed\n")
    print(f"| seed | {' | '.join(SUPERCLASSES)} | macro (95 % patient bootstrap) |")
    print("|---" * (len(SUPERCLASSES) + 2) + "|")
    macros, total = [], np.zeros((len(dataset), len(SUPERCLASSES)))
    for seed in options.seeds:
        logits = scores(trained(options.records, seed, dataset), dataset)
        *classes, (mean, low, high) = intervals(logits, dataset)
        cells = " | ".join(f"{area:.3f}" for area, _, _ in classes)
        print(f"| {seed} | {cells} | {mean:.3f} ({low:.3f} to {high:.3f}) |", flush=True)
        macros.append(mean)
        total += logits
    print(f"\nmean over the seeds: {statistics.mean(macros):.3f}\n")
    print(statements(total / len(options.seeds), dataset, options.data / "ptbxl-500"))


if __name__ == "__main__":
    main()
