"""Carrying out a study's arms: side by side, each in a process of its own, taking up what is there."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core.atomic_write import write_atomically
from core.errors import ConfigError
from simulations.studies.arms import (
    Arm,
    arms_of,
    audit_name,
    audit_settings,
    audits_of,
    backbone_name,
    backbone_settings,
    backbones_of,
    settings_of,
)
from simulations.studies.forked import call
from simulations.studies.kept_settings import require_same_settings
from simulations.studies.study_file import Study

MOST_JOBS = 8
"""Side by side where nobody says otherwise: each takes about a gigabyte."""

MEASURING = "measure records"
"""What a baseline's log calls NeuroKit2's part, which is nearly all that it takes."""

_FAILURE = "the arm's process ended without a word"
_MEASURED = re.compile(rf"^{MEASURING}: .*\((\d+) of (\d+)\)", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """Where one run may run.

    Attributes
    ----------
    device : str
        As ``run.device``.
    threads : int
        As ``run.threads``.
    """

    device: str
    threads: int


def places(jobs: int, device: str) -> list[Place]:
    """Return where runs go side by side: one a GPU, or as many as there are cores.

    Parameters
    ----------
    jobs : int
        How many; 0: as said.
    device : str
        The experiment's ``run.device``.
    """
    # Imported here: torch takes seconds, and a mistyped study is answered before.
    import torch

    cores = os.cpu_count() or 1
    named = [part for part in device.split(",") if part.startswith("cuda:")]
    gpus = [] if device == "cpu" or not torch.cuda.is_available() else named
    if not gpus and device in ("auto", "cuda") and torch.cuda.is_available():
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    count = jobs or len(gpus) or min(cores, MOST_JOBS)
    return [Place(gpus[number % len(gpus)] if gpus else "cpu", max(1, cores // count)) for number in range(count)]


@dataclass
class Runner:
    """Carries out the runs of a study.

    Attributes
    ----------
    study : Study
    out : Path
        Folder of the study.
    places : list of Place
    began, ended : callable
        Told of each run that begins and has ended, what was there before left out: its kind (``backbone``, ``arm``,
        ``baseline``, ``attack``) and, when it has ended, its name.
    measured : callable
        Told how many records of a set NeuroKit2 has measured, and how many there are.
    """

    study: Study
    out: Path
    places: list[Place]
    began: Callable[[str], object]
    ended: Callable[[str, str], object]
    measured: Callable[[int, int], object] = lambda done, total: None
    _free: queue.SimpleQueue[Place] = field(default_factory=queue.SimpleQueue)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def experiment(self) -> Path:
        """The experiment that all arms share, as an ordinary config."""
        return self.out / "experiment.toml"

    @property
    def backbones(self) -> Path:
        """Folder of the pretrained backbones."""
        return self.out / "backbones"

    def run(self) -> None:
        """Carry out what is not there yet; what fails is left to :func:`outcome`.

        On an interrupt the running arms are ended, each after a checkpoint or not: they go on the next time.
        """
        for folder in (self.backbones, self.out / "arms", self.out / "audits"):
            folder.mkdir(parents=True, exist_ok=True)
        for place in self.places:
            self._free.put(place)
        # Read when torch is loaded, by the server from which the runs are forked.
        os.environ["OMP_NUM_THREADS"] = str(self.places[0].threads)
        with ThreadPoolExecutor(len(self.places)) as pool:
            try:
                # Before all arms, so that none that waits for one keeps it from starting.
                pretrained = {each: pool.submit(self._pretrain, *each) for each in backbones_of(self.study)}
                # Early, since measuring takes long.
                baselines = pool.submit(self._baselines)
                arms = [arm for arm in arms_of(self.study) if not arm.group.baseline]
                runs = [pool.submit(self._arm, arm, pretrained) for arm in arms]
                attacks = [pool.submit(self._audit, *each, pretrained) for each in audits_of(self.study)]
                for future in (*pretrained.values(), baselines, *runs, *attacks):
                    future.result()
            except BaseException:
                self._stopping.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _pretrain(self, start: str, seed: int) -> None:
        folder = self.backbones / backbone_name(start, seed)
        self._carry_out("backbone", folder, backbone_settings(self.study, start, seed), predictions=False)

    def _arm(self, arm: Arm, pretrained: dict[tuple[str, int], Future[None]]) -> None:
        folder = self.out / "arms" / arm.name
        if backbone := pretrained.get((arm.group.start, arm.seed)):
            backbone.result()
            status, reason = outcome(self.backbones / backbone_name(arm.group.start, arm.seed), predictions=False)
            if status == "failed":
                log_of(folder).write_text(f"error: its backbone could not be pretrained: {reason}\n")
                self.ended("arm", arm.name)
                return
        self._carry_out("arm", folder, settings_of(self.study, arm, self.backbones))

    def _baselines(self) -> None:
        """Carry out the baselines one after another: the first one of a set measures its records for the others."""
        for arm in arms_of(self.study):
            folder = self.out / "arms" / arm.name
            if not arm.group.baseline or self._stopping.is_set() or outcome(folder)[0] == "done":
                continue
            # A baseline does not resume; what was measured is kept elsewhere.
            shutil.rmtree(folder, ignore_errors=True)
            log = log_of(folder)
            with self._place() as place:
                self.began("baseline")
                changes = settings_of(self.study, arm, self.backbones)
                changes += [f"run.folder={folder}", f"run.threads={place.threads}"]
                words = [arm.group.start, str(self.experiment), *_set(changes), "--jobs", str(place.threads)]
                words += ["--cache", str(self.out / "features")]
                self._call(["baseline", *words], log, partial(self._tell_measured, log))
            if not self._stopping.is_set():
                self.ended("baseline", arm.name)

    def _tell_measured(self, log: Path) -> None:
        if log.is_file() and (told := _MEASURED.findall(log.read_text(errors="replace"))):
            self.measured(*map(int, told[-1]))

    def _audit(self, start: str, epsilon: float, pretrained: dict[tuple[str, int], Future[None]]) -> None:
        if backbone := pretrained.get((start, self.study.settings.seeds[0])):
            backbone.result()
        folder = self.out / "audits" / audit_name(start, epsilon)
        if (folder / "audit.json").is_file():
            return
        # An attack does not resume.
        shutil.rmtree(folder, ignore_errors=True)
        changes = audit_settings(self.study, start, epsilon, self.backbones)
        with self._place() as place:
            self.began("attack")
            changes += [f"run.device={place.device}", f"run.threads={place.threads}"]
            words = [str(self.experiment), *_set(changes), "--out", str(folder)]
            self._call(["audit", *words], log_of(folder))
        if not self._stopping.is_set():
            self.ended("attack", folder.name)

    def _carry_out(self, kind: str, folder: Path, changes: list[str], predictions: bool = True) -> None:
        """Run one campaign to its end, or go on with it; what it says goes beside its folder."""
        if outcome(folder, predictions)[0] == "done":
            return
        if (folder / "results.json").is_file():
            # It was killed between its last two files; a run that has results is not resumed.
            shutil.rmtree(folder)
        with self._place() as place:
            self.began(kind)
            changes = [*changes, f"run.folder={folder}", f"run.device={place.device}", f"run.threads={place.threads}"]
            begun = (folder / "run.json").is_file()
            if begun and "privacy.enabled=true" in changes:
                # Nothing of it was looked at. Gone on with, it would pay twice for the round that was cut off.
                shutil.rmtree(folder)
                begun = False
            words = ["--resume", str(folder)] if begun else [str(self.experiment), *_set(changes)]
            self._call(["simulate", *words], log_of(folder))
        if not self._stopping.is_set():
            self.ended(kind, folder.name)

    def _call(self, words: list[str], log: Path, watch: Callable[[], object] = lambda: None) -> None:
        code = call(words, log, self._stopping, watch)
        if code and not self._stopping.is_set() and not _errors(log):
            with log.open("a") as said:
                said.write(f"\nerror: its process ended with code {code}; {log} holds what it said\n")

    @contextmanager
    def _place(self) -> Iterator[Place]:
        place = self._free.get()
        try:
            yield place
        finally:
            self._free.put(place)


def _set(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def log_of(folder: Path) -> Path:
    """Return the file beside a run's folder that holds what it said."""
    return folder.with_name(f"{folder.name}.log")


def outcome(folder: Path, predictions: bool = True) -> tuple[str, str]:
    """Return how a run stands (``done``, ``failed`` or ``waiting``), and for one that failed the reason in a sentence."""
    if all((folder / name).is_file() for name in ("results.json", *(["predictions.npz"] if predictions else []))):
        return "done", ""
    log = log_of(folder)
    if not log.is_file():
        return "waiting", ""
    if errors := _errors(log):
        return "failed", errors[-1]
    status = "running"
    if (folder / "run.json").is_file():
        status = json.loads((folder / "run.json").read_text()).get("status", "running")
    return ("failed", _FAILURE) if status == "failed" else ("waiting", "")


def _errors(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]


def keep_study(study: Study, out: Path) -> None:
    """Write what the study is into its folder, where it is what the folder holds already or there is nothing.

    Raises
    ------
    ConfigError
        When the folder holds another study, or cannot be made.
    """
    text, path = study.to_toml(), out / "study.toml"
    try:
        if path.is_file():
            require_same_settings(path, text, Study.of_defaults(study.kind).to_toml())
        elif out.is_dir() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no study; name a new folder")
        out.mkdir(parents=True, exist_ok=True)
        # Of a study that is gone on with as well: said in full, since the defaults of a later release may be others.
        write_atomically(out / "experiment.toml", study.experiment.to_toml())
        # Last, since it is what makes the folder a study.
        write_atomically(path, text)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written ({error.strerror}); name a folder that can") from None
