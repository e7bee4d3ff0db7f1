"""What pretraining on synthetic records is worth: 72 campaigns on the real set.

    python benchmarks/transfer.py DATA OUT [--jobs N] [--set KEY=VALUE ...]

DATA holds ``ptbxl-500`` and ``ptbxl-zscored`` (see the README, "Tests").

From scratch, from four intervals, from rich targets (intervals, axis, ST and T of each lead, the P/QRS/T mask) x not
private, epsilon 8 x all layers, the head alone x centralized, four sites x seeds 0, 1, 2: configs/ptbxl.toml and
configs/ptbxl-private.toml with what ``settings`` below changes. Each arm has its own step size, the best of a few on fold 7
after training on folds 1 to 6 (seed 0), so that none is compared at the step size of another. Backbones are pretrained once
for each (targets, seed), over four sites, and used by every arm. Finished runs are not repeated, so that the command can be
stopped and called again. OUT receives the imported set, the runs, ``steps.csv``, ``transfer.csv``, a figure and the tables,
which are printed as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent / "cardiofed"
SEEDS = (0, 1, 2)
TARGETS = {
    "from scratch": (),
    "four intervals": ("hr", "pr", "qrs", "qt"),
    "rich targets": ("hr", "pr", "qrs", "qt", "axis", "st", "t", "mask"),
}
CONFIGS = {"not private": "ptbxl.toml", "epsilon 8": "ptbxl-private.toml"}
TRAINABLE = {"all layers": "all", "head alone": "head"}
SITES = {"centralized": 1, "four sites": 4}

LEARNING_RATES = {
    ("not private", "all layers"): (0.002, 0.004, 0.008),
    ("not private", "head alone"): (0.006, 0.02, 0.06, 0.2, 0.6),
    ("epsilon 8", "all layers"): (0.03, 0.1, 0.3, 1.0),
    ("epsilon 8", "head alone"): (0.1, 0.3, 1.0, 3.0, 10.0),
}
"""Of AdamW where not private and of SGD where private: what each arm chooses from."""

CHOOSING = ["data.train_folds=[1,2,3,4,5,6]", "data.test_folds=[7]", "run.bootstrap=0", f"run.seed={SEEDS[0]}"]
"""How a step size is tried: without the test folds, so that no test record chooses anything."""

PRETRAINING = [
    "synthetic.occurrence=even",
    "synthetic.held_out=1000",
    "pretrain.rounds=10",
    "pretrain.batch_size=64",
    "pretrain.learning_rate=0.003",
]
"""As the configs had it before they learnt classes: this table is about targets that name none (for those that do see
benchmarks/private_utility.py)."""

CLAIM = "Epsilon 8: at delta 1e-5, for each patient, add or remove one, composed over all rounds at each site."

PAIRS = (("four intervals", "from scratch"), ("rich targets", "from scratch"), ("rich targets", "four intervals"))

STUDENT_T = 4.303
"""97.5th percentile of Student's t with two degrees of freedom: three seeds."""


@dataclass(frozen=True)
class Arm:
    """One campaign of the comparison, by the keys of the tables above."""

    pretext: str
    privacy: str
    trained: str
    federation: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        words = (self.pretext, self.privacy, self.trained, self.federation, str(self.seed))
        return "-".join(words).replace(" ", "-")


def arms() -> list[Arm]:
    """Return all arms, those of one seed together, so that what is there after a while can be compared."""
    return [
        Arm(pretext, privacy, trained, federation, seed)
        for seed, privacy, federation, trained, pretext in product(SEEDS, CONFIGS, SITES, TRAINABLE, TARGETS)
    ]


COLOURS = {"from scratch": "#8a8f98", "four intervals": "#c05a00", "rich targets": "#0b61a4"}

KEYS = ("pretext", "privacy", "trained", "federation")


def imported(data: Path, out: Path) -> Path:
    """Import both parts of the real set under one preprocessing and merge them by record id."""
    merged = out / "set"
    if not merged.is_dir():
        call("data", "import", "ptbxl", data / "ptbxl-500", out / "a", "--normalisation", "lead-zscore",
             "--source-rate", "500", "--overwrite")  # fmt: skip
        call("data", "import", "arrays", data / "ptbxl-zscored", out / "b", "--overwrite")
        call("data", "merge", out / "a", out / "b", merged)
    return merged


def call(*words: object) -> None:
    subprocess.run([COMMAND, *map(str, words)], check=True)


def backbone_folder(out: Path, pretext: str, seed: int) -> Path:
    return out / f"backbone-{pretext.replace(' ', '-')}-{seed}"


def pretext_settings(pretext: str) -> list[str]:
    return [f"pretrain.targets={json.dumps(list(TARGETS[pretext]))}"]


def settings(arm: Arm, out: Path, learning_rate: float) -> list[str]:
    """Return what an arm changes in its config."""
    changes = [
        f"federation.sites={SITES[arm.federation]}",
        f"transfer.trainable={TRAINABLE[arm.trained]}",
        f"finetune.learning_rate={learning_rate}",
    ]
    if not TARGETS[arm.pretext]:
        return [*changes, "pretrain.enabled=false"]
    folder = backbone_folder(out, arm.pretext, arm.seed)
    return [*changes, *pretext_settings(arm.pretext), f"pretrain.from_run={folder}"]


def run(config: str, folder: Path, changes: list[str]) -> dict:
    """Run one campaign, or take up what is there, and return its results; what it prints goes beside its folder."""
    if not (folder / "results.json").is_file():
        words = ["simulate", str(ROOT / "configs" / config)]
        words += [word for change in (*changes, f"run.folder={folder}") for word in ("--set", change)]
        if (folder / "config.toml").is_file():
            words = ["simulate", "--resume", str(folder)]
        with folder.with_suffix(".log").open("a") as log:
            done = subprocess.run([COMMAND, *words], stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{folder.name} failed; see {folder.with_suffix('.log')}")
    return json.loads((folder / "results.json").read_text())


def pretrain(pretext: str, seed: int, out: Path, changes: list[str]) -> None:
    # A run must end to be reused; one round of the head alone is the least that ends it.
    least = ["finetune.rounds=1", "transfer.trainable=head", "run.bootstrap=0"]
    run(
        "ptbxl.toml",
        backbone_folder(out, pretext, seed),
        [*changes, f"run.seed={seed}", *pretext_settings(pretext), *least],
    )


def tried(arm: Arm, learning_rate: float, out: Path, changes: list[str]) -> dict:
    """Return a line of the table of step sizes."""
    folder = out / "steps" / f"{arm.name}-{learning_rate:g}"
    results = run(CONFIGS[arm.privacy], folder, [*changes, *CHOOSING, *settings(arm, out, learning_rate)])
    return {**asdict(arm), "learning_rate": learning_rate, "auroc": results["classification"]["macro"]["auroc"]}


def chosen(steps: pd.DataFrame) -> dict[tuple, float]:
    """Return the best step size by what it belongs to: all of an arm but its seed."""
    best = steps.loc[steps.groupby(list(KEYS), sort=False)["auroc"].idxmax()]
    return dict(zip(best[list(KEYS)].itertuples(index=False, name=None), best["learning_rate"], strict=True))


def measure(arm: Arm, learning_rate: float, out: Path, changes: list[str]) -> dict:
    """Return the arm's line of the CSV."""
    common = [*changes, f"run.seed={arm.seed}"]
    results = run(CONFIGS[arm.privacy], out / arm.name, [*common, *settings(arm, out, learning_rate)])
    measures = results["classification"]["macro"]
    low, high = measures["auroc_interval"]
    return {**asdict(arm), "learning_rate": learning_rate, "auroc": measures["auroc"], "low": low, "high": high}


def tables(table: pd.DataFrame) -> str:
    """Return the means, paired differences, and each run with its interval as markdown."""
    found = {Arm(*row[:5]): row[6:9] for row in table.itertuples(index=False)}
    rate_of = {Arm(*row[:5]): row[5] for row in table.itertuples(index=False)}
    lines = ["| federation | privacy | trained | " + " | ".join(TARGETS) + " |", "|---" * (3 + len(TARGETS)) + "|"]
    details = ["| arm | step size | macro AUROC by seed (95 % patient bootstrap) |", "|---|---|---|"]
    paired = ["| arm | difference | by seed | mean (95 % t interval over the seeds) |", "|---|---|---|---|"]
    for federation, privacy, trained in product(SITES, CONFIGS, TRAINABLE):
        by_pretext = {
            pretext: [found[Arm(pretext, privacy, trained, federation, seed)] for seed in SEEDS] for pretext in TARGETS
        }
        means = [f"{statistics.mean(auroc for auroc, _, _ in runs):.3f}" for runs in by_pretext.values()]
        lines.append(f"| {federation} | {privacy} | {trained} | {' | '.join(means)} |")
        arm = f"{federation}, {privacy}, {trained}"
        for pretext, runs in by_pretext.items():
            cells = ", ".join(f"{auroc:.3f} ({low:.3f} to {high:.3f})" for auroc, low, high in runs)
            rate = rate_of[Arm(pretext, privacy, trained, federation, SEEDS[0])]
            details.append(f"| {arm}, {pretext} | {rate:g} | {cells} |")
        for better, worse in PAIRS:
            differences = [a[0] - b[0] for a, b in zip(by_pretext[better], by_pretext[worse], strict=True)]
            centre = statistics.mean(differences)
            half = STUDENT_T * statistics.stdev(differences) / math.sqrt(len(differences))
            each = ", ".join(f"{difference:+.3f}" for difference in differences)
            paired.append(
                f"| {arm} | {better} minus {worse} | {each} | {centre:+.3f} ({centre - half:+.3f} to {centre + half:+.3f}) |"
            )
    return "\n\n".join(["\n".join(lines), CLAIM, "\n".join(paired), "\n".join(details)])


def figure(table: pd.DataFrame, path: Path) -> None:
    """Draw the runs of four sites: a dot a seed, a bar at their mean."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 3.6), layout="constrained", facecolor="white")
    axes = drawing.add_subplot()
    groups = list(product(CONFIGS, TRAINABLE))
    for place, (privacy, trained) in enumerate(groups):
        for step, (pretext, colour) in enumerate(COLOURS.items()):
            chosen = (table["federation"] == "four sites") & (table["privacy"] == privacy)
            chosen &= (table["trained"] == trained) & (table["pretext"] == pretext)
            values = table.loc[chosen, "auroc"].to_numpy()
            x = place + 0.27 * (step - 1)
            axes.plot([x] * len(values), values, "o", color=colour, markersize=4, alpha=0.6, linewidth=0)
            axes.plot([x - 0.1, x + 0.1], [values.mean()] * 2, color=colour, linewidth=3, solid_capstyle="butt",
                      label=pretext if not place else None)  # fmt: skip
            axes.annotate(f"{values.mean():.2f}", (x, values.max()), (0, 5), textcoords="offset points", color=colour,
                          ha="center")  # fmt: skip
    axes.set_xticks(range(len(groups)), [f"{privacy}\n{trained}" for privacy, trained in groups])
    axes.set(ylabel="macro AUROC", xlim=(-0.5, len(groups) - 0.5))
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=3, borderpad=0)
    drawing.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    (options.out / "steps").mkdir(parents=True, exist_ok=True)
    data = imported(options.data, options.out)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    changes = [f"data.path={data}", f"run.threads={threads}", "run.examples=0", *PRETRAINING, *options.changes]
    with ThreadPoolExecutor(options.jobs) as pool:

        def all_of(function: Callable[..., Any], calls: Iterable[tuple]) -> list:
            return [call.result() for call in [pool.submit(function, *words, options.out, changes) for words in calls]]

        all_of(pretrain, [(pretext, seed) for seed, pretext in product(SEEDS, TARGETS) if TARGETS[pretext]])
        tries = [
            (arm, rate) for arm in arms() if arm.seed == SEEDS[0] for rate in LEARNING_RATES[arm.privacy, arm.trained]
        ]
        steps = pd.DataFrame(all_of(tried, tries))
        steps.to_csv(options.out / "steps.csv", index=False)
        best = chosen(steps)
        rows = [(arm, best[tuple(getattr(arm, key) for key in KEYS)]) for arm in arms()]
        table = pd.DataFrame(all_of(measure, rows))
    table.to_csv(options.out / "transfer.csv", index=False)
    figure(table, options.out / "transfer.svg")
    text = tables(table)
    (options.out / "transfer.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
