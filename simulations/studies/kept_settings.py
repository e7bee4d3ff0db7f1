"""Whether a study that is gone on with is the one its folder holds: by what its settings mean, not how they are written."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from core.config_messages import written
from core.errors import ConfigError


def require_same_settings(path: Path, given: str, defaults: str) -> None:
    """Refuse other settings than those that a study began with.

    A setting that the file lacks, since an earlier release did not have it, counts as this release's default.

    Parameters
    ----------
    path : Path
        The settings that the study began with, as TOML.
    given : str
        Those of now, as TOML.
    defaults : str
        Of every setting, as TOML.

    Raises
    ------
    ConfigError
        Names the first setting that differs, with both values; or says that the file cannot be read.
    """
    try:
        kept = _flat(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read ({reason}); restore it, or name another folder with --out") from None
    before, now = {**_flat(defaults), **kept}, _flat(given)
    for key in (*now, *(key for key in before if key not in now)):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{path.parent} holds a study with other settings: {key} is {_told(before, key)} there and "
                f"{_told(now, key)} here; name another folder with --out, or delete that one"
            )


_LONGEST = 200
"""Characters of a setting that a message shows."""


def _flat(text: str) -> dict[str, Any]:
    """Return ``section.key`` with its value, which may be a list or a table; what stands in no section by its name."""
    flat: dict[str, Any] = {}
    for name, value in tomllib.loads(text).items():
        if isinstance(value, dict):
            # The paper's protocol keeps an experiment's settings under their dotted names.
            before = "" if name == "experiment" else f"{name}."
            flat |= {f"{before}{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


def _told(settings: dict[str, Any], key: str) -> str:
    if key not in settings:
        return "unknown"
    text = written(settings[key])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
