"""The folder of one run: what ran, with which settings, what came out, and where to go on after a stop."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from core.config import ExperimentConfig, config_hash, load_config
from core.errors import ConfigError, DataError

_PACKAGES = ("cardiofed", "torch", "flwr", "opacus", "numpy", "scipy", "pandas")


@dataclass(frozen=True)
class Checkpoint:
    """Where a campaign stands after a finished round.

    Attributes
    ----------
    phase : str
        ``pretrain`` or ``finetune``.
    backbone : str
    round_number : int
        The last finished round, counted from 1.
    tensors : dict of str to ndarray
        The aggregated tensors after that round.
    moments : dict of str to ndarray
        What the strategy remembers of the rounds so far; empty for one that remembers nothing.
    """

    phase: str
    backbone: str
    round_number: int
    tensors: dict[str, np.ndarray]
    moments: dict[str, np.ndarray] = field(default_factory=dict)


class RunFolder:
    """Files of one run.

    Parameters
    ----------
    path : Path
        The folder; made by :meth:`create`, or there already.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, config: ExperimentConfig) -> RunFolder:
        """Make ``<run.out>/<time>-<run.name>``, or use ``run.folder``, and write the resolved config.

        Raises
        ------
        ConfigError
            When the folder cannot be made.
        """
        try:
            if config.run.folder:
                path = Path(config.run.folder)
                path.mkdir(parents=True, exist_ok=True)
            else:
                path = _make_unused(Path(config.run.out), f"{datetime.now():%Y%m%d-%H%M%S}-{config.run.name}")
        except OSError as error:
            place = f'run.folder = "{config.run.folder}"' if config.run.folder else f'run.out = "{config.run.out}"'
            raise ConfigError(f"{place} cannot be made ({error.strerror}); name a folder that can be written") from None
        folder = cls(path)
        folder.update_record(
            name=config.run.name,
            started=_now(),
            finished=None,
            status="running",
            engine=config.run.engine,
            seed=config.run.seed,
            config_hash=config_hash(config),
            command=" ".join(["cardiofed", *sys.argv[1:]]),
            versions=_versions(),
        )
        # Last, since it is what makes the folder a run.
        folder.write_text("config.toml", config.to_toml())
        return folder

    @classmethod
    def reopen(cls, path: Path) -> tuple[RunFolder, ExperimentConfig]:
        """Open the folder of an earlier run, with its config.

        Raises
        ------
        ConfigError
            When it is no run folder, or its config cannot be read.
        """
        for name in ("config.toml", "run.json"):
            if not (path / name).is_file():
                raise ConfigError(f"{path} is no run folder (it has no {name}); name one made by cardiofed simulate")
        return cls(path), load_config(path / "config.toml")

    @contextlib.contextmanager
    def locked(self, name: str = "run.lock") -> Iterator[None]:
        """Keep other processes from running or resuming this run meanwhile.

        Parameters
        ----------
        name : str
            Of the lock: the command that carries a run out, and the ServerApp that it may start for that, have one each.

        Raises
        ------
        ConfigError
            When another process has the run already.
        """
        with (self.path / name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{self.path} is being run by another process; wait for it or end it") from None
            yield

    def write_text(self, name: str, text: str) -> None:
        """Write a file atomically."""
        partial = self.path / f"{name}.partial"
        partial.write_text(text)
        partial.replace(self.path / name)

    def record(self) -> dict[str, Any]:
        """Return ``run.json``."""
        return self._json("run.json")

    def update_record(self, **values: Any) -> None:
        """Change entries of ``run.json``."""
        self.write_text("run.json", json.dumps({**self.record(), **values}, indent=2) + "\n")

    def finish(self, status: str) -> None:
        """Note how and when the run ended: ``done``, ``interrupted`` or ``failed``."""
        self.update_record(status=status, finished=_now())

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one round to ``metrics.jsonl``."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rounds so far; a last line torn by a crash is left out."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = []
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def keep_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl``, when a run goes on from a checkpoint."""
        self.write_text("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def write_results(self, results: dict[str, Any]) -> None:
        """Write ``results.json``."""
        self.write_text("results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")

    def results(self) -> dict[str, Any]:
        """Return ``results.json``."""
        return self._json("results.json")

    def save_tensors(self, name: str, tensors: dict[str, np.ndarray]) -> None:
        """Write ``<name>.safetensors`` atomically."""
        target = self.path / f"{name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        save_file({key: np.ascontiguousarray(values) for key, values in tensors.items()}, partial)
        partial.replace(target)

    def load_tensors(self, name: str) -> dict[str, np.ndarray] | None:
        """Return the tensors of ``<name>.safetensors``, or None where there are none."""
        path = self.path / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            return load_file(path)
        except Exception as error:
            raise DataError(f"{path} cannot be read ({error}); delete the run folder and start again") from None

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint; a crash at any point leaves the one before."""
        partial, final = self.path / "checkpoint.partial", self.path / "checkpoint"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for part, tensors in (("tensors", checkpoint.tensors), ("moments", checkpoint.moments)):
            save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial / f"{part}.safetensors")
        state = {"phase": checkpoint.phase, "backbone": checkpoint.backbone, "round": checkpoint.round_number}
        (partial / "state.json").write_text(json.dumps(state))
        name = f"checkpoint-{checkpoint.phase}-{checkpoint.backbone}-{checkpoint.round_number}"
        shutil.rmtree(self.path / name, ignore_errors=True)
        partial.rename(self.path / name)
        # A symbolic link is replaced in one step, which a folder with something in it cannot be.
        link = self.path / "checkpoint.link"
        link.unlink(missing_ok=True)
        link.symlink_to(name)
        before = os.readlink(final) if final.is_symlink() else None
        os.replace(link, final)
        if before and before != name:
            shutil.rmtree(self.path / before, ignore_errors=True)

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, or None before the first one."""
        folder = self.path / "checkpoint"
        if not (folder / "state.json").is_file():
            return None
        try:
            state = json.loads((folder / "state.json").read_text())
            tensors = load_file(folder / "tensors.safetensors")
            remembered = folder / "moments.safetensors"
            moments = load_file(remembered) if remembered.is_file() else {}
            return Checkpoint(state["phase"], state["backbone"], state["round"], tensors, moments)
        except Exception as error:
            raise DataError(f"{folder} cannot be read ({error}); delete it to start the run again") from None

    def _json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return json.loads(path.read_text()) if path.is_file() else {}


def _make_unused(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        # Made, not looked for: two runs that begin in one second must not share a folder.
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
