"""Quality on the real set: the three arms of docs/results.md, three seeds each, through the command line.

    python benchmarks/real_set.py DATA OUT [--set KEY=VALUE ...]

DATA holds ``ptbxl-500`` and ``ptbxl-zscored`` (see the README, "Tests"); OUT receives the imported set and the runs.
Finished runs are not repeated, so that the command can be stopped and called again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
COMMAND = Path(sys.executable).parent / "cardiofed"
CONFIG = ROOT / "configs" / "ptbxl.toml"
SEEDS = (0, 1, 2)
ARMS = {
    "four sites, transferred": [],
    "four sites, from scratch": ["pretrain.enabled=false"],
    "centralized, from scratch": ["federation.sites=1", "pretrain.enabled=false"],
}


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


def folder_of(name: str, seed: int, out: Path) -> Path:
    return out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"


def arm(name: str, seed: int, data: Path, out: Path, changes: list[str]) -> dict:
    """Run one arm under one seed, or take up what is there, and return its results."""
    folder = folder_of(name, seed, out)
    settings = [*ARMS[name], f"run.seed={seed}", f"data.path={data}", f"run.folder={folder}", *changes]
    if not (folder / "config.toml").is_file():
        call("simulate", CONFIG, *(word for setting in settings for word in ("--set", setting)))
    elif not (folder / "results.json").is_file():
        call("simulate", "--resume", folder)
    return json.loads((folder / "results.json").read_text())


def figure(out: Path) -> Path:
    """Draw macro AUROC by round of the two federated arms: mean over the seeds, and their range."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 3.6), layout="constrained", facecolor="white")
    axes = drawing.add_subplot()
    for name, colour in (("four sites, transferred", "#0b61a4"), ("four sites, from scratch", "#c05a00")):
        curves = []
        for seed in SEEDS:
            lines = (folder_of(name, seed, out) / "metrics.jsonl").read_text().splitlines()
            rounds = [line for line in map(json.loads, lines) if line["phase"] == "finetune"]
            curves.append([line["macro_auroc"] for line in rounds])
        numbers = range(1, len(curves[0]) + 1)
        mean = [statistics.mean(values) for values in zip(*curves, strict=True)]
        low, high = [[edge(values) for values in zip(*curves, strict=True)] for edge in (min, max)]
        axes.fill_between(numbers, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(numbers, mean, color=colour, linewidth=2)
        label = name.removeprefix("four sites, ")
        axes.annotate(
            f"{label}: {mean[-1]:.3f}",
            (numbers[-1], mean[-1]),
            (4, 0),
            textcoords="offset points",
            color=colour,
            va="center",
        )
    axes.set(
        xlabel="federated round",
        ylabel="macro AUROC",
        xlim=(1, len(mean) * 1.28),
        ylim=(0.6, 0.93),
        xticks=[1, *numbers[4::5]],
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    path = out / "transfer.svg"
    drawing.savefig(path, metadata={"Date": None})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = imported(options.data, options.out)
    # Side by side with one thread each: two threads in one process wait for each other as soon as anything else runs.
    changes = [f"run.threads={max(1, (os.cpu_count() or 1) // options.jobs)}", *options.changes]
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {name: [pool.submit(arm, name, seed, data, options.out, changes) for seed in SEEDS] for name in ARMS}
        results = {name: [run.result() for run in runs] for name, runs in waiting.items()}
    print("\n| arm | macro AUROC by seed (95 % patient bootstrap) | mean |\n|---|---|---|")
    for name, runs in results.items():
        macros = [run["classification"]["macro"] for run in runs]
        cells = [f"{m['auroc']:.3f} ({m['auroc_interval'][0]:.3f} to {m['auroc_interval'][1]:.3f})" for m in macros]
        print(f"| {name} | {', '.join(cells)} | {statistics.mean(m['auroc'] for m in macros):.3f} |")
    print(f"\nfigure: {figure(options.out)}")
    print("\n| seed | HR bpm | PR ms | QRS ms | QT ms |\n|---|---|---|---|---|")
    for seed, run in zip(SEEDS, results["four sites, transferred"], strict=True):
        errors = run["regression"]["shared"]
        cells = [f"{errors[t]['mae']:.2f} ({errors[t]['median_mae']:.1f})" for t in ("hr", "pr", "qrs", "qt")]
        print(f"| {seed} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
