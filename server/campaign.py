"""A campaign: pretrain, transfer, fine-tune, evaluate. Knows sites by name and no transport.

What reaches the sites goes through a :class:`Federation`; the Flower one is in :mod:`server.strategy`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from core.config import ExperimentConfig, config_hash
from core.config_sections import RELEASES
from core.ecg.leads import LEADS
from core.errors import FederationError
from core.evaluation import auroc, macro
from core.learning.personal import is_personal, stays_at_home
from core.learning.regression import pretext_model
from core.learning.targets import regression_targets, unit_of
from core.learning.transfer import set_trainable, transferred_tensors
from core.models.registry import create_model
from core.models.saved import ModelCard, save_model
from core.models.tensors import all_tensors, at_precision, load_tensors
from core.tasks import REASONS, Reason, Task, TaskKind, Tensors, Update
from server.aggregation import ServerModel, average, combine
from server.answers import Answers, Federation, mean_loss, without_misfits
from server.averaging import averaged, joined, parted
from server.handshake import check_alike, check_releases, recorded_sites, settled_sites, synthetic_set
from server.participation import drawn_sites
from server.pretrained import backbone_names, reusable_backbones
from server.results import (
    class_results,
    classification_results,
    model_results,
    pretext_line,
    privacy_results,
    regression_results,
    segmentation_results,
    site_results,
)
from server.run_folder import Checkpoint, RunFolder

PERSONAL_NOTE = (
    "Each site was measured with a model of its own, part of which never left it; the model of this run is what they have "
    "in common."
)


class Observer(Protocol):
    """Who watches a campaign, for instance a progress bar."""

    def phase(self, title: str, answers: int, done: int) -> None:
        """A phase of ``answers`` expected answers begins, of which ``done`` came before a resume."""

    def answered(self, site: str) -> None:
        """A site came back."""

    def round_finished(self, line: dict[str, Any]) -> None:
        """A round ended; ``line`` is its entry in ``metrics.jsonl``."""


@dataclass
class Campaign:
    """One whole training, resumable after any finished round.

    Attributes
    ----------
    config : ExperimentConfig
    federation : Federation
    folder : RunFolder
        Where rounds, checkpoints and results go; what it already holds is not done again.
    observer : Observer
    """

    config: ExperimentConfig
    federation: Federation
    folder: RunFolder
    observer: Observer
    _descriptions: dict[str, Update] = field(default_factory=dict)
    _absent: dict[str, str] = field(default_factory=dict)
    _notes: list[str] = field(default_factory=list)
    _base: Tensors = field(default_factory=dict)
    _base_name: str = ""

    def run(self) -> dict[str, Any]:
        """Run what is left of the campaign and return the results.

        Raises
        ------
        FederationError
            When fewer than ``federation.min_sites`` answer.
        """
        self._describe()
        if self.config.pretrain.from_run:
            self._reuse_backbones(Path(self.config.pretrain.from_run))
        elif self.config.pretrain.enabled:
            for backbone in backbone_names(self.config):
                self._pretrain(backbone)
        trained, seconds = self._transfer()
        trained = self._finetune(trained)
        return self._finish(trained, seconds)

    def _describe(self) -> None:
        """Learn who takes part; with the first finished round that is settled, and a resume asks the same sites again."""
        settled = settled_sites(self.folder)
        task = Task(TaskKind.DESCRIBE, self._name)
        answers = self._ask(dict.fromkeys(sorted(settled) or self.federation.sites(), task), "describe", 0)
        self._descriptions = dict(sorted({**settled, **answers.updates}.items()))
        self._absent = {site: reason for site, reason in answers.left_out.items() if site not in settled}
        if settled:
            late = sorted(set(self.federation.sites()) - set(settled))
            self._notes += [f"{site} took no part: it joined after the first round" for site in late]
        self._notes += check_releases(self._descriptions)
        check_alike(self._descriptions, self.config.data.label_space)
        self.folder.update_record(
            sites=recorded_sites(self._descriptions),
            devices={name: update.texts["device"] for name, update in self._descriptions.items()},
            recipe=synthetic_set(self.config, self.folder, self._descriptions)
            if self.config.pretrain.enabled
            else None,
            release={
                item: getattr(self.config.privacy, item) if self.config.privacy.enabled else "clear"
                for item in RELEASES
            },
        )

    def _pretrain(self, backbone: str) -> None:
        name = f"backbones/{backbone}"
        if self.folder.load_tensors(name) is not None:
            return
        settings = self.config.pretrain
        targets = settings.targets if backbone == "shared" else (backbone,)
        units = {target: unit_of(target, self.config.data.normalisation) for target in regression_targets(targets)}
        model = pretext_model(self.config.model.name, targets, self._rate, self.config.run.seed)
        tensors, _, first = self._take_up("pretrain", backbone, all_tensors(model))
        draws = self._draws("pretrain", backbone, settings.rounds)
        expected = [2 * len(asked) for asked in draws]
        self.observer.phase(f"pretrain {backbone}", sum(expected), sum(expected[: first - 1]))
        for number in range(first, settings.rounds + 1):
            began = time.monotonic()
            request = Task(TaskKind.PRETRAIN, self._name, "pretrain", backbone, number, settings.rounds)
            asked = draws[number - 1 :]
            answers = self._train(replace(request, tensors=tensors), asked)
            tensors = average(answers.updates)
            evaluation = replace(request, kind=TaskKind.EVALUATE, tensors=tensors)
            measured = self._ask(self._tasks(evaluation, asked), "pretrain", number).updates
            self._close_round(
                Checkpoint("pretrain", backbone, number, tensors),
                answers,
                settings.rounds,
                time.monotonic() - began,
                request_bytes=self._travelling(tensors),
                **pretext_line(measured, units),
            )
        self.folder.save_tensors(name, tensors)

    def _reuse_backbones(self, run: Path) -> None:
        source, backbones = reusable_backbones(self.config, self._rate)
        for backbone, tensors in backbones.items():
            self.folder.save_tensors(f"backbones/{backbone}", tensors)
        self.folder.update_record(recipe=source.record().get("recipe"))
        lines = self.folder.metrics()
        if not any(line["phase"] == "pretrain" for line in lines):
            reused = [{**line, "reused_from": str(run)} for line in source.metrics() if line["phase"] == "pretrain"]
            self.folder.keep_metrics([*reused, *lines])

    def _transfer(self) -> tuple[Tensors, float]:
        """Give the classifier its backbone; send the sites what stays frozen. Returns what trains."""
        began = time.monotonic()
        model = self._create(len(self.config.classes))
        if self.config.pretrain.enabled:
            backbone = self.config.transfer.target if self._per_target else "shared"
            tensors = self.folder.load_tensors(f"backbones/{backbone}")
            assert tensors is not None
            targets = (backbone,) if self._per_target else self.config.pretrain.targets
            load_tensors(model, transferred_tensors(tensors, targets, self.config.classes))
        set_trainable(model, self.config.transfer.trainable)
        names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        tensors = all_tensors(model)
        self._base = {name: values for name, values in tensors.items() if name not in names}
        self._base_name = _fingerprint(self._base) if self._base else ""
        self._send_base(list(self._descriptions))
        return {name: values for name, values in tensors.items() if name in names}, time.monotonic() - began

    def _send_base(self, sites: list[str]) -> None:
        if not self._base or not sites:
            return
        task = Task(TaskKind.TRANSFER, self._name, "finetune", base=self._base_name, tensors=self._base)
        self._ask(dict.fromkeys(sites, task), "transfer", 0, at_least=0)

    def _finetune(self, trained: Tensors) -> Tensors:
        settings = self.config.finetune
        carried, moments, first = self._take_up("finetune", "classifier", trained)
        trained, mean = parted(carried)
        draws = self._draws("finetune", "classifier", settings.rounds)
        expected = [len(asked) * (1 + self._measures_rounds) for asked in draws]
        self.observer.phase("fine-tune", sum(expected), sum(expected[: first - 1]))
        for number in range(first, settings.rounds + 1):
            began = time.monotonic()
            request = Task(TaskKind.FINETUNE, self._name, "finetune", "", number, settings.rounds, base=self._base_name)
            asked = draws[number - 1 :]
            own = stays_at_home(self.config.federation, number, settings.rounds, trained)
            answers = self._train(replace(request, tensors=trained), asked, own)
            if common := {name: values for name, values in trained.items() if name not in own}:
                before = ServerModel(at_precision(at_precision(common, self._precision), "float32"), moments)
                after = combine(self.config.federation, number, before, answers.updates)
                trained, moments = {**trained, **after.tensors}, after.moments
            mean = averaged(mean, trained, number, settings.averaging)
            areas = np.full(len(self.config.classes), np.nan)
            if self._measures_rounds:
                measured = self._evaluate(replace(request, kind=TaskKind.EVALUATE, tensors=mean), asked)
                areas = auroc(_pooled(measured.updates)) if measured.updates else areas
            self._close_round(
                Checkpoint(
                    "finetune", "classifier", number, joined(trained, mean) if settings.averaging else trained, moments
                ),
                answers,
                settings.rounds,
                time.monotonic() - began,
                request_bytes=self._travelling(trained),
                macro_auroc=_number(macro(areas)),
                auroc={name: _number(area) for name, area in zip(self.config.classes, areas, strict=True)},
                **_privacy_of(answers),
            )
        return mean

    def _evaluate(self, task: Task, draws: list[list[str]] | None = None) -> Answers:
        """Ask for score histograms; a site may keep them to itself, and no minimum of sites is asked for."""
        return self._ask(self._tasks(task, draws), "evaluate", task.round_number, at_least=0)

    def _finish(self, trained: Tensors, transfer_seconds: float) -> dict[str, Any]:
        began = time.monotonic()
        self.observer.phase("evaluate", len(self._descriptions), 0)
        request = Task(
            TaskKind.EVALUATE,
            self._name,
            "finetune",
            replicates=self.config.run.bootstrap,
            base=self._base_name,
            tensors=trained,
        )
        measured = self._evaluate(request)
        model = self._create(len(self.config.classes))
        load_tensors(model, {**self._base, **trained})
        set_trainable(model, self.config.transfer.trainable)
        numbers = next(iter(self._descriptions.values())).numbers
        card = ModelCard(
            self.config.model.name,
            self.config.classes,
            LEADS,
            int(numbers["rate"]),
            int(numbers["samples"]),
            self.config.data.normalisation,
            (numbers["band_low"], numbers["band_high"]) if numbers["band_high"] else None,
        )
        save_model(self.folder.path, all_tensors(model), card)
        lines = self.folder.metrics()
        own = [line for line in lines if "reused_from" not in line]
        seconds = {phase: sum(x["seconds"] for x in own if x["phase"] == phase) for phase in ("pretrain", "finetune")}
        results = {
            "regression": regression_results(lines),
            "segmentation": segmentation_results(lines),
            "classes": class_results(lines),
            "classification": classification_results(measured.updates, self.config.classes),
            "sites": site_results(self._descriptions, measured, own, self.config.classes),
            "privacy": privacy_results(self.config.privacy.enabled, lines, measured.updates),
            "model": model_results(model, self.config),
            "seconds": {**seconds, "transfer": transfer_seconds, "evaluate": time.monotonic() - began},
            "notes": [
                *self.folder.record().get("warnings", []),
                *self._notes,
                *([PERSONAL_NOTE] if is_personal(self.config.federation) else []),
                *(f"{site} took no part: {REASONS[reason]}" for site, reason in self._absent.items()),
                *(f"{site}: {REASONS[reason]}" for site, reason in measured.left_out.items()),
            ],
        }
        self.folder.write_results(results)
        self.folder.finish("done")
        return results

    def _close_round(
        self, checkpoint: Checkpoint, answers: Answers, rounds: int, seconds: float, request_bytes: int, **more: Any
    ) -> None:
        """Write the round's line, then its checkpoint: a crash in between repeats the round and replaces the line."""
        line = {
            "phase": checkpoint.phase,
            "backbone": checkpoint.backbone,
            "round": checkpoint.round_number,
            "rounds": rounds,
            "loss": mean_loss(answers),
            "seconds": round(seconds, 3),
            "bytes_down": request_bytes * (len(answers.updates) + len(answers.left_out)),
            "bytes_up": sum(self._travelling(update.tensors) for update in answers.updates.values()),
            "answered": list(answers.updates),
            "left_out": [{"site": site, "reason": reason} for site, reason in answers.left_out.items()],
            **more,
        }
        self.folder.append_metrics(line)
        self.folder.save_checkpoint(checkpoint)
        self.observer.round_finished(line)

    def _take_up(self, phase: str, backbone: str, fresh: Tensors) -> tuple[Tensors, Tensors, int]:
        """Return the tensors, the strategy's state and the round to go on from."""
        checkpoint = self.folder.load_checkpoint()
        last, tensors, moments = 0, fresh, Tensors()
        if checkpoint is not None and (checkpoint.phase, checkpoint.backbone) == (phase, backbone):
            last, tensors, moments = checkpoint.round_number, checkpoint.tensors, checkpoint.moments
        lines = self.folder.metrics()
        kept = [x for x in lines if (x["phase"], x["backbone"]) != (phase, backbone) or x["round"] <= last]
        # Always, since a line torn by a crash would swallow the next one.
        self.folder.keep_metrics(kept)
        return tensors, moments, last + 1

    def _draws(self, phase: str, backbone: str, rounds: int) -> list[list[str]]:
        """Return the sites that are asked in each round."""
        federation = self.config.federation
        return drawn_sites(
            list(self._descriptions),
            fraction=federation.fraction,
            least=federation.min_sites,
            rounds=rounds,
            seed=self.config.run.seed,
            phase=f"{phase}/{backbone}",
        )

    def _train(self, task: Task, draws: list[list[str]], own: Collection[str] = ()) -> Answers:
        """Ask for a round of training; tensors travel at the settings' precision and are averaged at float32.

        Those that are the sites' ``own`` do not come back.
        """
        sent = at_precision(task.tensors, self._precision)
        back = {name: values for name, values in sent.items() if name not in own}
        answers = self._ask(self._tasks(replace(task, tensors=sent), draws), task.phase, task.round_number, sent=back)
        updates = {
            site: replace(update, tensors=at_precision(update.tensors, "float32"))
            for site, update in answers.updates.items()
        }
        return replace(answers, updates=updates)

    def _ask(
        self,
        tasks: dict[str, Task],
        phase: str,
        number: int,
        at_least: int | None = None,
        sent: Tensors | None = None,
    ) -> Answers:
        answers = self.federation.ask(tasks, self.observer.answered)
        if sent is not None:
            answers = without_misfits(answers, sent)
        needed = self.config.federation.min_sites if at_least is None else at_least
        if len(answers.updates) < needed:
            reasons = "; ".join(f"{site}: {REASONS[reason]}" for site, reason in answers.left_out.items())
            where = f"round {number} of {phase}" if number else phase
            raise FederationError(
                f"{where}: {len(answers.updates)} of {len(tasks)} sites answered, fewer than federation.min_sites = "
                f"{needed} ({reasons or 'no site is connected'}); mend the sites and resume"
            )
        lacking = [site for site, reason in answers.left_out.items() if reason == Reason.BASE_MISSING]
        if lacking:
            self._send_base(lacking)
        return answers

    def _tasks(self, task: Task, draws: list[list[str]] | None = None) -> dict[str, Task]:
        """Return the task for each site; a site keeps its part of the synthetic set throughout.

        Work on records has no part of it: who takes part may differ at a resume of the first round, and a question that is
        not the same to the last word would be paid for again.

        Parameters
        ----------
        draws : list of list of str, optional
            The sites of this round and of those that follow; by default all.
        """
        names = list(self._descriptions)
        asked = draws[0] if draws else names
        if task.phase == "pretrain":
            return {name: replace(task, shard=names.index(name), shards=len(names)) for name in asked}
        if draws and task.kind == TaskKind.FINETUNE and self.config.federation.fraction < 1:
            return {name: replace(task, rounds_left=sum(name in later for later in draws)) for name in asked}
        return dict.fromkeys(asked, task)

    def _create(self, outputs: int) -> Any:
        return create_model(self.config.model.name, outputs=outputs, rate=self._rate, seed=self.config.run.seed)

    def _travelling(self, tensors: Tensors) -> int:
        """Return how many bytes tensors have on their way."""
        return sum(values.nbytes for values in at_precision(tensors, self._precision).values())

    @property
    def _precision(self) -> str:
        return self.config.federation.precision

    @property
    def _rate(self) -> int:
        """Of the sites' records, in Hz."""
        return int(next(iter(self._descriptions.values())).numbers["rate"])

    @property
    def _measures_rounds(self) -> bool:
        """Whether every round is evaluated: where evaluations are noised, each would spend privacy."""
        return not self.config.privacy.enabled or self.config.privacy.evaluation == "clear"

    @property
    def _per_target(self) -> bool:
        return self.config.pretrain.backbone == "per-target"

    @property
    def _name(self) -> str:
        """Name of the campaign in the ledgers: the settings and the run folder, not the attempt."""
        return campaign_name(self.config, self.folder.path)


def campaign_name(config: ExperimentConfig, run: Path) -> str:
    """Return what a run's campaign is called at the sites."""
    return f"{config_hash(config)[:12]}-{run.name}"


_PLAN = (
    *("epsilon", "epsilon_campaign", "epsilon_prv", "delta", "noise_multiplier", "sampling_rate", "steps", "clip"),
    *("expected_batch", "records_per_unit", "void"),
)


def _privacy_of(answers: Answers) -> dict[str, Any]:
    private = {site: update for site, update in answers.updates.items() if "epsilon" in update.numbers}
    if not private:
        return {}
    return {
        "epsilon": {site: update.numbers["epsilon"] for site, update in private.items()},
        "plans": {
            site: {name: update.numbers[name] for name in _PLAN if name in update.numbers} | update.texts
            for site, update in private.items()
        },
    }


def _pooled(updates: dict[str, Update]) -> np.ndarray:
    return sum(update.tensors["histograms"].astype(np.float64) for update in updates.values())[0]  # type: ignore[index]


def _fingerprint(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def _number(value: float | np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)
