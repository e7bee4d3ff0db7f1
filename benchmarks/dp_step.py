"""What differential privacy costs, measured side by side in one run.

    python benchmarks/dp_step.py           everything, a few minutes
    python benchmarks/dp_step.py step      records/s of the private loop, the plain one, and Opacus' own hooks and optimizer
    python benchmarks/dp_step.py noise     a step's noise from the operating system
    python benchmarks/dp_step.py ledger    entering a plan in a ledger

Each line printed is one JSON object. Sides are run in turn, so that what disturbs the machine disturbs all; ratios are of
the medians.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from core.learning.classification import OptimizerSettings, bce_loss
from core.learning.private_step import PrivateStepper
from core.learning.training import PlainStepper
from core.models.registry import count_parameters, create_model, model_names
from core.privacy.noise import SystemNoise, add_noise
from core.privacy.plan import Neighbouring, PrivacyPlan, PrivacyUnit
from core.privacy.sampling import Draw

BATCH, PHYSICAL, SAMPLES, UNITS = 64, 32, 1000, 1000
"""Of a step: records drawn, records at once in memory, samples of a record; and the cohort."""


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def plan() -> PrivacyPlan:
    return PrivacyPlan(
        unit=PrivacyUnit.PATIENT,
        neighbouring=Neighbouring.ADD_REMOVE,
        epsilon=8.0,
        delta=1e-5,
        clip=1.0,
        units=UNITS,
        sampling_rate=BATCH / UNITS,
        steps=16,
        noise_multiplier=1.0,
        expected_batch=float(BATCH),
    )


def step(times: int = 5) -> None:
    """Time a step of 64 records of 10 s at 100 Hz on both backbones, on the CPU and on a GPU where there is one."""
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for name in model_names():
            sides = {"private": private(name, device), "plain": plain(name, device), "opacus": opacus(name, device)}
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            for turn in range(times + 1):
                for side, take in sides.items():
                    began = time.perf_counter()
                    take()
                    if device == "cuda":
                        torch.cuda.synchronize()
                    if turn:  # The first warms up.
                        seconds[side].append(time.perf_counter() - began)
            rates = {side: BATCH / statistics.median(values) for side, values in seconds.items()}
            say(
                benchmark=f"step of {name}",
                device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
                threads=torch.get_num_threads(),
                records_per_second={side: round(rate, 1) for side, rate in rates.items()},
                private_over_opacus=round(rates["private"] / rates["opacus"], 2),
                target=1.0,
                private_over_plain=round(rates["private"] / rates["plain"], 2),
            )


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 12, SAMPLES), np.float32), rng.integers(0, 2, (BATCH, 5)).astype(np.float32)


def made(name: str, device: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = create_model(name, outputs=5, seed=0).to(device).train()
    return model, OptimizerSettings("sgd", 0.0, 0.9).build(list(model.parameters()), 0.01)


def private(name: str, device: str) -> Callable[[], None]:
    signals, truth = data()
    stepper = PrivateStepper(*made(name, device), bce_loss, plan(), PHYSICAL, SystemNoise())
    draw = Draw(np.arange(BATCH), np.arange(BATCH), BATCH)
    return lambda: stepper.step(draw, lambda rows: (signals[rows], truth[rows]), 0.01)


def plain(name: str, device: str) -> Callable[[], object]:
    signals, truth = (torch.from_numpy(array) for array in data())
    stepper = PlainStepper(*made(name, device), bce_loss)
    return lambda: stepper.step(signals.to(device), truth.to(device), 0.01)


def opacus(name: str, device: str) -> Callable[[], None]:
    """Give a step as Opacus takes it: hooks, clipping and noise by its optimizer, physical batches by its manager."""
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.utils.batch_memory_manager import BatchMemoryManager

    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    model, optimizer = made(name, device)
    sampled = GradSampleModule(model)
    noisy = DPOptimizer(optimizer, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH)
    loader = DataLoader(TensorDataset(*(torch.from_numpy(array) for array in data())), batch_size=BATCH)

    def take() -> None:
        with BatchMemoryManager(data_loader=loader, max_physical_batch_size=PHYSICAL, optimizer=noisy) as parts:
            for signals, truth in parts:
                noisy.zero_grad()
                bce_loss(sampled(signals.to(device)), truth.to(device)).mean().backward()
                noisy.step()

    return take


def noise(times: int = 20) -> None:
    """Time the noise of one step, and what half the sum of four Gaussians would take instead of the lattice."""
    source = SystemNoise()
    for name in model_names():
        size = count_parameters(create_model(name, outputs=5))
        values = np.zeros(size)
        lattice, four = [], []
        for _ in range(times):
            began = time.perf_counter()
            add_noise(values, 1.0, source)
            between = time.perf_counter()
            values + sum(source.gaussian(size, 0.5) for _ in range(4))
            lattice.append(between - began)
            four.append(time.perf_counter() - between)
        say(
            benchmark=f"noise of {name}",
            parameters=size,
            milliseconds=round(1e3 * statistics.median(lattice), 1),
            of_four=round(1e3 * statistics.median(four), 1),
        )


def ledger(times: int = 40) -> None:
    """Time entering and settling a plan for 1,000 patients with 2,000 records, the noise calibrated beforehand."""
    import pandas as pd

    from core.privacy.ledger import Ledger

    records = pd.DataFrame(
        {"record": [f"r{i}" for i in range(2 * UNITS)], "patient": [f"p{i // 2}" for i in range(2 * UNITS)]}
    )
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "bare", "wb", buffering=0) as bare:
        book = Ledger.create(Path(folder) / "ledger.sqlite")
        cohort = book.cohort(records)
        seconds: list[tuple[float, float, float]] = []
        for number in range(1, times + 1):
            bare.write(bytes(4096))
            began = time.perf_counter()
            os.fsync(bare.fileno())
            synced = time.perf_counter() - began
            began = time.perf_counter()
            entry, _ = book.reserve(
                cohort, lambda histories: plan(), campaign="one", round_number=number, task="finetune", void=False
            )
            between = time.perf_counter()
            book.settle(entry, "done")
            seconds.append((between - began, time.perf_counter() - between, synced))
    reserve, settle, sync = zip(*seconds, strict=True)
    say(
        benchmark="ledger reservation",
        milliseconds=round(1e3 * statistics.median(reserve), 2),
        slowest=round(1e3 * max(reserve), 2),
        target=20,
        settle=round(1e3 * statistics.median(settle), 2),
        one_fsync_of_this_disk=round(1e3 * statistics.median(sync), 2),
        entries=times,
    )


PARTS: dict[str, Callable[[], None]] = {"step": step, "noise": noise, "ledger": ledger}

if __name__ == "__main__":
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
