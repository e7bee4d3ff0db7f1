"""The files of a finished run, made up: what its report is written from."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from core.config import ExperimentConfig
from core.ecg.labels import SUPERCLASSES
from core.report.page import write_report

TARGETS = {"hr": (11.2, "bpm"), "pr": (17.9, "ms"), "qrs": (14.0, "ms"), "qt": (33.1, "ms")}
SITES = ("St. Anna", "Northern General", "<script>alert(1)</script>", "Università di Ω")
DEVICES = ("cuda:0", "cuda:1", "cpu", "cpu")


def ecg(seed: int, *, rate: int = 100, seconds: float = 10.0) -> np.ndarray:
    """A plausible 12-lead ECG in mV, (12, samples), of Gaussian waves; the limb leads follow I and II."""
    rng = np.random.default_rng(seed)
    time_ = np.arange(round(seconds * rate)) / rate
    beats = np.cumsum(np.full(20, 0.82) + rng.normal(0, 0.02, 20)) - 0.5

    def wave(height: float, centre: float, width: float) -> np.ndarray:
        return sum(height * np.exp(-0.5 * ((time_ - beat - centre) / width) ** 2) for beat in beats)

    def lead(p: float, q: float, r: float, s: float, t: float) -> np.ndarray:
        spikes = wave(q, -0.025, 0.009) + wave(r, 0.0, 0.011) + wave(s, 0.028, 0.011)
        return wave(p, -0.16, 0.022) + spikes + wave(t, 0.26, 0.05)

    first, second = lead(0.09, -0.06, 0.7, -0.12, 0.22), lead(0.14, -0.09, 1.0, -0.16, 0.3)
    limb = [first, second, second - first, -(first + second) / 2, first - second / 2, second - first / 2]
    shape = ((0.2, -1.0), (0.4, -1.5), (0.8, -1.0), (1.3, -0.5), (1.3, -0.3), (1.0, -0.15))
    chest = [lead(0.08, -0.03, r, s, 0.3 if i else -0.05) for i, (r, s) in enumerate(shape)]
    return np.array(limb + chest) + rng.normal(0, 0.008, (12, time_.size))


def contents(*, private: bool = True, simulated: bool = True) -> dict[str, Any]:
    """What a finished run of four sites leaves in its folder, as plain data."""
    config = ExperimentConfig.from_mapping(
        {
            "privacy": {"enabled": private, "evaluation": "clear", "counts": "clear", "loss": "clear"},
            "run": {"name": "demo"},
        }
    )
    metrics: list[dict[str, Any]] = []
    for round_ in range(1, 5):
        metrics.append(
            {
                "phase": "pretrain",
                "backbone": "shared",
                "round": round_,
                "rounds": 4,
                "loss": 0.9 / round_,
                "seconds": 12.5,
                "bytes_down": 1_200_000,
                "bytes_up": 1_200_000,
                "answered": list(SITES),
                "left_out": [],
                "mae": {
                    name: median * (0.07 + 0.5 / round_ ** (1 + index / 4))
                    for index, (name, (median, _)) in enumerate(TARGETS.items())
                },
                "median_mae": {name: median for name, (median, _) in TARGETS.items()},
            }
        )
    for round_ in range(1, 9):
        missing = [{"site": SITES[3], "reason": "out-of-memory"}] if round_ in (3, 4) else []
        metrics.append(
            {
                "phase": "finetune",
                "backbone": "shared",
                "round": round_,
                "rounds": 8,
                "loss": 0.62 - 0.03 * round_,
                "seconds": 9.25,
                "bytes_down": 1_200_000,
                "bytes_up": 1_200_000,
                "answered": [site for site in SITES if not (missing and site == SITES[3])],
                "left_out": missing,
                "macro_auroc": 0.891 - 0.2 / round_**2,
                "auroc": {name: 0.88 - 0.2 / round_**2 for name in SUPERCLASSES},
            }
            | ({"epsilon": {site: 1.0 + 0.87 * round_ for site in SITES}} if private else {})
        )
    auroc = dict(zip(SUPERCLASSES, (0.9312, 0.8744, 0.9021, 0.9105, 0.8368), strict=True))
    results = {
        "regression": {
            "shared": {
                name: {"mae": median * 0.104, "median_mae": median, "unit": unit, "records": 500}
                for name, (median, unit) in TARGETS.items()
            }
        },
        "classification": {
            "classes": {
                name: {
                    "auroc": value,
                    "auroc_interval": [value - 0.03, value + 0.025],
                    "auprc": value - 0.15,
                    "auprc_interval": [value - 0.2, value - 0.1],
                    "f1": value - 0.2,
                    "ece": 0.02 + 0.01 * index,
                    "positives": 60 + 10 * index,
                    "records": 338,
                }
                for index, (name, value) in enumerate(auroc.items())
            },
            "macro": {
                "auroc": 0.8914,
                "auroc_interval": [0.8702, 0.9098],
                "auprc": 0.7413,
                "auprc_interval": [0.6951, 0.7894],
                "f1": 0.6907,
            },
            "calibration": {
                "ece": 0.0412,
                "curve": [
                    {"predicted": p, "observed": p**1.3, "interval": [p**1.3 * 0.8, p**1.3 * 0.8 + 0.2], "records": 169}
                    for p in (0.01, 0.02, 0.04, 0.07, 0.12, 0.2, 0.3, 0.5, 0.75, 0.95)
                ],
            },
            "records": 338,
            "bootstrap": 200,
            "interval": "95 % patient bootstrap",
            "noise": None,
        },
        "sites": [
            {
                "name": site,
                "device": DEVICES[index],
                "train_records": 402 - 31 * index,
                "train_patients": 377 - 30 * index,
                "test_records": 80 + index,
                "classes": dict(zip(SUPERCLASSES, (200 - 55 * index, 40 + 50 * index, 77, 61, 24), strict=True)),
                "macro_auroc": 0.88 + 0.005 * index,
                "auroc": {},
                "rounds_answered": 10 if index == 3 else 12,
                "left_out": [
                    {"phase": "finetune", "round": round_, "reason": "out-of-memory"}
                    for round_ in ((3, 4) if index == 3 else ())
                ],
            }
            for index, site in enumerate(SITES)
        ],
        "privacy": {
            "enabled": private,
            "sites": [
                {
                    "name": site,
                    "epsilon": 7.421 + 0.11 * index,
                    "delta": 1e-5,
                    "unit": "patient",
                    "neighbouring": "add-remove",
                    "accountant": "rdp",
                    "noise_multiplier": 0.8127,
                    "sampling_rate": 0.1,
                    "steps": 160,
                    "clip": 1.0,
                    "void": False,
                }
                for index, site in enumerate(SITES if private else ())
            ],
        },
        "model": {"name": "resnet1d", "parameters": 148_613, "trainable": 148_613, "trainable_mode": "all"},
        "seconds": {"pretrain": 50.0, "transfer": 0.1, "finetune": 74.0, "evaluate": 3.2},
        "notes": ["Threads were limited to 2."],
    }
    run = {
        "name": "demo",
        "started": "2026-11-20T10:41:07+00:00",
        "finished": "2026-11-20T10:43:29+00:00",
        "status": "done",
        "engine": "loopback",
        "seed": 7,
        "config_hash": "4f1d0b9a" * 8,
        "command": "cardiofed simulate configs/quickstart.toml",
        "versions": {"torch": "2.13.0", "flwr": "1.41.0", "opacus": "1.6.0"},
        "recipe": {"hash": "b7" * 32, "size": 4000, "rate": 100},
        "data": {
            "name": "simulated hospitals",
            "source": "embedded",
            "fingerprint": "9e" * 32,
            "simulated": simulated,
            "rate": 100,
            "records": 1908,
            "patients": 1766,
            "unlabelled_dropped": 12,
        },
        "devices": dict(zip(SITES, DEVICES, strict=True)),
        "release": {"evaluation": "clear", "counts": "clear", "loss": "clear"},
    }
    return {"run": run, "config": config.to_toml(), "metrics": metrics, "results": results}


def noised_contents() -> dict[str, Any]:
    """The same run with scores, counts and loss noised under each site's ledger."""
    held = contents()
    held["run"]["release"] = {"evaluation": "noised", "counts": "noised", "loss": "withheld"}
    classification = held["results"]["classification"]
    classification |= {
        "interval": "95 % interval, sampling and privacy noise",
        "bootstrap": 1000,
        "noise": {"multiplier": 1.234, "deviation": 5.512, "sites": list(SITES)},
    }
    classification["classes"]["HYP"] |= dict.fromkeys(
        ("auroc", "auroc_interval", "auprc", "auprc_interval", "f1", "ece")
    )
    for index, site in enumerate(held["results"]["sites"]):
        for key in ("train_records", "train_patients", "test_records", "classes"):
            del site[key]
        site |= {"units_noised": 371.4 - 30 * index, "count_deviation": 10.0}
    for index, row in enumerate(held["results"]["privacy"]["sites"]):
        row |= {"epsilon_campaign": 5.0, "epsilon_prv": 6.943, "epsilon_evaluation": 3.981 + 0.001 * index}
    return held


def write_run(folder: Path, held: dict[str, Any], *, examples: int = 4, units: str = "mV") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(held["run"]))
    (folder / "config.toml").write_text(held["config"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held["metrics"]))
    if held["results"] is not None:
        (folder / "results.json").write_text(json.dumps(held["results"]))
    if examples:
        rng = np.random.default_rng(0)
        np.savez(
            folder / "examples.npz",
            signals=np.array([ecg(seed) for seed in range(examples)], dtype=np.float32),
            probabilities=rng.uniform(0.02, 0.95, (examples, 5)).astype(np.float32),
            labels=np.eye(5, dtype=np.uint8)[np.arange(examples) % 5],
            names=np.array([f"record {seed:05d}" for seed in range(examples)]),
            sites=np.array([SITES[seed % 4] for seed in range(examples)]),
            rate=100,
            units=units,
        )
    return folder


def report(folder: Path, held: dict[str, Any], **options: Any) -> str:
    return write_report(write_run(folder, held, **options)).read_text(encoding="utf-8")
