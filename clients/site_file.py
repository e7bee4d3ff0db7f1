"""``site.toml``: what a hospital says of itself, beside what it allows (:mod:`clients.policy`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clients.policy import FILE, Policy, Texts, read_site_toml
from core.config_sections import DEVICE_PATTERN, Folds, Settings
from core.errors import ConfigError

SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$"


class SiteSection(Settings):
    """``[site]``: who this is."""

    name: str = Field(default="", description="Name in reports; letters, digits, spaces, dots, - and _.")
    description: str = Field(default="", description="A line for the hospital's own staff; it does not leave.")


class SiteData(Settings):
    """``[data]``: the site's own records. A coordinator's settings have no say in which are opened."""

    path: str = Field(default="", description="Folder of the imported set.")
    train_folds: Folds = Field(default=(1, 2, 3, 4, 5, 6, 7, 8), description="Patient folds to train on.")
    test_folds: Folds = Field(default=(9, 10), description="Patient folds to measure on.")
    synthetic: str = Field(default="", description="Folder of a shared synthetic set, where a campaign uses one.")


class DeviceSection(Settings):
    """``[device]``: what trains."""

    device: str = Field(default="auto", pattern=DEVICE_PATTERN, description="auto, cpu, cuda, or cuda:N.")
    threads: Annotated[int, Field(ge=0, le=4096)] = Field(default=0, description="CPU threads; 0: all cores.")


class CoordinatorSection(Settings):
    """``[coordinator]``: whom this site serves."""

    address: str = Field(default="", description="host:port of the coordinator's SuperLink.")
    certificates: str = Field(default="ca.crt", description="CA file, relative to the state folder.")
    insecure: bool = Field(default=False, description="No TLS: for a coordinator on this very machine alone.")


class ApprovalSection(Settings):
    """``[approval]``: who decides on a campaign that the rules allow."""

    mode: Literal["rules", "ask"] = Field(
        default="ask", description="rules: what the policy allows is done; ask: each new campaign waits for approval."
    )
    models: Texts = Field(default=(), description="Model families that are trained; empty: any.")


class SiteFile(Policy):
    """The whole ``site.toml``."""

    site: SiteSection = SiteSection()
    data: SiteData = SiteData()
    device: DeviceSection = DeviceSection()
    coordinator: CoordinatorSection = CoordinatorSection()
    approval: ApprovalSection = ApprovalSection()


def load_policy(path: Path) -> Policy:
    """Return the policy in a ``site.toml``; what it leaves out keeps its strict default.

    Raises
    ------
    ConfigError
        Names the file and the setting, and the mend.
    """
    found = read_site_toml(path, SiteFile)
    return Policy(**{name: getattr(found, name) for name in Policy.model_fields})


def load_site(state: Path) -> SiteFile:
    """Read the ``site.toml`` of a state folder.

    Paths in it are taken relative to the state folder and returned absolute.

    Raises
    ------
    ConfigError
        Names the file and the setting, and the mend.
    """
    path = state / FILE
    if not path.is_file():
        raise ConfigError(f"{state} has no {FILE}; make it with: cardiofed-site init {state}")
    site = read_site_toml(path, SiteFile)
    if not re.match(SITE_NAME, site.site.name):
        raise ConfigError(
            f"{path}: site.name is {site.site.name!r}; give it 1 to 64 letters, digits, spaces, dots, - and _, and "
            "begin with a letter or digit"
        )
    if shared := set(site.data.train_folds) & set(site.data.test_folds):
        raise ConfigError(f"{path}: fold {min(shared)} is in data.train_folds and data.test_folds; keep it in one")
    data = {
        name: str((state / value).resolve()) if (value := getattr(site.data, name)) else ""
        for name in ("path", "synthetic")
    }
    certificates = str((state / site.coordinator.certificates).resolve())
    return site.model_copy(
        update={
            "data": site.data.model_copy(update=data),
            "coordinator": site.coordinator.model_copy(update={"certificates": certificates}),
        }
    )
