"""What a run folder says, read for the report: also of a run that was interrupted, or failed, on the way."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.ecg.labels import SPACES, SUPERCLASSES
from core.errors import DataError
from core.report.numbers import finite

PHASES = {"pretrain": "Pretraining", "finetune": "Fine-tuning"}
TARGETS = {
    "hr": ("Heart rate", "bpm"),
    "pr": ("PR interval", "ms"),
    "qrs": ("QRS duration", "ms"),
    "qt": ("QT interval", "ms"),
    "qtc": ("QTc interval", "ms"),
    "axis": ("QRS axis", "deg"),
    "st": ("ST level", "mV"),
    "t": ("T amplitude", "mV"),
}
REAL_INTERVALS = "real_intervals.json"
WAVES = {"p": "P", "qrs": "QRS", "t": "T"}


@dataclass(frozen=True)
class Examples:
    """Example ECGs and what the model says of them.

    Attributes
    ----------
    signals
        (k, 12, samples), in mV or in normalised units.
    probabilities, labels
        (k, C), in the order of the run's classes.
    names, sites
        One of each for an example.
    rate
        Hz.
    units
        "mV" or "z".
    """

    signals: NDArray[np.floating]
    probabilities: NDArray[np.floating]
    labels: NDArray[np.integer]
    names: tuple[str, ...]
    sites: tuple[str, ...]
    rate: float
    units: str


@dataclass(frozen=True)
class RunRecord:
    """Everything a run folder holds about a run; what is not there yet is empty.

    Attributes
    ----------
    run, config, results
        ``run.json``, ``config.toml``, ``results.json``.
    config_text
        ``config.toml`` as it stands.
    metrics
        Rows of ``metrics.jsonl``, in order.
    examples
        ``examples.npz``, or None.
    real_intervals
        ``real_intervals.json``: what the network and NeuroKit2 measured on real records.
    defects
        Sentences about files that are there and cannot be read.
    """

    run: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    metrics: tuple[Mapping[str, Any], ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    examples: Examples | None = None
    real_intervals: Mapping[str, Any] = field(default_factory=dict)
    defects: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """``done``, ``running``, ``interrupted`` or ``failed``."""
        return str(self.run.get("status") or "interrupted")

    @property
    def simulated(self) -> bool:
        """Whether the hospitals are simulated."""
        return bool(section(self.run, "data").get("simulated"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that its models tell apart."""
        space = section(self.config, "data").get("label_space")
        return SPACES.get(str(space), SUPERCLASSES)

    def rounds(self, phase: str) -> list[Mapping[str, Any]]:
        """Rows of `metrics` of one phase."""
        return [row for row in self.metrics if row.get("phase") == phase]

    @cached_property
    def sites(self) -> tuple[Mapping[str, Any], ...]:
        """One mapping a site: of the results, else the names and devices that are known without them."""
        told = [site for site in self.results.get("sites") or () if isinstance(site, Mapping)]
        if told:
            return tuple(told)
        names = dict.fromkeys(section(self.run, "devices"))
        for row in self.metrics:
            names |= dict.fromkeys(row.get("answered") or ())
            names |= dict.fromkeys(miss.get("site", "–") for miss in row.get("left_out") or ())
        return tuple({"name": name, "device": section(self.run, "devices").get(name)} for name in names)

    @cached_property
    def private(self) -> bool:
        """Whether fine-tuning was meant to be differentially private."""
        told = section(self.results, "privacy").get("enabled")
        if told is None:
            told = section(self.config, "privacy").get("enabled")
        if told is None:
            told = any(row.get("epsilon") for row in self.metrics)
        return bool(told)

    @property
    def privacy_unfinished(self) -> bool:
        """Whether what the sites spent is only known up to the last finished round."""
        return not section(self.results, "privacy").get("sites")

    @cached_property
    def privacy_sites(self) -> tuple[Mapping[str, Any], ...]:
        """What each site spent: of the results, else from the last rounds and the settings."""
        told = section(self.results, "privacy").get("sites") or ()
        if told:
            return tuple(told)
        settings = section(self.config, "privacy")
        known = {key: settings.get(key) for key in ("delta", "unit", "clip", "sampling_rate")}
        spent: dict[str, float | None] = {}
        for row in self.rounds("finetune"):
            for site, value in (row.get("epsilon") or {}).items():
                before, now = spent.get(site), finite(value)
                spent[site] = now if before is None or now is None else max(before, now)
        void = bool(settings.get("insecure_deterministic"))
        return tuple({"name": site, "epsilon": value, "void": void} | known for site, value in spent.items())


def read_run(folder: Path) -> RunRecord:
    """Read a run folder; only ``run.json`` must be there.

    Raises
    ------
    DataError
        If `folder` is no run folder.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise DataError(f"{folder} is no run folder, for it has no run.json; name a folder that cardiofed has made")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        run = None
    if not isinstance(run, dict):
        raise DataError(f"{path} is not a JSON object; restore it, or run the experiment again")
    defects: list[str] = []
    text, config = _read_config(folder / "config.toml", defects)
    return RunRecord(
        run=run,
        config=config,
        config_text=text,
        metrics=_read_metrics(folder / "metrics.jsonl", defects),
        results=_read_object(
            folder / "results.json", "results.json cannot be read, so only what the rounds recorded is shown.", defects
        ),
        examples=_read_examples(folder / "examples.npz", defects),
        real_intervals=_read_object(
            folder / REAL_INTERVALS,
            f"{REAL_INTERVALS} cannot be read; measure again with cardiofed intervals.",
            defects,
        ),
        defects=tuple(defects),
    )


def section(mapping: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under a key, or an empty one."""
    value = mapping.get(key)
    return value if isinstance(value, Mapping) else {}


def _read_config(path: Path, defects: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        defects.append("config.toml is missing, so the settings are unknown.")
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        defects.append("config.toml is not valid TOML; it is shown as it stands.")
        return text, {}


def _read_metrics(path: Path, defects: list[str]) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        return ()
    rows, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and row.get("phase") in PHASES and finite(row.get("round")) is not None:
            rows.append(row)
        else:
            broken += 1
    if broken:
        defects.append(f"{broken} line{'s' * (broken > 1)} of metrics.jsonl cannot be read and were left out.")
    return tuple(rows)


def _read_object(path: Path, defect: str, defects: list[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        told = None
    if isinstance(told, dict):
        return told
    defects.append(defect)
    return {}


def _read_examples(path: Path, defects: list[str]) -> Examples | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            examples = Examples(
                signals=np.asarray(stored["signals"], dtype=np.float64),
                probabilities=np.asarray(stored["probabilities"], dtype=np.float64),
                labels=np.asarray(stored["labels"], dtype=np.int64),
                names=tuple(map(str, stored["names"])),
                sites=tuple(map(str, stored["sites"])),
                rate=float(stored["rate"]),
                units=str(stored["units"]),
            )
    except Exception:  # a cut-off archive raises whatever zipfile, zlib or NumPy meet first
        defects.append("examples.npz cannot be read, so no example is drawn.")
        return None
    return examples if len(examples.signals) else None
