"""Which device a site computes on."""

from __future__ import annotations

import torch

from core.errors import ConfigError


def choose_device(setting: str, site: int) -> torch.device:
    """Return the device of site number ``site``.

    Parameters
    ----------
    setting : str
        ``auto``: the sites in turn over the GPUs that there are, else the CPU. ``cpu``. ``cuda``: in turn over all GPUs.
        ``cuda:1``: that GPU. ``cuda:0,cuda:2``: in turn over those.

    Raises
    ------
    ConfigError
        For a GPU that is not there.
    """
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if setting == "cpu" or (setting == "auto" and not present):
        return torch.device("cpu")
    names = [f"cuda:{gpu}" for gpu in range(present)] if setting in ("auto", "cuda") else setting.split(",")
    if not names:
        raise ConfigError('run.device = "cuda" but this machine has no GPU that torch can use; set it to "cpu"')
    name = names[site % len(names)].strip()
    number = int(name.removeprefix("cuda:"))
    if number >= present:
        raise ConfigError(
            f"run.device names {name} but this machine has {present} usable GPU{'' if present == 1 else 's'}; "
            'set run.device to "auto" or "cpu"'
        )
    return torch.device(name)
