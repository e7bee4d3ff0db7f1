"""What pretraining on synthetic records is worth: 72 campaigns on the real set.

    python benchmarks/transfer.py DATA OUT [--jobs N] [--set KEY=VALUE ...]

From scratch, from four intervals, from rich targets (intervals, axis, ST and T of each lead, the P/QRS/T mask) x not
private, epsilon 8 x all layers, the head alone x centralized, four sites x seeds 0, 1, 2: configs/ptbxl.toml and
configs/ptbxl-private.toml with what ``settings`` below changes. Backbones are pretrained once for each (targets, seed), over
four sites, and used by every arm. Finished runs are not repeated, so that the command can be stopped and called again. OUT
receives the imported set, the runs, ``transfer.csv`` and the tables, which are printed as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import pandas as pd
from real_set import COMMAND, ROOT, SEEDS, imported

TARGETS = {
    "from scratch": (),
    "four intervals": ("hr", "pr", "qrs", "qt"),
    "rich targets": ("hr", "pr", "qrs", "qt", "axis", "st", "t", "mask"),
}
CONFIGS = {"not private": "ptbxl.toml", "epsilon 8": "ptbxl-private.toml"}
TRAINABLE = {"all layers": "all", "head alone": "head"}
SITES = {"centralized": 1, "four sites": 4}

LEARNING_RATES = {
    ("not private", "all layers"): 0.004,
    ("not private", "head alone"): 0.02,
    ("epsilon 8", "all layers"): 0.1,
    ("epsilon 8", "head alone"): 1.0,
}
"""Of AdamW where not private and of SGD where private. All layers: as shipped. The head alone, not private: 0.02 and 0.004
were tried on seed 0, one site and rich targets of an earlier state of the generator, trained on folds 1 to 6 and chosen by
fold 7 (macro AUROC 0.894 and 0.881), so that no test record chose anything. The head alone, private: a guess, not tried."""

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


def backbone_folder(out: Path, pretext: str, seed: int) -> Path:
    return out / f"backbone-{pretext.replace(' ', '-')}-{seed}"


def pretext_settings(pretext: str) -> list[str]:
    return [f"pretrain.targets={json.dumps(list(TARGETS[pretext]))}"]


def settings(arm: Arm, out: Path) -> list[str]:
    """Return what an arm changes in its config."""
    changes = [
        f"federation.sites={SITES[arm.federation]}",
        f"transfer.trainable={TRAINABLE[arm.trained]}",
        f"finetune.learning_rate={LEARNING_RATES[arm.privacy, arm.trained]}",
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
    least = ["finetune.rounds=1", "transfer.trainable=head", "run.bootstrap=0", "run.examples=0"]
    run(
        "ptbxl.toml",
        backbone_folder(out, pretext, seed),
        [*changes, f"run.seed={seed}", *pretext_settings(pretext), *least],
    )


def measure(arm: Arm, out: Path, changes: list[str]) -> dict:
    """Return the arm's line of the CSV."""
    common = [*changes, f"run.seed={arm.seed}", "run.examples=0"]
    results = run(CONFIGS[arm.privacy], out / arm.name, [*common, *settings(arm, out)])
    measures = results["classification"]["macro"]
    low, high = measures["auroc_interval"]
    return {**asdict(arm), "auroc": measures["auroc"], "low": low, "high": high}


def tables(table: pd.DataFrame) -> str:
    """Return the means, each run with its interval, and paired differences as markdown."""
    found = {Arm(*row[:5]): row[5:8] for row in table.itertuples(index=False)}
    lines = ["| federation | privacy | trained | " + " | ".join(TARGETS) + " |", "|---" * (3 + len(TARGETS)) + "|"]
    details = ["| arm | macro AUROC by seed (95 % patient bootstrap) |", "|---|---|"]
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
            details.append(f"| {arm}, {pretext} | {cells} |")
        for better, worse in PAIRS:
            differences = [a[0] - b[0] for a, b in zip(by_pretext[better], by_pretext[worse], strict=True)]
            centre = statistics.mean(differences)
            half = STUDENT_T * statistics.stdev(differences) / math.sqrt(len(differences))
            each = ", ".join(f"{difference:+.3f}" for difference in differences)
            paired.append(
                f"| {arm} | {better} minus {worse} | {each} | {centre:+.3f} ({centre - half:+.3f} to {centre + half:+.3f}) |"
            )
    return "\n\n".join(["\n".join(lines), CLAIM, "\n".join(paired), "\n".join(details)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = imported(options.data, options.out)
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    changes = [f"data.path={data}", f"run.threads={threads}", *options.changes]
    with ThreadPoolExecutor(options.jobs) as pool:
        backbones = [
            pool.submit(pretrain, pretext, seed, options.out, changes)
            for seed, pretext in product(SEEDS, TARGETS)
            if TARGETS[pretext]
        ]
        for backbone in backbones:
            backbone.result()
        lines = [pool.submit(measure, arm, options.out, changes) for arm in arms()]
        table = pd.DataFrame([line.result() for line in lines])
    table.to_csv(options.out / "transfer.csv", index=False)
    text = tables(table)
    (options.out / "transfer.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
