"""Settings of private fine-tuning, chosen on simulated hospitals alone: no private record chooses anything.

    python benchmarks/private_defaults.py OUT [--backbone RUN] [--trainable MODE ...] [--jobs N] [...] [--set KEY=VALUE ...]
    python benchmarks/private_defaults.py OUT --backbone RUN --trainable all --rates 0.03 --averaging 0 --seeds 0 1 2 \
        --quick --augment none shift,scale shift,scale,lead-dropout --views 1 4

Four simulated hospitals of 300 patients each (their own mixes of classes, recorders, faults and noise; other patients than
those of the recipe) stand for the real ones: configs/ptbxl-private.toml at epsilon 8 and delta 1e-4, on a backbone that is
pretrained first, or taken from RUN. Each part that may train, at each step size, with and without the average of the rounds,
at epsilon 8 and 2; where asked, each augmentation with each number of views (alike without augmentation, so only one then),
and several seeds, of which the table has mean and standard deviation. ``--quick``: two hospitals and a third of the rounds.
A step under DP-SGD has one scale, since every gradient is clipped: clip 1 throughout, and the step size
does the rest (De et al., 2022, appendix B). Finished runs are not repeated. Prints the grid and, last, the choice: the best
mean over both epsilons. What it cannot tell is how far simulated patients are from real ones: a head that was pretrained on
simulations is better here than it will be there, so that among near-equals the larger step is the safer one.
"""

from __future__ import annotations

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pandas as pd
from transfer import run

CONFIG = "ptbxl-private.toml"
HOSPITALS = [
    'data.path=""',
    "data.simulated_patients=300",
    "data.train_folds=[1,2,3,4,5,6,7]",
    "data.test_folds=[8,9,10]",
    "federation.sites=4",
    "privacy.delta=1e-4",
    "run.bootstrap=0",
    "run.examples=0",
]
LEARNING_RATES = {
    "head": (0.1, 0.3, 1.0, 3.0),
    "norms-and-head": (0.03, 0.1, 0.3),
    "last-stage": (0.03, 0.1, 0.3),
    "all": (0.01, 0.03, 0.1),
}
AVERAGING = (0.0, 0.9)
EPSILONS = (8.0, 2.0)
NONE = "none"
QUICK = ["federation.sites=2", "finetune.rounds=5"]
COLUMNS = ("trainable", "step size", "averaging", "augment", "views")


def tried(trainable: str, rate: float, averaging: float, augment: str, views: int, epsilon: float, seed: int,
          out: Path, changes: list[str]) -> dict:  # fmt: skip
    """Return a line of the grid."""
    folder = out / f"{trainable}-{rate:g}-{averaging:g}-{augment.replace(',', '+')}-{views}-{epsilon:g}-{seed}"
    names = [] if augment == NONE else augment.split(",")
    settings = [
        *(f"transfer.trainable={trainable}", f"finetune.learning_rate={rate}", f"finetune.averaging={averaging}"),
        *(f"finetune.augment={json.dumps(names)}", f"privacy.views={views}"),
        *(f"privacy.epsilon={epsilon}", f"run.seed={seed}"),
    ]
    results = run(CONFIG, folder, [*HOSPITALS, *changes, *settings])
    found = {"epsilon": epsilon, "seed": seed, "auroc": results["classification"]["macro"]["auroc"]}
    return dict(zip(COLUMNS, (trainable, rate, averaging, augment, views), strict=True)) | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--backbone", type=Path, help="a run that has pretrained under the config's settings")
    parser.add_argument("--trainable", nargs="+", default=list(LEARNING_RATES), choices=list(LEARNING_RATES))
    parser.add_argument("--rates", type=float, nargs="+", help="step sizes for every part; default: those of each")
    parser.add_argument("--averaging", type=float, nargs="+", default=AVERAGING)
    parser.add_argument("--augment", nargs="+", default=[NONE], metavar="NAME,...", help="none, or names with commas")
    parser.add_argument("--views", type=int, nargs="+", default=[1])
    parser.add_argument("--epsilons", type=float, nargs="+", default=EPSILONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    changes = [f"run.threads={max(1, (os.cpu_count() or 1) // options.jobs)}", *(QUICK if options.quick else [])]
    changes += options.changes
    backbone = options.backbone or options.out / "backbone"
    if options.backbone is None:
        run(CONFIG, backbone, [*HOSPITALS, *changes, "transfer.trainable=head", "finetune.rounds=1"])
    changes.append(f"pretrain.from_run={backbone}")
    grid = [
        (trainable, *rest)
        for seed in options.seeds
        for trainable in options.trainable
        for rest in product(
            options.rates or LEARNING_RATES[trainable], options.averaging, options.augment, options.views,
            options.epsilons, [seed],
        )
        if not (rest[2] == NONE and rest[3] > 1) and not (trainable == "head" and rest[2] != NONE)
    ]  # fmt: skip
    with ThreadPoolExecutor(options.jobs) as pool:
        lines = [pool.submit(tried, *words, options.out, changes) for words in grid]
        table = pd.DataFrame([line.result() for line in lines])
    table.to_csv(options.out / "grid.csv", index=False)
    wide = table.groupby([*COLUMNS, "epsilon"])["auroc"].agg(["mean", "std"]).unstack("epsilon")
    print("| " + " | ".join([*COLUMNS, *(f"epsilon {epsilon:g}" for epsilon in options.epsilons)]) + " |")
    print("|---" * (len(COLUMNS) + len(options.epsilons)) + "|")
    for words, row in wide.iterrows():
        means, spreads = ([row[name, epsilon] for epsilon in options.epsilons] for name in ("mean", "std"))
        cells = [
            f"{m:.3f}" + (f" +- {s:.3f}" if len(options.seeds) > 1 else "") for m, s in zip(means, spreads, strict=True)
        ]
        print("| " + " | ".join([*map(str, words), *cells]) + " |")
    best = dict(zip(COLUMNS, wide["mean"].mean(axis=1).idxmax(), strict=True))
    print("\nchosen: " + ", ".join(f"{name} {value}" for name, value in best.items()))


if __name__ == "__main__":
    main()
