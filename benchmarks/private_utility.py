"""What is left under differential privacy: epsilon 8 and 2 beside no privacy, on the real set, three seeds.

    python benchmarks/private_utility.py DATA OUT [--jobs N] [--seeds S ...] [--arms WORD ...] [--set KEY=VALUE ...]

DATA holds ``ptbxl-500`` and ``ptbxl-zscored``. Four sites by Dirichlet 0.5, delta 1e-4, patients protected, as
configs/ptbxl.toml and configs/ptbxl-private.toml have it but for what ``ARMS`` names. Backbones are pretrained once a seed,
over four sites, and every arm begins with the head that pretraining gave it. Step sizes: of private arms from trials on
fold 7 (docs/log.md) with which simulated hospitals agree (benchmarks/private_defaults.py), of the others the best of a few
on fold 7 after training on folds 1 to 6 (seed 0; ``--arms try``). ``--arms`` chooses arms whose name holds one of the
words. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from transfer import CHOOSING, SEEDS, imported, run

PLAIN, PRIVATE = "ptbxl.toml", "ptbxl-private.toml"
ONE = "federation.sites=1"


def private(epsilon: float, trainable: str, learning_rate: float) -> tuple[str, list[str]]:
    return PRIVATE, [
        f"privacy.epsilon={epsilon}", "privacy.delta=1e-4",
        f"transfer.trainable={trainable}", f"finetune.learning_rate={learning_rate}",
    ]  # fmt: skip


def plain(learning_rate: float, *more: str) -> tuple[str, list[str]]:
    return PLAIN, ["transfer.trainable=all", f"finetune.learning_rate={learning_rate}", *more]


ARMS = {
    "simulated patients alone": (
        PLAIN,
        ["transfer.trainable=head", "finetune.rounds=1", "finetune.learning_rate=1e-9"],
    ),
    "four sites, epsilon 8, head alone": private(8.0, "head", 0.3),
    "four sites, epsilon 2, head alone": private(2.0, "head", 0.1),
    "four sites, epsilon 8, all layers": private(8.0, "all", 0.03),
    "four sites, epsilon 2, all layers": private(2.0, "all", 0.01),
    "centralized, not private, all layers": plain(0.001, ONE),
    "four sites, not private, all layers": plain(0.001),
}
TRIES = {
    f"try {name} {rate:g}": plain(rate, *more, *CHOOSING)
    for name, more in (("centralized", [ONE]), ("four sites", []))
    for rate in (0.0005, 0.001, 0.002, 0.004)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="WORD")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    common = [f"data.path={imported(options.data, options.out)}", f"run.threads={threads}", "run.examples=0"]
    common += options.changes
    least = ["finetune.rounds=1", "transfer.trainable=head", "run.bootstrap=0"]
    chosen = {name: arm for name, arm in (ARMS | TRIES).items() if any(word in name for word in options.arms)}

    def pretrained(seed: int) -> dict:
        return run(PLAIN, options.out / f"backbone-{seed}", [*common, f"run.seed={seed}", *least])

    def measured(name: str, seed: int) -> tuple[float, ...]:
        config, changes = chosen[name]
        begin = [f"run.seed={seed}", f"pretrain.from_run={options.out / f'backbone-{seed}'}"]
        folder = options.out / f"{name}-{seed}".replace(",", "").replace(" ", "-")
        macro = run(config, folder, [*common, *begin, *changes])["classification"]["macro"]
        return (macro["auroc"], *(macro["auroc_interval"] or ()))

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(pretrained, options.seeds))
        runs = list(product(chosen, options.seeds))
        found = dict(zip(runs, pool.map(lambda words: measured(*words), runs), strict=True))
    print("| arm | macro AUROC by seed (95 % patient bootstrap) | mean |")
    print("|---|---|---|")
    for name in chosen:
        rows = [found[name, seed] for seed in options.seeds]
        cells = ", ".join(
            f"{auroc:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "") for auroc, *ends in rows
        )
        print(f"| {name} | {cells} | {statistics.mean(auroc for auroc, *_ in rows):.3f} |")


if __name__ == "__main__":
    main()
