"""What a campaign learns of its sites before it begins: who they are, and whether they can train together."""

from __future__ import annotations

from typing import Any

from core.config import ExperimentConfig
from core.ecg.labels import DEFAULT_SPACE
from core.errors import ConfigError, FederationError
from core.synthetic.recipe import recipe_of
from core.tasks import PROTOCOL, Update, release
from server.run_folder import RunFolder


def settled_sites(folder: RunFolder) -> dict[str, Update]:
    """Return what the sites of a run said of themselves, by name; nothing before its first finished round.

    From then on the sites stay the same: each has its part of the shared synthetic set.
    """
    told = folder.record().get("sites", {}) if folder.load_checkpoint() else {}
    return {name: Update(numbers=said["numbers"], texts=said["texts"]) for name, said in told.items()}


def recorded_sites(descriptions: dict[str, Update]) -> dict[str, Any]:
    """Return what ``run.json`` keeps of them, as `settled_sites` reads it."""
    return {name: {"numbers": update.numbers, "texts": update.texts} for name, update in descriptions.items()}


def check_releases(descriptions: dict[str, Update]) -> list[str]:
    """Return a note for each site of another release.

    Raises
    ------
    FederationError
        When a site speaks another protocol.
    """
    own, notes = release(), []
    for name, update in descriptions.items():
        theirs = update.texts.get("release", own)
        protocol = update.numbers.get("protocol", PROTOCOL)
        if protocol != PROTOCOL:
            raise FederationError(
                f"{name} (release {theirs}) speaks protocol {protocol:g} and this coordinator (release {own}) {PROTOCOL}; "
                "install one release everywhere"
            )
        if theirs != own:
            notes.append(f"{name} runs release {theirs}, the coordinator {own}")
    return notes


def check_alike(descriptions: dict[str, Update], label_space: str) -> None:
    """Refuse records that one model cannot be trained on.

    Raises
    ------
    ConfigError
        When rates, lengths or filters differ, or a site's labels are not of the label space.
    """
    for name, update in descriptions.items():
        if (theirs := update.texts.get("label_space", DEFAULT_SPACE)) != label_space:
            raise ConfigError(
                f"the records of {name} have labels of {theirs} and data.label_space is {label_space}; set it to what the "
                "sites have, or import the records again with --label-space"
            )
    for key, what in (("rate", "rates in Hz"), ("samples", "lengths in samples"), ("band_high", "filters, up to Hz")):
        values = {name: update.numbers[key] for name, update in descriptions.items()}
        if len(set(values.values())) > 1:
            found = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise ConfigError(f"the sites' records have different {what} ({found}); import them again alike")


def synthetic_set(config: ExperimentConfig, folder: RunFolder, descriptions: dict[str, Update]) -> dict[str, Any]:
    """Return what ``run.json`` says of the shared synthetic set.

    Raises
    ------
    ConfigError
        When it is not the same at every site, or no longer the one that the run began with.
    """
    texts = {name: update.texts for name, update in descriptions.items()}
    named = {name: told["synthetic"] for name, told in texts.items() if "synthetic" in told}
    rate, path = int(next(iter(descriptions.values())).numbers["rate"]), config.synthetic.path
    told: dict[str, Any] = {"path": path, "rate": rate}
    if not path:
        recipe = recipe_of(config.synthetic, rate)
        named["this coordinator"] = recipe.hash
        told = {"size": recipe.size, "rate": rate, "seed": recipe.seed}
    if len(set(named.values())) > 1:
        found = ", ".join(f"{name} {value[:16]}" for name, value in named.items())
        mend = "give all a copy of one folder" if path else "use one release, and one cohort file, everywhere"
        raise ConfigError(f"the sites would pretrain on different synthetic sets ({found}); {mend}")
    told = {"hash": next(iter(named.values()), None), **told}
    before = (folder.record().get("recipe") or {}).get("hash")
    if before and told["hash"] not in (None, before):
        raise ConfigError(f"the synthetic set is no longer the one that {folder.path} began with; start a new run")
    return told
