"""How fast the synthetic generator is, measured side by side in one run.

    python benchmarks/synthetic.py           everything, a few minutes
    python benchmarks/synthetic.py speed     records/s against NeuroKit2's simulator on the same cores
    python benchmarks/synthetic.py gpu       records/s on a CUDA device, and how well it agrees with the CPU
    python benchmarks/synthetic.py training  the generator's share of a training step from a streamed recipe

Sides are run in turn, so that what disturbs the machine disturbs all; figures are of the medians.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import count
from multiprocessing import get_context

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from core.config_sections import ModelSettings
from core.console import table_for
from core.learning.training import PlainStepper
from core.models.registry import create_model
from core.synthetic.cohort import TARGETS
from core.synthetic.recipe import BLOCK, Recipe, generate, target_scale
from core.synthetic.stream import stream
from core.synthetic.truth import MEASURES

Row = tuple[str, str, str]

CORES = os.cpu_count() or 1
RECIPE = Recipe(size=1_000_000)
"""12 leads, 10 s, 100 Hz, wide cohort, all morphologies, a resting recording's noise, 0.5 to 40 Hz."""

SIMULATED_AT_ONCE = 2
"""Records that each NeuroKit2 process simulates in a turn, about a second's work."""


def simulate_with_neurokit(seeds: Iterable[int]) -> None:
    import neurokit2

    for seed in seeds:
        neurokit2.ecg_simulate(duration=10, sampling_rate=500, method="multileads", random_state=seed)


def speed(times: int = 5) -> list[Row]:
    """Time whole blocks, drawing and signals together; no block is made twice, since drawn blocks are kept."""
    blocks = count()
    recipes = {
        (rate, band): replace(RECIPE, rate=rate, band=band) for rate in (500, 100) for band in (None, RECIPE.band)
    }

    def ours(recipe: Recipe) -> float:
        blocks_at_once = (2 if recipe.rate == 500 else 8) * CORES
        first = next(blocks) * blocks_at_once * BLOCK
        began = time.perf_counter()
        generate(recipe, first, first + blocks_at_once * BLOCK)
        return blocks_at_once * BLOCK / (time.perf_counter() - began)

    # One thread a process: processes for all cores are what a user of NeuroKit2 would start.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    rates: dict[object, list[float]] = {side: [] for side in [*recipes, "neurokit2"]}
    with ProcessPoolExecutor(CORES, mp_context=get_context("spawn")) as pool:
        for turn in range(times + 1):
            measured: dict[object, float] = {side: ours(recipe) for side, recipe in recipes.items()}
            began = time.perf_counter()
            seeds = [
                range(SIMULATED_AT_ONCE * (turn * CORES + k), SIMULATED_AT_ONCE * (turn * CORES + k + 1))
                for k in range(CORES)
            ]
            list(pool.map(simulate_with_neurokit, seeds))
            measured["neurokit2"] = SIMULATED_AT_ONCE * CORES / (time.perf_counter() - began)
            if turn:  # The first warms up.
                for side, rate in measured.items():
                    rates[side].append(rate)
    middle = {side: statistics.median(values) for side, values in rates.items()}
    rows = [
        (f"{rate} Hz, {'with' if band else 'without'} band-pass, records/s", f"{middle[rate, band]:,.0f}", "")
        for rate, band in recipes
    ]
    return [
        *rows,
        ("NeuroKit2 multileads, 500 Hz, records/s", f"{middle['neurokit2']:.2f}", ""),
        *(
            (
                f"500 Hz {'with' if band else 'without'} band-pass over NeuroKit2",
                f"{middle[500, band] / middle['neurokit2']:,.0f} x",
                ">= 400 x",
            )
            for band in (RECIPE.band, None)
        ),
    ]


def gpu(times: int = 5, records: int = 80 * BLOCK) -> list[Row]:
    """Time a shard that stays on the device, and compare records with those of the CPU."""
    if not torch.cuda.is_available():
        return [("GPU", "no CUDA device", "")]
    rows = []
    for rate, wanted in ((100, ">= 50,000"), (500, "")):
        recipe, seconds = replace(RECIPE, rate=rate), []
        for turn in range(times + 1):
            began = time.perf_counter()
            made = generate(recipe, turn * records, (turn + 1) * records, device="cuda")
            torch.cuda.synchronize()
            if turn:
                seconds.append(time.perf_counter() - began)
            del made
        rows.append((f"GPU, {rate} Hz, records/s", f"{records / statistics.median(seconds):,.0f}", wanted))
        there, here = (generate(recipe, 0, 2 * BLOCK, device=device).signals.cpu() for device in ("cuda", "cpu"))
        rows.append(
            (f"GPU, {rate} Hz, largest difference from the CPU, mV", f"{(there - here).abs().max():.1e}", "<= 1e-4")
        )
    return [(f"{torch.cuda.get_device_name()}, {CORES} cores", "", ""), *rows]


def training(times: int = 3, batch_size: int = 64, records: int = 4 * BLOCK) -> list[Row]:
    """Time an epoch of the default backbone from a stream, and the same steps on batches that lie ready on the device."""
    rows = []
    columns = [MEASURES.index(name) for name in TARGETS]
    scale = target_scale(RECIPE)
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        mean, deviation = (
            torch.tensor(a[columns], dtype=torch.float32, device=device) for a in (scale.mean, scale.deviation)
        )
        model = create_model(ModelSettings().name, outputs=len(columns), seed=0).to(device).train()
        stepper = PlainStepper(model, torch.optim.AdamW(model.parameters(), lr=1e-3), l1)
        seconds: list[tuple[float, float]] = []
        for turn in range(times + 1):
            kept: list[tuple[Tensor, Tensor]] = []
            start = turn * records
            began = time.perf_counter()
            batches = stream(RECIPE, start, start + records, batch_size=batch_size, epochs=1, seed=0, device=device)
            with closing(batches):
                for signals, truth, _ in batches:
                    kept.append((signals, (truth[:, columns] - mean) / deviation))
                    take(stepper, *kept[-1])
            between = time.perf_counter()
            for signals, truth in kept:
                take(stepper, signals, truth)
            if turn:  # The first warms up.
                seconds.append((between - began, time.perf_counter() - between))
        streamed, ready = (statistics.median(side) for side in zip(*seconds, strict=True))
        rows.append(
            (
                f"generator's share of training on {device}, 100 Hz, steps of {1e3 * ready / len(kept):.0f} ms",
                f"{100 * (1 - ready / streamed):.1f} %",
                "< 15 %",
            )
        )
    return rows


def l1(outputs: Tensor, truth: Tensor) -> Tensor:
    return torch.nan_to_num(outputs - truth, nan=0.0).abs().mean(dim=1)


def take(stepper: PlainStepper, signals: Tensor, truth: Tensor) -> None:
    deviation, mean = torch.std_mean(signals, dim=2, keepdim=True)
    stepper.step((signals - mean) / (deviation + 1e-6), truth, 1e-3)


PARTS: dict[str, Callable[[], list[Row]]] = {"speed": speed, "gpu": gpu, "training": training}

if __name__ == "__main__":
    console = Console()
    table = table_for(console, f"on {CORES} cores", "measured", "wanted", right=("measured", "wanted"))
    for part in sys.argv[1:] or PARTS:
        for row in PARTS[part]():
            table.add_row(*row)
    console.print(table)
    print(f"numpy {np.__version__}, torch {torch.__version__}")
